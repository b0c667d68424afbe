//! What a golden folder holds: the rows of every `NAME.index.json`, and the tensors of every `NAME.safetensors`.

use crate::tolerance::Tolerance;
use crate::{Fallible, fail};
use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// A stored tensor. Every type in use fits a float64 without loss.
#[derive(Debug, Clone)]
pub struct Values {
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    pub data: Vec<f64>,
}

impl Values {
    fn decode(shape: &[usize], dtype: Dtype, bytes: &[u8]) -> Fallible<Values> {
        fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
            bytes.chunks_exact(N).map(|chunk| value(chunk.try_into().expect("N bytes"))).collect()
        }
        let data = match dtype {
            Dtype::U8 => each(bytes, |[byte]| f64::from(byte)),
            Dtype::I32 => each(bytes, |b| f64::from(i32::from_le_bytes(b))),
            Dtype::F32 => each(bytes, |b| f64::from(f32::from_le_bytes(b))),
            Dtype::F64 => each(bytes, f64::from_le_bytes),
            other => return fail(format!("tensors of {other:?} are not used in golden files")),
        };
        Ok(Values { shape: shape.to_vec(), dtype, data })
    }

    /// Rounded to f32, which loses nothing unless the tensor is f64.
    pub fn f32s(&self) -> Vec<f32> {
        self.data.iter().map(|&v| v as f32).collect()
    }

    pub fn u8s(&self) -> Fallible<Vec<u8>> {
        match self.dtype {
            Dtype::U8 => Ok(self.data.iter().map(|&v| v as u8).collect()),
            other => fail(format!("expected a uint8 image, got {other:?}")),
        }
    }

    /// Whole numbers, of whatever type.
    pub fn i32s(&self) -> Fallible<Vec<i32>> {
        let whole = |&v: &f64| if f64::from(v as i32) == v { Ok(v as i32) } else { fail(format!("{v} is no label")) };
        self.data.iter().map(whole).collect()
    }
}

/// One row of an index.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    pub role: String,
    pub op: String,
    pub inputs: BTreeMap<String, String>,
    pub args: Map<String, Value>,
    /// Alternatives: the row passes if one of them holds.
    pub tol: Vec<Tolerance>,
}

/// One pair of an index and its tensors.
#[derive(Debug, Default)]
pub struct File {
    pub rows: Vec<Row>,
    pub tensors: BTreeMap<String, Values>,
}

/// All files of a folder by the part of their names before the first dot.
#[derive(Debug, Default)]
pub struct Folder {
    pub files: BTreeMap<String, File>,
}

impl Folder {
    pub fn open(path: &Path) -> Fallible<Folder> {
        let mut folder = Folder::default();
        let entries = std::fs::read_dir(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut paths: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let context = |e: &dyn std::fmt::Display| format!("{name}: {e}");
            if let Some(stem) = name.strip_suffix(".safetensors") {
                let tensors = read_tensors(&path).map_err(|e| context(&e))?;
                folder.files.entry(stem.to_string()).or_default().tensors = tensors;
            } else if let Some(stem) = name.strip_suffix(".index.json") {
                let rows = read_rows(&path).map_err(|e| context(&e))?;
                folder.files.entry(stem.to_string()).or_default().rows = rows;
            }
        }
        if folder.files.values().all(|file| file.rows.is_empty()) {
            return fail(format!("{}: no rows in any *.index.json", path.display()));
        }
        Ok(folder)
    }

    /// The tensor that `reference` names: one of `file`, or `other_file:tensor`.
    pub fn tensor(&self, file: &str, reference: &str) -> Fallible<&Values> {
        let own = self.files.get(file).and_then(|file| file.tensors.get(reference));
        let other = || {
            let (file, tensor) = reference.split_once(':')?;
            self.files.get(file)?.tensors.get(tensor)
        };
        own.or_else(other).ok_or_else(|| format!("there is no tensor `{reference}` beside `{file}`").into())
    }
}

fn read_tensors(path: &Path) -> Fallible<BTreeMap<String, Values>> {
    let bytes = std::fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    file.iter()
        .map(|(name, view)| Ok((name.to_string(), Values::decode(view.shape(), view.dtype(), view.data())?)))
        .collect()
}

fn read_rows(path: &Path) -> Fallible<Vec<Row>> {
    let index: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let rows = index.get("rows").and_then(Value::as_array).ok_or("no list `rows`")?;
    rows.iter().map(read_row).collect()
}

fn read_row(row: &Value) -> Fallible<Row> {
    let name = row.get("name").and_then(Value::as_str).ok_or("a row has no `name`")?.to_string();
    let read = || -> Fallible<Row> {
        let text = |key: &str| Some(row.get(key)?.as_str()?.to_string());
        let role = text("role").ok_or("no `role`")?;
        if !["input", "output", "info"].contains(&role.as_str()) {
            return fail(format!("unknown role `{role}`"));
        }
        let object = |key: &str| row.get(key).cloned().unwrap_or_else(|| Value::Object(Map::new()));
        let mut parsed = Row {
            name: name.clone(),
            role,
            op: text("op").unwrap_or_default(),
            inputs: serde_json::from_value(object("inputs"))?,
            args: serde_json::from_value(object("args"))?,
            tol: Vec::new(),
        };
        if parsed.role == "output" {
            parsed.tol = serde_json::from_value(row.get("tol").cloned().unwrap_or_default())?;
            if parsed.op.is_empty() || parsed.tol.is_empty() {
                return fail("an output row needs an `op` and a `tol`");
            }
        }
        Ok(parsed)
    };
    read().map_err(|e| format!("row `{name}`: {e}").into())
}
