//! Decoded operations: what lowering produces and the interpreter runs. Every operand is the offset of a register row.

use std::collections::HashMap;

use super::alu::{AluFn, CmpFn};
use super::regs::Row;
use super::slow::{Rel, Spec};
use super::wmma::Fragment;
use crate::ptx::ast::{Space, Ty};

/// No predicate, no row, no target.
pub const NONE: u32 = u32::MAX;

/// A predicate operand: its index and whether it is negated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pred {
    /// Index in the predicate file.
    pub at: u32,
    /// Read inverted.
    pub not: bool,
}

/// How `setp` and `set` combine the comparison with a third predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Combine {
    None,
    And(Pred),
    Or(Pred),
    Xor(Pred),
}

/// Logic on predicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Logic {
    And,
    Or,
    Xor,
    Mov,
    Not,
}

/// `shfl` modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Shfl {
    Up,
    Down,
    Bfly,
    Idx,
}

/// `vote` modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

/// `redux` and `bar.red` operations, and those of `atom` and `red`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Rmw {
    And,
    Or,
    Xor,
    Add,
    Min,
    Max,
    Inc,
    Dec,
    Exch,
    Cas,
    Popc,
}

/// How far an access takes part in synchronisation rather than in races ("strong" in the memory model, with its scope).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// Not at all.
    Weak,
    /// Among the threads of one block: `.cta`, and `.cluster` where every cluster is a block.
    Block,
    /// Among all blocks.
    Device,
}

/// A load or store.
#[derive(Debug, Clone)]
pub struct Access {
    /// State space, `Generic` included.
    pub space: Space,
    /// Bytes of one element.
    pub elem: u32,
    /// Sign-extend loaded elements.
    pub signed: bool,
    /// Address row and constant offset.
    pub addr: Row,
    /// Added to the address.
    pub offset: i64,
    /// One row per element; `NONE` for a sink.
    pub regs: Vec<Row>,
    /// Bytes of the vector that the program uses (`.pragma "used_bytes_mask"`).
    pub used: u32,
    /// `.volatile`, `.relaxed`, `.acquire`, `.release`: takes part in synchronisation rather than in races.
    pub strong: Strength,
    /// `.release`: publishes what the thread wrote before, without a fence of its own.
    pub release: bool,
    /// `.nc`: through a cache that does not see what the kernel writes.
    pub readonly: bool,
}

/// A static shared variable.
#[derive(Debug, Clone)]
pub struct SharedVar {
    /// As the PTX calls it.
    pub name: String,
    /// Its first address.
    pub at: u32,
    /// Its size.
    pub bytes: u32,
}

/// An atomic or a reduction.
#[derive(Debug, Clone)]
pub struct Atomic {
    /// State space, `Generic` included.
    pub space: Space,
    /// What it does.
    pub rmw: Rmw,
    /// Type of the value.
    pub ty: Ty,
    /// Result row, `NONE` for `red`.
    pub dst: Row,
    /// Address row and offset.
    pub addr: Row,
    /// Added to the address.
    pub offset: i64,
    /// Operand.
    pub b: Row,
    /// Second operand of `cas`.
    pub c: Row,
    /// How far it is atomic.
    pub strong: Strength,
    /// `.release` or `.acq_rel`: publishes what the thread wrote before, without a fence of its own.
    pub release: bool,
}

/// `cp.async`.
#[derive(Debug, Clone)]
pub struct CpAsync {
    /// Shared-memory address (row, offset).
    pub dst: (Row, i64),
    /// Global address (row, offset).
    pub src: (Row, i64),
    /// Bytes copied to shared memory: 4, 8 or 16.
    pub bytes: u32,
    /// Row with the number of bytes to read; the rest is zero. `NONE`: all.
    pub src_bytes: Row,
    /// Predicate that turns the whole read off (`ignore-src`).
    pub ignore: Option<Pred>,
}

/// A barrier instruction.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Barrier number row.
    pub id: Row,
    /// Thread count row, or `NONE`.
    pub count: Row,
    /// `bar.arrive`: does not wait.
    pub arrive: bool,
    /// All threads of the warp must execute it together.
    pub aligned: bool,
    /// Reduction: operation, source predicate, destination row (popc) or destination predicate (and, or).
    pub red: Option<(Rmw, Pred, u32)>,
}

/// Element types of `mma`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MmaTy {
    F16,
    Bf16,
    Tf32,
    F64,
    S8,
    U8,
    F32,
    S32,
}

