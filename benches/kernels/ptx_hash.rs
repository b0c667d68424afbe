//! Which kernels a table was counted from.

/// A hash (FNV-1a) of the PTX that is built in.
pub fn ptx_hash() -> u64 {
    let bytes = warpsmith::cuda::ptx().iter().flat_map(|(_, text)| text.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
