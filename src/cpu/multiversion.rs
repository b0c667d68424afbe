//! One loop, compiled for several instruction sets, chosen at run time.
//!
//! The loops contain plain Rust that the compiler vectorises. None of them uses a fused multiply-add, and
//! every sum has its order written down, so all versions of a loop give bit-equal results.

use std::sync::OnceLock;

/// The vector instruction sets that loops are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Isa {
    /// What every processor of the target has.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

/// The best instruction set of this processor, capped by `WARPSMITH_CPU_ISA` (`portable`, `avx2`, `avx512`).
pub(crate) fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(|| {
        let cap = match std::env::var("WARPSMITH_CPU_ISA").as_deref() {
            Ok("portable") => Isa::Portable,
            Ok("avx2") => Isa::Avx2,
            _ => Isa::Avx512,
        };
        cap.min(detected())
    })
}

#[cfg(target_arch = "x86_64")]
fn detected() -> Isa {
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
        return Isa::Portable;
    }
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    if avx512 { Isa::Avx512 } else { Isa::Avx2 }
}

#[cfg(not(target_arch = "x86_64"))]
fn detected() -> Isa {
    Isa::Portable
}

/// Wraps a function so that its body is compiled once per [`Isa`] and the right version is called.
macro_rules! multiversion {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                match $crate::cpu::multiversion::isa() {
                    // SAFETY: `isa` returns Avx512 only where all enabled features were detected.
                    $crate::cpu::multiversion::Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: `isa` returns Avx2 only where AVX2 and FMA were detected.
                    $crate::cpu::multiversion::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::cpu::multiversion::Isa::Portable => {}
                }
            }
            portable($($arg),*)
        }
    };
}
pub(crate) use multiversion;