/// `mma.sync`.
#[derive(Debug, Clone)]
pub struct Mma {
    /// Rows of A.
    pub m: u32,
    /// Columns of B.
    pub n: u32,
    /// Depth.
    pub k: u32,
    /// Type of A.
    pub a_ty: MmaTy,
    /// Type of B.
    pub b_ty: MmaTy,
    /// Type of C.
    pub c_ty: MmaTy,
    /// Type of D.
    pub d_ty: MmaTy,
    /// Saturate integer results.
    pub satfinite: bool,
    /// Destination rows.
    pub d: Vec<Row>,
    /// Rows of A, B and C.
    pub a: Vec<Row>,
    /// Rows of B.
    pub b: Vec<Row>,
    /// Rows of C.
    pub c: Vec<Row>,
}

/// `ldmatrix` and `stmatrix`.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// Shared-memory address (row, offset), generic when `generic`.
    pub addr: (Row, i64),
    /// The address is generic.
    pub generic: bool,
    /// `.trans`.
    pub trans: bool,
    /// One row per matrix.
    pub regs: Vec<Row>,
}

/// `wmma.load` and `wmma.store`.
#[derive(Debug, Clone)]
pub struct Wmma {
    /// A load rather than a store.
    pub load: bool,
    /// State space, `Generic` included.
    pub space: Space,
    /// Address row.
    pub addr: Row,
    /// Added to the address.
    pub offset: i64,
    /// Row with the elements from one row (or column) of the matrix to the next.
    pub stride: Row,
    /// Rows lie in one piece rather than columns.
    pub row_major: bool,
    /// What is moved.
    pub fragment: Fragment,
    /// One row per register of the fragment.
    pub regs: Vec<Row>,
    /// For elements on their way in or out of a packed register.
    pub scratch: Row,
}

/// A call of a system function.
#[derive(Debug, Clone)]
pub enum Syscall {
    /// `vprintf(format, arguments)`: rows of the two pointers and the result.
    Printf(Row, Row, Row),
    /// `__assertfail(message, file, line, function, char size)`.
    Assert([Row; 4]),
}

/// One operation.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Op {
    /// A vector operation.
    Alu {
        f: AluFn,
        o: [u32; 5],
    },
    /// A lane operation with up to three sources (`NONE`: absent).
    Lane {
        spec: u32,
        d: Row,
        s: [Row; 3],
    },
    /// A comparison into one or two predicates.
    Setp {
        f: CmpFn,
        a: u32,
        b: u32,
        swap: bool,
        d: u32,
        q: u32,
        combine: Combine,
    },
    /// A comparison without a vector form.
    SetpLane {
        spec: u32,
        a: Row,
        b: Row,
        d: u32,
        q: u32,
        combine: Combine,
    },
    /// A comparison into a register: zero, or all ones, or 1.0.
    Set {
        spec: u32,
        a: Row,
        b: Row,
        d: Row,
        /// What a lane gets where the comparison holds.
        one: u64,
        combine: Combine,
    },
    Selp {
        d: u32,
        a: u32,
        b: u32,
        p: Pred,
        wide: bool,
    },
    Logic {
        f: Logic,
        d: u32,
        a: Pred,
        b: Pred,
    },
    /// `add.cc`, `addc`, `sub.cc`, `subc`: d = a ± b ± carry.
    Carry {
        d: Row,
        a: Row,
        b: Row,
        subtract: bool,
        carry_in: bool,
        carry_out: bool,
    },
    /// `mad.cc`, `madc`: d = (a*b).lo|hi + c + carry.
    MadCarry {
        d: Row,
        a: Row,
        b: Row,
        c: Row,
        high: bool,
        signed: bool,
        carry_in: bool,
        carry_out: bool,
    },
    /// A kernel parameter into every active lane.
    LdParam {
        d: Row,
        offset: u32,
        bytes: u32,
        signed: bool,
    },
    Ld(u32),
    St(u32),
    Atom(u32),
    CpAsync(u32),
    CpCommit,
    /// Wait until at most this many groups are pending; `NONE` waits for everything.
    CpWait(u32),
    LdMatrix(u32),
    StMatrix(u32),
    Wmma(u32),
    MovMatrix {
        d: Row,
        a: Row,
    },
    Mma(u32),
    /// Source row, lane row, clamp row, member mask row.
    Shfl {
        mode: Shfl,
        d: u32,
        p: u32,
        a: u32,
        b: u32,
        c: u32,
        mask: u32,
    },
    Vote {
        mode: Vote,
        d: u32,
        a: Pred,
        mask: u32,
    },
    Match {
        all: bool,
        wide: bool,
        d: u32,
        p: u32,
        a: u32,
        mask: u32,
    },
    Redux {
        rmw: Rmw,
        signed: bool,
        d: u32,
        a: u32,
        mask: u32,
    },
    ActiveMask {
        d: u32,
    },
    WarpSync {
        mask: u32,
    },
    Bar(u32),
    /// Memory fence; `wide` reaches other blocks.
    Fence {
        wide: bool,
    },
    /// Branch; `join` is where both ways meet again, or `NONE`.
    Bra {
        target: u32,
        join: u32,
    },
    /// Indexed branch.
    Brx {
        index: u32,
        table: u32,
        join: u32,
    },
    /// Diverged lanes may meet here.
    Join,
    Exit,
    Trap,
    /// An indirect call whose address fits no function.
    BadCall {
        at: Row,
    },
    Syscall(u32),
    /// `%clock`, `%clock64`, `%globaltimer`.
    Clock {
        d: Row,
        nanoseconds: bool,
    },
    /// Whether a generic address lies in a space.
    IsSpace {
        space: Space,
        d: u32,
        a: Row,
    },
    /// `nanosleep`: lets others run.
    Yield,
    /// No effect here (`prefetch`, `discard`, …).
    Nop,
}

