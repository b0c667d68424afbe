//! NumPy's `.npy` files of bytes: a header parser, a memory map, and an encoder.
//!
//! Source: `numpy.lib.format`, versions 1.0 to 3.0.

use crate::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::path::Path;

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// A `uint8` array in C order, mapped from its file: pages are read when they are touched.
///
/// The file must not shrink while the map is alive.
#[derive(Debug)]
pub struct MappedU8 {
    map: Mmap,
    offset: usize,
    shape: Vec<usize>,
}

impl MappedU8 {
    /// Maps `path`.
    ///
    /// # Errors
    /// When the file cannot be opened, is no `.npy` file, holds another type or order, or has another length than
    /// its shape says.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::io(path, "open", source))?;
        let bytes = file.metadata().map_err(|source| Error::io(path, "read the size", source))?.len();
        if bytes == 0 {
            return Err(Error::data(path, "a .npy file", "an empty file", "copy or download it again"));
        }
        // SAFETY: the map is read-only and private to this struct; that nobody truncates the file meanwhile is the
        // documented condition of the type.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::io(path, "map", source))?;
        let header = parse_header(path, &map)?;
        let elems = header.shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
        let elems = elems.ok_or_else(|| {
            Error::data(
                path,
                "a shape that fits in memory",
                format_args!("{:?}", header.shape),
                "the header is damaged: download the file again",
            )
        })?;
        let data = map.len() - header.bytes;
        if data != elems {
            return Err(Error::data(
                path,
                format_args!("{elems} bytes of data for shape {:?}", header.shape),
                format_args!("{data} bytes"),
                if data < elems {
                    "the file is truncated: download it again"
                } else {
                    "the file has trailing bytes: download it again"
                },
            ));
        }
        Ok(MappedU8 { map, offset: header.bytes, shape: header.shape })
    }

    /// Extents of the array.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements, last axis fastest.
    pub fn data(&self) -> &[u8] {
        &self.map[self.offset..]
    }
}

/// The bytes of a version 1.0 `.npy` file of `data` with extents `shape`.
///
/// # Errors
/// When `data` has not as many elements as `shape` says, or more than 1,000 extents.
///
/// # Example
/// ```
/// let file = warpsmith::data::npy::encode_u8(&[2, 3], &[1, 2, 3, 4, 5, 6])?;
/// assert_eq!(file.len(), 128 + 6);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn encode_u8(shape: &[usize], data: &[u8]) -> Result<Vec<u8>> {
    let elems = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
    if elems != Some(data.len()) || shape.len() > 1000 {
        return Err(Error::shape(
            "npy",
            format_args!("the product of {shape:?} elements"),
            data.len(),
            "pass the shape that the data has",
        ));
    }
    let extents: Vec<String> = shape.iter().map(|extent| format!("{extent},")).collect();
    let mut dict = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({}), }}", extents.join(" "));
    // The data start on a multiple of 64 bytes.
    let used = MAGIC.len() + 4 + dict.len() + 1;
    dict.extend(std::iter::repeat_n(' ', used.next_multiple_of(64) - used));
    dict.push('\n');
    let mut file = MAGIC.to_vec();
    file.extend([1, 0]);
    file.extend((dict.len() as u16).to_le_bytes());
    file.extend(dict.as_bytes());
    file.extend(data);
    Ok(file)
}

struct Header {
    shape: Vec<usize>,
    /// Length of magic, version, header length and header.
    bytes: usize,
}

fn parse_header(path: &Path, file: &[u8]) -> Result<Header> {
    const AGAIN: &str = "the file is damaged or no NumPy array: download it again or save it with numpy.save";
    let wrong = |expected: &str, got: &dyn std::fmt::Display| Error::data(path, expected, got, AGAIN);
    if !file.starts_with(MAGIC) {
        return Err(wrong("a file that starts with \\x93NUMPY", &"other bytes"));
    }
    let truncated = || wrong("a whole .npy header", &"a file that ends within it");
    let &[major, minor] = file.get(6..8).ok_or_else(truncated)? else { return Err(truncated()) };
    let (start, len) = match major {
        1 => {
            let len = file.get(8..10).ok_or_else(truncated)?;
            (10, u16::from_le_bytes([len[0], len[1]]) as usize)
        }
        2 | 3 => {
            let len = file.get(8..12).ok_or_else(truncated)?;
            (12, u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize)
        }
        _ => return Err(wrong(".npy version 1, 2 or 3", &format_args!("version {major}.{minor}"))),
    };
    let bytes = start + len;
    let text = String::from_utf8_lossy(file.get(start..bytes).ok_or_else(truncated)?);
    let damaged = |key: &str| {
        wrong(
            "a header with 'descr', 'fortran_order' and 'shape'",
            &format_args!("a header without a readable '{key}'"),
        )
    };

    let descr = value_of(&text, "descr").ok_or_else(|| damaged("descr"))?;
    let descr = descr.split(['\'', '"']).nth(1).filter(|_| !descr.starts_with('[')).unwrap_or("a record type");
    if !matches!(descr, "|u1" | "u1" | "<u1" | ">u1" | "=u1") {
        return Err(Error::data(
            path,
            "uint8 data (dtype |u1)",
            format_args!("dtype {descr}"),
            "convert it with numpy: a.astype('uint8')",
        ));
    }
    let order = value_of(&text, "fortran_order").ok_or_else(|| damaged("fortran_order"))?;
    if order.starts_with("True") {
        return Err(Error::data(
            path,
            "C order (fortran_order False)",
            "Fortran order",
            "convert it with numpy.ascontiguousarray",
        ));
    } else if !order.starts_with("False") {
        return Err(damaged("fortran_order"));
    }
    let shape = value_of(&text, "shape")
        .and_then(|value| value.strip_prefix('('))
        .and_then(|value| value.split_once(')'))
        .ok_or_else(|| damaged("shape"))?;
    let extents = shape.0.split(',').map(str::trim).filter(|extent| !extent.is_empty());
    let shape = extents.map(str::parse).collect::<std::result::Result<Vec<usize>, _>>();
    Ok(Header { shape: shape.map_err(|_| damaged("shape"))?, bytes })
}

/// The text after `'key':` in a Python dictionary literal.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let after = text.split_once(&format!("'{key}'")).or_else(|| text.split_once(&format!("\"{key}\"")))?.1;
    Some(after.trim_start().strip_prefix(':')?.trim_start())
}
