use cudarc::cublas::sys::{cublasComputeType_t, cudaDataType};
use cudarc::cudnn::sys::{cudnnDataType_t, cudnnMathType_t};

/// Type of the operands and what multiplies them; sums are f32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Math {
    /// f32 on FMA units.
    F32,
    /// f32 whose factors are rounded to tf32, on tensor cores.
    Tf32,
    /// bf16 on tensor cores.
    Bf16,
}

impl Math {
    /// All three.
    pub const ALL: [Math; 3] = [Math::F32, Math::Tf32, Math::Bf16];

    /// As tables and flags call it.
    pub fn name(self) -> &'static str {
        match self {
            Math::F32 => "f32",
            Math::Tf32 => "tf32",
            Math::Bf16 => "bf16",
        }
    }

    /// What names the element type in our kernels.
    pub fn suffix(self) -> &'static str {
        if self == Math::Bf16 { "bf16" } else { "f32" }
    }

    /// Distance from 1 to the next number that factors and results can hold; of f32 the sums alone count.
    pub(crate) fn factor_ulp(self) -> f64 {
        match self {
            Math::F32 => 0.0,
            Math::Tf32 => 1.0 / 1024.0,
            Math::Bf16 => 1.0 / 128.0,
        }
    }

    pub(crate) fn cudnn_data_type(self) -> cudnnDataType_t {
        if self == Math::Bf16 { cudnnDataType_t::CUDNN_DATA_BFLOAT16 } else { cudnnDataType_t::CUDNN_DATA_FLOAT }
    }

    /// What cuDNN is asked for. Its default would use tf32 for f32.
    pub(crate) fn cudnn_math_type(self) -> cudnnMathType_t {
        if self == Math::F32 { cudnnMathType_t::CUDNN_FMA_MATH } else { cudnnMathType_t::CUDNN_TENSOR_OP_MATH }
    }

    pub(crate) fn cublas_data_type(suffix: &str) -> cudaDataType {
        if suffix == "bf16" { cudaDataType::CUDA_R_16BF } else { cudaDataType::CUDA_R_32F }
    }

    pub(crate) fn cublas_compute_type(self) -> cublasComputeType_t {
        match self {
            Math::Tf32 => cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => cublasComputeType_t::CUBLAS_COMPUTE_32F,
        }
    }
}
