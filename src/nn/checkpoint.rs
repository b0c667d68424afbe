//! Model files: safetensors with layer paths as names and KRSC filters.
//!
//! [`save`] and [`load`] handle a model's parameters and moving statistics; [`write_tensors`] and
//! [`TensorFile`] are the layer below, which training checkpoints use too. Files are written under a
//! temporary name, synced and renamed, so an interrupted write leaves the old file.

use super::params::Params;
use crate::tensor::Tensor;
use crate::{DType, Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Version of the layout that this crate writes; files of another version are refused.
pub const FORMAT_VERSION: &str = "1";

fn file_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::Bf16 => Dtype::BF16,
        DType::U8 => Dtype::U8,
        DType::I32 => Dtype::I32,
    }
}

/// Writes tensors and metadata to a safetensors file, atomically.
///
/// The tensors go to the file one after the other, without a second copy of all of them in memory.
///
/// # Errors
/// When the file cannot be written, two tensors share a name, or a tensor is being written to elsewhere.
///
/// # Determinism
/// Equal contents give equal files, byte by byte.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)], metadata: &[(&str, String)]) -> Result<()> {
    let mut table = serde_json::Map::new();
    for (key, value) in metadata {
        table.insert(key.to_string(), value.as_str().into());
    }
    table.insert("format".into(), "warpsmith".into());
    table.insert("format_version".into(), FORMAT_VERSION.into());
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), table.into());
    // The wider types first, so that every tensor is aligned to its type.
    let mut order: Vec<&(String, Tensor)> = tensors.iter().collect();
    order.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype().bytes()));
    let mut start = 0;
    for (name, tensor) in &order {
        let end = start + tensor.elems() * tensor.dtype().bytes();
        let entry = serde_json::json!({
            "dtype": file_dtype(tensor.dtype()), "shape": tensor.shape(), "data_offsets": [start, end],
        });
        if header.insert(name.clone(), entry).is_some() {
            return Err(Error::checkpoint(
                path,
                format_args!("tensor `{name}`"),
                "distinct names",
                "it twice",
                "name every tensor differently",
            ));
        }
        start = end;
    }
    let mut header = serde_json::Value::from(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    crate::fs::write_atomic(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        order.iter().try_for_each(|(_, tensor)| {
            tensor.read_bytes(|bytes| file.write_all(bytes)).map_err(std::io::Error::other)?
        })
    })
}

/// An opened safetensors file.
pub struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl TensorFile {
    /// Reads and checks a file that [`write_tensors`] wrote.
    ///
    /// # Errors
    /// When the file is missing, damaged, or of another format or version.
    pub fn open(path: &Path) -> Result<TensorFile> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read the checkpoint", e))?;
        let damaged = |got: &dyn std::fmt::Display| {
            Error::checkpoint(
                path,
                "file",
                "a complete safetensors file",
                got,
                "the file is damaged: use an earlier checkpoint or train again",
            )
        };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e))?;
        SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let version = metadata.get("format_version").map(String::as_str);
        if metadata.get("format").map(String::as_str) != Some("warpsmith") || version != Some(FORMAT_VERSION) {
            return Err(Error::checkpoint(
                path,
                "metadata",
                format_args!("format warpsmith, format_version {FORMAT_VERSION}"),
                format_args!("format {:?}, format_version {version:?}", metadata.get("format")),
                "use a file written by this version of warpsmith",
            ));
        }
        Ok(TensorFile { path: path.to_path_buf(), bytes, metadata })
    }

    /// A metadata entry.
    ///
    /// # Errors
    /// When there is none of that key.
    pub fn metadata(&self, key: &str) -> Result<&str> {
        self.metadata.get(key).map(String::as_str).ok_or_else(|| {
            Error::checkpoint(
                &self.path,
                format_args!("metadata `{key}`"),
                "an entry",
                "none",
                "the file was not written for this purpose",
            )
        })
    }

    /// Names of the tensors.
    ///
    /// # Errors
    /// Never for a file that opened.
    pub fn names(&self) -> Result<Vec<String>> {
        Ok(self.parsed()?.names().into_iter().map(String::from).collect())
    }

    fn parsed(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes)
            .map_err(|e| Error::checkpoint(&self.path, "file", "a complete safetensors file", e, "the file is damaged"))
    }

    fn view<'a>(&self, file: &'a SafeTensors<'_>, name: &str, shape: &[usize], dtype: DType) -> Result<TensorView<'a>> {
        let view = file.tensor(name).map_err(|_| {
            Error::checkpoint(
                &self.path,
                format_args!("tensor `{name}`"),
                "to find it",
                "nothing",
                "the file belongs to another model",
            )
        })?;
        let wanted = file_dtype(dtype);
        if view.shape() != shape || view.dtype() != wanted {
            return Err(Error::checkpoint(
                &self.path,
                format_args!("tensor `{name}`"),
                format_args!("{wanted:?} {shape:?}"),
                format_args!("{:?} {:?}", view.dtype(), view.shape()),
                "the file belongs to another model or configuration",
            ));
        }
        Ok(view)
    }

    /// Checks that every target has a tensor of its name, shape and type in the file, then copies all of
    /// them; nothing is changed when one does not fit.
    ///
    /// # Errors
    /// When a tensor is missing or does not fit.
    pub fn copy_into<'n>(&self, targets: impl IntoIterator<Item = (&'n str, Tensor)>) -> Result<()> {
        let file = self.parsed()?;
        let targets: Vec<_> = targets.into_iter().collect();
        let views: Vec<_> =
            targets.iter().map(|(name, t)| self.view(&file, name, t.shape(), t.dtype())).collect::<Result<_>>()?;
        for ((_, target), view) in targets.iter().zip(views) {
            target.copy_from_bytes(view.data())?;
        }
        Ok(())
    }
}

/// Saves a model's parameters and moving statistics. Names are layer paths (`conv1_conv/kernel`),
/// filters KRSC, dense kernels [out, in].
///
/// # Errors
/// When the file cannot be written.
///
/// # Example
/// ```
/// use warpsmith::nn::{Head, ParamsBuilder, ResNet50V2, checkpoint};
/// let device = warpsmith::Device::cpu()?;
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("model.safetensors");
/// let mut builder = ParamsBuilder::new();
/// ResNet50V2::new(&mut builder, Head::Classes(10));
/// let params = builder.build(&device, 1)?;
/// checkpoint::save(&params, &path)?;
/// checkpoint::load(&params, &path)?;
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn save(params: &Params, path: &Path) -> Result<()> {
    let tensors: Vec<(String, Tensor)> = params.tensors()?.into_iter().map(|(n, t)| (n.to_string(), t)).collect();
    write_tensors(path, &tensors, &[("filter_layout", "KRSC".into()), ("dense_layout", "out,in".into())])
}

/// Loads what [`save`] wrote into a model of the same architecture.
///
/// # Errors
/// When the file is missing or damaged, lacks a tensor of the model, holds one too many, or one of another
/// shape; the model is then unchanged.
pub fn load(params: &Params, path: &Path) -> Result<()> {
    let file = TensorFile::open(path)?;
    let targets = params.tensors()?;
    if let Some(extra) = file.names()?.iter().find(|name| !targets.iter().any(|(target, _)| target == name)) {
        return Err(Error::checkpoint(
            path,
            format_args!("tensor `{extra}`"),
            "only tensors that the model has",
            "one that it has not",
            "the file belongs to another model; build the one it was saved from",
        ));
    }
    file.copy_into(targets)?;
    params.refresh_bf16()
}
