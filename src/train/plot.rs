//! Pictures for reports: line charts, heat maps, grids of images, similarity matrices.
//!
//! Each function lays out one picture and returns it as an [`Image`], which [`Image::write_png`] writes whole or not at
//! all. Text is Latin-1; other characters show as `?`. Colours are told apart by people with any colour vision: lines
//! take the palette of Okabe and Ito, values take viridis, which also grows evenly in lightness.
//!
//! ```
//! use warpsmith::train::plot::{Series, line_chart};
//!
//! let loss = Series { name: "train_loss".into(), points: vec![(1.0, 2.3), (2.0, 1.7), (3.0, 1.4)] };
//! let image = line_chart("Loss", "epoch", "loss", &[loss], (800, 500))?;
//! assert_eq!((image.width(), image.height()), (800, 500));
//! # Ok::<(), warpsmith::Error>(())
//! ```

use crate::error::{Error, Result};
use crate::fs::write_atomic;
use embedded_graphics::mono_font::iso_8859_1::{FONT_6X10, FONT_7X13, FONT_9X15, FONT_9X15_BOLD, FONT_10X20};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Alignment, Baseline, Text, TextStyleBuilder};
use std::convert::Infallible;
use std::io;
use std::path::Path;

/// A finished picture: RGB, 8 bits per channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    rgb: Vec<u8>, // [height,width,3]
}

/// One line of a [`line_chart`].
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points in the order in which they are joined. A point that is not finite is skipped and breaks the line.
    pub points: Vec<(f64, f64)>,
}

/// One picture of an [`image_grid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile<'a> {
    /// What stands below it.
    pub caption: &'a str,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
    /// `[h,w,3]`.
    pub rgb: &'a [u8],
}

