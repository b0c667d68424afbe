//! What crops and warps of images are told: boxes, transforms, and how to read outside and between pixels. Both devices
//! share it.

use crate::error::{Error, Result};

/// A rectangle of an image in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropBox {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Number of rows.
    pub height: usize,
    /// Number of columns.
    pub width: usize,
}

impl CropBox {
    /// Fails unless the box is not empty and lies inside an `h` x `w` image.
    pub(crate) fn check(&self, op: &'static str, h: usize, w: usize) -> Result<()> {
        let fits = |start: usize, size: usize, extent: usize| {
            size > 0 && start.checked_add(size).is_some_and(|end| end <= extent)
        };
        if fits(self.top, self.height, h) && fits(self.left, self.width, w) {
            return Ok(());
        }
        Err(Error::shape(
            op,
            format_args!("a box inside the {h}x{w} image"),
            format_args!("{}x{} at row {}, column {}", self.height, self.width, self.top, self.left),
            "crop less, or resize the image first",
        ))
    }

    /// The centred box; `start = (extent − size) / 2`, rounded down. The image must not be smaller.
    pub(crate) fn centre(h: usize, w: usize, height: usize, width: usize) -> CropBox {
        CropBox { top: (h - height) / 2, left: (w - width) / 2, height, width }
    }

    /// The largest centred box of an `h` x `w` image with the aspect ratio of `height` x `width`.
    pub(crate) fn centre_with_aspect(h: usize, w: usize, height: usize, width: usize) -> CropBox {
        let crop_height = ((w * height) as f64 / width as f64) as usize;
        let crop_width = ((h * width) as f64 / height as f64) as usize;
        CropBox::centre(h, w, crop_height.clamp(1, h), crop_width.clamp(1, w))
    }
}

/// How a warp reads between pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// The pixel nearest to the source coordinate; ties away from zero.
    Nearest,
    /// Two-tap linear per axis.
    Bilinear,
}

/// What a warp reads outside the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FillMode {
    /// `dcba|abcd|dcba`: mirrored with the edge pixel repeated.
    Reflect,
    /// Every single read outside the image gives the fill value.
    Constant,
    /// The edge pixel.
    Nearest,
    /// `abcd|abcd|abcd`.
    Wrap,
}

/// A projective map `[a0, a1, a2, b0, b1, b2, c0, c1]` from output to source: output pixel (x, y) reads source
/// `((a0·x + a1·y + a2)/k, (b0·x + b1·y + b2)/k)`, `k = c0·x + c1·y + 1`.
pub type Transform = [f32; 8];

/// The map that changes nothing.
pub const IDENTITY: Transform = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];

/// Rotation by `radians` about the image centre ((w−1)/2, (h−1)/2); positive angles turn the content
/// counter-clockwise.
pub fn rotation_transform(h: usize, w: usize, radians: f32) -> Transform {
    let (sin, cos) = crate::math::sin_cos(f64::from(radians));
    let (sin, cos) = (sin as f32, cos as f32);
    let (x_last, y_last) = (w as f32 - 1.0, h as f32 - 1.0);
    let x_offset = (x_last - (cos * x_last - sin * y_last)) / 2.0;
    let y_offset = (y_last - (sin * x_last + cos * y_last)) / 2.0;
    [cos, -sin, x_offset, sin, cos, y_offset, 0.0, 0.0]
}

/// Zoom about the image centre: source y = (1 + height_factor)·y + (h−1)/2·(−height_factor), x likewise.
/// Positive factors zoom out.
pub fn zoom_transform(h: usize, w: usize, height_factor: f32, width_factor: f32) -> Transform {
    let (zoom_y, zoom_x) = (1.0 + height_factor, 1.0 + width_factor);
    let x_offset = (w as f32 - 1.0) / 2.0 * (1.0 - zoom_x);
    let y_offset = (h as f32 - 1.0) / 2.0 * (1.0 - zoom_y);
    [zoom_x, 0.0, x_offset, 0.0, zoom_y, y_offset, 0.0, 0.0]
}

/// Shear along x: source x = x + shear·y.
pub fn shear_x_transform(shear: f32) -> Transform {
    [1.0, shear, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
}

/// Shear along y: source y = y + shear·x.
pub fn shear_y_transform(shear: f32) -> Transform {
    [1.0, 0.0, 0.0, shear, 1.0, 0.0, 0.0, 0.0]
}

/// Translation of the *source*: source x = x + dx, source y = y + dy (positive dx moves the content left).
pub fn translation_transform(dx: f32, dy: f32) -> Transform {
    [1.0, 0.0, dx, 0.0, 1.0, dy, 0.0, 0.0]
}
