//! Branches, calls, barriers and operations across lanes.

use super::*;

impl Lower<'_> {
    pub(super) fn control(&mut self, mut f: Form) -> Res<()> {
        match f.base() {
            "bra" => {
                f.flag("uni");
                f.finish()?;
                f.count(1)?;
                let Operand::Name(name, 0) = f.operand(0)? else { return Err(f.unknown("it needs a label")) };
                let target = self.find_label(name)? as u32;
                self.emit(Op::Bra { target, join: NONE })
            }
            "brx" => {
                f.flag("uni");
                if !f.flag("idx") {
                    return Err(f.unknown("only brx.idx exists"));
                }
                f.finish()?;
                f.count(2)?;
                let index = self.src(f.operand(0)?, Ty::U32)?.at;
                let Operand::Name(name, 0) = f.operand(1)? else { return Err(f.unknown("it needs a target list")) };
                let Some(list) = self.scopes.iter().rev().find_map(|s| s.tables.get(name)).cloned() else {
                    return self.err(format!("`{name}` is not a list of branch targets"));
                };
                let mut targets = Vec::new();
                for label in &list {
                    targets.push(self.find_label(label)? as u32);
                }
                self.tables.push(targets);
                let table = self.tables.len() as u32 - 1;
                self.emit(Op::Brx { index, table, join: NONE })
            }
            "exit" => {
                f.finish()?;
                self.emit(Op::Exit)
            }
            "ret" => {
                f.flag("uni");
                f.finish()?;
                match self.returns.last() {
                    Some(&label) => self.emit(Op::Bra { target: label as u32, join: NONE }),
                    None => self.emit(Op::Exit),
                }
            }
            "trap" | "brkpt" => {
                f.finish()?;
                self.emit(Op::Trap)
            }
            "pmevent" => self.emit(Op::Nop),
            "nanosleep" => {
                f.ty()?;
                f.finish()?;
                self.emit(Op::Yield)
            }
            "membar" | "fence" => {
                f.one_of(&[("sc", ()), ("acq_rel", ()), ("acquire", ()), ("release", ())]);
                let scope = f.one_of(&[("cta", false), ("gl", true), ("gpu", true), ("sys", true)]);
                f.finish()?;
                let Some(wide) = scope else { return Err(f.unknown("it names no scope (.cta, .gpu, .sys)")) };
                self.emit(Op::Fence { wide })
            }
            "activemask" => {
                f.ty()?;
                f.finish()?;
                let d = self.dst(f.operand(0)?, Ty::B32)?.at;
                self.emit(Op::ActiveMask { d })
            }
            "call" => self.call(f),
            "bar" | "barrier" => self.barrier(f),
            _ => self.collective(f),
        }
    }

    fn barrier(&mut self, mut f: Form) -> Res<()> {
        let old_name = f.base() == "bar";
        if old_name && f.flag("warp") {
            if !f.flag("sync") {
                return Err(f.unknown("only bar.warp.sync exists"));
            }
            f.finish()?;
            f.count(1)?;
            let mask = self.src(f.operand(0)?, Ty::B32)?.at;
            return self.emit(Op::WarpSync { mask });
        }
        f.flag("cta");
        let aligned = f.flag("aligned") || old_name;
        if f.flag("sync") || f.flag("arrive") {
            let arrive = f.inst.opcode.iter().any(|p| p == "arrive");
            f.finish()?;
            let id = self.src(f.operand(0)?, Ty::U32)?;
            let count = if f.inst.operands.len() > 1 { self.src(f.operand(1)?, Ty::U32)? } else { NO_ROW };
            if arrive && count == NO_ROW {
                return Err(f.unknown("arrive needs a thread count"));
            }
            self.bars.push(Bar { id, count, arrive, aligned, red: None });
        } else if f.flag("red") {
            let op = f.one_of(&[("popc", Rmw::Popc), ("and", Rmw::And), ("or", Rmw::Or)]);
            let Some(op) = op else { return Err(f.unknown("it names no reduction")) };
            f.ty()?;
            f.finish()?;
            let n = f.inst.operands.len();
            if n < 3 {
                return Err(f.unknown("it needs a destination, a barrier and a predicate"));
            }
            let id = self.src(f.operand(1)?, Ty::U32)?;
            let count = if n > 3 { self.src(f.operand(2)?, Ty::U32)? } else { NO_ROW };
            let p = self.pred(f.operand(n - 1)?)?;
            let d = match (op, f.operand(0)?) {
                (Rmw::Popc, o) => self.dst(o, Ty::U32)?.at,
                (_, Operand::Name(name, 0)) => self.pred_name(name)?,
                _ => return Err(f.unknown("it needs a predicate to write")),
            };
            self.bars.push(Bar { id, count, arrive: false, aligned, red: Some((op, p, d)) });
        } else {
            return Err(f.unknown("only sync, arrive and red exist here"));
        }
        let i = self.bars.len() as u32 - 1;
        self.emit(Op::Bar(i))
    }

    fn collective(&mut self, mut f: Form) -> Res<()> {
        if !f.flag("sync") {
            return Err(f.unknown("forms without .sync are obsolete since sm_70"));
        }
        // Destination register and predicate of `d|p`.
        let pair = |l: &mut Self, o: &Operand| -> Res<(u32, u32)> {
            Ok(match o {
                Operand::Pair(d, p) => {
                    let p = l.pred_name(p)?;
                    (l.dst(&Operand::Name(d.clone(), 0), Ty::B32)?.at, p)
                }
                o => (l.dst(o, Ty::B32)?.at, NONE),
            })
        };
        match f.base() {
            "shfl" => {
                let mode =
                    f.one_of(&[("up", Shfl::Up), ("down", Shfl::Down), ("bfly", Shfl::Bfly), ("idx", Shfl::Idx)]);
                let ty = f.ty()?;
                f.finish()?;
                f.count(5)?;
                let (Some(mode), Ty::B32) = (mode, ty) else {
                    return Err(f.unknown("only .up/.down/.bfly/.idx of .b32"));
                };
                let a = self.src(f.operand(1)?, Ty::B32)?.at;
                let b = self.src(f.operand(2)?, Ty::B32)?.at;
                let c = self.src(f.operand(3)?, Ty::B32)?.at;
                let mask = self.src(f.operand(4)?, Ty::B32)?.at;
                let (d, p) = pair(self, f.operand(0)?)?;
                self.emit(Op::Shfl { mode, d, p, a, b, c, mask })
            }
            "vote" => {
                let mode =
                    f.one_of(&[("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uni), ("ballot", Vote::Ballot)]);
                f.ty()?;
                f.finish()?;
                f.count(3)?;
                let Some(mode) = mode else { return Err(f.unknown("it names no mode")) };
                let a = self.pred(f.operand(1)?)?;
                let mask = self.src(f.operand(2)?, Ty::B32)?.at;
                let d = match (mode, f.operand(0)?) {
                    (Vote::Ballot, o) => self.dst(o, Ty::B32)?.at,
                    (_, Operand::Name(p, 0)) => self.pred_name(p)?,
                    _ => return Err(f.unknown("it needs a predicate to write")),
                };
                self.emit(Op::Vote { mode, d, a, mask })
            }
            "match" => {
                let all = f.flag("all");
                let any = f.flag("any");
                let ty = f.ty()?;
                f.finish()?;
                f.count(3)?;
                if all == any || !matches!(ty, Ty::B32 | Ty::B64) {
                    return Err(f.unknown("only .any and .all of .b32 and .b64"));
                }
                let a = self.src(f.operand(1)?, ty)?;
                let mask = self.src(f.operand(2)?, Ty::B32)?.at;
                let (d, p) = pair(self, f.operand(0)?)?;
                self.emit(Op::Match { all, wide: a.wide, d, p, a: a.at, mask })
            }
            _ => {
                let rmw = f.one_of(&[
                    ("and", Rmw::And),
                    ("or", Rmw::Or),
                    ("xor", Rmw::Xor),
                    ("add", Rmw::Add),
                    ("min", Rmw::Min),
                    ("max", Rmw::Max),
                ]);
                let ty = f.ty()?;
                f.finish()?;
                f.count(3)?;
                let (Some(rmw), Ty::U32 | Ty::S32 | Ty::B32) = (rmw, ty) else {
                    return Err(f.unknown("only integer reductions of 32 bits"));
                };
                let a = self.src(f.operand(1)?, ty)?.at;
                let mask = self.src(f.operand(2)?, Ty::B32)?.at;
                let d = self.dst(f.operand(0)?, ty)?.at;
                self.emit(Op::Redux { rmw, signed: ty.signed(), d, a, mask })
            }
        }
    }

    /// A call: the body of the function is put in place, its parameters being the variables that the caller filled.
    fn call(&mut self, mut f: Form) -> Res<()> {
        f.flag("uni");
        f.finish()?;
        let mut rets: &[Operand] = &[];
        let mut args: &[Operand] = &[];
        let (mut name, mut prototype) = (None, None);
        for o in &f.inst.operands {
            match (o, name) {
                (Operand::List(v), None) => rets = v,
                (Operand::List(v), Some(_)) => args = v,
                (Operand::Name(n, 0), None) => name = Some(n),
                (Operand::Name(n, 0), Some(_)) => prototype = Some(n),
                _ => return Err(f.unknown("it takes results, a function, parameters and a prototype")),
            }
        }
        let Some(name) = name else { return Err(f.unknown("it names no function")) };
        let find = |l: &Self, o: &Operand| match o {
            Operand::Name(n, 0) => match l.find_var(n) {
                Some(v) => Ok(v),
                None => l.err(format!("argument `{n}` of a call is not a .param variable")),
            },
            o => l.err(format!("argument `{o}` of a call is not a .param variable")),
        };
        let rets = rets.iter().map(|o| find(self, o)).collect::<Res<Vec<_>>>()?;
        let args = args.iter().map(|o| find(self, o)).collect::<Res<Vec<_>>>()?;
        if let Some(reg) = self.find_reg(name)? {
            return self.indirect(&f, reg, prototype, &rets, &args);
        }
        match (&name[..], &args[..]) {
            ("vprintf", [format, list]) => {
                let format = self.read_argument(format, 8)?;
                let list = self.read_argument(list, 8)?;
                let result = self.row(false)?;
                self.syscalls.push(Syscall::Printf(format, list, result));
                self.emit(Op::Syscall(self.syscalls.len() as u32 - 1))?;
                if let Some(r) = rets.first() {
                    self.write_result(r, result)?;
                }
                return Ok(());
            }
            ("__assertfail", [message, file, line, function, ..]) => {
                let rows = [
                    self.read_argument(message, 8)?,
                    self.read_argument(file, 8)?,
                    self.read_argument(line, 4)?,
                    self.read_argument(function, 8)?,
                ];
                // Syscall::Assert takes message, file, line, function.
                self.syscalls.push(Syscall::Assert(rows));
                return self.emit(Op::Syscall(self.syscalls.len() as u32 - 1));
            }
            _ => {}
        }
        let module = self.module;
        let Some(callee) = module.functions.iter().find(|g| g.name == *name && g.body.is_some()) else {
            return Err(
                f.unknown(&format!("function `{name}` has no body in this module and is no known system function"))
            );
        };
        if self.calls.contains(&callee.name) {
            return Err(f.unknown(&format!("`{name}` calls itself, and recursion is not supported")));
        }
        if callee.params.len() != args.len() || callee.rets.len() != rets.len() {
            return Err(f.unknown(&format!(
                "`{name}` takes {} parameters and gives {}",
                callee.params.len(),
                callee.rets.len()
            )));
        }
        // Lanes that the guard excludes go around the body.
        let end = self.new_label();
        let guard = self.around(end)?;
        self.inline(&f, callee, &rets, &args)?;
        self.guard = guard;
        self.labels[end] = Some(self.code.len() as u32);
        Ok(())
    }

    /// Sends the lanes that the guard excludes to `end` and clears the guard, which is returned.
    fn around(&mut self, end: usize) -> Res<Pred> {
        let guard = self.guard;
        if guard.at != NONE {
            self.guard.not = !guard.not;
            self.emit(Op::Bra { target: end as u32, join: NONE })?;
        }
        self.guard = Pred { at: NONE, not: false };
        Ok(guard)
    }

    /// A call through a register: one comparison and one body for every function that the prototype fits.
    fn indirect(
        &mut self,
        f: &Form,
        reg: Reg,
        prototype: Option<&String>,
        rets: &[Location],
        args: &[Location],
    ) -> Res<()> {
        let Reg::Row(at @ Row { wide: true, .. }, _) = reg else {
            return Err(f.unknown("the register of an indirect call must have 64 bits"));
        };
        let Some(name) = prototype else { return Err(f.unknown("an indirect call needs a prototype")) };
        let Some(want) = self.scopes.iter().rev().find_map(|s| s.prototypes.get(name)).cloned() else {
            return Err(f.unknown(&format!("`{name}` is not a call prototype")));
        };
        if (want.rets.len(), want.params.len()) != (rets.len(), args.len()) {
            return Err(f.unknown("the call does not fit its prototype"));
        }
        let end = self.new_label();
        let guard = self.around(end)?;
        let module = self.module;
        for callee in &module.functions {
            let fits = callee.body.is_some() && !callee.entry && Prototype::of(&callee.rets, &callee.params) == want;
            // Recursion through a pointer ends at the trap below.
            if !fits || !self.address_taken(&callee.name) || self.calls.contains(&callee.name) {
                continue;
            }
            let Some(value) = module.function_address(&callee.name) else { continue };
            let value = self.konst(value, true)?;
            let (other, next) = (self.preds, self.new_label());
            self.preds += 1;
            let cmp = Cmp::Ne64.resolve(self.level);
            self.emit(Op::Setp {
                f: cmp,
                a: at.at,
                b: value.at,
                swap: false,
                d: other,
                q: NONE,
                combine: Combine::None,
            })?;
            self.guard = Pred { at: other, not: false };
            self.emit(Op::Bra { target: next as u32, join: NONE })?;
            self.guard = Pred { at: NONE, not: false };
            self.inline(f, callee, rets, args)?;
            self.emit(Op::Bra { target: end as u32, join: NONE })?;
            self.labels[next] = Some(self.code.len() as u32);
        }
        self.emit(Op::BadCall { at })?;
        self.guard = guard;
        self.labels[end] = Some(self.code.len() as u32);
        Ok(())
    }

    /// Whether a function is named anywhere but in a call.
    fn address_taken(&self, name: &str) -> bool {
        fn moved(stmts: &[Stmt], name: &str) -> bool {
            stmts.iter().any(|s| match s {
                Stmt::Block(b) => moved(b, name),
                Stmt::Inst(i) => {
                    i.opcode[0] != "call" && i.operands.iter().any(|o| matches!(o, Operand::Name(n, _) if n == name))
                }
                _ => false,
            })
        }
        let named = |i: &Init| matches!(i, Init::Symbol(n, _) if n == name);
        self.module.vars.iter().any(|v| v.init.iter().any(named))
            || self.module.functions.iter().any(|f| f.body.as_ref().is_some_and(|b| moved(b, name)))
    }

    /// The body of a function, here and now.
    fn inline(&mut self, f: &Form, callee: &Function, rets: &[Location], args: &[Location]) -> Res<()> {
        if self.calls.len() >= MAX_CALLS {
            return Err(f.unknown(&format!("calls are nested more than {MAX_CALLS} deep")));
        }
        let mut scope = Scope { wall: true, ..Scope::default() };
        for (formal, actual) in callee.params.iter().zip(args).chain(callee.rets.iter().zip(rets)) {
            scope.vars.insert(formal.name.clone(), *actual);
        }
        let end = self.new_label();
        let saved = (self.line, self.loc, self.opcode);
        self.scopes.push(scope);
        self.calls.push(callee.name.clone());
        self.returns.push(end);
        let result = self.body(callee.body.as_deref().unwrap_or_default());
        self.returns.pop();
        self.calls.pop();
        self.scopes.pop();
        result?;
        (self.line, self.loc, self.opcode) = saved;
        self.guard = Pred { at: NONE, not: false };
        self.labels[end] = Some(self.code.len() as u32);
        Ok(())
    }

    fn read_argument(&mut self, v: &Location, bytes: u32) -> Res<Row> {
        let row = self.row(bytes == 8)?;
        let addr = self.konst(v.at, true)?;
        self.accesses.push(Access {
            space: Space::Local,
            elem: bytes,
            signed: false,
            addr,
            offset: 0,
            regs: vec![row],
            used: u32::MAX,
            strong: Strength::Weak,
            release: false,
            readonly: false,
        });
        self.emit(Op::Ld(self.accesses.len() as u32 - 1))?;
        Ok(row)
    }

    fn write_result(&mut self, v: &Location, row: Row) -> Res<()> {
        let addr = self.konst(v.at, true)?;
        self.accesses.push(Access {
            space: Space::Local,
            elem: 4,
            signed: false,
            addr,
            offset: 0,
            regs: vec![row],
            used: u32::MAX,
            strong: Strength::Weak,
            release: false,
            readonly: false,
        });
        self.emit(Op::St(self.accesses.len() as u32 - 1))
    }
}
