//! The CUDA device: today the probe that says whether a GPU can be used and, if not, why and what to do.
//!
//! Building needs no CUDA toolkit and starting needs no driver: the driver library is looked for at run time. The
//! kernels and their launchers are not in this version, so [`probe::probe`] never ends in `Ok` yet; it does report the
//! GPU it has found.

pub mod probe;

pub use probe::{DeviceInfo, ProbeError, ProbeInputs, probe};
