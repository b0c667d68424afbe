//! What a device does at most, and from it the least time that a counted launch takes.

use crate::cases::Units;
use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use std::collections::BTreeMap;
use warpsmith_emulator::Launch;

/// Rates of a device: the published dense peaks of the SXM boards, and per multiprocessor and clock those of the table
/// of arithmetic throughput in the CUDA C++ Programming Guide. The emulator's profiles are the same.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// The emulator's name of it.
    pub key: &'static str,
    pub multiprocessors: u32,
    pub clock_mhz: f64,
    pub dram_gbs: f64,
    pub f32_lanes: f64,
    pub f64_lanes: f64,
    pub bf16_lanes: f64,
    pub integer_lanes: f64,
    pub special_lanes: f64,
    pub shuffle_lanes: f64,
    pub bf16_tensor_gflops: f64,
    pub tf32_tensor_gflops: f64,
    /// Of a multiprocessor.
    pub shared_bytes: u32,
}

pub const A100: Profile = Profile {
    key: "sm_80",
    multiprocessors: 108,
    clock_mhz: 1410.0,
    dram_gbs: 2039.0,
    f32_lanes: 64.0,
    f64_lanes: 32.0,
    bf16_lanes: 64.0,
    integer_lanes: 64.0,
    special_lanes: 16.0,
    shuffle_lanes: 32.0,
    bf16_tensor_gflops: 312_000.0,
    tf32_tensor_gflops: 156_000.0,
    shared_bytes: 164 << 10,
};

pub const H100: Profile = Profile {
    key: "sm_90",
    multiprocessors: 132,
    clock_mhz: 1980.0,
    dram_gbs: 3352.0,
    f32_lanes: 128.0,
    f64_lanes: 64.0,
    bf16_lanes: 128.0,
    integer_lanes: 64.0,
    special_lanes: 16.0,
    shuffle_lanes: 32.0,
    bf16_tensor_gflops: 989_400.0,
    tf32_tensor_gflops: 494_700.0,
    shared_bytes: 228 << 10,
};

/// Warps of a multiprocessor, of both.
const WARPS: u32 = 64;
const REGISTERS: u32 = 65536;
const BLOCKS: u32 = 32;

impl Profile {
    /// What a resource does in a microsecond, where `busy` multiprocessors have blocks.
    fn rate(&self, resource: &str, busy: f64) -> f64 {
        let clocks = self.clock_mhz * busy;
        match resource {
            "dram_compulsory" | "dram_if_uncached" => self.dram_gbs,
            "tensor_half" => self.bf16_tensor_gflops * busy / f64::from(self.multiprocessors),
            "tensor_tf32" => self.tf32_tensor_gflops * busy / f64::from(self.multiprocessors),
            "f32" => self.f32_lanes * clocks,
            "f64" => self.f64_lanes * clocks,
            // No kernel here computes in f16.
            "half" => self.bf16_lanes * clocks,
            "integer" => self.integer_lanes * clocks,
            "special" => self.special_lanes * clocks,
            "shuffle" => self.shuffle_lanes * clocks,
            // Instruction issue and wavefronts of shared memory.
            _ => clocks,
        }
    }

    /// The bounds of a launch that was counted under `counted`, in microseconds by resource: the work is the same, and
    /// only the rates differ.
    pub fn bounds(&self, launch: &Launch, counted: &Profile) -> BTreeMap<String, f64> {
        let blocks = launch.get("blocks").max(1) as f64;
        let busy = |profile: &Profile| blocks.min(f64::from(profile.multiprocessors));
        let scaled = |(name, us): (&String, &f64)| {
            (name.clone(), us * counted.rate(name, busy(counted)) / self.rate(name, busy(self)))
        };
        launch.bounds_us.iter().map(scaled).collect()
    }

    /// The largest bound of a launch, with its resource; memory counts at its compulsory traffic.
    pub fn bound(&self, launch: &Launch, counted: &Profile) -> (&'static str, f64) {
        let bounds = self.bounds(launch, counted);
        let real = bounds.iter().filter(|(name, _)| *name != "dram_if_uncached");
        let (name, us) = real.fold(("none", 0.0), |most, (name, &us)| if us > most.1 { (name, us) } else { most });
        (resource(name), us)
    }

