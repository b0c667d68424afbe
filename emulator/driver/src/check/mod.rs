//! The checks: what memory belongs to whom, what was written, who raced, and how it is reported.

pub mod arena;
pub mod finding;
pub mod order;
pub mod race;
