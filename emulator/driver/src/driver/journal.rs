//! What a process leaves behind for `warpsmith-emulate`, however it ends: a mark that it began, its findings as they are
//! made, and its report if it ends in a way that leaves time for one. A program may start others, so every process has
//! files of its own, in the folder that the command names in the environment.

use std::fs::{self, File};
use std::io::Write;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use crate::check::finding::Finding;
use crate::count::counters::quote;

/// The files of this process, without their extension, and the one that findings are appended to.
static FILES: Mutex<Option<(PathBuf, File)>> = Mutex::new(None);

/// This process is a copy that `fork` made of one that had initialised the driver.
static FORKED: AtomicBool = AtomicBool::new(false);

fn folder() -> Option<PathBuf> {
    std::env::var_os("WARPSMITH_EMULATOR_REPORT_FOLDER").filter(|f| !f.is_empty()).map(PathBuf::from)
}

fn complain(file: &std::path::Path, e: std::io::Error) {
    eprintln!("warpsmith emulator: {}: {e}", file.display());
}

/// Whether `fork` made this process after the driver was initialised. As on a GPU it cannot use the driver; what it has
/// inherited is the business of its parent.
pub fn forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

extern "C" fn in_child() {
    FORKED.store(true, Ordering::Relaxed);
}

/// Leaves the mark, if somebody wants to know. A process that replaces its program (`exec`) begins again under the same
/// number.
pub fn begin() -> bool {
    // SAFETY: the function only stores to an atomic, which a child of `fork` may do.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    let Some(folder) = folder() else { return false };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let program = fs::read("/proc/self/cmdline").unwrap_or_default();
    let program = String::from_utf8_lossy(&program).trim_end_matches('\0').replace('\0', " ");
    let mut n = 1;
    let made = loop {
        let stem = folder.join(format!("{}-{n}", std::process::id()));
        match File::create_new(stem.with_extension("begun")) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => n += 1,
            mark => break mark.map(|m| (stem, m)),
        }
    };
    let made = made.and_then(|(stem, mut mark)| {
        writeln!(mark, "{now}\n{program}")?;
        let findings = File::options().create(true).append(true).open(stem.with_extension("findings"))?;
        Ok((stem, findings))
    });
    match made {
        Ok(files) => *FILES.lock().unwrap_or_else(|e| e.into_inner()) = Some(files),
        Err(e) => complain(&folder, e),
    }
    true
}

/// Says why the emulator cannot serve this program.
pub fn refuse(why: &str) {
    let Some(folder) = folder() else { return };
    let file = folder.join(format!("{}.refused", std::process::id()));
    if let Err(e) = fs::write(&file, why) {
        complain(&file, e);
    }
}

/// Writes the report, whole or not at all.
pub fn report(json: &str) {
    let Some((stem, _)) = &*FILES.lock().unwrap_or_else(|e| e.into_inner()) else { return };
    let (draft, file) = (stem.with_extension("draft"), stem.with_extension("json"));
    if let Err(e) = fs::write(&draft, json).and_then(|()| fs::rename(&draft, &file)) {
        complain(&file, e);
    }
}

/// Appends a finding to those that outlive the process.
pub fn append(f: &Finding) {
    if let Some((stem, file)) = &mut *FILES.lock().unwrap_or_else(|e| e.into_inner())
        && let Err(e) = writeln!(file, "{}", json(f))
    {
        complain(stem, e);
    }
}

/// A finding as JSON.
pub fn json(f: &Finding) -> String {
    format!(
        "{{\"kind\":{},\"kernel\":{},\"text\":{},\"count\":{}}}",
        quote(f.kind.name()),
        quote(f.place.as_ref().map_or("", |p| &p.kernel)),
        quote(&f.to_string()),
        f.count
    )
}

/// The findings of a process, in the order of execution. Each is on disk before the program goes on.
#[derive(Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Notes a finding.
    pub fn push(&mut self, f: Finding) {
        append(&f);
        self.0.push(f);
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        if let Some((stem, file)) = &*FILES.lock().unwrap_or_else(|e| e.into_inner())
            && let Err(e) = file.set_len(0)
        {
            complain(stem, e);
        }
        self.0.clear();
    }
}

impl Deref for Findings {
    type Target = [Finding];

    fn deref(&self) -> &[Finding] {
        &self.0
    }
}

impl DerefMut for Findings {
    fn deref_mut(&mut self) -> &mut [Finding] {
        &mut self.0
    }
}
