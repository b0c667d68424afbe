//! Folders of JPEG and PNG files, one folder per class.

use super::{Decoded, ImageSet, Pixels, Split, balanced, check_folder};
use crate::{Error, Result};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// The files of a folder of class folders, found but not yet decoded.
///
/// # Example
/// ```no_run
/// use warpsmith::data::{ImageFolder, Split};
/// let (train, validation) = ImageFolder::scan("tf_flowers")?.split(Split::Fraction(0.1), 42)?;
/// let (train, validation) = (train.load()?, validation.load()?);
/// # Ok::<(), warpsmith::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ImageFolder {
    name: String,
    class_names: Vec<String>,
    files: Vec<PathBuf>,
    labels: Vec<i32>,
    skipped: usize,
}

impl ImageFolder {
    /// Lists the images of `dir`, the folder of class folders (or the parent of one named `tf_flowers` or
    /// `flower_photos`).
    ///
    /// Class folders and their files are sorted by name; labels number the class folders. Files that do not end in
    /// `.jpg`, `.jpeg` or `.png` (in any case) and hidden ones are skipped and counted, folders within class folders
    /// too.
    ///
    /// # Errors
    /// When the folder is missing or holds no class folder, or when a class folder has no image.
    pub fn scan(dir: impl AsRef<Path>) -> Result<Self> {
        let mut dir = dir.as_ref().to_owned();
        check_folder(&dir, "one folder of images per class")?;
        if let Some(inner) = ["tf_flowers", "flower_photos"].map(|name| dir.join(name)).into_iter().find(|p| p.is_dir())
        {
            dir = inner;
        }
        let mut folder = ImageFolder {
            name: dir.file_name().map_or_else(|| "images".into(), |name| name.to_string_lossy().into_owned()),
            class_names: Vec::new(),
            files: Vec::new(),
            labels: Vec::new(),
            skipped: 0,
        };
        for class in sorted_entries(&dir)? {
            if !class.is_dir() || is_hidden(&class) {
                folder.skipped += 1;
                continue;
            }
            let label = folder.class_names.len() as i32;
            let before = folder.files.len();
            for file in sorted_entries(&class)? {
                if file.is_file() && !is_hidden(&file) && Format::of(&file).is_some() {
                    folder.files.push(file);
                    folder.labels.push(label);
                } else {
                    folder.skipped += 1;
                }
            }
            if folder.files.len() == before {
                return Err(Error::data(
                    class,
                    "at least one .jpg, .jpeg or .png file in every class folder",
                    "none",
                    "add images to the folder or remove it",
                ));
            }
            folder.class_names.push(class.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
        if folder.class_names.is_empty() {
            return Err(Error::data(
                dir,
                "one folder of images per class",
                format_args!("no folder ({} files)", folder.skipped),
                "sort the images into folders named after their classes",
            ));
        }
        Ok(folder)
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Never true: a scan finds at least one image.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Names of the class folders; a label is an index into them.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Paths of the images, in the order in which [`ImageFolder::load`] decodes them.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Files and folders that the scan passed over: hidden, of another type, or not where images are expected.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// At most `limit` images, spread evenly over the classes; see [`ImageSet::take`].
    ///
    /// # Errors
    /// When `limit` is zero.
    pub fn take(&self, limit: usize) -> Result<Self> {
        Ok(self.select(&balanced(&self.labels, self.class_names.len(), limit)?))
    }

    /// A seeded split into training and validation part, before anything is decoded; see [`Split`].
    ///
    /// # Errors
    /// When a part would be empty.
    pub fn split(&self, split: Split, seed: u64) -> Result<(Self, Self)> {
        let (train, validation) = split.indices(&self.labels, seed)?;
        Ok((self.select(&train), self.select(&validation)))
    }

    fn select(&self, indices: &[u32]) -> Self {
        ImageFolder {
            name: self.name.clone(),
            class_names: self.class_names.clone(),
            files: indices.iter().map(|&i| self.files[i as usize].clone()).collect(),
            labels: indices.iter().map(|&i| self.labels[i as usize]).collect(),
            skipped: self.skipped,
        }
    }

    /// Decodes all images, in parallel, each in its own size: three bytes of memory per pixel.
    ///
    /// # Errors
    /// When a file cannot be read or decoded; the message names the first such file.
    pub fn load(&self) -> Result<ImageSet> {
        let images: Vec<Result<Decoded>> = self.files.par_iter().map(|path| decode(path)).collect();
        // Collected in file order first, so that the file that is named does not depend on the threads.
        let images = images.into_iter().collect::<Result<Vec<Decoded>>>()?;
        let (labels, names) = (self.labels.clone(), self.class_names.clone());
        Ok(ImageSet::whole(self.name.as_str(), Pixels::Each(images), labels, names))
    }
}

/// Decodes one JPEG or PNG file to `(h, w, pixels [h, w, 3])`.
///
/// Grey becomes RGB with equal channels, alpha is dropped without blending, 16-bit PNG keeps the upper 8 bits. Colour
/// profiles and the Exif orientation are ignored, as `tf.io.decode_image` does.
///
/// # Errors
/// When the file cannot be read, is neither JPEG nor PNG, is damaged or truncated, or is a CMYK JPEG.
pub fn decode_file(path: impl AsRef<Path>) -> Result<(usize, usize, Vec<u8>)> {
    decode(path.as_ref()).map(|image| (image.h, image.w, image.pixels))
}

enum Format {
    Jpeg,
    Png,
}

impl Format {
    fn of(path: &Path) -> Option<Format> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "jpg" | "jpeg" => Some(Format::Jpeg),
            "png" => Some(Format::Png),
            _ => None,
        }
    }

    /// By the first bytes: the ending says which files are images, the contents say which decoder reads them.
    fn of_contents(bytes: &[u8]) -> Option<Format> {
        match bytes {
            [0xff, 0xd8, ..] => Some(Format::Jpeg),
            [0x89, b'P', b'N', b'G', ..] => Some(Format::Png),
            _ => None,
        }
    }
}

fn decode(path: &Path) -> Result<Decoded> {
    let bytes = super::read(path)?;
    let bad = |expected: &str, got: &dyn std::fmt::Display| {
        Error::data(path, expected, got, "replace the file or move it out of the folder")
    };
    match Format::of_contents(&bytes) {
        Some(Format::Jpeg) => decode_jpeg(&bytes, &|got| bad("a JPEG that can be decoded", got)),
        Some(Format::Png) => decode_png(&bytes, &|got| bad("a PNG that can be decoded", got)),
        None if bytes.is_empty() => Err(bad("a JPEG or PNG", &"an empty file")),
        None => Err(bad("a JPEG or PNG", &"a file that starts like neither")),
    }
}

/// Turns what a decoder found into the error that names the file.
type Bad<'a> = &'a dyn Fn(&dyn std::fmt::Display) -> Error;

fn decode_jpeg(bytes: &[u8], bad: Bad) -> Result<Decoded> {
    // Strict: by default a truncated file would give a picture with a grey rest.
    let options = DecoderOptions::default().set_strict_mode(true).jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| bad(&error))?;
    if let Some(ColorSpace::CMYK | ColorSpace::YCCK) = decoder.input_colorspace() {
        return Err(bad(&"a CMYK JPEG: convert it to RGB"));
    }
    let pixels = decoder.decode().map_err(|error| bad(&error))?;
    let (w, h) = decoder.dimensions().unwrap_or_default();
    finish(h, w, pixels, bad)
}

