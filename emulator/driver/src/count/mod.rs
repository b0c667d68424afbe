//! Exact counters of a launch, and what they mean for a device.

pub mod counters;
pub mod profile;
