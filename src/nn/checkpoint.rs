//! Model files: safetensors with layer paths as names and KRSC filters.
//!
//! [`save`] and [`load`] handle a model's parameters and moving statistics; [`write_tensors`] and
//! [`TensorFile`] are the layer below, which training checkpoints use too. Files are written under a
//! temporary name, synced and renamed, so an interrupted write leaves the old file.

use super::params::Params;
use crate::tensor::Tensor;
use crate::{DType, Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::borrow::Cow;
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

/// One named tensor for [`write_tensors`].
struct Named<'a>(&'a Tensor);

impl safetensors::View for Named<'_> {
    fn dtype(&self) -> Dtype {
        file_dtype(self.0.dtype())
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.0.to_bytes().expect("write_tensors checks that nobody writes to its tensors"))
    }

    fn data_len(&self) -> usize {
        self.0.elems() * self.0.dtype().bytes()
    }
}

/// Writes tensors and metadata to a safetensors file, atomically.
///
/// # Errors
/// When the file cannot be written, or a tensor is being written to elsewhere.
pub fn write_tensors(path: &Path, tensors: &[(String, Tensor)], metadata: &[(&str, String)]) -> Result<()> {
    for (_, tensor) in tensors {
        tensor.to_bytes()?;
    }
    let mut table: HashMap<String, String> = metadata.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
    table.insert("format".into(), "warpsmith".into());
    table.insert("format_version".into(), FORMAT_VERSION.into());
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), Named(tensor)));
    let bytes = safetensors::serialize(views, Some(table)).map_err(|e| {
        Error::checkpoint(path, "contents", "tensors that safetensors can hold", e, "check the tensors' names")
    })?;
    crate::fs::write_atomic(path, |file| file.write_all(&bytes))
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
    file.copy_into(targets)
}
