//! `printf` and `assert` of device code.

use super::memory::{self, Intent};
use super::op::{NONE, Syscall};
use super::regs::*;
use super::run::{Block, Cx, Stop, Warp};
use crate::check::finding::Kind;
use crate::ptx::ast::Space;

/// Longest string a system call reads.
const MAX_TEXT: u64 = 64 * 1024;
/// Widest field and longest precision: a wrong argument should not cost gigabytes.
const MOST_WIDTH: u32 = 64 * 1024;
/// Arguments that `printf` takes besides its format.
const MOST_ARGUMENTS: usize = 32;

/// Runs a system call, lane by lane.
pub fn call(cx: &mut Cx, block: &mut Block, warp: &mut Warp, call: &Syscall, pc: usize, m: u32) -> Result<(), Stop> {
    for lane in lanes(m) {
        match call {
            Syscall::Printf(format, args, result) => {
                let (format, args) = (warp.regs.lane(*format, lane), warp.regs.lane(*args, lane));
                let n = match format {
                    // A null format is the one error that the function returns.
                    0 => u64::from(u32::MAX),
                    _ => {
                        let format = text(cx, block, warp, pc, lane, format, MAX_TEXT)?;
                        printf(cx, block, warp, pc, lane, &format, args)?
                    }
                };
                if result.at != NONE {
                    warp.regs.set_lane(*result, lane, n);
                }
            }
            Syscall::Assert([message, file, line, function]) => {
                let get = |r: &Row| warp.regs.lane(*r, lane);
                let (message, file, function, line) = (get(message), get(file), get(function), get(line));
                let message = text(cx, block, warp, pc, lane, message, MAX_TEXT)?;
                let file = text(cx, block, warp, pc, lane, file, MAX_TEXT)?;
                let function = text(cx, block, warp, pc, lane, function, MAX_TEXT)?;
                let show = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
                let text =
                    format!("{}:{line}: {}: assertion `{}` failed", show(&file), show(&function), show(&message));
                cx.report(block, warp, pc, lane, Kind::Assert, text);
                return Err(Stop::Fault);
            }
        }
    }
    Ok(())
}

/// Reads `bytes` (1, 2, 4 or 8) at a generic address.
fn read(
    cx: &mut Cx,
    block: &Block,
    warp: &Warp,
    pc: usize,
    lane: usize,
    address: u64,
    bytes: u32,
) -> Result<u64, Stop> {
    let mut at = [0; LANES];
    at[lane] = address;
    let (r, _) = memory::request(cx, block, warp, Space::Generic, &at, 1 << lane, bytes);
    memory::check(cx, block, warp, pc, &r, Intent::Read, u32::MAX)?;
    let mut v = [0u8; 8];
    // SAFETY: `check` found the bytes inside the view.
    unsafe {
        let p = r.view.data.add((r.at[lane] + r.stride * lane as u64) as usize);
        std::ptr::copy_nonoverlapping(p, v.as_mut_ptr(), bytes as usize);
    }
    Ok(u64::from_le_bytes(v))
}

/// Reads a string up to its end, or `most` bytes of it: a precision makes do without an end.
fn text(
    cx: &mut Cx,
    block: &Block,
    warp: &Warp,
    pc: usize,
    lane: usize,
    address: u64,
    most: u64,
) -> Result<Vec<u8>, Stop> {
    let mut out = Vec::new();
    for i in 0..most.min(MAX_TEXT) {
        let b = read(cx, block, warp, pc, lane, address.wrapping_add(i), 1)? as u8;
        if b == 0 {
            break;
        }
        out.push(b);
    }
    Ok(out)
}

/// A conversion of a format, as C writes it: `%[flags][width][.precision][size]kind`.
#[derive(Debug, Default)]
struct Conversion {
    flags: String,
    width: Option<Number>,
    precision: Option<Number>,
    size: String,
    kind: u8,
    /// Bytes of the format that it takes, without the `%`.
    bytes: usize,
}

/// A width or precision.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    Is(u32),
    /// `*`: the next argument says it.
    Argument,
}

impl Conversion {
    /// What stands behind a `%`; `None` for what the device's `printf` does not know.
    fn parse(rest: &[u8]) -> Option<Conversion> {
        let mut i = 0;
        let span = |i: usize, set: &[u8]| rest[i..].iter().take_while(|b| set.contains(b)).count();
        let take = |i: &mut usize, set: &[u8]| {
            let start = *i;
            *i += span(start, set);
            String::from_utf8_lossy(&rest[start..*i]).into_owned()
        };
        let number = |i: &mut usize| {
            if rest.get(*i) == Some(&b'*') {
                *i += 1;
                return Some(Number::Argument);
            }
            let digits = take(i, b"0123456789");
            (!digits.is_empty()).then(|| Number::Is(digits.parse().unwrap_or(MOST_WIDTH).min(MOST_WIDTH)))
        };
        let flags = take(&mut i, b"-+ #0");
        let width = number(&mut i);
        let mut precision = None;
        if rest.get(i) == Some(&b'.') {
            i += 1;
            precision = Some(number(&mut i).unwrap_or(Number::Is(0)));
        }
        let size = take(&mut i, b"hlLqjzt");
        let kind = *rest.get(i)?;
        b"diouxXcspfFeEgGaA".contains(&kind).then_some(Conversion { flags, width, precision, size, kind, bytes: i + 1 })
    }

