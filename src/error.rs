//! The one error type of the crate.
//!
//! Every message names the operation, what was expected, what was got, and what to do about it.

use std::fmt;
use std::path::PathBuf;

/// `Result` with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong.
#[non_exhaustive]
#[derive(Debug)]
pub enum Error {
    /// A shape, extent or length does not fit the operation.
    Shape {
        /// Name of the operation.
        op: &'static str,
        /// What the operation needs.
        expected: String,
        /// What it was given.
        got: String,
        /// What to do.
        hint: String,
    },
    /// An argument is outside its domain.
    Argument {
        /// Name of the operation, struct or flag.
        op: &'static str,
        /// What is allowed.
        expected: String,
        /// What was given.
        got: String,
        /// What to do.
        hint: String,
    },
    /// A tensor has the wrong element type, device or state for the operation.
    Tensor {
        /// Name of the operation.
        op: &'static str,
        /// What the operation needs.
        expected: String,
        /// What it was given.
        got: String,
        /// What to do.
        hint: String,
    },
    /// No device of the wanted kind can be used.
    Device {
        /// Which device.
        device: String,
        /// Why not.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// A data file or folder does not hold what its format promises.
    Data {
        /// The file or folder.
        path: PathBuf,
        /// What the format promises.
        expected: String,
        /// What was found.
        got: String,
        /// What to do.
        hint: String,
    },
    /// The operating system refused a file operation.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried ("read", "create folder", …).
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A checkpoint is damaged or belongs to something else.
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// The tensor, field or part concerned.
        what: String,
        /// What was expected.
        expected: String,
        /// What was found.
        got: String,
        /// What to do.
        hint: String,
    },
    /// A loss or gradient became NaN or infinite.
    NonFinite {
        /// What became non-finite, where and when.
        what: String,
        /// What to do.
        hint: String,
    },
    /// Training was asked to stop and has saved its state.
    Interrupted {
        /// How to go on.
        hint: String,
    },
}

impl Error {
    /// A [`Error::Shape`].
    pub fn shape(
        op: &'static str,
        expected: impl fmt::Display,
        got: impl fmt::Display,
        hint: impl fmt::Display,
    ) -> Self {
        Error::Shape { op, expected: expected.to_string(), got: got.to_string(), hint: hint.to_string() }
    }

    /// A [`Error::Argument`].
    pub fn argument(
        op: &'static str,
        expected: impl fmt::Display,
        got: impl fmt::Display,
        hint: impl fmt::Display,
    ) -> Self {
        Error::Argument { op, expected: expected.to_string(), got: got.to_string(), hint: hint.to_string() }
    }

    /// A [`Error::Tensor`].
    pub fn tensor(
        op: &'static str,
        expected: impl fmt::Display,
        got: impl fmt::Display,
        hint: impl fmt::Display,
    ) -> Self {
        Error::Tensor { op, expected: expected.to_string(), got: got.to_string(), hint: hint.to_string() }
    }

    /// A [`Error::Device`].
    pub fn device(device: impl fmt::Display, reason: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Error::Device { device: device.to_string(), reason: reason.to_string(), hint: hint.to_string() }
    }

    /// A [`Error::Data`].
    pub fn data(
        path: impl Into<PathBuf>,
        expected: impl fmt::Display,
        got: impl fmt::Display,
        hint: impl fmt::Display,
    ) -> Self {
        Error::Data { path: path.into(), expected: expected.to_string(), got: got.to_string(), hint: hint.to_string() }
    }

    /// A [`Error::Io`].
    pub fn io(path: impl Into<PathBuf>, action: &'static str, source: std::io::Error) -> Self {
        Error::Io { path: path.into(), action, source }
    }

    /// A [`Error::Checkpoint`].
    pub fn checkpoint(
        path: impl Into<PathBuf>,
        what: impl fmt::Display,
        expected: impl fmt::Display,
        got: impl fmt::Display,
        hint: impl fmt::Display,
    ) -> Self {
        Error::Checkpoint {
            path: path.into(),
            what: what.to_string(),
            expected: expected.to_string(),
            got: got.to_string(),
            hint: hint.to_string(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Shape { op, expected, got, hint }
            | Error::Argument { op, expected, got, hint }
            | Error::Tensor { op, expected, got, hint } => {
                write!(f, "{op}: expected {expected}, got {got}; {hint}")
            }
            Error::Device { device, reason, hint } => write!(f, "device {device}: {reason}; {hint}"),
            Error::Data { path, expected, got, hint } => {
                write!(f, "{}: expected {expected}, got {got}; {hint}", path.display())
            }
            Error::Io { path, action, source } => write!(f, "{}: could not {action}: {source}", path.display()),
            Error::Checkpoint { path, what, expected, got, hint } => {
                write!(f, "{}: {what}: expected {expected}, got {got}; {hint}", path.display())
            }
            Error::NonFinite { what, hint } => write!(f, "{what}; {hint}"),
            Error::Interrupted { hint } => write!(f, "interrupted; {hint}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Checks the weight of the old value in running statistics.
#[cfg(any(feature = "cpu", feature = "cuda"))]
pub(crate) fn check_momentum(op: &'static str, momentum: f32) -> Result<()> {
    if (0.0..=1.0).contains(&momentum) {
        return Ok(());
    }
    Err(Error::argument(op, "momentum in [0, 1]", momentum, "it is the weight of the old value, 0.99 by default"))
}

/// Checks what logits or similarities are divided by.
#[cfg(any(feature = "cpu", feature = "cuda"))]
pub(crate) fn check_temperature(op: &'static str, temperature: f32) -> Result<()> {
    if temperature > 0.0 && temperature.is_finite() {
        return Ok(());
    }
    let usual = "1 leaves the logits as they are; contrastive losses take 0.05 to 0.1";
    Err(Error::argument(op, "a positive temperature", temperature, usual))
}

/// Checks that a buffer holds exactly `elems` elements.
#[cfg(any(feature = "cpu", feature = "cuda", feature = "nn"))]
pub(crate) fn check_len(op: &'static str, name: &str, got: usize, elems: usize) -> Result<()> {
    if got == elems {
        return Ok(());
    }
    Err(Error::shape(
        op,
        format_args!("{elems} elements in `{name}`"),
        got,
        "pass a buffer whose length is the product of the extents",
    ))
}
