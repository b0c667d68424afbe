//! Device profiles: the limits a launch must keep and the peaks a roofline is drawn from. Peaks are the published
//! dense rates of the SXM boards, rates per multiprocessor those of the CUDA C++ Programming Guide.

use crate::exec::op::Kernel;

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Profile {
    /// Option name: `sm_80`, `sm_90`.
    pub key: &'static str,
    /// Name that the driver reports.
    pub name: &'static str,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub sms: u32,
    /// Clock in kHz.
    pub clock_khz: u32,
    /// Device memory.
    pub memory_bytes: u64,
    /// L2 cache.
    pub l2_bytes: u64,
    /// Shared memory of a multiprocessor.
    pub shared_per_sm: u32,
    /// Shared memory a block may opt in to.
    pub shared_optin: u32,
    /// Threads resident on a multiprocessor.
    pub threads_per_sm: u32,
    /// Blocks resident on a multiprocessor.
    pub blocks_per_sm: u32,
    /// Registers of a multiprocessor.
    pub regs_per_sm: u32,
    /// DRAM bandwidth in GB/s.
    pub dram_gbs: f64,
    /// f32 additions, products or fmas that a multiprocessor finishes per clock, as lanes.
    pub f32_lanes: f64,
    /// The same for f64.
    pub f64_lanes: f64,
    /// The same for f16, alone or packed in pairs.
    pub half_lanes: f64,
    /// The same for bf16, alone or packed in pairs.
    pub bf16_lanes: f64,
    /// Integer arithmetic, logic, shifts, comparisons, selections and 32-bit conversions.
    pub integer_lanes: f64,
    /// Reciprocals, roots, sines, logarithms and exponentials; bit counts; conversions of 64-bit values; `redux`.
    pub special_lanes: f64,
    /// Warp shuffles.
    pub shuffle_lanes: f64,
    /// Peak tensor GFLOP/s for f16 and bf16.
    pub half_tensor_gflops: f64,
    /// Peak tensor GFLOP/s for tf32.
    pub tf32_tensor_gflops: f64,
    /// Peak tensor GFLOP/s for f64.
    pub f64_tensor_gflops: f64,
    /// Peak tensor GOP/s for 8-bit integers.
    pub int8_tensor_gops: f64,
}

/// NVIDIA A100 SXM 80 GB.
pub const SM_80: Profile = Profile {
    key: "sm_80",
    name: "NVIDIA A100 profile on the warpsmith emulator (no GPU)",
    capability: (8, 0),
    sms: 108,
    clock_khz: 1_410_000,
    memory_bytes: 80 << 30,
    l2_bytes: 40 << 20,
    shared_per_sm: 164 << 10,
    shared_optin: 163 << 10,
    threads_per_sm: 2048,
    blocks_per_sm: 32,
    regs_per_sm: 65536,
    dram_gbs: 2039.0,
    f32_lanes: 64.0,
    f64_lanes: 32.0,
    half_lanes: 128.0,
    bf16_lanes: 64.0,
    integer_lanes: 64.0,
    special_lanes: 16.0,
    shuffle_lanes: 32.0,
    half_tensor_gflops: 312_000.0,
    tf32_tensor_gflops: 156_000.0,
    f64_tensor_gflops: 19_500.0,
    int8_tensor_gops: 624_000.0,
};

/// NVIDIA H100 SXM 80 GB.
pub const SM_90: Profile = Profile {
    key: "sm_90",
    name: "NVIDIA H100 profile on the warpsmith emulator (no GPU)",
    capability: (9, 0),
    sms: 132,
    // The tensor peaks below are published for 1830 MHz, all others for this.
    clock_khz: 1_980_000,
    memory_bytes: 80 << 30,
    l2_bytes: 50 << 20,
    shared_per_sm: 228 << 10,
    shared_optin: 227 << 10,
    threads_per_sm: 2048,
    blocks_per_sm: 32,
    regs_per_sm: 65536,
    dram_gbs: 3352.0,
    f32_lanes: 128.0,
    f64_lanes: 64.0,
    half_lanes: 128.0,
    bf16_lanes: 128.0,
    integer_lanes: 64.0,
    special_lanes: 16.0,
    shuffle_lanes: 32.0,
    half_tensor_gflops: 989_400.0,
    tf32_tensor_gflops: 494_700.0,
    f64_tensor_gflops: 66_900.0,
    int8_tensor_gops: 1_978_900.0,
};

impl Profile {
    /// The architecture as PTX names it: 80 for 8.0.
    pub fn architecture(&self) -> u32 {
        self.capability.0 * 10 + self.capability.1
    }

    /// The profile with a key.
    pub fn find(key: &str) -> Option<Profile> {
        [SM_80, SM_90].into_iter().find(|p| p.key == key)
    }

    /// Blocks of a kernel that fit one multiprocessor, with this many registers per thread (0: not known, because PTX
    /// does not say how many the real compiler uses).
    pub fn blocks_per_sm(&self, kernel: &Kernel, registers: u32, threads: u32, dynamic_shared: u32) -> u32 {
        self.residency(kernel, registers, threads, dynamic_shared).0
    }

    /// Blocks of a kernel that fit one multiprocessor, and what there would have to be more of for another.
    pub fn residency(&self, kernel: &Kernel, registers: u32, threads: u32, dynamic_shared: u32) -> (u32, &'static str) {
        let threads = threads.next_multiple_of(32).max(32);
        // Every block pays 1 KiB of shared memory to the system.
        let shared = kernel
            .dynamic_at
            .max(kernel.shared_bytes)
            .saturating_add(dynamic_shared)
            .saturating_add(1024)
            .min(1 << 30)
            .next_multiple_of(128);
        let by_regs = if registers > 0 {
            self.regs_per_sm / (registers.next_multiple_of(8) * threads)
        } else {
            self.blocks_per_sm
        };
        let limits = [
            (self.threads_per_sm / threads, "threads"),
            (self.blocks_per_sm, "blocks"),
            (self.shared_per_sm / shared, "shared memory"),
            (by_regs, "registers"),
        ];
        limits.into_iter().min_by_key(|l| l.0).unwrap_or_default()
    }
}