    /// The peak of some units.
    pub fn gflops(&self, units: Units) -> f64 {
        match units {
            Units::TensorBf16 => self.bf16_tensor_gflops,
            Units::TensorTf32 => self.tf32_tensor_gflops,
            Units::F32 | Units::Memory => {
                2.0 * self.f32_lanes * self.clock_mhz * 1e-3 * f64::from(self.multiprocessors)
            }
        }
    }

    /// Share of a multiprocessor's warps that are resident.
    pub fn occupancy(&self, threads: u32, registers: u32, shared: u32) -> f64 {
        let warps = threads.div_ceil(32);
        // Registers come 8 a thread at a time; the system takes 1 KiB of shared memory for every block.
        let by_registers = REGISTERS / (registers.max(1).next_multiple_of(8) * warps * 32);
        let by_shared = self.shared_bytes / (shared + 1024).next_multiple_of(128);
        f64::from((WARPS / warps).min(by_registers).min(by_shared).min(BLOCKS) * warps) / f64::from(WARPS)
    }
}

/// What a resource is called in tables.
pub fn resource(name: &str) -> &'static str {
    match name {
        "dram_compulsory" => "memory",
        "issue" => "issue",
        "shared" => "shared",
        "f32" => "f32",
        "f64" => "f64",
        "half" => "half",
        "integer" => "integer",
        "special" => "special",
        "shuffle" => "shuffle",
        "tensor_half" | "tensor_tf32" => "tensor",
        _ => "other",
    }
}

/// Peaks of a real device, from what the driver says of it; what does not follow from that is `None`.
#[derive(Debug, Clone, Copy)]
pub struct Peaks {
    pub dram_gbs: Option<f64>,
    /// GFLOP/s by units: f32, tensor cores with factors of tf32 and of bf16.
    pub f32_gflops: Option<f64>,
    pub tf32_gflops: Option<f64>,
    pub bf16_gflops: Option<f64>,
    pub l2_bytes: usize,
}

impl Peaks {
    pub fn of(context: &CudaContext) -> Peaks {
        let number = |attribute| context.attribute(attribute).ok().filter(|&n| n > 0).map(f64::from);
        let (memory_khz, bus_bits) = (
            number(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE),
            number(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH),
        );
        let multiprocessors = number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
        let clock_khz = number(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
        let clocks = multiprocessors.zip(clock_khz).map(|(multiprocessors, khz)| multiprocessors * khz * 1e3);
        let major = number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR).unwrap_or(0.0) as u32;
        let minor = number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR).unwrap_or(0.0) as u32;
        let gflops = |per_clock: Option<f64>| clocks.zip(per_clock).map(|(clocks, flops)| clocks * flops * 1e-9);
        // FLOP of a multiprocessor per clock. Boards of 8.6, 8.9 and 12.0 differ in how fast their tensor cores are
        // with f32 sums, which no attribute tells.
        let (f32s, tf32, bf16) = match (major, minor) {
            (8, 0) => (Some(128.0), Some(1024.0), Some(2048.0)),
            (8, _) => (Some(256.0), None, None),
            (9, 0) => (Some(256.0), Some(2048.0), Some(4096.0)),
            (10, 0) => (Some(256.0), Some(4096.0), Some(8192.0)),
            (12, _) => (Some(256.0), None, None),
            _ => (None, None, None),
        };
        Peaks {
            // Two transfers a clock.
            dram_gbs: memory_khz.zip(bus_bits).map(|(khz, bits)| 2.0 * khz * 1e3 * bits / 8.0 * 1e-9),
            f32_gflops: gflops(f32s),
            tf32_gflops: gflops(tf32),
            bf16_gflops: gflops(bf16),
            l2_bytes: number(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).unwrap_or(64e6) as usize,
        }
    }

    fn gflops(&self, units: Units) -> Option<f64> {
        match units {
            Units::TensorBf16 => self.bf16_gflops,
            Units::TensorTf32 => self.tf32_gflops,
            Units::F32 | Units::Memory => self.f32_gflops,
        }
    }

    /// The least time in seconds: of the arithmetic, or of the compulsory bytes. Needs both peaks.
    pub fn floor(&self, units: Units, flops: u64, bytes: u64) -> Option<f64> {
        let memory = bytes as f64 / (self.dram_gbs? * 1e9);
        if units == Units::Memory {
            return Some(memory);
        }
        Some(memory.max(flops as f64 / (self.gflops(units)? * 1e9)))
    }
}
