//! What the checks report.

use std::fmt;

/// Class of a finding. The names are those of the JSON report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// An access outside every live allocation, or outside shared, local or parameter memory.
    OutOfBounds,
    /// An address that is not a multiple of the access size.
    Misaligned,
    /// An access to freed memory.
    UseAfterFree,
    /// A read of bytes that nobody wrote.
    Uninitialised,
    /// A read or write of bytes that an asynchronous copy has not delivered yet.
    MissingWait,
    /// Two unordered accesses to shared memory, at least one of them a write.
    SharedRace,
    /// Two unordered accesses to global memory inside one launch, at least one of them a write.
    GlobalRace,
    /// Two operations of different streams on the same memory, at least one of them a write, that nothing orders.
    StreamRace,
    /// A barrier that not all threads reach together.
    DivergentBarrier,
    /// A warp operation whose member mask does not fit the lanes that execute it.
    WarpMask,
    /// Nobody can go on.
    Deadlock,
    /// `assert` failed in device code.
    Assert,
    /// `trap`.
    Trap,
    /// A host copy or memset past the end of an allocation.
    ApiBounds,
    /// A copy inside the device whose source and destination share bytes.
    Overlap,
    /// A second free, or a free of something that is no allocation.
    InvalidFree,
    /// A launch that took longer than the program allowed it to.
    TimeLimit,
    /// Memory that was never used.
    Unused,
    /// A launch that the device would refuse.
    LaunchLimit,
    /// Work on memory outside its stream-ordered life.
    StreamOrder,
    /// Host code used a device address as one of its own.
    HostAccess,
}

impl Kind {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::OutOfBounds => "out-of-bounds",
            Kind::Misaligned => "misaligned",
            Kind::UseAfterFree => "use-after-free",
            Kind::Uninitialised => "uninitialised",
            Kind::MissingWait => "missing-wait",
            Kind::SharedRace => "shared-race",
            Kind::GlobalRace => "global-race",
            Kind::StreamRace => "stream-race",
            Kind::DivergentBarrier => "divergent-barrier",
            Kind::WarpMask => "warp-mask",
            Kind::Deadlock => "deadlock",
            Kind::Assert => "assert",
            Kind::Trap => "trap",
            Kind::ApiBounds => "api-bounds",
            Kind::Overlap => "overlap",
            Kind::InvalidFree => "invalid-free",
            Kind::TimeLimit => "time-limit",
            Kind::Unused => "unused",
            Kind::LaunchLimit => "launch-limit",
            Kind::StreamOrder => "stream-order",
            Kind::HostAccess => "host-access",
        }
    }

    /// Whether the hardware stops the kernel too. The others are reported and the kernel goes on.
    pub fn fatal(self) -> bool {
        matches!(
            self,
            Kind::OutOfBounds
                | Kind::Misaligned
                | Kind::UseAfterFree
                | Kind::StreamOrder
                | Kind::Deadlock
                | Kind::TimeLimit
                | Kind::Assert
                | Kind::Trap
        )
    }
}

/// Where in a launch something happened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Where {
    /// Kernel name.
    pub kernel: String,
    /// Block index.
    pub block: [u32; 3],
    /// Warp of the block.
    pub warp: u32,
    /// Lane of the warp.
    pub lane: u32,
    /// Thread index in the block.
    pub thread: [u32; 3],
    /// `file:line` with -lineinfo, else empty.
    pub source: String,
    /// Line of the PTX text.
    pub ptx_line: u32,
    /// Opcode.
    pub opcode: String,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its class.
    pub kind: Kind,
    /// What happened: access, address, allocation, distance.
    pub message: String,
    /// Where, for findings inside a kernel.
    pub place: Option<Where>,
    /// How often the same instruction was found doing it.
    pub count: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)?;
        if let Some(w) = &self.place {
            let [x, y, z] = w.block;
            let [tx, ty, tz] = w.thread;
            write!(
                f,
                "; kernel {}, block ({x},{y},{z}), warp {}, lane {} (thread {tx},{ty},{tz}), ",
                w.kernel, w.warp, w.lane
            )?;
            if !w.source.is_empty() {
                write!(f, "{}, ", w.source)?;
            }
            write!(f, "PTX line {} `{}`", w.ptx_line, w.opcode)?;
        }
        if self.count > 1 {
            write!(f, "; {} times", self.count)?;
        }
        Ok(())
    }
}
