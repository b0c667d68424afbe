//! From statements to decoded operations. Each kernel is lowered on its own with the functions it calls put in place, so
//! that a warp has one flat program; every form that is not known here is an error that names it.

mod arith;
mod control;
mod convert;
mod data;
mod wmma;

use std::collections::{BTreeSet, HashMap};

use super::LoadError;
use super::ast::*;
use super::cfg::{Flow, meeting_points};
use super::forms;
use crate::exec::alu::{Alu, Cmp, Level};
use crate::exec::op::Inst as Decoded;
use crate::exec::op::*;
use crate::exec::regs::Row;
use crate::exec::slow::Spec;

/// Closed bytes between two shared variables, at least.
const SHARED_ZONE: u64 = 128;

type Res<T> = Result<T, LoadError>;

/// Operations a kernel may have after its calls were put in place.
const MAX_CODE: usize = 1 << 22;
/// Depth of calls.
const MAX_CALLS: usize = 64;
/// Words of a register file.
const MAX_WORDS: u32 = 1 << 24;

/// No row.
pub const NO_ROW: Row = Row { at: NONE, wide: false };

/// Where a variable lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Its space.
    pub space: Space,
    /// Address in that space.
    pub at: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// Addresses of the global and constant variables of a module.
pub type Symbols = HashMap<String, Location>;

/// A register.
#[derive(Debug, Clone, Copy)]
enum Reg {
    Pred(u32),
    /// A row and the declared width in bits.
    Row(Row, u32),
}

#[derive(Default)]
struct Scope {
    names: HashMap<String, Reg>,
    /// `.reg .ty prefix<count>`.
    ranges: Vec<(String, u32, Ty)>,
    vars: HashMap<String, Location>,
    labels: HashMap<String, usize>,
    tables: HashMap<String, Vec<String>>,
    prototypes: HashMap<String, Prototype>,
    /// Lookups stop here: a function sees nothing of its caller.
    wall: bool,
}

struct Lower<'m> {
    module: &'m Module,
    symbols: &'m Symbols,
    level: Level,
    scopes: Vec<Scope>,
    calls: Vec<String>,
    /// Where `ret` goes inside an inlined function.
    returns: Vec<usize>,
    /// Position of every label, once known.
    labels: Vec<Option<u32>>,
    /// Branch targets are label numbers until the end.
    code: Vec<Decoded>,
    places: Vec<Place>,
    opcodes: Vec<u32>,
    opcode_names: Vec<String>,
    opcode_index: HashMap<String, u32>,
    /// Opcodes that were found in the list of forms.
    permitted: BTreeSet<u32>,
    consts: HashMap<(u64, bool), Row>,
    specials: HashMap<Special, Row>,
    words: u32,
    preds: u32,
    params: HashMap<String, Location>,
    param_bytes: u32,
    shared: HashMap<String, u64>,
    shared_bytes: u64,
    dynamic: Vec<(String, u64)>,
    dynamic_at: u64,
    dynamic_place: u64,
    shared_vars: Vec<SharedVar>,
    local_bytes: u64,
    coupled: bool,
    specs: Vec<Spec>,
    accesses: Vec<Access>,
    atomics: Vec<Atomic>,
    copies: Vec<CpAsync>,
    bars: Vec<Bar>,
    mmas: Vec<Mma>,
    matrices: Vec<Matrix>,
    wmmas: Vec<Wmma>,
    syscalls: Vec<Syscall>,
    tables: Vec<Vec<u32>>,
    /// State of the statement at hand.
    line: u32,
    loc: (u32, u32),
    inlined_at: (u32, u32),
    opcode: u32,
    guard: Pred,
    used_mask: u32,
}

/// The modifiers of an opcode; each must be asked for, or the form is unknown.
struct Form<'a> {
    inst: &'a Source,
    taken: Vec<bool>,
}

/// An instruction of the syntax tree.
type Source = super::ast::Inst;

impl<'a> Form<'a> {
    fn new(inst: &'a Source) -> Self {
        let mut taken = vec![false; inst.opcode.len()];
        taken[0] = true;
        Form { inst, taken }
    }

