//! Counters of a launch, summed over its operations.
