//! Files that are either whole or not there.

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes a file so that no reader, and no crash or power cut, ever sees half of it: the bytes go to a temporary file
/// in the same folder (`.NAME.PID-N.tmp`), which is synced and then renamed over `path`.
///
/// `write` gets a buffered writer. When it fails, `path` is as it was and the temporary file is gone.
///
/// # Errors
/// [`Error::Io`] naming `path`, from `write` or from the system.
///
/// ```
/// use std::io::Write;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("report.json");
/// warpsmith::fs::write_atomic(&path, |file| file.write_all(b"{}"))?;
/// assert_eq!(std::fs::read(&path).unwrap(), b"{}");
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn write_atomic(path: impl AsRef<Path>, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    let name = path.file_name().ok_or_else(|| {
        Error::argument("write_atomic", "a path that ends in a file name", path.display(), "name a file")
    })?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    write_and_rename(path, folder, name.to_os_string(), write).map_err(|source| Error::io(path, "write", source))
}

/// Writes a value as indented JSON, as [`write_atomic`] does.
///
/// # Errors
/// As [`write_atomic`]; and when JSON cannot hold the value.
#[cfg(feature = "train")]
pub(crate) fn write_json(path: impl AsRef<Path>, value: &impl serde::Serialize) -> Result<()> {
    write_atomic(path, |file| {
        serde_json::to_writer_pretty(&mut *file, value)?;
        file.write_all(b"\n")
    })
}

fn write_and_rename(
    path: &Path,
    folder: &Path,
    name: OsString,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    // The process id and a counter keep two writers of one path apart, in two processes or in one.
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    let temporary = folder.join(temporary);

    let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    let mut temporary = Temporary { path: temporary, renamed: false };
    let mut writer = BufWriter::new(file);
    write(&mut writer)?;
    writer.flush()?;
    // Before the rename, or a power cut could leave the new name on an empty file.
    writer.get_ref().sync_all()?;
    drop(writer);
    fs::rename(&temporary.path, path)?;
    temporary.renamed = true;
    sync_folder(folder)
}

/// Removes the temporary file when writing it fails or panics.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // The failure on its way to the caller says more than one from here could.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes a rename in the folder survive a power cut.
fn sync_folder(folder: &Path) -> io::Result<()> {
    // Windows cannot open a folder as a file; its file systems journal the rename.
    if cfg!(not(unix)) {
        return Ok(());
    }
    match File::open(folder)?.sync_all() {
        // Some network file systems have no sync of folders.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

/// Creates a folder and those above it; one that exists already is fine.
///
/// # Errors
/// [`Error::Io`] naming `path`.
pub fn create_dir(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::create_dir_all(path).map_err(|source| Error::io(path, "create folder", source))
}