    fn base(&self) -> &'a str {
        &self.inst.opcode[0]
    }

    fn flag(&mut self, name: &str) -> bool {
        for (part, taken) in self.inst.opcode.iter().zip(&mut self.taken) {
            if !*taken && part == name {
                *taken = true;
                return true;
            }
        }
        false
    }

    fn one_of<T: Copy>(&mut self, names: &[(&str, T)]) -> Option<T> {
        names.iter().find(|(n, _)| self.flag(n)).map(|&(_, v)| v)
    }

    /// Takes every modifier that starts with `prefix`.
    fn prefixed(&mut self, prefix: &str) -> Vec<&'a str> {
        let mut out = Vec::new();
        for (part, taken) in self.inst.opcode.iter().zip(&mut self.taken) {
            if !*taken && part.starts_with(prefix) {
                *taken = true;
                out.push(part.as_str());
            }
        }
        out
    }

    /// The next type.
    fn ty(&mut self) -> Res<Ty> {
        for (part, taken) in self.inst.opcode.iter().zip(&mut self.taken) {
            if !*taken && let Some(t) = Ty::parse(part) {
                *taken = true;
                return Ok(t);
            }
        }
        Err(self.unknown("it names no type that the emulator knows"))
    }

    fn unknown(&self, why: &str) -> LoadError {
        LoadError::new(self.inst.line, format!("`{}` is not supported: {why}", self.inst.opcode.join(".")))
    }

    fn finish(&self) -> Res<()> {
        match self.taken.iter().position(|t| !t) {
            None => Ok(()),
            Some(i) => Err(self.unknown(&format!("modifier `.{}` is not known in this form", self.inst.opcode[i]))),
        }
    }

    /// The operand at `i`.
    fn operand(&self, i: usize) -> Res<&'a Operand> {
        self.inst
            .operands
            .get(i)
            .ok_or_else(|| self.unknown(&format!("it has {} operands and needs more", self.inst.operands.len())))
    }

    fn count(&self, n: usize) -> Res<()> {
        if self.inst.operands.len() == n {
            return Ok(());
        }
        Err(self.unknown(&format!("it has {} operands, this form takes {n}", self.inst.operands.len())))
    }
}

/// Lowers one kernel of a module.
pub fn lower(module: &Module, symbols: &Symbols, entry: &Function, level: Level) -> Res<Kernel> {
    let mut l = Lower {
        module,
        symbols,
        level,
        scopes: vec![Scope::default()],
        calls: vec![entry.name.clone()],
        returns: Vec::new(),
        labels: Vec::new(),
        code: Vec::new(),
        places: Vec::new(),
        opcodes: Vec::new(),
        opcode_names: Vec::new(),
        opcode_index: HashMap::new(),
        permitted: BTreeSet::new(),
        consts: HashMap::new(),
        specials: HashMap::new(),
        words: 0,
        // Predicate 0 is false, predicate 1 is true.
        preds: 2,
        params: HashMap::new(),
        param_bytes: 0,
        shared: HashMap::new(),
        shared_bytes: 0,
        dynamic: Vec::new(),
        dynamic_at: 0,
        dynamic_place: 0,
        shared_vars: Vec::new(),
        local_bytes: 0,
        coupled: false,
        specs: Vec::new(),
        accesses: Vec::new(),
        atomics: Vec::new(),
        copies: Vec::new(),
        bars: Vec::new(),
        mmas: Vec::new(),
        matrices: Vec::new(),
        wmmas: Vec::new(),
        syscalls: Vec::new(),
        tables: Vec::new(),
        line: entry.line,
        loc: (0, 0),
        inlined_at: (0, 0),
        opcode: 0,
        guard: Pred { at: NONE, not: false },
        used_mask: u32::MAX,
    };
    let mut params = Vec::new();
    let mut offset = 0u64;
    for p in &entry.params {
        offset = offset.next_multiple_of(p.align);
        if offset + p.bytes() > 32764 {
            return Err(LoadError::new(
                p.line,
                format!("kernel `{}` has more than 32764 bytes of parameters", entry.name),
            ));
        }
        l.params.insert(p.name.clone(), Location { space: Space::Param, at: offset, bytes: p.bytes() });
        params.push(Param { offset: offset as u32, bytes: p.bytes() as u32 });
        offset += p.bytes();
    }
    l.param_bytes = offset as u32;
    let body = entry.body.as_deref().unwrap_or_default();
    l.plan_shared(body)?;
    l.body(body)?;
    l.opcode_name("exit");
    l.guard = Pred { at: NONE, not: false };
    l.emit(Op::Exit)?;
    l.finish(entry, params)
}

impl<'m> Lower<'m> {
    fn err<T>(&self, message: impl Into<String>) -> Res<T> {
        Err(LoadError::new(self.line, message))
    }

