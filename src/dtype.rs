//! Element types of tensors.

use std::fmt;

/// Element type of a tensor.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit IEEE float: activations, weights, gradients.
    F32,
    /// bfloat16 storage.
    Bf16,
    /// Bytes: images at rest and in transfer.
    U8,
    /// 32-bit signed integers: labels.
    I32,
}

impl DType {
    /// Size of one element in bytes.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::Bf16 => 2,
            DType::U8 => 1,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::U8 => "u8",
            DType::I32 => "i32",
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// Rust types that a tensor can hold.
pub trait Element: bytemuck::Pod + Send + Sync + sealed::Sealed {
    /// The matching [`DType`].
    const DTYPE: DType;
}

macro_rules! element {
    ($type:ty, $dtype:ident) => {
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
        }
    };
}

element!(f32, F32);
element!(half::bf16, Bf16);
element!(u8, U8);
element!(i32, I32);
