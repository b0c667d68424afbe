//! Pipelines as the CUDA kernels take them.

use super::{KerasRandAugment, Pipeline, RandAugment, Step};
use crate::cuda::Kernels;
use crate::cuda::augment_pipeline::{AugmentStep, Plan, RandAugmentArguments};
use crate::error::Result;
use cudarc::driver::CudaStream;
use std::sync::Arc;

impl RandAugment {
    /// The arguments of the ops: in float64, then rounded or truncated, as the reference's Python does.
    fn arguments(&self) -> RandAugmentArguments {
        let share = self.magnitude / 10.0;
        RandAugmentArguments {
            num_layers: self.num_layers as u32,
            posterize_bits: (share * 4.0) as u32,
            solarize_threshold: (share * 256.0) as u32,
            solarize_addition: (share * 110.0) as u32,
            cutout_pad: (share * self.cutout_const) as u32,
            factor: (share * 1.8 + 0.1) as f32,
            radians: (share * 30.0 * (std::f64::consts::PI / 180.0)) as f32,
            shear: (share * 0.3) as f32,
            translate_px: (share * self.translate_const) as f32,
        }
    }
}

impl Pipeline {
    /// The steps for [`cuda::augment_pipeline::apply`](crate::cuda::augment_pipeline::apply), which computes the same
    /// bits as [`apply`](Pipeline::apply).
    ///
    /// # Errors
    /// When the copy to the device fails.
    pub fn plan(&self, kernels: &Kernels, stream: &Arc<CudaStream>) -> Result<Plan> {
        let steps: Vec<AugmentStep> = self.steps.iter().map(device_step).collect();
        Plan::new(kernels, &steps, self.branch, stream)
    }
}

fn device_step(step: &Step) -> AugmentStep {
    match *step {
        Step::RandomFlip => AugmentStep::random_flip(),
        Step::Resize { height, width } => AugmentStep::resize(height as u32, width as u32),
        Step::RandomCrop { height, width } => AugmentStep::random_crop(height as u32, width as u32),
        Step::CenterCrop { height, width } => AugmentStep::center_crop(height as u32, width as u32),
        Step::DistortedBoxCrop(region) => AugmentStep::distorted_box_crop(region.area, region.aspect, region.attempts),
        Step::RandomRotation { factor } => AugmentStep::random_rotation(factor),
        Step::RandomZoom { height_factor, width_factor } => AugmentStep::random_zoom(height_factor, width_factor),
        Step::Truncate => AugmentStep::truncate(),
        Step::RandAugment(policy) => AugmentStep::rand_augment(policy.arguments()),
        Step::KerasRandAugment(KerasRandAugment { augmentations_per_image, magnitude, magnitude_stddev, rate }) => {
            AugmentStep::keras_rand_augment(augmentations_per_image as u32, magnitude, magnitude_stddev, rate)
        }
    }
}
