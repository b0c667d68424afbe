//! The statements of a PTX file. An instruction is an opcode split at its dots and a list of operands: what they mean
//! is decided in `lower`.

use std::collections::HashMap;
use std::fmt;

/// A fundamental type of PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
}

impl Ty {
    /// The type a modifier such as `f32` names.
    pub fn parse(name: &str) -> Option<Ty> {
        Some(match name {
            "pred" => Ty::Pred,
            "b8" => Ty::B8,
            "b16" => Ty::B16,
            "b32" => Ty::B32,
            "b64" => Ty::B64,
            "b128" => Ty::B128,
            "u8" => Ty::U8,
            "u16" => Ty::U16,
            "u32" => Ty::U32,
            "u64" => Ty::U64,
            "s8" => Ty::S8,
            "s16" => Ty::S16,
            "s32" => Ty::S32,
            "s64" => Ty::S64,
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::Bf16,
            "bf16x2" => Ty::Bf16x2,
            "f32" => Ty::F32,
            "f64" => Ty::F64,
            _ => return None,
        })
    }

    /// Size of one value in memory.
    pub fn bytes(self) -> u32 {
        match self {
            Ty::Pred | Ty::B8 | Ty::U8 | Ty::S8 => 1,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::Bf16 => 2,
            Ty::B32 | Ty::U32 | Ty::S32 | Ty::F32 | Ty::F16x2 | Ty::Bf16x2 => 4,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 => 8,
            Ty::B128 => 16,
        }
    }

    /// Whether integers of this type carry a sign.
    pub fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    /// Whether this is a floating-point type.
    pub fn float(self) -> bool {
        matches!(self, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 | Ty::F32 | Ty::F64)
    }
}

/// A state space of PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Space {
    Generic,
    Global,
    Const,
    Shared,
    Local,
    Param,
}

impl Space {
    /// The space a modifier names.
    pub fn parse(name: &str) -> Option<Space> {
        Some(match name {
            "global" => Space::Global,
            "const" => Space::Const,
            "shared" | "shared::cta" => Space::Shared,
            "local" => Space::Local,
            "param" | "param::entry" | "param::func" => Space::Param,
            _ => return None,
        })
    }
}

/// One initial value of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Init {
    /// Bits of a number: floats are already in the width of the literal (`true`: 64-bit literal).
    Number(Number),
    /// Address of another variable plus an offset.
    Symbol(String, i64),
}

/// A literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// An integer, two's complement.
    Int(u64),
    /// `0f…`: bits of an f32.
    F32(u32),
    /// `0d…` or a decimal float: bits of an f64.
    F64(u64),
}

/// A variable in some state space, or a formal parameter.
#[derive(Debug, Clone)]
pub struct Var {
    /// Its name.
    pub name: String,
    /// Where it lives.
    pub space: Space,
    /// Type of one element.
    pub ty: Ty,
    /// Elements; 0 for an array without extent (`extern .shared`).
    pub elems: u64,
    /// Alignment in bytes.
    pub align: u64,
    /// Initial values, empty for none.
    pub init: Vec<Init>,
    /// Declared `.extern`.
    pub external: bool,
    /// Line of the declaration.
    pub line: u32,
}

impl Var {
    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.elems * u64::from(self.ty.bytes())
    }
}

/// An operand, as written.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A register, variable, label, function or special register, plus a byte offset.
    Name(String, i64),
    /// A literal.
    Number(Number),
    /// `[base+offset]`; `base` is empty for an absolute address.
    Mem(String, i64),
    /// `{a, b, …}`.
    Vector(Vec<Operand>),
    /// `(a, b, …)` of a call.
    List(Vec<Operand>),
    /// `p|q`.
    Pair(String, String),
    /// `!p`.
    Not(String),
    /// `_`.
    Sink,
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Int(v) => write!(f, "{}", *v as i64),
            Number::F32(bits) => write!(f, "0f{bits:08x}"),
            Number::F64(bits) => write!(f, "0d{bits:016x}"),
        }
    }
}