    /// Shared variables: those of the module first, then those of the kernel and of every function it may call.
    fn plan_shared(&mut self, body: &[Stmt]) -> Res<()> {
        fn collect<'s>(stmts: &'s [Stmt], names: &mut BTreeSet<&'s str>, vars: &mut Vec<&'s Var>) {
            for s in stmts {
                match s {
                    Stmt::Block(b) => collect(b, names, vars),
                    Stmt::Var(v) if v.space == Space::Shared => vars.push(v),
                    Stmt::Inst(i) => {
                        for o in &i.operands {
                            mention(o, names);
                        }
                    }
                    _ => {}
                }
            }
        }
        fn mention<'s>(o: &'s Operand, names: &mut BTreeSet<&'s str>) {
            match o {
                Operand::Name(n, _) | Operand::Mem(n, _) => {
                    names.insert(n);
                }
                Operand::Vector(v) | Operand::List(v) => v.iter().for_each(|o| mention(o, names)),
                _ => {}
            }
        }
        let (mut names, mut vars) = (BTreeSet::new(), Vec::new());
        collect(body, &mut names, &mut vars);
        // Tables of function pointers may be reached from anywhere.
        for init in self.module.vars.iter().flat_map(|v| &v.init) {
            if let Init::Symbol(name, _) = init {
                names.insert(name);
            }
        }
        // Functions reached through calls, until nothing new turns up.
        let mut done: BTreeSet<&str> = BTreeSet::new();
        loop {
            let next =
                self.module.functions.iter().find(|f| names.contains(&f.name[..]) && !done.contains(&f.name[..]));
            let Some(f) = next else { break };
            done.insert(&f.name);
            let mut inner = Vec::new();
            collect(f.body.as_deref().unwrap_or_default(), &mut names, &mut inner);
            vars.extend(inner);
        }
        let module_vars = self.module.vars.iter().filter(|v| v.space == Space::Shared && names.contains(&v.name[..]));
        let all: Vec<&Var> = module_vars.chain(vars).collect();
        // Closed bytes between the variables show overruns. Distances that are multiples of 128 change no bank.
        let zone = all.iter().map(|v| v.align).max().unwrap_or(1).max(SHARED_ZONE);
        let mut at = 0u64;
        let mut dynamic = Vec::new();
        for v in all {
            if v.external || v.elems == 0 {
                dynamic.push((v.name.clone(), v.align));
                continue;
            }
            at = at.next_multiple_of(v.align);
            let place = at + zone * self.shared_vars.len() as u64;
            self.shared.insert(v.name.clone(), place);
            self.shared_vars.push(SharedVar { name: v.name.clone(), at: place as u32, bytes: v.bytes() as u32 });
            at += v.bytes();
            if at > 256 * 1024 {
                return Err(LoadError::new(v.line, format!("shared variable `{}` does not fit any device", v.name)));
            }
        }
        self.shared_bytes = at;
        let align = dynamic.iter().map(|d| d.1).max().unwrap_or(1).max(16);
        self.dynamic_at = at.next_multiple_of(align);
        self.dynamic_place = self.dynamic_at + zone * self.shared_vars.len() as u64;
        for (name, _) in &dynamic {
            self.shared.insert(name.clone(), self.dynamic_place);
        }
        self.dynamic = dynamic;
        Ok(())
    }

    fn body(&mut self, stmts: &[Stmt]) -> Res<()> {
        for s in stmts {
            if let Stmt::Label(name, line) = s {
                let id = self.new_label();
                if let Some(scope) = self.scopes.last_mut()
                    && scope.labels.insert(name.clone(), id).is_some()
                {
                    return Err(LoadError::new(*line, format!("label `{name}` is defined twice")));
                }
            }
            let Some(scope) = self.scopes.last_mut() else { continue };
            match s {
                Stmt::Targets(name, list) => drop(scope.tables.insert(name.clone(), list.clone())),
                Stmt::Prototype(name, p) => drop(scope.prototypes.insert(name.clone(), p.clone())),
                _ => {}
            }
        }
        for s in stmts {
            match s {
                Stmt::Label(name, _) => {
                    let here = self.code.len() as u32;
                    if let Some(id) = self.scopes.last().and_then(|s| s.labels.get(name).copied()) {
                        self.labels[id] = Some(here);
                    }
                }
                Stmt::Reg(ty, name, count, line) => self.declare(*ty, name, *count, *line)?,
                Stmt::Var(v) => self.variable(v)?,
                Stmt::Block(inner) => {
                    self.scopes.push(Scope::default());
                    self.body(inner)?;
                    self.scopes.pop();
                }
                Stmt::Loc(place, inlined_at) => (self.loc, self.inlined_at) = (*place, *inlined_at),
                Stmt::Pragma(text) => {
                    if let Some(mask) = text.strip_prefix("used_bytes_mask ") {
                        let digits = mask.trim().trim_start_matches("0x");
                        self.used_mask = u32::from_str_radix(digits, 16).unwrap_or(u32::MAX);
                    }
                }
                Stmt::Targets(..) | Stmt::Prototype(..) => {}
                Stmt::Inst(i) => {
                    self.line = i.line;
                    self.opcode_name(&i.opcode.join("."));
                    self.guard = match &i.guard {
                        None => Pred { at: NONE, not: false },
                        Some((name, not)) => {
                            let p = self.pred_name(name)?;
                            if p == NONE {
                                return self.err("`_` cannot guard an instruction");
                            }
                            Pred { at: p, not: *not }
                        }
                    };
                    self.instruction(i)?;
                    self.permit(i)?;
                    self.used_mask = u32::MAX;
                }
            }
        }
        Ok(())
    }

    /// Only what the list of forms names is accepted, and only for the targets that have it.
    fn permit(&mut self, i: &Source) -> Res<()> {
        if self.permitted.contains(&self.opcode) {
            return Ok(());
        }
        let form = forms::form(&i.opcode);
        let name = i.opcode.join(".");
        // The list starts at sm_80: PTX for an older target is taken to know all that stands there.
        let have = self.module.architecture().max(80);
        match forms::target(&form) {
            None => self.err(format!("`{name}` is not supported: it is not in the emulator's list of forms")),
            Some(need) if have < need => {
                self.err(format!("`{name}` is not supported: it needs .target sm_{need}, the module has sm_{have}"))
            }
            _ => {
                self.permitted.insert(self.opcode);
                Ok(())
            }
        }
    }

    fn opcode_name(&mut self, name: &str) {
        let next = self.opcode_names.len() as u32;
        self.opcode = *self.opcode_index.entry(name.to_string()).or_insert(next);
        if self.opcode == next {
            self.opcode_names.push(name.to_string());
        }
    }

    fn emit(&mut self, op: Op) -> Res<()> {
        if self.code.len() >= MAX_CODE {
            return self.err(format!("the kernel has more than {MAX_CODE} operations"));
        }
        self.code.push(Decoded { op, guard: self.guard });
        self.places.push(Place { ptx: self.line, file: self.loc.0, line: self.loc.1, inlined_at: self.inlined_at });
        self.opcodes.push(self.opcode);
        Ok(())
    }

    fn alu(&mut self, alu: Alu, rows: &[Row]) -> Res<()> {
        let mut o = [0; 5];
        for (slot, row) in o.iter_mut().zip(rows) {
            *slot = row.at;
        }
        self.emit(Op::Alu { f: alu.resolve(self.level), o })
    }

    fn lane(&mut self, spec: Spec, d: Row, sources: &[Row]) -> Res<()> {
        let mut s = [NO_ROW; 3];
        s[..sources.len()].copy_from_slice(sources);
        let spec = self.spec(spec);
        self.emit(Op::Lane { spec, d, s })
    }

    fn spec(&mut self, spec: Spec) -> u32 {
        if let Some(i) = self.specs.iter().position(|s| *s == spec) {
            return i as u32;
        }
        self.specs.push(spec);
        self.specs.len() as u32 - 1
    }

    // Registers, variables, labels.

    fn new_label(&mut self) -> usize {
        self.labels.push(None);
        self.labels.len() - 1
    }

    fn row(&mut self, wide: bool) -> Res<Row> {
        let row = Row { at: self.words, wide };
        self.words += if wide { 64 } else { 32 };
        if self.words > MAX_WORDS {
            return self.err("the kernel has too many registers");
        }
        Ok(row)
    }

    fn declare(&mut self, ty: Ty, name: &str, count: u32, line: u32) -> Res<()> {
        if ty == Ty::B128 {
            return Err(LoadError::new(line, "128-bit registers are not supported"));
        }
        if count > 0 {
            if let Some(s) = self.scopes.last_mut() {
                s.ranges.push((name.to_string(), count, ty));
            }
        } else {
            let reg = self.new_reg(ty)?;
            if let Some(s) = self.scopes.last_mut() {
                s.names.insert(name.to_string(), reg);
            }
        }
        Ok(())
    }

    fn new_reg(&mut self, ty: Ty) -> Res<Reg> {
        if ty == Ty::Pred {
            self.preds += 1;
            return Ok(Reg::Pred(self.preds - 1));
        }
        Ok(Reg::Row(self.row(ty.bytes() == 8)?, 8 * ty.bytes()))
    }

    fn find_reg(&mut self, name: &str) -> Res<Option<Reg>> {
        let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let number = name[digits..].parse::<u32>().ok();
        for i in (0..self.scopes.len()).rev() {
            if let Some(&r) = self.scopes[i].names.get(name) {
                return Ok(Some(r));
            }
            if let Some(n) = number {
                let range = self.scopes[i].ranges.iter().find(|(p, count, _)| *p == name[..digits] && n < *count);
                if let Some(ty) = range.map(|r| r.2) {
                    let reg = self.new_reg(ty)?;
                    self.scopes[i].names.insert(name.to_string(), reg);
                    return Ok(Some(reg));
                }
            }
            if self.scopes[i].wall {
                break;
            }
        }
        Ok(None)
    }

    fn find_var(&self, name: &str) -> Option<Location> {
        for s in self.scopes.iter().rev() {
            if let Some(&v) = s.vars.get(name) {
                return Some(v);
            }
            if s.wall {
                break;
            }
        }
        if let Some(&at) = self.shared.get(name) {
            return Some(Location { space: Space::Shared, at, bytes: 0 });
        }
        if self.calls.len() == 1
            && let Some(&p) = self.params.get(name)
        {
            return Some(p);
        }
        self.symbols.get(name).copied()
    }

    fn find_label(&self, name: &str) -> Res<usize> {
        for s in self.scopes.iter().rev() {
            if let Some(&l) = s.labels.get(name) {
                return Ok(l);
            }
            if s.wall {
                break;
            }
        }
        self.err(format!("label `{name}` is not defined"))
    }

    fn variable(&mut self, v: &Var) -> Res<()> {
        let place = match v.space {
            Space::Shared => return Ok(()),
            // Arguments of calls are thread-local memory here.
            Space::Local | Space::Param => {
                self.local_bytes = self.local_bytes.next_multiple_of(v.align.max(16));
                let at = self.local_bytes;
                self.local_bytes += v.bytes();
                if self.local_bytes > 512 * 1024 {
                    return Err(LoadError::new(v.line, "more than 512 KiB of local memory per thread"));
                }
                Location { space: Space::Local, at, bytes: v.bytes() }
            }
            _ => return Err(LoadError::new(v.line, format!("variable `{}` must be declared at module scope", v.name))),
        };
        if let Some(s) = self.scopes.last_mut() {
            s.vars.insert(v.name.clone(), place);
        }
        Ok(())
    }

    // Operands.

    fn konst(&mut self, bits: u64, wide: bool) -> Res<Row> {
        let bits = if wide { bits } else { bits & 0xffff_ffff };
        if let Some(&r) = self.consts.get(&(bits, wide)) {
            return Ok(r);
        }
        let r = self.row(wide)?;
        self.consts.insert((bits, wide), r);
        Ok(r)
    }

    fn special(&mut self, name: &str) -> Res<Option<Row>> {
        let Some(word) = name.strip_prefix('%') else { return Ok(None) };
        let (head, axis) = word.split_once('.').map_or((word, None), |(h, a)| (h, Some(a)));
        let axis = match axis {
            None => None,
            Some("x") => Some(0),
            Some("y") => Some(1),
            Some("z") => Some(2),
            Some(_) => return Ok(None),
        };
        let s = match (head, axis) {
            ("tid", Some(i)) => Special::Tid(i),
            ("ntid", Some(i)) => Special::Ntid(i),
            ("ctaid", Some(i)) => Special::Ctaid(i),
            ("nctaid", Some(i)) => Special::Nctaid(i),
            ("laneid", None) => Special::LaneId,
            ("warpid", None) => Special::WarpId,
            ("nwarpid", None) => Special::NWarpId,
            ("smid", None) => Special::SmId,
            ("nsmid", None) => Special::NSmId,
            ("gridid", None) => Special::GridId,
            ("lanemask_eq", None) => Special::LaneMaskEq,
            ("lanemask_le", None) => Special::LaneMaskLe,
            ("lanemask_lt", None) => Special::LaneMaskLt,
            ("lanemask_ge", None) => Special::LaneMaskGe,
            ("lanemask_gt", None) => Special::LaneMaskGt,
            ("dynamic_smem_size", None) => Special::DynamicSmem,
            ("total_smem_size", None) => Special::TotalSmem,
            _ if axis.is_none()
                && let Some(n) = head.strip_prefix("envreg").and_then(|n| n.parse().ok()).filter(|&n| n < 32) =>
            {
                Special::EnvReg(n)
            }
            ("clock_hi" | "globaltimer_hi", None) => {
                let (wide, d) = (self.row(true)?, self.row(false)?);
                self.emit(Op::Clock { d: wide, nanoseconds: head == "globaltimer_hi" })?;
                self.alu(Alu::High32, &[d, wide])?;
                return Ok(Some(d));
            }
            ("clock", None) | ("globaltimer_lo", None) | ("clock64", None) | ("globaltimer", None) => {
                let wide = matches!(head, "clock64" | "globaltimer");
                let d = self.row(wide)?;
                self.emit(Op::Clock { d, nanoseconds: head.starts_with("globaltimer") })?;
                return Ok(Some(d));
            }
            _ => return Ok(None),
        };
        if let Some(&r) = self.specials.get(&s) {
            return Ok(Some(r));
        }
        let r = self.row(false)?;
        self.specials.insert(s, r);
        Ok(Some(r))
    }

    fn number(&self, n: Number, ty: Ty) -> Res<u64> {
        Ok(match (ty, n) {
            (Ty::F64, Number::F64(v)) => v,
            (Ty::F64, Number::F32(v)) => f64::from(f32::from_bits(v)).to_bits(),
            (Ty::F32, Number::F32(v)) => u64::from(v),
            (Ty::F32, Number::F64(v)) => u64::from((f64::from_bits(v) as f32).to_bits()),
            (Ty::F32 | Ty::F64, Number::Int(_)) => {
                return self.err("an integer literal cannot be a float operand: write 0f… or 0d…");
            }
            (_, Number::Int(v)) => match ty.bytes() {
                1 | 2 => v & 0xffff,
                4 => v & 0xffff_ffff,
                _ => v,
            },
            (_, Number::F32(v)) => u64::from(v),
            (_, Number::F64(v)) => v,
        })
    }

    /// A source of the width of `ty`.
    fn src(&mut self, o: &Operand, ty: Ty) -> Res<Row> {
        let wide = ty.bytes() == 8;
        let row = self.any_src(o, ty)?;
        if row.wide == wide {
            return Ok(row);
        }
        if !row.wide && wide && matches!(o, Operand::Name(n, _) if n.starts_with('%')) && self.is_special(o) {
            let d = self.row(true)?;
            self.alu(Alu::Widen32, &[d, row])?;
            return Ok(d);
        }
        self.err(format!("operand `{o}` has the wrong width for a {}-bit type", 8 * ty.bytes()))
    }

    fn is_special(&mut self, o: &Operand) -> bool {
        matches!(o, Operand::Name(n, _) if matches!(self.find_reg(n), Ok(None)))
    }

    /// A source of any width: a register as it is, or a constant of the width of `ty`.
    fn any_src(&mut self, o: &Operand, ty: Ty) -> Res<Row> {
        let wide = ty.bytes() == 8;
        match o {
            Operand::Number(n) => {
                let bits = self.number(*n, ty)?;
                self.konst(bits, wide)
            }
            Operand::Name(name, offset) => {
                if let Some(r) = self.find_reg(name)? {
                    return match r {
                        Reg::Row(row, _) => Ok(row),
                        Reg::Pred(_) => self.err(format!("predicate `{name}` where a value is expected")),
                    };
                }
                if let Some(r) = self.special(name)? {
                    return Ok(r);
                }
                if let Some(v) = self.find_var(name) {
                    let at = v.at.wrapping_add(*offset as u64);
                    return self.konst(at, wide);
                }
                if name == "WARP_SZ" {
                    return self.konst(32, wide);
                }
                if let Some(at) = self.module.function_address(name) {
                    return self.konst(at, wide);
                }
                self.err(format!("`{name}` is not declared"))
            }
            _ => self.err(format!("operand `{o}` where a register or a number is expected")),
        }
    }

    /// A destination of the width of `ty`.
    fn dst(&mut self, o: &Operand, ty: Ty) -> Res<Row> {
        let (row, _) = self.any_dst(o, ty)?;
        if row.wide != (ty.bytes() == 8) {
            return self.err(format!("destination `{o}` has the wrong width for a {}-bit type", 8 * ty.bytes()));
        }
        Ok(row)
    }

    /// A destination of any width, with its declared bits.
    fn any_dst(&mut self, o: &Operand, ty: Ty) -> Res<(Row, u32)> {
        match o {
            Operand::Sink => Ok((self.row(ty.bytes() == 8)?, 8 * ty.bytes().max(4))),
            Operand::Name(name, 0) => match self.find_reg(name)? {
                Some(Reg::Row(row, bits)) => Ok((row, bits)),
                _ => self.err(format!("`{name}` is not a register that can be written")),
            },
            _ => self.err(format!("operand `{o}` where a destination register is expected")),
        }
    }

    fn pred_name(&mut self, name: &str) -> Res<u32> {
        if name == "_" {
            return Ok(NONE);
        }
        match self.find_reg(name)? {
            Some(Reg::Pred(p)) => Ok(p),
            _ => self.err(format!("`{name}` is not a predicate")),
        }
    }

    /// A predicate source, possibly negated, or a constant.
    fn pred(&mut self, o: &Operand) -> Res<Pred> {
        let p = match o {
            Operand::Name(n, 0) => Pred { at: self.pred_name(n)?, not: false },
            Operand::Not(n) => Pred { at: self.pred_name(n)?, not: true },
            Operand::Number(Number::Int(v)) => Pred { at: u32::from(*v != 0), not: false },
            _ => return self.err(format!("operand `{o}` where a predicate is expected")),
        };
        if p.at == NONE { self.err("`_` cannot be read") } else { Ok(p) }
    }

    /// An address: row and offset, and the space if a variable tells it.
    fn address(&mut self, o: &Operand) -> Res<(Row, i64, Option<Location>)> {
        let Operand::Mem(name, offset) = o else {
            return self.err(format!("operand `{o}` where an address such as `[%rd1+8]` is expected"));
        };
        let offset = *offset;
        if name.is_empty() {
            return Ok((self.konst(offset as u64, true)?, 0, None));
        }
        match self.find_reg(name)? {
            Some(Reg::Row(row, bits)) if bits >= 32 => Ok((row, offset, None)),
            Some(_) => self.err(format!("`{name}` cannot hold an address")),
            None => match self.find_var(name) {
                Some(v) => {
                    let at = v.at.wrapping_add(offset as u64);
                    Ok((self.konst(at, true)?, 0, Some(Location { at, ..v })))
                }
                None => self.err(format!("`{name}` is not declared")),
            },
        }
    }

    fn finish(mut self, entry: &Function, params: Vec<Param>) -> Res<Kernel> {
        // Labels at the very end of the code point at the closing exit, which is there already.
        let resolve = |labels: &[Option<u32>], id: u32, line: u32| {
            labels[id as usize].ok_or_else(|| LoadError::new(line, "a branch target is never defined"))
        };
        for t in &mut self.tables {
            for id in t.iter_mut() {
                *id = resolve(&self.labels, *id, entry.line)?;
            }
        }
        let mut flow = Vec::with_capacity(self.code.len());
        for (i, inst) in self.code.iter_mut().enumerate() {
            let guarded = inst.guard.at != NONE;
            flow.push(match &mut inst.op {
                Op::Bra { target, .. } => {
                    *target = resolve(&self.labels, *target, self.places[i].ptx)?;
                    Flow::Jump(vec![*target], guarded)
                }
                Op::Brx { table, .. } => {
                    let mut targets = self.tables[*table as usize].clone();
                    targets.sort_unstable();
                    targets.dedup();
                    Flow::Jump(targets, guarded)
                }
                Op::Exit | Op::Trap | Op::BadCall { .. } => Flow::Exit(guarded),
                _ => Flow::Next,
            });
        }
        let meets = meeting_points(&flow);
        // A `Join` goes in front of every meeting point; everything moves down accordingly.
        let points: BTreeSet<u32> = meets.iter().flatten().copied().collect();
        let mut moved = Vec::with_capacity(self.code.len() + 1);
        let mut shift = 0;
        for i in 0..self.code.len() as u32 {
            // Branches to a meeting point land on its join.
            moved.push(i + shift);
            if points.contains(&i) {
                shift += 1;
            }
        }
        let join_name = self.opcode_names.len() as u32;
        self.opcode_names.push("(reconvergence)".to_string());
        let (mut code, mut places, mut opcodes) = (Vec::new(), Vec::new(), Vec::new());
        for (i, mut inst) in self.code.into_iter().enumerate() {
            if points.contains(&(i as u32)) {
                code.push(Decoded { op: Op::Join, guard: Pred { at: NONE, not: false } });
                places.push(self.places[i]);
                opcodes.push(join_name);
            }
            let meet = meets[i].map_or(NONE, |m| moved[m as usize]);
            match &mut inst.op {
                Op::Bra { target, join } => {
                    *target = moved[*target as usize];
                    *join = meet;
                }
                Op::Brx { join, .. } => *join = meet,
                _ => {}
            }
            code.push(inst);
            places.push(self.places[i]);
            opcodes.push(self.opcodes[i]);
        }
        for t in self.tables.iter_mut().flatten() {
            *t = moved[*t as usize];
        }
        Ok(Kernel {
            name: entry.name.clone(),
            code,
            places,
            opcodes,
            opcode_names: self.opcode_names,
            files: self.module.files.clone(),
            words: self.words,
            preds: self.preds,
            consts: self.consts.into_iter().map(|((bits, _), row)| (row, bits)).collect(),
            specials: self.specials.into_iter().collect(),
            params,
            param_bytes: self.param_bytes,
            shared_bytes: self.shared_bytes as u32,
            dynamic_at: self.dynamic_at as u32,
            dynamic_place: self.dynamic_place as u32,
            shared_vars: self.shared_vars,
            local_bytes: self.local_bytes.next_multiple_of(16) as u32,
            maxntid: entry.maxntid,
            reqntid: entry.reqntid,
            maxnreg: entry.maxnreg,
            coupled: self.coupled,
            specs: self.specs,
            accesses: self.accesses,
            atomics: self.atomics,
            copies: self.copies,
            bars: self.bars,
            mmas: self.mmas,
            matrices: self.matrices,
            wmmas: self.wmmas,
            syscalls: self.syscalls,
            constants: self
                .symbols
                .values()
                .filter(|v| v.space == Space::Const)
                .map(|v| (v.at, v.at + v.bytes))
                .collect(),
            tables: self.tables,
        })
    }

    fn instruction(&mut self, i: &Source) -> Res<()> {
        let f = Form::new(i);
        match f.base() {
            "add" | "sub" | "addc" | "subc" | "mul" | "mad" | "madc" | "fma" | "mul24" | "mad24" | "sad" | "div"
            | "rem" | "abs" | "neg" | "min" | "max" | "popc" | "clz" | "bfind" | "brev" | "bfe" | "bfi" | "fns"
            | "bmsk" | "szext" | "dp4a" | "dp2a" | "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2"
            | "tanh" | "testp" | "copysign" | "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shl" | "shr"
            | "shf" | "prmt" | "vabsdiff2" | "vabsdiff4" | "setp" | "set" | "selp" | "slct" => self.arith(f),
            "cvt" => self.cvt(f),
            "mov" | "ld" | "ldu" | "st" | "cvta" | "isspacep" | "prefetch" | "prefetchu" | "discard"
            | "applypriority" | "createpolicy" | "cp" | "ldmatrix" | "stmatrix" | "movmatrix" | "mma" | "atom"
            | "red" => self.data(f),
            "wmma" => self.wmma(f),
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "bar" | "barrier" | "membar" | "fence"
            | "vote" | "match" | "activemask" | "redux" | "shfl" | "nanosleep" | "pmevent" => self.control(f),
            _ => Err(f.unknown("the emulator does not know this instruction")),
        }
    }
}