/// An operation with its guard.
#[derive(Debug, Clone)]
pub struct Inst {
    /// What to do.
    pub op: Op,
    /// Guard predicate; `at == NONE` for none.
    pub guard: Pred,
}

/// Registers that the launch fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LaneMaskEq,
    LaneMaskLe,
    LaneMaskLt,
    LaneMaskGe,
    LaneMaskGt,
    DynamicSmem,
    TotalSmem,
    /// `%envreg`: 1 and 2 hold the address of what a cooperative launch needs for its barrier.
    EnvReg(u8),
}

/// Where an operation came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Line of the PTX text.
    pub ptx: u32,
    /// File number and line of the source, zeros without -lineinfo.
    pub file: u32,
    /// Source line.
    pub line: u32,
    /// File number and line of the call, where the operation was inlined; zeros elsewhere.
    pub inlined_at: (u32, u32),
}

/// A parameter of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// Offset in the parameter block.
    pub offset: u32,
    /// Size.
    pub bytes: u32,
}

/// A kernel, ready to run.
#[derive(Debug)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// The operations.
    pub code: Vec<Inst>,
    /// Where each came from.
    pub places: Vec<Place>,
    /// Opcode text of each, for reports.
    pub opcodes: Vec<u32>,
    /// Opcode texts.
    pub opcode_names: Vec<String>,
    /// Source files by number.
    pub files: HashMap<u32, String>,
    /// Words of the register file of a warp.
    pub words: u32,
    /// Predicates of a warp.
    pub preds: u32,
    /// Rows with constants.
    pub consts: Vec<(Row, u64)>,
    /// Rows that the launch fills.
    pub specials: Vec<(Special, Row)>,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Size of the parameter block.
    pub param_bytes: u32,
    /// Static shared memory, without the closed bytes that the emulator puts between variables.
    pub shared_bytes: u32,
    /// Where dynamic shared memory would start without them.
    pub dynamic_at: u32,
    /// Where it starts.
    pub dynamic_place: u32,
    /// Static shared variables, by address.
    pub shared_vars: Vec<SharedVar>,
    /// Local memory of one thread.
    pub local_bytes: u32,
    /// `.maxntid`.
    pub maxntid: [u32; 3],
    /// `.reqntid`.
    pub reqntid: [u32; 3],
    /// Registers a thread needs as far as known (`.maxnreg`), or 0.
    pub maxnreg: u32,
    /// Blocks may depend on each other: global atomics or strong accesses.
    pub coupled: bool,
    /// Side tables of the operations.
    pub specs: Vec<Spec>,
    /// Loads and stores.
    pub accesses: Vec<Access>,
    /// Atomics.
    pub atomics: Vec<Atomic>,
    /// Asynchronous copies.
    pub copies: Vec<CpAsync>,
    /// Barriers.
    pub bars: Vec<Bar>,
    /// Tensor operations.
    pub mmas: Vec<Mma>,
    /// Matrix loads and stores.
    pub matrices: Vec<Matrix>,
    /// Loads and stores of fragments.
    pub wmmas: Vec<Wmma>,
    /// System calls.
    pub syscalls: Vec<Syscall>,
    /// Generic addresses of constant variables, as ranges.
    pub constants: Vec<(u64, u64)>,
    /// Targets of indexed branches.
    pub tables: Vec<Vec<u32>>,
}

/// The inverse of a relation with its operands swapped: a > b is b < a.
pub fn swapped(rel: Rel) -> (Rel, bool) {
    match rel {
        Rel::Gt => (Rel::Lt, true),
        Rel::Ge => (Rel::Le, true),
        Rel::Gtu => (Rel::Ltu, true),
        Rel::Geu => (Rel::Leu, true),
        r => (r, false),
    }
}