fn decode_png(bytes: &[u8], bad: Bad) -> Result<Decoded> {
    let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|error| bad(&error))?;
    let size = reader.output_buffer_size().ok_or_else(|| bad(&"a picture larger than memory"))?;
    let mut pixels = vec![0; size];
    let frame = reader.next_frame(&mut pixels).map_err(|error| bad(&error))?;
    pixels.truncate(frame.buffer_size());
    let pixels: Vec<u8> = match frame.color_type {
        png::ColorType::Rgb => pixels,
        png::ColorType::Rgba => pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        png::ColorType::Grayscale => pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
        png::ColorType::GrayscaleAlpha => pixels.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        png::ColorType::Indexed => return Err(bad(&"a palette that was not expanded")),
    };
    finish(frame.height as usize, frame.width as usize, pixels, bad)
}

fn finish(h: usize, w: usize, pixels: Vec<u8>, bad: Bad) -> Result<Decoded> {
    if h == 0 || w == 0 || pixels.len() != h * w * 3 {
        return Err(bad(&format_args!("{} bytes for {h} rows and {w} columns", pixels.len())));
    }
    Ok(Decoded { h, w, pixels })
}

fn sorted_entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let listed = |source| Error::io(dir, "list the folder", source);
    let entries = std::fs::read_dir(dir).map_err(listed)?.map(|entry| entry.map(|entry| entry.path()));
    let mut entries = entries.collect::<std::io::Result<Vec<PathBuf>>>().map_err(listed)?;
    entries.sort();
    Ok(entries)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}
