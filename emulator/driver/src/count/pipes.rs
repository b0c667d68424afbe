//! What an instruction is, what it computes, and which unit of a multiprocessor it keeps busy. All of it is about PTX:
//! ptxas takes moves away, merges logic, and makes several instructions of a division.

use super::profile::Profile;
use crate::exec::op::Op;

/// Class of an instruction, for the mix.
pub fn class(op: &Op, opcode: &str) -> &'static str {
    match op {
        Op::Mma(_) => "tensor",
        Op::LdMatrix(_) | Op::StMatrix(_) | Op::Wmma(_) | Op::MovMatrix { .. } => "matrix move",
        Op::Ld(_) | Op::LdParam { .. } => "load",
        Op::St(_) => "store",
        Op::Atom(_) => "atomic",
        Op::CpAsync(_) | Op::CpCommit | Op::CpWait(_) => "async copy",
        Op::Shfl { .. } | Op::Vote { .. } | Op::Match { .. } | Op::Redux { .. } | Op::ActiveMask { .. } => "warp",
        Op::Bar(_) | Op::WarpSync { .. } | Op::Fence { .. } => "barrier",
        Op::Bra { .. } | Op::Brx { .. } | Op::Exit | Op::Trap | Op::BadCall { .. } | Op::Syscall(_) | Op::Yield => {
            "control"
        }
        Op::Setp { .. } | Op::SetpLane { .. } | Op::Set { .. } | Op::Selp { .. } | Op::Logic { .. } => "compare",
        _ => {
            let base = opcode.split('.').next().unwrap_or("");
            match base {
                "cvt" => "convert",
                "mov" | "cvta" => "move",
                "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => "special",
                "and" | "or" | "xor" | "not" | "shl" | "shr" | "shf" | "lop3" | "prmt" | "bfe" | "bfi" => "logic",
                _ if opcode.ends_with("f64") => "f64",
                _ if opcode.ends_with("f32") => "f32",
                _ if opcode.contains("f16") => "half",
                _ => "integer",
            }
        }
    }
}

/// Floating-point operations of one lane, and the counter they belong to.
pub fn flops(opcode: &str) -> (&'static str, u64) {
    let mut parts = opcode.split('.');
    let base = parts.next().unwrap_or("");
    let ty = parts.next_back().unwrap_or("");
    let (counter, per) = match ty {
        "f32" => ("f32_flops", 1),
        "f64" => ("f64_flops", 1),
        "f16" | "bf16" => ("half_flops", 1),
        "f16x2" | "bf16x2" => ("half_flops", 2),
        _ => return ("f32_flops", 0),
    };
    match base {
        "add" | "sub" | "mul" | "div" | "min" | "max" | "sqrt" | "rcp" => (counter, per),
        "fma" | "mad" => (counter, 2 * per),
        _ => (counter, 0),
    }
}

/// A unit of a multiprocessor that bounds the time, and how many lanes it serves per clock. The rates are those of the
/// table of arithmetic throughput in the CUDA C++ Programming Guide. A warp takes its time whether or not all of its
/// lanes do something, and a packed instruction as much as one on single values.
pub fn unit(op: &Op, opcode: &str, p: &Profile) -> Option<(&'static str, f64)> {
    let mut parts = opcode.split('.');
    let base = parts.next().unwrap_or("");
    let types: Vec<&str> = parts.rev().take(2).collect();
    let ty = types.first().copied().unwrap_or("");
    let integer = Some(("integer", p.integer_lanes));
    let special = |n: f64| Some(("special", p.special_lanes / n));
    match op {
        Op::Shfl { .. } => return Some(("shuffle", p.shuffle_lanes)),
        Op::Redux { .. } => return special(1.0),
        Op::Vote { .. } => return integer,
        // The bounds of these are counted in FLOP, sectors and wavefronts; the rest costs an issue slot.
        Op::Mma(_) | Op::Ld(_) | Op::LdParam { .. } | Op::St(_) | Op::Atom(_) | Op::CpAsync(_) => return None,
        Op::LdMatrix(_) | Op::StMatrix(_) | Op::Wmma(_) | Op::Logic { .. } => return None,
        _ => {}
    }
    match (base, ty) {
        ("rcp" | "rsqrt" | "sqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" | "div" | "rem", _) => {
            // A division needs at least the reciprocal of its divisor.
            special(if ty.ends_with("x2") { 2.0 } else { 1.0 })
        }
        ("popc" | "clz" | "bfind" | "brev", _) => special(1.0),
        ("cvt", _) => {
            let float = |t: &&str| t.contains('f') || *t == "e4m3x2" || *t == "e5m2x2";
            match types.iter().any(float) {
                true if types.iter().any(|t| t.ends_with("64")) => special(1.0),
                // A wider integer is a shift, a narrower one the same register.
                false if types.iter().any(|t| t.ends_with("64")) => None,
                _ => integer,
            }
        }
        ("add" | "sub" | "mul" | "fma" | "mad", "f32") => Some(("f32", p.f32_lanes)),
        ("abs" | "neg" | "copysign" | "testp", _) if ty.contains('f') => None,
        (_, "f64") if ["add", "sub", "mul", "fma", "mad", "min", "max", "setp", "set"].contains(&base) => {
            Some(("f64", p.f64_lanes))
        }
        (_, "f16" | "f16x2") if base != "mov" && base != "selp" => Some(("half", p.half_lanes)),
        (_, "bf16" | "bf16x2") if base != "mov" && base != "selp" => Some(("half", p.bf16_lanes)),
        (_, "pred") => None,
        (
            "add" | "addc" | "sub" | "subc" | "mul" | "mad" | "madc" | "mul24" | "mad24" | "sad" | "min" | "max"
            | "abs" | "neg" | "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "shf" | "lop3" | "prmt" | "bfe"
            | "bfi" | "bmsk" | "szext" | "dp4a" | "dp2a" | "setp" | "set" | "selp" | "slct",
            _,
        ) => integer,
        _ => None,
    }
}
