//! `.npy` files: round trips and every kind of bad header.

use crate::{assert_error, common::random_bytes};
use std::path::PathBuf;
use warpsmith::data::npy::{MappedU8, encode_u8};

fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// A version `major` file with this header text and data.
fn with_header(major: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([major, 0]);
    match major {
        1 => bytes.extend((header.len() as u16).to_le_bytes()),
        _ => bytes.extend((header.len() as u32).to_le_bytes()),
    }
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

#[track_caller]
fn assert_refused(bytes: &[u8], parts: &[&str]) {
    let (_dir, path) = file(bytes);
    assert_error(MappedU8::open(&path), &[&["a.npy"], parts].concat());
}

#[test]
fn round_trips() {
    for shape in [vec![], vec![1], vec![7], vec![2, 3], vec![5, 32, 32, 3], vec![1; 40]] {
        let data = random_bytes(shape.iter().product(), 3);
        let bytes = encode_u8(&shape, &data).unwrap();
        assert_eq!((bytes.len() - data.len()) % 64, 0, "the data are not aligned for shape {shape:?}");
        let (_dir, path) = file(&bytes);
        let array = MappedU8::open(&path).unwrap();
        assert_eq!((array.shape(), array.data()), (&shape[..], &data[..]));
    }
    assert_error(encode_u8(&[2, 3], &[0; 5]), &["product of [2, 3]", "got 5"]);
}

#[test]
fn all_versions_and_spellings_are_read() {
    // As numpy writes it, without blanks, and with other quotes and key order.
    let headers = [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }         \n",
        "{'descr':'<u1','fortran_order':False,'shape':(2,3)}\n",
        "{\"shape\": ( 2 , 3 ), \"fortran_order\": False, \"descr\": \"u1\"}\n",
    ];
    for major in 1..=3 {
        for header in headers {
            let (_dir, path) = file(&with_header(major, header, &[1, 2, 3, 4, 5, 6]));
            let array = MappedU8::open(&path).unwrap();
            assert_eq!((array.shape(), array.data()), (&[2, 3][..], &[1, 2, 3, 4, 5, 6][..]));
        }
    }
}

#[test]
fn other_files_are_refused() {
    assert_refused(b"", &["a .npy file", "an empty file"]);
    assert_refused(b"PK\x03\x04 a zip file", &["\\x93NUMPY", "other bytes", "numpy.save"]);
    assert_refused(b"\x93NUMPY", &["a whole .npy header", "ends within it"]);
    assert_refused(b"\x93NUMPY\x01\x00\x76", &["a whole .npy header"]);
    assert_refused(&with_header(4, "{}", b""), &["version 1, 2 or 3", "version 4.0"]);
    let good = encode_u8(&[2, 3], &[0; 6]).unwrap();
    assert_refused(&good[..60], &["a whole .npy header"]);
    assert_error(MappedU8::open("nowhere.npy".as_ref()), &["nowhere.npy", "could not open"]);
}

#[test]
fn data_of_another_length_are_refused() {
    let good = encode_u8(&[2, 3], &[0; 6]).unwrap();
    assert_refused(&good[..good.len() - 1], &["6 bytes of data for shape [2, 3]", "5 bytes", "truncated"]);
    assert_refused(&[&good[..], &[0]].concat(), &["6 bytes of data", "7 bytes", "trailing"]);
    let huge = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({}, 2), }}\n", usize::MAX);
    assert_refused(&with_header(1, &huge, &[0; 6]), &["a shape that fits in memory"]);
}

#[test]
fn other_types_and_orders_are_refused() {
    let refused = |header: &str, parts: &[&str]| assert_refused(&with_header(1, header, &[0; 48]), parts);
    refused("{'descr': '<f8', 'fortran_order': False, 'shape': (6,), }\n", &["uint8", "dtype <f8", "astype"]);
    refused("{'descr': '|i1', 'fortran_order': False, 'shape': (48,), }\n", &["dtype |i1"]);
    refused("{'descr': [('x', '|u1')], 'fortran_order': False, 'shape': (48,), }\n", &["a record type"]);
    refused("{'descr': '|u1', 'fortran_order': True, 'shape': (6, 8), }\n", &["Fortran order", "ascontiguousarray"]);
    refused("{'descr': '|u1', 'fortran_order': 0, 'shape': (6, 8), }\n", &["readable 'fortran_order'"]);
    refused("{'fortran_order': False, 'shape': (48,), }\n", &["readable 'descr'"]);
    refused("{'descr': '|u1', 'fortran_order': False, 'shape': (4x8,), }\n", &["readable 'shape'"]);
    refused("{'descr': '|u1', 'fortran_order': False, 'shape': 48}\n", &["readable 'shape'"]);
    refused("{'descr': '|u1', 'fortran_order': False}\n", &["readable 'shape'"]);
}