/// Picks a comparison of the vector table.
fn compare_form(rel: crate::exec::slow::Rel, ty: Ty) -> Option<Cmp> {
    use crate::exec::slow::Rel::*;
    Some(match (ty, rel) {
        (Ty::B16 | Ty::U16 | Ty::S16, Eq) => Cmp::Eq16,
        (Ty::B16 | Ty::U16 | Ty::S16, Ne) => Cmp::Ne16,
        (Ty::U16, Lt) => Cmp::LtU16,
        (Ty::U16, Le) => Cmp::LeU16,
        (Ty::S16, Lt) => Cmp::LtS16,
        (Ty::S16, Le) => Cmp::LeS16,
        (Ty::B32 | Ty::U32 | Ty::S32, Eq) => Cmp::Eq32,
        (Ty::B32 | Ty::U32 | Ty::S32, Ne) => Cmp::Ne32,
        (Ty::U32, Lt) => Cmp::LtU32,
        (Ty::U32, Le) => Cmp::LeU32,
        (Ty::S32, Lt) => Cmp::LtS32,
        (Ty::S32, Le) => Cmp::LeS32,
        (Ty::B64 | Ty::U64 | Ty::S64, Eq) => Cmp::Eq64,
        (Ty::B64 | Ty::U64 | Ty::S64, Ne) => Cmp::Ne64,
        (Ty::U64, Lt) => Cmp::LtU64,
        (Ty::U64, Le) => Cmp::LeU64,
        (Ty::S64, Lt) => Cmp::LtS64,
        (Ty::S64, Le) => Cmp::LeS64,
        (Ty::F32, Eq) => Cmp::EqF32,
        (Ty::F32, Ne) => Cmp::NeF32,
        (Ty::F32, Lt) => Cmp::LtF32,
        (Ty::F32, Le) => Cmp::LeF32,
        (Ty::F32, Equ) => Cmp::EquF32,
        (Ty::F32, Neu) => Cmp::NeuF32,
        (Ty::F32, Ltu) => Cmp::LtuF32,
        (Ty::F32, Leu) => Cmp::LeuF32,
        (Ty::F32, Num) => Cmp::NumF32,
        (Ty::F32, Nan) => Cmp::NanF32,
        (Ty::F64, Eq) => Cmp::EqF64,
        (Ty::F64, Ne) => Cmp::NeF64,
        (Ty::F64, Lt) => Cmp::LtF64,
        (Ty::F64, Le) => Cmp::LeF64,
        (Ty::F64, Equ) => Cmp::EquF64,
        (Ty::F64, Neu) => Cmp::NeuF64,
        (Ty::F64, Ltu) => Cmp::LtuF64,
        (Ty::F64, Leu) => Cmp::LeuF64,
        (Ty::F64, Num) => Cmp::NumF64,
        (Ty::F64, Nan) => Cmp::NanF64,
        _ => return None,
    })
}