    /// Bytes of its argument: smaller integers travel as `int`, `float` as `double`.
    fn argument(&self) -> u32 {
        match self.kind {
            b'd' | b'i' | b'o' | b'u' | b'x' | b'X' if matches!(&self.size[..], "" | "h" | "hh") => 4,
            b'c' => 4,
            _ => 8,
        }
    }

    /// The text that C makes of a value, or of the string it points to.
    fn format(&self, width: Option<i32>, precision: Option<u32>, value: u64, string: &[u8]) -> Vec<u8> {
        let width = width.map_or(String::new(), |w| w.to_string());
        let precision = precision.map_or(String::new(), |p| format!(".{p}"));
        let spec = |size: &str| format!("%{}{width}{precision}{size}{}\0", self.flags, self.kind as char);
        let small = |bits: u32| 64 - bits;
        let signed = |bits| (value << small(bits)) as i64 >> small(bits);
        let unsigned = |bits| value << small(bits) >> small(bits);
        let bits = match &self.size[..] {
            "hh" => 8,
            "h" => 16,
            "" => 32,
            _ => 64,
        };
        // SAFETY: `spec` is a terminated string with one conversion, whose argument is of the type that C asks for: a
        // 64-bit integer with `ll`, an `int`, a terminated string, a pointer or a double. It is called twice, first to
        // learn the size of the buffer.
        let print = |spec: String, call: &dyn Fn(*mut libc::c_char, usize, *const libc::c_char) -> i32| {
            let n = usize::try_from(call(std::ptr::null_mut(), 0, spec.as_ptr().cast())).unwrap_or(0);
            let mut out = vec![0u8; n + 1];
            call(out.as_mut_ptr().cast(), n + 1, spec.as_ptr().cast());
            out.truncate(n);
            out
        };
        macro_rules! c {
            ($size:literal, $v:expr) => {
                print(spec($size), &|to, n, spec| {
                    // SAFETY: as said above.
                    unsafe { libc::snprintf(to, n, spec, $v) }
                })
            };
        }
        match self.kind {
            b'd' | b'i' => c!("ll", signed(bits)),
            b'o' | b'u' | b'x' | b'X' => c!("ll", unsigned(bits)),
            b'c' => c!("", value as i32),
            b'p' => c!("", value as *const libc::c_void),
            b's' => {
                let string = [string, &[0]].concat();
                c!("", string.as_ptr())
            }
            _ => c!("", f64::from_bits(value)),
        }
    }
}

/// Formats one `printf` of one lane; the arguments lie packed at `args`, each at a multiple of its size. The driver formats
/// on the host, with the C library, and so does this. Returns the number of arguments, as the device function does.
fn printf(
    cx: &mut Cx,
    block: &Block,
    warp: &Warp,
    pc: usize,
    lane: usize,
    format: &[u8],
    args: u64,
) -> Result<u64, Stop> {
    let mut at = args;
    let mut count = 0;
    let mut next = |cx: &mut Cx, bytes: u32| {
        at = at.next_multiple_of(u64::from(bytes));
        let v = read(cx, block, warp, pc, lane, at, bytes);
        at += u64::from(bytes);
        count += 1;
        v
    };
    let mut i = 0;
    let mut taken = 0;
    while i < format.len() {
        let b = format[i];
        i += 1;
        if b != b'%' {
            cx.output.push(b);
            continue;
        }
        if format.get(i) == Some(&b'%') {
            cx.output.push(b'%');
            i += 1;
            continue;
        }
        let conversion = Conversion::parse(&format[i..]);
        let stars = |c: &Conversion| [c.width, c.precision].iter().filter(|n| **n == Some(Number::Argument)).count();
        // What it does not know, and what comes after 32 arguments, stays as it is.
        let Some(c) = conversion.filter(|c| taken + stars(c) < MOST_ARGUMENTS) else {
            cx.output.push(b'%');
            continue;
        };
        i += c.bytes;
        taken += stars(&c) + 1;
        let mut number = |cx: &mut Cx, n: Option<Number>| match n {
            None => Ok(None),
            Some(Number::Is(n)) => Ok(Some(n as i32)),
            Some(Number::Argument) => {
                next(cx, 4).map(|v| Some((v as i32).clamp(-(MOST_WIDTH as i32), MOST_WIDTH as i32)))
            }
        };
        let width = number(cx, c.width)?;
        // A negative one counts as none.
        let precision = number(cx, c.precision)?.and_then(|p| u32::try_from(p).ok());
        let v = next(cx, c.argument())?;
        let string = match c.kind {
            b's' => text(cx, block, warp, pc, lane, v, precision.map_or(MAX_TEXT, u64::from))?,
            _ => Vec::new(),
        };
        cx.output.extend(c.format(width, precision, v, &string));
    }
    Ok(count)
}
