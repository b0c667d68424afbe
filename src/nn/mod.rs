//! Layers, initialisers, ResNet50V2 and model files.

pub mod checkpoint;
pub mod layers;
pub mod params;
pub mod resnet50v2;

pub use layers::{BatchNorm, Conv2d, Dense, Forward, KerasVersion, Mode, Normalization};
pub use params::{Init, ParamId, Params, ParamsBuilder, Snapshot, StatId};
pub use resnet50v2::{Head, ResNet50V2};