impl Image {
    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The pixels, `[height,width,3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The colour at column `x` and row `y`, or `None` outside.
    pub fn pixel(&self, x: usize, y: usize) -> Option<[u8; 3]> {
        if x >= self.width || y >= self.height {
            return None;
        }
        let at = (y * self.width + x) * 3;
        Some([self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]])
    }

    /// Writes the picture as PNG, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] naming `path`.
    pub fn write_png(&self, path: impl AsRef<Path>) -> Result<()> {
        write_atomic(path, |file| {
            // Both sides are at most MAX_SIDE.
            let mut encoder = png::Encoder::new(file, self.width as u32, self.height as u32);
            encoder.set_color(png::ColorType::Rgb);
            encoder.set_depth(png::BitDepth::Eight);
            let mut writer = encoder.write_header().map_err(io::Error::other)?;
            writer.write_image_data(&self.rgb).map_err(io::Error::other)?;
            writer.finish().map_err(io::Error::other)
        })
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Drawing
// ---------------------------------------------------------------------------------------------------------------------

const WHITE: Rgb888 = Rgb888::new(255, 255, 255);
const INK: Rgb888 = Rgb888::new(34, 34, 34);
const AXIS: Rgb888 = Rgb888::new(110, 110, 110);
const GRID: Rgb888 = Rgb888::new(225, 225, 225);
const MISSING: Rgb888 = Rgb888::new(215, 215, 215);

/// Okabe and Ito's palette for any colour vision, without its yellow, which vanishes on white.
const PALETTE: [Rgb888; 7] = [
    Rgb888::new(0, 114, 178),
    Rgb888::new(213, 94, 0),
    Rgb888::new(0, 158, 115),
    Rgb888::new(204, 121, 167),
    Rgb888::new(86, 180, 233),
    Rgb888::new(230, 159, 0),
    Rgb888::new(0, 0, 0),
];

/// The colour map viridis at nine even steps.
const VIRIDIS: [(u8, u8, u8); 9] = [
    (0x44, 0x01, 0x54),
    (0x47, 0x2d, 0x7b),
    (0x3b, 0x52, 0x8b),
    (0x2c, 0x72, 0x8e),
    (0x21, 0x90, 0x8c),
    (0x27, 0xad, 0x81),
    (0x5d, 0xc8, 0x63),
    (0xaa, 0xdc, 0x32),
    (0xfd, 0xe7, 0x25),
];

const TITLE: &MonoFont<'static> = &FONT_10X20;
const LABEL: &MonoFont<'static> = &FONT_9X15;

/// White space around everything.
const MARGIN: i32 = 20;

/// No side of a picture is longer, so that every coordinate fits an i32 with room to spare.
const MAX_SIDE: usize = 16_384;

/// An image under construction. Coordinates are signed and whatever falls outside is cut off.
struct Canvas {
    image: Image,
}

impl Canvas {
    fn new(op: &'static str, width: usize, height: usize) -> Result<Canvas> {
        if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE {
            return Err(Error::argument(
                op,
                format_args!("a picture of 1 to {MAX_SIDE} pixels a side"),
                format_args!("{width} x {height}"),
                "show fewer or smaller items, or a smaller zoom",
            ));
        }
        Ok(Canvas { image: Image { width, height, rgb: vec![255; width * height * 3] } })
    }

    /// Mixes `alpha` of the colour into one pixel.
    fn blend(&mut self, x: i32, y: i32, color: Rgb888, alpha: f64) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        if x >= self.image.width || y >= self.image.height {
            return;
        }
        let at = (y * self.image.width + x) * 3;
        for (channel, new) in self.image.rgb[at..at + 3].iter_mut().zip([color.r(), color.g(), color.b()]) {
            *channel = (f64::from(*channel) * (1.0 - alpha) + f64::from(new) * alpha).round() as u8;
        }
    }

    fn rectangle(&mut self, x: i32, y: i32, w: i32, h: i32, color: Rgb888) {
        let size = Size::new(w.max(0) as u32, h.max(0) as u32);
        let area = Rectangle::new(Point::new(x, y), size);
        let Ok(()) = area.into_styled(PrimitiveStyle::with_fill(color)).draw(self);
    }

    fn frame(&mut self, x: i32, y: i32, w: i32, h: i32, color: Rgb888) {
        self.rectangle(x, y, w, 1, color);
        self.rectangle(x, y + h - 1, w, 1, color);
        self.rectangle(x, y, 1, h, color);
        self.rectangle(x + w - 1, y, 1, h, color);
    }

    /// A line with round ends and smooth edges: a pixel is covered by as much of it as lies within `width / 2` of the
    /// segment. A segment of no length is a disc.
    fn stroke(&mut self, (ax, ay): (f64, f64), (bx, by): (f64, f64), width: f64, color: Rgb888) {
        let reach = width / 2.0 + 1.0;
        let (dx, dy) = (bx - ax, by - ay);
        let length2 = dx * dx + dy * dy;
        for y in (ay.min(by) - reach).floor() as i32..=(ay.max(by) + reach).ceil() as i32 {
            for x in (ax.min(bx) - reach).floor() as i32..=(ax.max(bx) + reach).ceil() as i32 {
                let (px, py) = (f64::from(x) - ax, f64::from(y) - ay);
                let along = if length2 > 0.0 { ((px * dx + py * dy) / length2).clamp(0.0, 1.0) } else { 0.0 };
                let distance = (px - along * dx).hypot(py - along * dy);
                let covered = (width / 2.0 + 0.5 - distance).clamp(0.0, 1.0);
                if covered > 0.0 {
                    self.blend(x, y, color, covered);
                }
            }
        }
    }

    /// Text whose middle line is at `y`.
    fn text(&mut self, font: &MonoFont, x: i32, y: i32, alignment: Alignment, color: Rgb888, text: &str) {
        let style = TextStyleBuilder::new().alignment(alignment).baseline(Baseline::Middle).build();
        let character = MonoTextStyle::new(font, color);
        let Ok(_) = Text::with_text_style(text, Point::new(x, y), character, style).draw(self);
    }

    /// Text that reads upwards, whose middle line is at `x`; it starts at `y` or is centred there.
    fn text_upwards(&mut self, font: &MonoFont, x: i32, y: i32, centred: bool, text: &str) {
        let (w, h) = (text_width(font, text), line_height(font));
        let mut flat =
            Canvas { image: Image { width: w as usize, height: h as usize, rgb: vec![255; (w * h * 3) as usize] } };
        flat.text(font, 0, h / 2, Alignment::Left, INK, text);
        let bottom = if centred { y + w / 2 } else { y };
        for row in 0..h {
            for column in 0..w {
                if flat.image.pixel(column as usize, row as usize) != Some([255; 3]) {
                    self.blend(x - h / 2 + row, bottom - column, INK, 1.0);
                }
            }
        }
    }

    /// The title, bold, cut to the width of the picture; returns the first free row below it.
    fn title(&mut self, x: i32, title: &str) -> i32 {
        if title.is_empty() {
            return MARGIN;
        }
        let text = shorten(TITLE, title, self.image.width as i32 - x - MARGIN);
        // Struck twice, one pixel apart: the font has no bold.
        for shift in [0, 1] {
            self.text(TITLE, x + shift, MARGIN + 10, Alignment::Left, INK, &text);
        }
        title_bottom(title)
    }

    fn copy(&mut self, image: &Image, left: i32, top: i32) {
        for y in 0..image.height {
            for x in 0..image.width {
                if let Some([r, g, b]) = image.pixel(x, y) {
                    self.blend(left + x as i32, top + y as i32, Rgb888::new(r, g, b), 1.0);
                }
            }
        }
    }

    /// The scale of a colour map: a vertical bar with its values on the right.
    fn color_bar(&mut self, x: i32, y: i32, h: i32, range: (f64, f64), unit: &str) {
        for row in 0..h {
            let share = 1.0 - f64::from(row) / f64::from((h - 1).max(1));
            self.rectangle(x, y + row, BAR_WIDTH, 1, viridis(share));
        }
        self.frame(x, y, BAR_WIDTH, h, AXIS);
        let (labels, _) = bar_labels(range, unit, h);
        for (value, label) in labels {
            let row = y + (f64::from(h - 1) * (1.0 - (value - range.0) / (range.1 - range.0))).round() as i32;
            self.rectangle(x + BAR_WIDTH, row, 5, 1, AXIS);
            self.text(LABEL, x + BAR_WIDTH + 9, row, Alignment::Left, INK, &label);
        }
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.image.width as u32, self.image.height as u32)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> std::result::Result<(), Infallible> {
        for Pixel(point, color) in pixels {
            self.blend(point.x, point.y, color, 1.0);
        }
        Ok(())
    }
}

fn title_bottom(title: &str) -> i32 {
    if title.is_empty() { MARGIN } else { MARGIN + 20 + 14 }
}

/// Width of the title with its margins, so that a narrow picture can make room for it.
fn title_width(title: &str) -> i32 {
    2 * MARGIN + text_width(TITLE, title) + 1
}

fn text_width(font: &MonoFont, text: &str) -> i32 {
    // A longer text is cut anyway.
    text.chars().count().min(MAX_SIDE) as i32 * font.character_size.width as i32
}

fn line_height(font: &MonoFont) -> i32 {
    font.character_size.height as i32
}

/// The text, or as much of it as fits with `...` behind.
fn shorten(font: &MonoFont, text: &str, width: i32) -> String {
    if text_width(font, text) <= width {
        return text.into();
    }
    let room = (width / font.character_size.width as i32).max(0) as usize;
    let kept: String = text.chars().take(room.saturating_sub(3)).collect();
    kept + &"..."[..room.min(3)]
}

fn widest<'a>(font: &MonoFont, texts: impl IntoIterator<Item = &'a str>) -> i32 {
    texts.into_iter().map(|text| text_width(font, text)).max().unwrap_or(0)
}

/// Viridis at `share` in [0, 1].
fn viridis(share: f64) -> Rgb888 {
    let at = share.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let low = (at as usize).min(VIRIDIS.len() - 2);
    let (from, to, part) = (VIRIDIS[low], VIRIDIS[low + 1], at - low as f64);
    let mix = |a: u8, b: u8| (f64::from(a) * (1.0 - part) + f64::from(b) * part).round() as u8;
    Rgb888::new(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}

/// Black or white, whichever has the higher contrast on the colour (by the formula of WCAG 2).
fn ink_on(color: Rgb888) -> Rgb888 {
    let linear = |channel: u8| (f64::from(channel) / 255.0).powf(2.2);
    let luminance = 0.2126 * linear(color.r()) + 0.7152 * linear(color.g()) + 0.0722 * linear(color.b());
    if luminance > 0.179 { Rgb888::new(0, 0, 0) } else { WHITE }
}

// ---------------------------------------------------------------------------------------------------------------------
// Ticks
// ---------------------------------------------------------------------------------------------------------------------

/// The step of 1, 2 or 5 times a power of ten that cuts `span` into at most about `parts`.
fn nice_step(span: f64, parts: i32) -> f64 {
    let rough = span / f64::from(parts.max(1));
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// The multiples of `step` within [low, high].
fn multiples(low: f64, high: f64, step: f64) -> Vec<f64> {
    let first = (low / step - 1e-6).ceil();
    let count = ((high / step + 1e-6).floor() - first).clamp(0.0, 1000.0) as usize;
    // Adding 0.0 turns -0.0 into 0.0.
    (0..=count).map(|i| (first + i as f64) * step + 0.0).collect()
}

/// A tick's value with as many digits as its step needs.
fn tick_text(value: f64, step: f64) -> String {
    let step_exponent = (step.log10() + 1e-9).floor();
    if !(-4.0..6.0).contains(&step_exponent) {
        if value == 0.0 {
            return "0".into();
        }
        let digits = (value.abs().log10() + 1e-9).floor() - step_exponent;
        return format!("{value:.*e}", digits.clamp(0.0, 9.0) as usize);
    }
    format!("{value:.*}", (-step_exponent).clamp(0.0, 9.0) as usize)
}

/// The smallest and the largest, widened where they are the same. `None` without any value.
fn range_of(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return None;
    }
    let least = low.abs().max(high.abs()) * 1e-6;
    if high - low > least {
        return Some((low, high));
    }
    let pad = (low.abs() * 0.1).max(if low == 0.0 { 1.0 } else { 0.0 });
    Some((low - pad, high + pad))
}

/// Checks the range of a colour map.
fn check_range(op: &'static str, (low, high): (f64, f64)) -> Result<()> {
    if drawable((low, high)) && high - low > low.abs().max(high.abs()) * 1e-6 {
        return Ok(());
    }
    Err(Error::argument(
        op,
        "a finite range whose second end is the larger",
        format_args!("{low} to {high}"),
        "pass the smallest and the largest value that the colours stand for",
    ))
}

/// Finite, and small enough that differences are finite too.
fn drawable((x, y): (f64, f64)) -> bool {
    x.abs() < 1e300 && y.abs() < 1e300
}

const BAR_WIDTH: i32 = 18;

/// The values beside a colour bar of height `h`, and the width of the bar with them.
fn bar_labels(range: (f64, f64), unit: &str, h: i32) -> (Vec<(f64, String)>, i32) {
    let step = nice_step(range.1 - range.0, (h / 36).clamp(2, 8));
    let labels: Vec<_> =
        multiples(range.0, range.1, step).into_iter().map(|v| (v, format!("{}{unit}", tick_text(v, step)))).collect();
    let width = BAR_WIDTH + 9 + widest(LABEL, labels.iter().map(|(_, label)| label.as_str()));
    (labels, width)
}

// ---------------------------------------------------------------------------------------------------------------------
// Pictures
// ---------------------------------------------------------------------------------------------------------------------

/// Lines over common axes, with ticks at round numbers, a grid and a legend.
///
/// Up to 60 points are marked; a point without a drawable neighbour is always marked. From the eighth series on colours
/// repeat and lines are dashed.
///
/// # Errors
/// [`Error::Argument`] where `size` (width, height) is below 240 x 180 or above 16384 a side.
pub fn line_chart(title: &str, x_label: &str, y_label: &str, series: &[Series], size: (usize, usize)) -> Result<Image> {
    if size.0 < 240 || size.1 < 180 {
        return Err(Error::argument(
            "line_chart",
            "a size of at least 240 x 180",
            format_args!("{} x {}", size.0, size.1),
            "axes and labels need that much room",
        ));
    }
    let mut canvas = Canvas::new("line_chart", size.0, size.1)?;
    let (width, height) = (size.0 as i32, size.1 as i32);
    let points = || series.iter().flat_map(|series| &series.points).copied().filter(|point| drawable(*point));

    // What the labels need decides where the plot lies, and its height decides which labels there are.
    let (legend, legend_rows) = place_legend(series, width - 2 * MARGIN);
    let top = title_bottom(title) + legend_rows * LEGEND_ROW + if legend_rows > 0 { 14 } else { 0 };
    let bottom = height - MARGIN - line_height(LABEL) - 8 - if x_label.is_empty() { 0 } else { line_height(LABEL) + 8 };
    let (y_low, y_high) = range_of(points().map(|point| point.1)).unwrap_or((0.0, 1.0));
    let y_step = nice_step(y_high - y_low, ((bottom - top) / 60).clamp(2, 10));
    let (y_low, y_high) = ((y_low / y_step + 1e-6).floor() * y_step, (y_high / y_step - 1e-6).ceil() * y_step);
    let y_ticks: Vec<_> =
        multiples(y_low, y_high, y_step).into_iter().map(|value| (value, tick_text(value, y_step))).collect();
    let y_label_width = if y_label.is_empty() { 0 } else { line_height(LABEL) + 10 };
    let left = MARGIN + y_label_width + widest(LABEL, y_ticks.iter().map(|(_, text)| text.as_str())) + 8;

    // Epochs and steps are whole numbers: a tick between two of them would mean nothing.
    let whole = points().all(|point| point.0.fract() == 0.0);
    let (mut x_low, mut x_high) = range_of(points().map(|point| point.0)).unwrap_or((0.0, 1.0));
    if whole && x_low.fract() != 0.0 {
        // All points share one x, which range_of has widened.
        (x_low, x_high) = ((x_low + x_high) / 2.0 - 1.0, (x_low + x_high) / 2.0 + 1.0);
    }
    let right = width - MARGIN - 10;
    let x_step = nice_step(x_high - x_low, ((right - left) / 90).clamp(2, 12));
    let x_step = if whole { x_step.max(1.0) } else { x_step };

    // A first and last marker must not sit on the frame.
    let inset = 12.0;
    let x_of =
        |x: f64| f64::from(left) + inset + (x - x_low) / (x_high - x_low) * (f64::from(right - left) - 2.0 * inset);
    let y_of = |y: f64| f64::from(bottom) - (y - y_low) / (y_high - y_low) * f64::from(bottom - top);

    canvas.title(MARGIN, title);
    for (value, text) in &y_ticks {
        let y = y_of(*value).round() as i32;
        canvas.rectangle(left, y, right - left, 1, GRID);
        canvas.text(LABEL, left - 8, y, Alignment::Right, INK, text);
    }
    for value in multiples(x_low, x_high, x_step) {
        let x = x_of(value).round() as i32;
        canvas.rectangle(x, top, 1, bottom - top, GRID);
        canvas.rectangle(x, bottom, 1, 5, AXIS);
        canvas.text(LABEL, x, bottom + 15, Alignment::Center, INK, &tick_text(value, x_step));
    }
    canvas.frame(left, top, right - left + 1, bottom - top + 1, AXIS);
    let x_label = shorten(LABEL, x_label, right - left);
    canvas.text(LABEL, (left + right) / 2, height - MARGIN - 8, Alignment::Center, INK, &x_label);
    if !y_label.is_empty() {
        let text = shorten(LABEL, y_label, bottom - top);
        canvas.text_upwards(LABEL, MARGIN + 7, (top + bottom) / 2, true, &text);
    }
    if points().next().is_none() {
        canvas.text(LABEL, (left + right) / 2, (top + bottom) / 2, Alignment::Center, AXIS, "no finite points");
    }

    for (i, (series, entry)) in series.iter().zip(&legend).enumerate() {
        let (color, dash) = (PALETTE[i % PALETTE.len()], if i < PALETTE.len() { 0.0 } else { DASH });
        if let Some(LegendEntry { x, row, name }) = entry {
            let y = title_bottom(title) + row * LEGEND_ROW + LEGEND_ROW / 2;
            draw_line(&mut canvas, &[(f64::from(x + 2), f64::from(y)), (f64::from(x + 28), f64::from(y))], color, dash);
            canvas.text(LABEL, x + LEGEND_SWATCH, y, Alignment::Left, INK, name);
        }
        let mark_all = series.points.len() <= 60;
        for run in series.points.split(|point| !drawable(*point)) {
            let run: Vec<_> = run.iter().map(|point| (x_of(point.0), y_of(point.1))).collect();
            draw_line(&mut canvas, &run, color, dash);
            if mark_all || run.len() == 1 {
                for point in run {
                    canvas.stroke(point, point, 8.0, color);
                }
            }
        }
    }
    Ok(canvas.image)
}

const LEGEND_ROW: i32 = 22;
const LEGEND_SWATCH: i32 = 38;
/// Length of a dash and of the gap behind it.
const DASH: f64 = 9.0;

/// A name in the legend and where it goes.
struct LegendEntry {
    x: i32,
    row: i32,
    name: String,
}

/// The entry of each series, `None` for one without a name, and the number of rows that they take.
fn place_legend(series: &[Series], width: i32) -> (Vec<Option<LegendEntry>>, i32) {
    let (mut x, mut row) = (0, 0);
    let mut places = Vec::with_capacity(series.len());
    for series in series {
        if series.name.is_empty() {
            places.push(None);
            continue;
        }
        let name = shorten(LABEL, &series.name, width - LEGEND_SWATCH);
        let w = LEGEND_SWATCH + text_width(LABEL, &name);
        if x > 0 && x + w > width {
            (x, row) = (0, row + 1);
        }
        places.push(Some(LegendEntry { x: MARGIN + x, row, name }));
        x += w + 28;
    }
    let rows = if places.iter().any(Option::is_some) { row + 1 } else { 0 };
    (places, rows)
}

/// Joins the points; `dash` is 0 for a solid line.
fn draw_line(canvas: &mut Canvas, points: &[(f64, f64)], color: Rgb888, dash: f64) {
    let mut travelled = 0.0;
    for pair in points.windows(2) {
        let ((ax, ay), (bx, by)) = (pair[0], pair[1]);
        if dash == 0.0 {
            canvas.stroke(pair[0], pair[1], 2.5, color);
            continue;
        }
        let length = (bx - ax).hypot(by - ay);
        let at = |distance: f64| (ax + (bx - ax) * distance / length, ay + (by - ay) * distance / length);
        // `travelled` runs on from segment to segment, so that the rhythm does too.
        let mut done = 0.0;
        while done < length {
            let phase = (travelled + done) % (2.0 * dash);
            let rest = if phase < dash { dash - phase } else { 2.0 * dash - phase };
            let end = (done + rest.max(0.01)).min(length);
            if phase < dash {
                canvas.stroke(at(done), at(end), 2.5, color);
            }
            done = end;
        }
        travelled += length;
    }
}

/// A table whose cells are coloured by value and hold the value.
///
/// `values[row][column]` is `None` (or not finite) where there is no value; `range` is what the ends of the colour map
/// stand for, and values beyond it take the colour of the end; `unit` follows the values of the scale (`"%"`).
///
/// # Errors
/// [`Error::Shape`] where `values` has not one row per row name and one column per column name; [`Error::Argument`] for
/// an empty table, an empty range, or a picture above 16384 pixels a side.
pub fn heat_map(
    title: &str,
    row_names: &[&str],
    col_names: &[&str],
    values: &[Vec<Option<f64>>],
    range: (f64, f64),
    unit: &str,
) -> Result<Image> {
    check_range("heat_map", range)?;
    if row_names.is_empty() || col_names.is_empty() {
        return Err(Error::argument("heat_map", "at least one row and one column", "an empty table", "pass values"));
    }
    let got: Vec<usize> = values.iter().map(Vec::len).collect();
    if values.len() != row_names.len() || got.iter().any(|columns| *columns != col_names.len()) {
        return Err(Error::shape(
            "heat_map",
            format_args!("{} rows of {} values", row_names.len(), col_names.len()),
            format_args!("{} rows of {got:?} values", values.len()),
            "pass one row per row name and one value per column name",
        ));
    }
    // Three digits or so.
    let span = range.1 - range.0;
    let digits = if span >= 1000.0 { 0 } else { (2.0 - span.log10().floor()).clamp(1.0, 6.0) as usize };
    let digits = if span >= 10.0 { digits.min(1) } else { digits };
    let text_of = |value: Option<f64>| match value {
        Some(value) if value.is_finite() => format!("{value:.digits$}"),
        _ => "-".to_string(),
    };
    let texts: Vec<Vec<String>> = values.iter().map(|row| row.iter().copied().map(text_of).collect()).collect();

    let cell_h = 30;
    let widest_text = widest(LABEL, texts.iter().flatten().map(String::as_str));
    let cell_w = (widest_text.max(widest(LABEL, col_names.iter().copied())) + 22).max(76);
    let left = MARGIN + widest(LABEL, row_names.iter().copied()) + 10;
    let top = title_bottom(title) + line_height(LABEL) + 10;
    let body_w = cell_w.saturating_mul(col_names.len().min(MAX_SIDE) as i32);
    let body_h = cell_h * row_names.len().min(MAX_SIDE) as i32;
    let bar_h = body_h.max(120);
    let (_, bar_w) = bar_labels(range, unit, bar_h);
    let width = left.saturating_add(body_w).saturating_add(24 + bar_w + MARGIN).max(title_width(title));
    let mut canvas = Canvas::new("heat_map", width as usize, (top + bar_h + MARGIN) as usize)?;

    canvas.title(MARGIN, title);
    for (column, name) in (0..).zip(col_names) {
        let x = left + column * cell_w + cell_w / 2;
        canvas.text(LABEL, x, top - 10 - line_height(LABEL) / 2, Alignment::Center, INK, name);
    }
    for (row, name) in (0..).zip(row_names) {
        let y = top + row * cell_h;
        canvas.text(LABEL, left - 10, y + cell_h / 2, Alignment::Right, INK, name);
        for (column, (value, text)) in (0..).zip(values[row as usize].iter().zip(&texts[row as usize])) {
            let x = left + column * cell_w;
            let color = match value {
                Some(value) if value.is_finite() => viridis((value - range.0) / span),
                _ => MISSING,
            };
            // One pixel of white between cells.
            canvas.rectangle(x, y, cell_w - 1, cell_h - 1, color);
            canvas.text(&FONT_9X15_BOLD, x + cell_w / 2, y + cell_h / 2, Alignment::Center, ink_on(color), text);
        }
    }
    canvas.color_bar(left + body_w + 24, top, bar_h - 1, range, unit);
    Ok(canvas.image)
}

/// Images in rows of `columns`, each pixel drawn as `zoom` x `zoom`, with captions below.
///
/// The captions take the largest of three fonts in which all of them fit, and are cut where none does.
///
/// # Errors
/// [`Error::Argument`] for no tiles, no columns, a zoom of 0, or a picture above 16384 pixels a side; [`Error::Shape`]
/// where a tile's pixels are not `h·w·3` bytes.
pub fn image_grid(title: &str, tiles: &[Tile], columns: usize, zoom: usize) -> Result<Image> {
    if tiles.is_empty() || columns == 0 || zoom == 0 {
        return Err(Error::argument(
            "image_grid",
            "at least one tile, one column and a zoom of 1",
            format_args!("{} tiles, {columns} columns, zoom {zoom}", tiles.len()),
            "pass what is to be shown",
        ));
    }
    for (i, tile) in tiles.iter().enumerate() {
        let elems = tile.h.checked_mul(tile.w).and_then(|pixels| pixels.checked_mul(3));
        if elems != Some(tile.rgb.len()) || tile.rgb.is_empty() {
            return Err(Error::shape(
                "image_grid",
                format_args!("{} x {} x 3 bytes in tile {i}, at least one pixel", tile.h, tile.w),
                tile.rgb.len(),
                "pass interleaved RGB rows",
            ));
        }
    }
    let columns = columns.min(tiles.len());
    let rows = tiles.len().div_ceil(columns);
    let gap = 12;
    let side = |of: fn(&Tile) -> usize| tiles.iter().map(of).max().unwrap_or(0).saturating_mul(zoom).min(MAX_SIDE);
    let (cell_w, cell_h) = (side(|tile| tile.w) as i32, side(|tile| tile.h) as i32);
    let captions = || tiles.iter().map(|tile| tile.caption);
    let fonts = [&FONT_9X15, &FONT_7X13, &FONT_6X10];
    let font = fonts.into_iter().find(|font| widest(font, captions()) <= cell_w).unwrap_or(&FONT_6X10);
    let caption_h = if captions().all(str::is_empty) { 0 } else { line_height(font) + 5 };

    let top = title_bottom(title);
    let total = |count: usize, size: i32| (size as usize).saturating_mul(count).saturating_add(gap * (count - 1));
    let width = total(columns, cell_w).saturating_add(2 * MARGIN as usize).max(title_width(title) as usize);
    let height = total(rows, cell_h + caption_h).saturating_add((top + MARGIN) as usize);
    let mut canvas = Canvas::new("image_grid", width, height)?;
    canvas.title(MARGIN, title);
    for (i, tile) in tiles.iter().enumerate() {
        let gap = gap as i32;
        let cell_x = MARGIN + (i % columns) as i32 * (cell_w + gap);
        let cell_y = top + (i / columns) as i32 * (cell_h + caption_h + gap);
        let (x0, y0) = (cell_x + (cell_w - (tile.w * zoom) as i32) / 2, cell_y + (cell_h - (tile.h * zoom) as i32) / 2);
        for (pixel, rgb) in tile.rgb.chunks_exact(3).enumerate() {
            let (x, y, zoom) = ((pixel % tile.w * zoom) as i32, (pixel / tile.w * zoom) as i32, zoom as i32);
            canvas.rectangle(x0 + x, y0 + y, zoom, zoom, Rgb888::new(rgb[0], rgb[1], rgb[2]));
        }
        let caption = shorten(font, tile.caption, cell_w);
        let caption_y = cell_y + cell_h + 5 + line_height(font) / 2;
        canvas.text(font, cell_x + cell_w / 2, caption_y, Alignment::Center, INK, &caption);
    }
    Ok(canvas.image)
}

/// A square matrix as a picture, its rows and columns in groups with a gap of two pixels between them: a similarity
/// matrix in which the samples are sorted by class.
///
/// `values` is `[n,n]`; `groups` holds the name and the number of rows of each group, in order; not finite values are
/// grey; values beyond `range` take the colour of its end. Cells are as many whole pixels as make about 640 in all.
///
/// # Errors
/// [`Error::Shape`] where `values` is not `n·n` long or the groups do not add up to `n`; [`Error::Argument`] for `n` = 0,
/// an empty range, or a picture above 16384 pixels a side.
pub fn matrix(title: &str, n: usize, values: &[f32], groups: &[(&str, usize)], range: (f64, f64)) -> Result<Image> {
    check_range("matrix", range)?;
    if n == 0 {
        return Err(Error::argument("matrix", "at least one row", "n = 0", "pass what is to be shown"));
    }
    let sum = groups.iter().fold(0usize, |sum, group| sum.saturating_add(group.1));
    if n.checked_mul(n) != Some(values.len()) || sum != n {
        return Err(Error::shape(
            "matrix",
            format_args!("{n} x {n} values and groups of {n} rows together"),
            format_args!("{} values and groups of {sum} rows", values.len()),
            "pass every row and name every row's group",
        ));
    }
    let cell = (640 / n).max(1);
    let groups: Vec<(&str, usize)> = groups.iter().copied().filter(|group| group.1 > 0).collect();
    // Row i starts at offset[i], counted in pixels, with the gaps before it.
    let mut offsets = Vec::with_capacity(n);
    let mut spans = Vec::with_capacity(groups.len());
    for (gaps, (name, rows)) in groups.iter().enumerate() {
        spans.push((*name, offsets.len() * cell + 2 * gaps, rows * cell));
        for _ in 0..*rows {
            offsets.push(offsets.len() * cell + 2 * gaps);
        }
    }
    let body = n.saturating_mul(cell) + 2 * (groups.len() - 1);
    if body > MAX_SIDE {
        return Err(Error::argument(
            "matrix",
            format_args!("a picture of at most {MAX_SIDE} pixels a side"),
            body,
            "show a sample of the rows",
        ));
    }
    let body = body as i32;

    let names_w = widest(LABEL, groups.iter().map(|group| group.0));
    let upright = spans.iter().all(|(name, _, span)| text_width(LABEL, name) + 8 <= *span as i32);
    let names_h = if names_w == 0 { 0 } else { 8 + if upright { line_height(LABEL) } else { names_w } };
    let left = MARGIN + if names_w == 0 { 0 } else { names_w + 8 };
    let top = title_bottom(title) + names_h;
    let bar_h = body.max(120);
    let (_, bar_w) = bar_labels(range, "", bar_h);
    let width = (left + body + 24 + bar_w + MARGIN).max(title_width(title));
    let mut canvas = Canvas::new("matrix", width as usize, (top + bar_h + MARGIN) as usize)?;
    canvas.title(MARGIN, title);
    for (name, start, span) in spans {
        let middle = (start + span / 2) as i32;
        // A name needs its line's height; a group of fewer pixels goes without.
        if (span as i32) < line_height(LABEL) - 2 {
            continue;
        }
        canvas.text(LABEL, left - 8, top + middle, Alignment::Right, INK, name);
        if upright {
            canvas.text(LABEL, left + middle, top - 8 - line_height(LABEL) / 2, Alignment::Center, INK, name);
        } else {
            canvas.text_upwards(LABEL, left + middle, top - 8, false, name);
        }
    }
    for (row, y) in values.chunks_exact(n).zip(&offsets) {
        for (value, x) in row.iter().zip(&offsets) {
            let value = f64::from(*value);
            let color = if value.is_finite() { viridis((value - range.0) / (range.1 - range.0)) } else { MISSING };
            canvas.rectangle(left + *x as i32, top + *y as i32, cell as i32, cell as i32, color);
        }
    }
    canvas.color_bar(left + body + 24, top, bar_h, range, "");
    Ok(canvas.image)
}

/// Pictures in one row, aligned at the top.
///
/// # Errors
/// [`Error::Argument`] for no pictures, or a result above 16384 pixels a side.
pub fn side_by_side(images: &[Image]) -> Result<Image> {
    let width = images.iter().map(|image| image.width).sum();
    let height = images.iter().map(|image| image.height).max().unwrap_or(0);
    let mut canvas = Canvas::new("side_by_side", width, height)?;
    let mut left = 0;
    for image in images {
        canvas.copy(image, left, 0);
        left += image.width as i32;
    }
    Ok(canvas.image)
}
