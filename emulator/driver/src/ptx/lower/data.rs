//! Moves, loads, stores, atomics, asynchronous copies, matrices.

use super::*;
use crate::exec::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};

const SCOPES: [(&str, Strength); 4] =
    [("cta", Strength::Block), ("cluster", Strength::Block), ("gpu", Strength::Device), ("sys", Strength::Device)];

impl Lower<'_> {
    pub(super) fn data(&mut self, mut f: Form) -> Res<()> {
        match f.base() {
            "mov" => self.mov(f),
            "ld" | "ldu" | "st" => self.access(f),
            "atom" | "red" => self.atomic(f),
            "cvta" => {
                let to = f.flag("to");
                let space = self.space(&mut f);
                let ty = f.ty()?;
                f.finish()?;
                f.count(2)?;
                if ty != Ty::U64 {
                    return Err(f.unknown("addresses have 64 bits"));
                }
                let a = self.src(f.operand(1)?, ty)?;
                let d = self.dst(f.operand(0)?, ty)?;
                let base = match space {
                    Space::Global | Space::Const => return self.alu(Alu::Mov64, &[d, a]),
                    Space::Shared => SHARED_WINDOW,
                    Space::Local => LOCAL_WINDOW,
                    Space::Param => PARAM_WINDOW,
                    _ => return Err(f.unknown("generic addresses of this space are not supported")),
                };
                let c = self.konst(base, true)?;
                self.alu(if to { Alu::Sub64 } else { Alu::Add64 }, &[d, a, c])
            }
            "isspacep" => {
                let space = self.space(&mut f);
                f.finish()?;
                f.count(2)?;
                let a = self.any_src(f.operand(1)?, Ty::U64)?;
                let Operand::Name(p, 0) = f.operand(0)? else { return Err(f.unknown("it needs a predicate")) };
                let d = self.pred_name(p)?;
                self.emit(Op::IsSpace { space, d, a })
            }
            "prefetch" | "prefetchu" | "discard" | "applypriority" => {
                self.space(&mut f);
                f.prefixed("L");
                f.prefixed("evict");
                f.flag("tensormap");
                f.finish()?;
                self.emit(Op::Nop)
            }
            "createpolicy" => {
                // Cache policies change no result: the register gets a constant.
                let _ = f.flag("fractional") || f.flag("range") || f.flag("cvt");
                f.flag("global");
                f.prefixed("L2");
                let ty = f.ty()?;
                f.finish()?;
                let d = self.dst(f.operand(0)?, ty)?;
                let zero = self.konst(0, true)?;
                self.alu(Alu::Mov64, &[d, zero])
            }
            "cp" => self.cp_async(f),
            "ldmatrix" | "stmatrix" => {
                let load = f.base() == "ldmatrix";
                let shape = f.flag("sync") && f.flag("aligned") && f.flag("m8n8");
                let n = f.one_of(&[("x1", 1), ("x2", 2), ("x4", 4)]);
                let trans = f.flag("trans");
                let shared = !f.prefixed("shared").is_empty();
                let ty = f.ty()?;
                f.finish()?;
                f.count(2)?;
                let (Some(n), true, Ty::B16) = (n, shape, ty) else {
                    return Err(f.unknown("only .sync.aligned.m8n8.x1/.x2/.x4 of .b16"));
                };
                let (addr, regs) = if load { (1, 0) } else { (0, 1) };
                let (row, offset, _) = self.address(f.operand(addr)?)?;
                let list = match f.operand(regs)? {
                    Operand::Vector(v) => v.as_slice(),
                    o => std::slice::from_ref(o),
                };
                if list.len() != n {
                    return Err(f.unknown(&format!("it names {} registers for {n} matrices", list.len())));
                }
                let mut rows = Vec::new();
                for o in list {
                    rows.push(if load { self.dst(o, Ty::B32)? } else { self.src(o, Ty::B32)? });
                }
                let i = self.matrices.len() as u32;
                self.matrices.push(Matrix { addr: (row, offset), generic: !shared, trans, regs: rows });
                self.emit(if load { Op::LdMatrix(i) } else { Op::StMatrix(i) })
            }
            "movmatrix" => {
                let shape = f.flag("sync") && f.flag("aligned") && f.flag("m8n8") && f.flag("trans");
                let ty = f.ty()?;
                f.finish()?;
                f.count(2)?;
                if !shape || ty != Ty::B16 {
                    return Err(f.unknown("only .sync.aligned.m8n8.trans.b16"));
                }
                let a = self.src(f.operand(1)?, Ty::B32)?;
                let d = self.dst(f.operand(0)?, Ty::B32)?;
                self.emit(Op::MovMatrix { d, a })
            }
            _ => self.mma(f),
        }
    }

    fn space(&mut self, f: &mut Form) -> Space {
        f.one_of(&[
            ("global", Space::Global),
            ("const", Space::Const),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("local", Space::Local),
            ("param", Space::Param),
            ("param::entry", Space::Param),
            ("param::func", Space::Param),
        ])
        .unwrap_or(Space::Generic)
    }

    fn mov(&mut self, mut f: Form) -> Res<()> {
        let ty = f.ty()?;
        f.finish()?;
        f.count(2)?;
        if ty == Ty::Pred {
            let a = self.pred(f.operand(1)?)?;
            let Operand::Name(p, 0) = f.operand(0)? else { return Err(f.unknown("it needs a predicate")) };
            let d = self.pred_name(p)?;
            return self.emit(Op::Logic { f: Logic::Mov, d, a, b: a });
        }
        let wide = ty.bytes() == 8;
        match (f.operand(0)?, f.operand(1)?) {
            (Operand::Vector(parts), o) => {
                let a = self.src(o, ty)?;
                self.unpack(&f, parts, a, wide)
            }
            (o, Operand::Vector(parts)) => {
                let d = self.dst(o, ty)?;
                self.pack(&f, parts, d, wide)
            }
            (d, a) => {
                let a = self.src(a, ty)?;
                let d = self.dst(d, ty)?;
                self.alu(if wide { Alu::Mov64 } else { Alu::Mov32 }, &[d, a])
            }
        }
    }

    fn pack(&mut self, f: &Form, parts: &[Operand], d: Row, wide: bool) -> Res<()> {
        match (parts, wide) {
            ([a, b], true) => {
                let (a, b) = (self.src(a, Ty::B32)?, self.src(b, Ty::B32)?);
                self.alu(Alu::Pack64, &[d, a, b])
            }
            ([a, b], false) => {
                let (a, b) = (self.src(a, Ty::B16)?, self.src(b, Ty::B16)?);
                self.alu(Alu::Pack32, &[d, a, b])
            }
            ([_, _, _, _], true) => {
                let (low, high) = (self.row(false)?, self.row(false)?);
                self.pack(f, &parts[..2], low, false)?;
                self.pack(f, &parts[2..], high, false)?;
                self.alu(Alu::Pack64, &[d, low, high])
            }
            _ => Err(f.unknown("only two or four parts of 16 or 32 bits")),
        }
    }

    fn unpack(&mut self, f: &Form, parts: &[Operand], a: Row, wide: bool) -> Res<()> {
        match (parts, wide) {
            ([x, y], true) => {
                let (x, y) = (self.dst(x, Ty::B32)?, self.dst(y, Ty::B32)?);
                self.alu(Alu::Low32, &[x, a])?;
                self.alu(Alu::High32, &[y, a])
            }
            ([x, y], false) => {
                let (x, y) = (self.dst(x, Ty::B16)?, self.dst(y, Ty::B16)?);
                self.alu(Alu::Low16, &[x, a])?;
                self.alu(Alu::High16, &[y, a])
            }
            ([_, _, _, _], true) => {
                let (low, high) = (self.row(false)?, self.row(false)?);
                self.alu(Alu::Low32, &[low, a])?;
                self.alu(Alu::High32, &[high, a])?;
                self.unpack(f, &parts[..2], low, false)?;
                self.unpack(f, &parts[2..], high, false)
            }
            _ => Err(f.unknown("only two or four parts of 16 or 32 bits")),
        }
    }

    fn access(&mut self, mut f: Form) -> Res<()> {
        let store = f.base() == "st";
        f.flag("weak");
        let volatile = f.flag("volatile");
        let relaxed = f.flag("relaxed");
        let release = f.flag("release");
        let ordered = volatile || relaxed || release || f.flag("acquire");
        let scope = f.one_of(&SCOPES).unwrap_or(Strength::Device);
        let strong = if ordered { scope } else { Strength::Weak };
        let space = self.space(&mut f);
        let readonly = f.flag("nc");
        f.one_of(&[("ca", ()), ("cg", ()), ("cs", ()), ("lu", ()), ("cv", ()), ("wb", ()), ("wt", ())]);
        let hint = f.prefixed("L2").contains(&"L2::cache_hint");
        f.prefixed("L1");
        let lanes = f.one_of(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
        let ty = f.ty()?;
        f.finish()?;
        f.count(2 + usize::from(hint))?;
        if matches!(ty, Ty::Pred | Ty::B128) || lanes * ty.bytes() > 16 {
            return Err(f.unknown("accesses have up to 16 bytes and no predicates"));
        }
        let (address, value) = if store { (f.operand(0)?, f.operand(1)?) } else { (f.operand(1)?, f.operand(0)?) };
        let list = match value {
            Operand::Vector(v) => v.as_slice(),
            o => std::slice::from_ref(o),
        };
        if list.len() != lanes as usize {
            return Err(f.unknown(&format!("it names {} registers for {lanes} elements", list.len())));
        }
        let (addr, offset, var) = self.address(address)?;
        // `.param` of a call is local memory here; `.param` of the kernel is the parameter block.
        let space = match (space, var) {
            (Space::Param, Some(v)) => v.space,
            (s, _) => s,
        };
        if store && matches!(space, Space::Param | Space::Const) {
            return Err(f.unknown("this space cannot be written"));
        }
        let mut rows = Vec::with_capacity(list.len());
        let mut short = Vec::new();
        for o in list {
            if store {
                let row = self.any_src(o, ty)?;
                if ty.bytes() == 8 && !row.wide {
                    return self.err("the stored register is narrower than the type");
                }
                rows.push(row);
            } else if *o == Operand::Sink {
                rows.push(NO_ROW);
            } else {
                let (row, bits) = self.any_dst(o, ty)?;
                if ty.bytes() == 8 && !row.wide {
                    return self.err("the loaded register is narrower than the type");
                }
                if ty.signed() && bits == 16 && ty.bytes() == 1 {
                    short.push(row);
                }
                rows.push(row);
            }
        }
        if let (Space::Param, Some(v)) = (space, var) {
            let end = v.at + u64::from(lanes * ty.bytes());
            if end > u64::from(self.param_bytes) {
                return self.err(format!("the access ends at byte {end} of {} bytes of parameters", self.param_bytes));
            }
            for (i, &d) in rows.iter().enumerate().filter(|r| r.1.at != NONE) {
                let at = v.at as u32 + i as u32 * ty.bytes();
                self.emit(Op::LdParam { d, offset: at, bytes: ty.bytes(), signed: ty.signed() })?;
            }
        } else {
            if ordered && matches!(space, Space::Global | Space::Generic) {
                self.coupled = true;
            }
            let i = self.accesses.len() as u32;
            self.accesses.push(Access {
                space,
                elem: ty.bytes(),
                signed: ty.signed(),
                addr,
                offset,
                regs: rows,
                used: self.used_mask,
                strong,
                release,
                readonly,
            });
            self.emit(if store { Op::St(i) } else { Op::Ld(i) })?;
        }
        for row in short {
            self.alu(Alu::Low16, &[row, row])?;
        }
        Ok(())
    }

    fn atomic(&mut self, mut f: Form) -> Res<()> {
        let red = f.base() == "red";
        f.flag("relaxed");
        f.flag("acquire");
        let release = f.flag("release") | f.flag("acq_rel");
        let strong = f.one_of(&SCOPES).unwrap_or(Strength::Device);
        let space = self.space(&mut f);
        let rmw = f.one_of(&[
            ("and", Rmw::And),
            ("or", Rmw::Or),
            ("xor", Rmw::Xor),
            ("add", Rmw::Add),
            ("min", Rmw::Min),
            ("max", Rmw::Max),
            ("inc", Rmw::Inc),
            ("dec", Rmw::Dec),
            ("exch", Rmw::Exch),
            ("cas", Rmw::Cas),
        ]);
        f.flag("noftz");
        let hint = f.prefixed("L2").contains(&"L2::cache_hint");
        let ty = f.ty()?;
        f.finish()?;
        let Some(rmw) = rmw else { return Err(f.unknown("it names no operation")) };
        let defined = match rmw {
            Rmw::And | Rmw::Or | Rmw::Xor | Rmw::Exch => matches!(ty, Ty::B32 | Ty::B64),
            Rmw::Cas => matches!(ty, Ty::B16 | Ty::B32 | Ty::B64),
            Rmw::Inc | Rmw::Dec => ty == Ty::U32,
            Rmw::Min | Rmw::Max => {
                matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64)
            }
            _ => matches!(
                ty,
                Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64 | Ty::F32 | Ty::F64 | Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2
            ),
        };
        if !defined || (red && matches!(rmw, Rmw::Exch | Rmw::Cas)) {
            return Err(f.unknown("this operation does not exist for this type"));
        }
        let first = usize::from(!red);
        let sources = if rmw == Rmw::Cas { 2 } else { 1 };
        f.count(first + 1 + sources + usize::from(hint))?;
        let (addr, offset, _) = self.address(f.operand(first)?)?;
        let b = self.src(f.operand(first + 1)?, ty)?;
        let c = if sources == 2 { self.src(f.operand(first + 2)?, ty)? } else { NO_ROW };
        let dst = match red {
            true => NO_ROW,
            false => self.dst(f.operand(0)?, ty)?,
        };
        if space != Space::Shared {
            self.coupled = true;
        }
        let i = self.atomics.len() as u32;
        self.atomics.push(Atomic { space, rmw, ty, dst, addr, offset, b, c, strong, release });
        self.emit(Op::Atom(i))
    }

    fn cp_async(&mut self, mut f: Form) -> Res<()> {
        if !f.flag("async") {
            return Err(f.unknown("only cp.async exists"));
        }
        if f.flag("commit_group") {
            f.finish()?;
            return self.emit(Op::CpCommit);
        }
        if f.flag("wait_all") {
            f.finish()?;
            return self.emit(Op::CpWait(NONE));
        }
        if f.flag("wait_group") {
            f.finish()?;
            let Operand::Number(Number::Int(n)) = f.operand(0)? else {
                return Err(f.unknown("the number of groups must be a constant"));
            };
            return self.emit(Op::CpWait((*n).min(1 << 20) as u32));
        }
        let all = f.flag("ca");
        let global_only = f.flag("cg");
        let shared = !f.prefixed("shared").is_empty();
        let global = f.flag("global");
        let hint = f.prefixed("L2").contains(&"L2::cache_hint");
        f.finish()?;
        if all == global_only || !shared || !global {
            return Err(f.unknown("only cp.async.ca/.cg.shared.global, commit_group, wait_group and wait_all"));
        }
        let n = f.inst.operands.len() - usize::from(hint && f.inst.operands.len() > 3);
        let (d, d_off, _) = self.address(f.operand(0)?)?;
        let (s, s_off, _) = self.address(f.operand(1)?)?;
        let Operand::Number(Number::Int(bytes)) = *f.operand(2)? else {
            return Err(f.unknown("the size must be a constant"));
        };
        if !matches!((bytes, all), (4 | 8, true) | (16, _)) {
            return Err(f.unknown(".ca copies 4, 8 or 16 bytes, .cg 16"));
        }
        let (mut src_bytes, mut ignore) = (NO_ROW, None);
        if n == 4 {
            let o = f.operand(3)?;
            let is_pred = match o {
                Operand::Name(name, 0) => matches!(self.find_reg(name)?, Some(Reg::Pred(_))),
                Operand::Not(_) => true,
                _ => false,
            };
            if is_pred {
                ignore = Some(self.pred(o)?);
            } else {
                src_bytes = self.src(o, Ty::U32)?;
            }
        }
        let i = self.copies.len() as u32;
        self.copies.push(CpAsync { dst: (d, d_off), src: (s, s_off), bytes: bytes as u32, src_bytes, ignore });
        self.emit(Op::CpAsync(i))
    }

    fn mma(&mut self, mut f: Form) -> Res<()> {
        let sync = f.flag("sync") && f.flag("aligned");
        let shape = f.one_of(&[
            ("m16n8k4", (16, 8, 4)),
            ("m16n8k8", (16, 8, 8)),
            ("m16n8k16", (16, 8, 16)),
            ("m16n8k32", (16, 8, 32)),
            ("m8n8k4", (8, 8, 4)),
            ("m8n8k16", (8, 8, 16)),
        ]);
        let Some((m, n, k)) = shape else { return Err(f.unknown("this shape is not supported")) };
        let layout = f.flag("row") && f.flag("col");
        let satfinite = f.flag("satfinite");
        let rounding = f.flag("rn");
        let mut types = [MmaTy::F32; 4];
        for t in &mut types {
            // Types come in the order D, A, B, C and may repeat, so each is taken in turn.
            let part = f.inst.opcode.iter().zip(&mut f.taken).find(|(_, taken)| !**taken);
            let Some((part, taken)) = part else { return Err(f.unknown("it names fewer than four types")) };
            *t = match part.as_str() {
                "f16" => MmaTy::F16,
                "bf16" => MmaTy::Bf16,
                "tf32" => MmaTy::Tf32,
                "f64" => MmaTy::F64,
                "f32" => MmaTy::F32,
                "s32" => MmaTy::S32,
                "s8" => MmaTy::S8,
                "u8" => MmaTy::U8,
                other => {
                    let other = other.to_string();
                    return Err(f.unknown(&format!("operand type `{other}` is not supported")));
                }
            };
            *taken = true;
        }
        f.finish()?;
        f.count(4)?;
        let [d_ty, a_ty, b_ty, c_ty] = types;
        use MmaTy::{Bf16, F16, F32, F64, S8, S32, Tf32, U8};
        let ok = match (a_ty, b_ty, c_ty) {
            (F16, F16, F16 | F32) => matches!((m, k), (16, 8 | 16)),
            (Bf16, Bf16, F32) => matches!((m, k), (16, 8 | 16)),
            (Tf32, Tf32, F32) => matches!((m, k), (16, 4 | 8)),
            (F64, F64, F64) => (m, k) == (8, 4),
            (S8 | U8, S8 | U8, S32) => matches!((m, k), (8, 16) | (16, 16 | 32)),
            _ => false,
        };
        if !ok || d_ty != c_ty || !sync || !layout || (rounding && a_ty != F64) {
            return Err(f.unknown("no such combination of shape, layout and types is supported"));
        }
        // Elements of A and B in a register of 32 (f64: 64) bits.
        let per_reg = match a_ty {
            F16 | Bf16 => 2,
            S8 | U8 => 4,
            _ => 1,
        };
        let ty = if a_ty == F64 { Ty::F64 } else { Ty::B32 };
        let a_regs = m * k / 32 / per_reg;
        let b_regs = n * k / 32 / per_reg;
        let c_regs = m * n / 32 / if c_ty == F16 { 2 } else { 1 };
        let mut lists: [Vec<Row>; 4] = Default::default();
        for (i, want) in [c_regs, a_regs, b_regs, c_regs].into_iter().enumerate() {
            let list = match f.operand(i)? {
                Operand::Vector(v) => v.as_slice(),
                o => std::slice::from_ref(o),
            };
            if list.len() != want as usize {
                return Err(f.unknown(&format!("operand {i} has {} registers, the fragment has {want}", list.len())));
            }
            for o in list {
                let row = if i == 0 {
                    self.dst(o, ty)?
                } else {
                    self.src(o, if i == 3 && a_ty != F64 && c_ty == F32 { Ty::F32 } else { ty })?
                };
                lists[i].push(row);
            }
        }
        let [d, a, b, c] = lists;
        let i = self.mmas.len() as u32;
        self.mmas.push(Mma { m, n, k, a_ty, b_ty, c_ty, d_ty, satfinite, d, a, b, c });
        self.emit(Op::Mma(i))
    }
}
