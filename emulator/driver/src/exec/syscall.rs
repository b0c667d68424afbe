//! `printf` and `assert` of device code.

use super::memory::{self, Intent};
use super::op::{NONE, Syscall};
use super::regs::*;
use super::run::{Block, Cx, Stop, Warp};
use crate::check::finding::Kind;
use crate::ptx::ast::Space;

/// Longest string a system call reads.
const MAX_TEXT: u64 = 64 * 1024;

/// Runs a system call, lane by lane.
pub fn call(cx: &mut Cx, block: &mut Block, warp: &mut Warp, call: &Syscall, pc: usize, m: u32) -> Result<(), Stop> {
    for lane in lanes(m) {
        match call {
            Syscall::Printf(format, args, result) => {
                let format = text(cx, block, warp, pc, lane, warp.regs.lane(*format, lane))?;
                let args = warp.regs.lane(*args, lane);
                let n = printf(cx, block, warp, pc, lane, &format, args)?;
                if result.at != NONE {
                    warp.regs.set_lane(*result, lane, n);
                }
            }
            Syscall::Assert([message, file, line, function]) => {
                let get = |r: &Row| warp.regs.lane(*r, lane);
                let (message, file, function, line) = (get(message), get(file), get(function), get(line));
                let message = text(cx, block, warp, pc, lane, message)?;
                let file = text(cx, block, warp, pc, lane, file)?;
                let function = text(cx, block, warp, pc, lane, function)?;
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

fn text(cx: &mut Cx, block: &Block, warp: &Warp, pc: usize, lane: usize, address: u64) -> Result<Vec<u8>, Stop> {
    let mut out = Vec::new();
    for i in 0..MAX_TEXT {
        let b = read(cx, block, warp, pc, lane, address.wrapping_add(i), 1)? as u8;
        if b == 0 {
            break;
        }
        out.push(b);
    }
    Ok(out)
}

/// Formats one `printf` of one lane; the arguments lie packed at `args`, each at a multiple of its size. Returns the
/// number of arguments, as the device function does.
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
    let mut i = 0;
    while i < format.len() {
        let b = format[i];
        i += 1;
        if b != b'%' {
            cx.output.push(b);
            continue;
        }
        let start = i;
        while i < format.len() && matches!(format[i], b'-' | b'+' | b' ' | b'#' | b'0'..=b'9' | b'.' | b'*') {
            i += 1;
        }
        let flags = String::from_utf8_lossy(&format[start..i]).into_owned();
        let mut long = false;
        while i < format.len() && matches!(format[i], b'l' | b'h' | b'z' | b'j' | b't') {
            long |= matches!(format[i], b'l' | b'z' | b'j' | b't');
            i += 1;
        }
        let Some(&kind) = format.get(i) else { break };
        i += 1;
        if kind == b'%' {
            cx.output.push(b'%');
            continue;
        }
        count += 1;
        let wide = long || matches!(kind, b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' | b's' | b'p');
        let bytes = if wide { 8 } else { 4 };
        at = at.next_multiple_of(u64::from(bytes));
        let v = read(cx, block, warp, pc, lane, at, bytes)?;
        at += u64::from(bytes);
        let body = match kind {
            b'd' | b'i' => (if wide { v as i64 } else { i64::from(v as i32) }).to_string(),
            b'u' => v.to_string(),
            b'x' => format!("{v:x}"),
            b'X' => format!("{v:X}"),
            b'o' => format!("{v:o}"),
            b'p' => format!("{v:#x}"),
            b'c' => (v as u8 as char).to_string(),
            b's' => String::from_utf8_lossy(&text(cx, block, warp, pc, lane, v)?).into_owned(),
            _ => float(f64::from_bits(v), kind, &flags),
        };
        cx.output.extend_from_slice(pad(body, &flags, kind).as_bytes());
    }
    Ok(count)
}

fn float(v: f64, kind: u8, flags: &str) -> String {
    let precision = flags.split_once('.').and_then(|(_, p)| p.parse::<usize>().ok()).unwrap_or(6).min(64);
    if !v.is_finite() {
        return if v.is_nan() {
            "nan".into()
        } else if v > 0.0 {
            "inf".into()
        } else {
            "-inf".into()
        };
    }
    let scientific = |v: f64, p: usize| {
        let s = format!("{v:.p$e}");
        match s.split_once('e') {
            Some((m, e)) => {
                let e: i32 = e.parse().unwrap_or(0);
                format!("{m}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs())
            }
            None => s,
        }
    };
    match kind {
        b'e' | b'E' => scientific(v, precision),
        b'g' | b'G' => {
            let p = precision.max(1);
            let e = if v == 0.0 { 0 } else { v.abs().log10().floor() as i32 };
            let s = if e < -4 || e >= p as i32 {
                scientific(v, p - 1)
            } else {
                format!("{v:.*}", (p as i32 - 1 - e).max(0) as usize)
            };
            match s.split_once('e') {
                Some((m, e)) if m.contains('.') => {
                    format!("{}e{e}", m.trim_end_matches('0').trim_end_matches('.'))
                }
                None if s.contains('.') => s.trim_end_matches('0').trim_end_matches('.').to_string(),
                _ => s,
            }
        }
        _ => format!("{v:.precision$}"),
    }
}

fn pad(body: String, flags: &str, kind: u8) -> String {
    let left = flags.contains('-');
    let digits = flags.trim_start_matches(['-', '+', ' ', '#']);
    let zero = digits.starts_with('0') && !left && kind != b's';
    let width = digits.split('.').next().and_then(|w| w.parse::<usize>().ok()).unwrap_or(0).min(1024);
    let numeric = matches!(kind, b'd' | b'i' | b'f' | b'F' | b'e' | b'E' | b'g' | b'G');
    let body = if flags.contains('+') && numeric && !body.starts_with('-') { format!("+{body}") } else { body };
    if left {
        format!("{body:<width$}")
    } else if zero {
        let (sign, rest) = match body.strip_prefix('-') {
            Some(r) => ("-", r),
            None => ("", &body[..]),
        };
        format!("{sign}{rest:0>w$}", w = width.saturating_sub(sign.len()))
    } else {
        format!("{body:>width$}")
    }
}