/// As PTX writes it.
impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |all: &[Operand]| all.iter().map(Operand::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Operand::Name(name, 0) => write!(f, "{name}"),
            Operand::Name(name, offset) => write!(f, "{name}{offset:+}"),
            Operand::Number(n) => write!(f, "{n}"),
            Operand::Mem(base, 0) if !base.is_empty() => write!(f, "[{base}]"),
            Operand::Mem(base, at) if base.is_empty() => write!(f, "[{at}]"),
            Operand::Mem(base, offset) => write!(f, "[{base}{offset:+}]"),
            Operand::Vector(all) => write!(f, "{{{}}}", list(all)),
            Operand::List(all) => write!(f, "({})", list(all)),
            Operand::Pair(p, q) => write!(f, "{p}|{q}"),
            Operand::Not(p) => write!(f, "!{p}"),
            Operand::Sink => write!(f, "_"),
        }
    }
}

/// One instruction.
#[derive(Debug, Clone)]
pub struct Inst {
    /// Guard predicate and whether it is negated.
    pub guard: Option<(String, bool)>,
    /// Opcode, split at its dots.
    pub opcode: Vec<String>,
    /// Operands in order.
    pub operands: Vec<Operand>,
    /// Line of the PTX text.
    pub line: u32,
}

/// One statement of a function body.
#[derive(Debug, Clone)]
pub enum Stmt {
    /// `name:`
    Label(String, u32),
    /// An instruction.
    Inst(Inst),
    /// `.reg .ty prefix<count>` or `.reg .ty name` (count 0).
    Reg(Ty, String, u32, u32),
    /// A variable declared inside the body.
    Var(Var),
    /// `{ … }`: a scope of its own.
    Block(Vec<Stmt>),
    /// `.loc`: file and line, and those of the call where the function was inlined (else zeros).
    Loc((u32, u32), (u32, u32)),
    /// `.pragma "…"`.
    Pragma(String),
    /// `name: .branchtargets a, b;`
    Targets(String, Vec<String>),
    /// `name: .callprototype (…) _ (…);`
    Prototype(String, Prototype),
}

/// What a call passes: the sizes in bytes of the results and of the parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prototype {
    /// Results.
    pub rets: Vec<u64>,
    /// Parameters.
    pub params: Vec<u64>,
}

impl Prototype {
    /// The prototype of these formals.
    pub fn of(rets: &[Var], params: &[Var]) -> Prototype {
        let sizes = |v: &[Var]| v.iter().map(Var::bytes).collect();
        Prototype { rets: sizes(rets), params: sizes(params) }
    }
}

/// Addresses of functions start here: no memory lies behind them, they only tell functions apart.
pub const FUNCTION_WINDOW: u64 = 0x0403_0000_0000;

/// A function or kernel.
#[derive(Debug, Clone)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// `.entry` rather than `.func`.
    pub entry: bool,
    /// Formal return values.
    pub rets: Vec<Var>,
    /// Formal parameters.
    pub params: Vec<Var>,
    /// The body; `None` for a declaration.
    pub body: Option<Vec<Stmt>>,
    /// `.maxntid`, product and extents; zeros when absent.
    pub maxntid: [u32; 3],
    /// `.reqntid`, zeros when absent.
    pub reqntid: [u32; 3],
    /// `.maxnreg`.
    pub maxnreg: u32,
    /// Line of the header.
    pub line: u32,
}

/// A PTX file.
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// `.version`, major and minor.
    pub version: (u32, u32),
    /// `.target`, the first word.
    pub target: String,
    /// Line of `.target`.
    pub target_line: u32,
    /// Variables at module scope.
    pub vars: Vec<Var>,
    /// Functions and declarations.
    pub functions: Vec<Function>,
    /// `.file` table.
    pub files: HashMap<u32, String>,
}

impl Module {
    /// The architecture that `.target` names: 90 for `sm_90a`.
    pub fn architecture(&self) -> u32 {
        let number = self.target.trim_start_matches(|c: char| !c.is_ascii_digit());
        number.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(80)
    }

    /// The value of a pointer to a function that is called through registers.
    pub fn function_address(&self, name: &str) -> Option<u64> {
        let i = self.functions.iter().position(|f| f.name == name && !f.entry)?;
        Some(FUNCTION_WINDOW + 16 * i as u64)
    }
}
