//! Exact counters of a launch, and what they mean for a device.

mod advice;
pub mod contention;
pub mod counters;
pub mod pipes;
pub mod profile;
