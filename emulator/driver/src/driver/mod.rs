//! The driver API over the engine: objects and handles, streams, errors, and the C entry points.

pub mod api;
pub mod error;
mod fault;
mod journal;
mod resources;
pub mod state;
pub mod stream;
