//! A hand-written parser for PTX. It knows directives, statements and operands, not instructions; every input either
//! parses or is refused with a line and a reason, and none makes it panic.

use super::ast::*;
use super::{Cause, LoadError};

type Res<T> = Result<T, LoadError>;

/// PTX version of CUDA 13.0, which this driver is.
const NEWEST: (u32, u32) = (9, 0);

/// Braces may nest this deep, in statements and in operands.
const MAX_DEPTH: u32 = 64;
/// Registers one `.reg` may declare.
const MAX_REGS: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq)]
enum Tok<'a> {
    /// Names, opcodes and directives with their dots.
    Word(&'a str),
    Num(Number),
    Str(&'a str),
    Punct(u8),
    End,
}

fn word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'.' | b'%')
}

fn lex(text: &str) -> Res<Vec<(Tok<'_>, u32)>> {
    let s = text.as_bytes();
    let mut out = Vec::with_capacity(s.len() / 4);
    let (mut i, mut line) = (0, 1u32);
    while i < s.len() {
        let b = s[i];
        match b {
            b'\n' => {
                line += 1;
                i += 1;
            }
            b' ' | b'\t' | b'\r' | 0 => i += 1,
            b'/' if s.get(i + 1) == Some(&b'/') => {
                while i < s.len() && s[i] != b'\n' {
                    i += 1;
                }
            }
            b'/' if s.get(i + 1) == Some(&b'*') => {
                let start = line;
                i += 2;
                loop {
                    match s.get(i) {
                        None => return Err(LoadError::new(start, "comment opened with `/*` is never closed")),
                        Some(b'*') if s.get(i + 1) == Some(&b'/') => break,
                        Some(b'\n') => line += 1,
                        _ => {}
                    }
                    i += 1;
                }
                i += 2;
            }
            b'"' => {
                let start = i + 1;
                i = start;
                while i < s.len() && s[i] != b'"' && s[i] != b'\n' {
                    i += 1;
                }
                if s.get(i) != Some(&b'"') {
                    return Err(LoadError::new(line, "string is never closed"));
                }
                out.push((Tok::Str(&text[start..i]), line));
                i += 1;
            }
            b'0'..=b'9' => {
                let start = i;
                while i < s.len() && (word_byte(s[i]) || (matches!(s[i], b'+' | b'-') && exponent(&s[start..i]))) {
                    i += 1;
                }
                let word = &text[start..i];
                let n = number(word).ok_or_else(|| LoadError::new(line, format!("`{word}` is not a number")))?;
                out.push((Tok::Num(n), line));
            }
            _ if word_byte(b) => {
                let start = i;
                while i < s.len() {
                    if word_byte(s[i]) {
                        i += 1;
                    } else if s[i] == b':' && s.get(i + 1) == Some(&b':') && s.get(i + 2).is_some_and(|&c| word_byte(c))
                    {
                        i += 2;
                    } else {
                        break;
                    }
                }
                // Directives may follow each other without a space: `.reg.b32` is two of them.
                let word = &text[start..i];
                match word.strip_prefix('.') {
                    Some(_) => {
                        let mut from = 0;
                        for (dot, _) in word.match_indices('.').skip(1).chain([(word.len(), "")]) {
                            out.push((Tok::Word(&word[from..dot]), line));
                            from = dot;
                        }
                    }
                    None => out.push((Tok::Word(word), line)),
                }
            }
            b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'<' | b'>' | b',' | b';' | b':' | b'+' | b'-' | b'!' | b'@'
            | b'|' | b'=' | b'~' => {
                out.push((Tok::Punct(b), line));
                i += 1;
            }
            _ => {
                let c = text[i..].chars().next().unwrap_or('?');
                return Err(LoadError::new(line, format!("character `{}` has no place in PTX", c.escape_default())));
            }
        }
    }
    out.push((Tok::End, line));
    Ok(out)
}

/// Whether a number so far is a decimal float that has just read its `e`.
fn exponent(word: &[u8]) -> bool {
    matches!(word.last(), Some(b'e' | b'E')) && word.contains(&b'.')
}

fn number(word: &str) -> Option<Number> {
    let radix = |digits: &str, base| {
        let digits = digits.strip_suffix(['U', 'u']).unwrap_or(digits);
        u64::from_str_radix(digits, base).ok().map(Number::Int)
    };
    if !word.is_ascii() {
        return None;
    }
    match word.get(..2) {
        Some("0f" | "0F") if word.len() == 10 => u32::from_str_radix(&word[2..], 16).ok().map(Number::F32),
        Some("0d" | "0D") if word.len() == 18 => u64::from_str_radix(&word[2..], 16).ok().map(Number::F64),
        Some("0x" | "0X") => radix(&word[2..], 16),
        Some("0b" | "0B") => radix(&word[2..], 2),
        _ if word.contains('.') || word.contains(['e', 'E']) => {
            word.parse::<f64>().ok().map(|v| Number::F64(v.to_bits()))
        }
        _ if word.len() > 1 && word.starts_with('0') && word != "0U" => radix(&word[1..], 8),
        _ => radix(word, 10),
    }
}

struct Parser<'a> {
    toks: Vec<(Tok<'a>, u32)>,
    at: usize,
}

/// Parses a PTX file.
pub fn parse(text: &str) -> Res<Module> {
    let mut p = Parser { toks: lex(text)?, at: 0 };
    let mut m = Module::default();
    while *p.peek() != Tok::End {
        p.module_item(&mut m)?;
    }
    if m.version == (0, 0) {
        return Err(LoadError::new(1, "no `.version` directive: this is not a PTX file"));
    }
    Ok(m)
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &Tok<'a> {
        &self.toks[self.at].0
    }

    fn line(&self) -> u32 {
        self.toks[self.at].1
    }

    fn next(&mut self) -> Tok<'a> {
        let tok = self.toks[self.at].0.clone();
        if self.at + 1 < self.toks.len() {
            self.at += 1;
        }
        tok
    }

    fn fail<T>(&self, wanted: &str) -> Res<T> {
        let got = match self.peek() {
            Tok::Word(w) => format!("`{w}`"),
            Tok::Num(n) => format!("`{n}`"),
            Tok::Str(s) => format!("string \"{s}\""),
            Tok::Punct(b) => format!("`{}`", *b as char),
            Tok::End => "the end of the file".to_string(),
        };
        Err(LoadError::new(self.line(), format!("expected {wanted}, got {got}")))
    }

    fn is(&self, punct: u8) -> bool {
        *self.peek() == Tok::Punct(punct)
    }

    fn eat(&mut self, punct: u8) -> bool {
        let hit = self.is(punct);
        if hit {
            self.next();
        }
        hit
    }

    fn need(&mut self, punct: u8) -> Res<()> {
        if self.eat(punct) { Ok(()) } else { self.fail(&format!("`{}`", punct as char)) }
    }

    fn word(&mut self, wanted: &str) -> Res<&'a str> {
        match *self.peek() {
            Tok::Word(w) => {
                self.next();
                Ok(w)
            }
            _ => self.fail(wanted),
        }
    }

    fn int(&mut self) -> Res<u64> {
        match *self.peek() {
            Tok::Num(Number::Int(v)) => {
                self.next();
                Ok(v)
            }
            _ => self.fail("an integer"),
        }
    }

    fn small(&mut self) -> Res<u32> {
        let line = self.line();
        let v = self.int()?;
        u32::try_from(v).map_err(|_| LoadError::new(line, format!("{v} does not fit 32 bits")))
    }

    /// A number with an optional sign.
    fn signed_number(&mut self) -> Res<Number> {
        let negative = self.eat(b'-');
        if !negative {
            self.eat(b'+');
        }
        match *self.peek() {
            Tok::Num(n) => {
                self.next();
                Ok(match (negative, n) {
                    (false, n) => n,
                    (true, Number::Int(v)) => Number::Int(v.wrapping_neg()),
                    (true, Number::F32(v)) => Number::F32(v ^ 0x8000_0000),
                    (true, Number::F64(v)) => Number::F64(v ^ (1 << 63)),
                })
            }
            _ => self.fail("a number"),
        }
    }

    /// Zero or more `+n` and `-n`, as in `[%rd1+-16]`.
    fn offset(&mut self) -> Res<i64> {
        let mut sum = 0i64;
        while self.is(b'+') || self.is(b'-') {
            let minus = self.is(b'-');
            if !minus {
                self.next();
            }
            let line = self.line();
            match self.signed_number()? {
                Number::Int(v) => sum = sum.wrapping_add(v as i64),
                _ => return Err(LoadError::new(line, "an address offset must be an integer")),
            }
        }
        Ok(sum)
    }

    fn module_item(&mut self, m: &mut Module) -> Res<()> {
        let line = self.line();
        let word = self.word("a directive")?;
        match word {
            ".version" => {
                // `9.0` was read as one decimal number.
                let version = match self.next() {
                    Tok::Num(Number::F64(bits)) => f64::from_bits(bits),
                    Tok::Num(Number::Int(v)) => v as f64,
                    _ => return Err(LoadError::new(line, "expected a version such as 8.2 after `.version`")),
                };
                let tenths = (version * 10.0).round() as u32;
                m.version = (tenths / 10, tenths % 10);
                if m.version > NEWEST {
                    let (major, minor) = NEWEST;
                    let text = format!("PTX {version:.1} is newer than {major}.{minor}, the last version of CUDA 13.0");
                    return Err(LoadError { cause: Cause::Version, ..LoadError::new(line, text) });
                }
            }
            ".target" => {
                m.target_line = line;
                m.target = self.word("a target such as sm_80")?.to_string();
                while self.eat(b',') {
                    self.word("a target option")?;
                }
            }
            ".address_size" => {
                if self.int()? != 64 {
                    return Err(LoadError::new(line, "only `.address_size 64` is supported: compile with -m64"));
                }
            }
            ".file" => {
                let id = self.small()?;
                if let Tok::Str(s) = self.next() {
                    m.files.insert(id, s.to_string());
                } else {
                    return Err(LoadError::new(line, "expected a path in quotes after `.file`"));
                }
                while self.eat(b',') {
                    self.int()?;
                }
            }
            ".section" => {
                self.word("a section name")?;
                self.skip_braces()?;
            }
            ".pragma" => {
                self.next();
                self.need(b';')?;
            }
            ".alias" => {
                return Err(LoadError::new(line, "`.alias` is not supported: call the aliasee by its own name"));
            }
            _ => {
                let mut external = false;
                let mut word = word;
                loop {
                    match word {
                        ".visible" | ".weak" | ".common" => {}
                        ".extern" => external = true,
                        _ => break,
                    }
                    word = self.word("a directive after the linkage")?;
                }
                match word {
                    ".entry" | ".func" => {
                        let f = self.function(word == ".entry", line)?;
                        m.functions.push(f);
                    }
                    ".global" | ".const" | ".shared" | ".local" => {
                        let space = Space::parse(&word[1..]).unwrap_or(Space::Global);
                        m.vars.extend(self.vars(space, external, line)?);
                    }
                    _ => {
                        return Err(LoadError::new(
                            line,
                            format!("directive `{word}` is not supported at module scope"),
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    fn skip_braces(&mut self) -> Res<()> {
        let line = self.line();
        self.need(b'{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.next() {
                Tok::Punct(b'{') => depth += 1,
                Tok::Punct(b'}') => depth -= 1,
                Tok::End => return Err(LoadError::new(line, "section is never closed")),
                _ => {}
            }
        }
        Ok(())
    }

    /// `.align 8 .b8 name[16]`, without the leading space and without the end.
    fn declarator(&mut self, space: Space, external: bool, line: u32) -> Res<(Var, u64)> {
        let (mut align, mut ty, mut lanes) = (0, None, 1);
        while let Tok::Word(w) = *self.peek() {
            match w {
                ".align" => {
                    self.next();
                    align = self.int()?;
                }
                ".ptr" => {
                    self.next();
                }
                ".v2" | ".v4" => {
                    self.next();
                    lanes = if w == ".v2" { 2 } else { 4 };
                }
                ".attribute" => {
                    return Err(LoadError::new(line, "`.attribute` (managed or unified variables) is not supported"));
                }
                _ if w.starts_with('.') => {
                    // `.ptr .global .align 4 name` repeats a space, which says nothing new.
                    self.next();
                    if let Some(t) = Ty::parse(&w[1..]) {
                        ty = Some(t);
                    } else if Space::parse(&w[1..]).is_none() {
                        return Err(LoadError::new(line, format!("type `{w}` is not supported")));
                    }
                }
                _ => break,
            }
        }
        let Some(ty) = ty else { return self.fail("a type such as .b32") };
        let var = Var {
            name: self.word("a variable name")?.to_string(),
            space,
            ty,
            elems: lanes,
            align: align.max(u64::from(ty.bytes())),
            init: Vec::new(),
            external,
            line,
        };
        if !var.align.is_power_of_two() || var.align > 1 << 20 {
            return Err(LoadError::new(line, format!("alignment {} is not a power of two up to 2^20", var.align)));
        }
        Ok((var, lanes))
    }

    fn extents(&mut self, var: &mut Var) -> Res<()> {
        while self.eat(b'[') {
            let n = if self.is(b']') { 0 } else { self.int()? };
            self.need(b']')?;
            var.elems = var.elems.checked_mul(n).filter(|&e| e < 1 << 40).ok_or_else(|| {
                LoadError::new(var.line, format!("variable `{}` is larger than any device memory", var.name))
            })?;
        }
        Ok(())
    }

    fn vars(&mut self, space: Space, external: bool, line: u32) -> Res<Vec<Var>> {
        let (mut var, lanes) = self.declarator(space, external, line)?;
        let mut out = Vec::new();
        loop {
            self.extents(&mut var)?;
            if self.eat(b'=') {
                self.init(&mut var.init, 0)?;
                if var.elems == 0 {
                    var.elems = var.init.len() as u64;
                }
            }
            let again = self.eat(b',');
            let mut next = var.clone();
            out.push(var);
            if !again {
                break;
            }
            next.name = self.word("a variable name")?.to_string();
            next.elems = lanes;
            next.init.clear();
            var = next;
        }
        self.need(b';')?;
        Ok(out)
    }

    fn init(&mut self, out: &mut Vec<Init>, depth: u32) -> Res<()> {
        if depth > MAX_DEPTH {
            return self.fail("fewer nested braces");
        }
        match *self.peek() {
            Tok::Punct(b'{') => {
                self.next();
                while !self.eat(b'}') {
                    self.init(out, depth + 1)?;
                    if !self.eat(b',') && !self.is(b'}') {
                        return self.fail("`,` or `}` in an initialiser");
                    }
                }
            }
            Tok::Word("generic") => {
                self.next();
                self.need(b'(')?;
                let name = self.word("a variable")?.to_string();
                let offset = self.offset()?;
                self.need(b')')?;
                let after = self.offset()?;
                out.push(Init::Symbol(name, offset.wrapping_add(after)));
            }
            Tok::Word(name) => {
                self.next();
                let offset = self.offset()?;
                out.push(Init::Symbol(name.to_string(), offset));
            }
            _ => out.push(Init::Number(self.signed_number()?)),
        }
        Ok(())
    }

    fn formals(&mut self) -> Res<Vec<Var>> {
        let mut out = Vec::new();
        if !self.eat(b'(') {
            return Ok(out);
        }
        while !self.eat(b')') {
            let line = self.line();
            let word = self.word("`.param` or `.reg`")?;
            if word != ".param" && word != ".reg" {
                return Err(LoadError::new(line, format!("expected a formal `.param`, got `{word}`")));
            }
            let (mut var, _) = self.declarator(Space::Param, false, line)?;
            self.extents(&mut var)?;
            if word == ".reg" {
                return Err(LoadError::new(line, "register parameters of functions are not supported: use `.param`"));
            }
            out.push(var);
            if !self.eat(b',') && !self.is(b')') {
                return self.fail("`,` or `)` in a parameter list");
            }
        }
        Ok(out)
    }

    fn function(&mut self, entry: bool, line: u32) -> Res<Function> {
        let rets = if entry { Vec::new() } else { self.formals()? };
        let name = self.word("a function name")?.to_string();
        let params = self.formals()?;
        let mut f =
            Function { name, entry, rets, params, body: None, maxntid: [0; 3], reqntid: [0; 3], maxnreg: 0, line };
        loop {
            let line = self.line();
            match *self.peek() {
                Tok::Punct(b'{') => {
                    self.next();
                    f.body = Some(self.block(0)?);
                    return Ok(f);
                }
                Tok::Punct(b';') => {
                    self.next();
                    return Ok(f);
                }
                Tok::Word(w) => {
                    self.next();
                    match w {
                        ".maxntid" => f.maxntid = self.triple()?,
                        ".reqntid" => f.reqntid = self.triple()?,
                        ".maxnreg" => f.maxnreg = self.small()?,
                        ".minnctapersm" | ".maxnctapersm" => {
                            self.int()?;
                        }
                        ".noreturn" => {}
                        ".pragma" => {
                            self.next();
                            self.eat(b';');
                        }
                        _ => {
                            return Err(LoadError::new(
                                line,
                                format!("directive `{w}` is not supported on a function"),
                            ));
                        }
                    }
                }
                _ => return self.fail("a body, `;` or a directive"),
            }
        }
    }

    fn triple(&mut self) -> Res<[u32; 3]> {
        let mut out = [self.small()?, 1, 1];
        let mut i = 1;
        while i < 3 && self.eat(b',') {
            out[i] = self.small()?;
            i += 1;
        }
        Ok(out)
    }

    fn block(&mut self, depth: u32) -> Res<Vec<Stmt>> {
        if depth > MAX_DEPTH {
            return self.fail("fewer nested braces");
        }
        let mut out = Vec::new();
        loop {
            let line = self.line();
            match *self.peek() {
                Tok::Punct(b'}') => {
                    self.next();
                    return Ok(out);
                }
                Tok::Punct(b'{') => {
                    self.next();
                    out.push(Stmt::Block(self.block(depth + 1)?));
                }
                Tok::Punct(b';') => {
                    self.next();
                }
                Tok::Punct(b'@') => out.push(Stmt::Inst(self.inst()?)),
                Tok::Word(w) if w.starts_with('.') => {
                    self.next();
                    self.body_directive(w, line, &mut out)?;
                }
                Tok::Word(w) => {
                    if self.toks.get(self.at + 1).map(|t| &t.0) == Some(&Tok::Punct(b':')) {
                        self.next();
                        self.next();
                        if *self.peek() == Tok::Word(".branchtargets") {
                            self.next();
                            let mut names = Vec::new();
                            loop {
                                names.push(self.word("a label")?.to_string());
                                if !self.eat(b',') {
                                    break;
                                }
                            }
                            self.need(b';')?;
                            out.push(Stmt::Targets(w.to_string(), names));
                        } else if *self.peek() == Tok::Word(".callprototype") {
                            self.next();
                            let rets = self.formals()?;
                            self.word("a name, which is `_`")?;
                            let params = self.formals()?;
                            if *self.peek() == Tok::Word(".noreturn") {
                                self.next();
                            }
                            self.need(b';')?;
                            out.push(Stmt::Prototype(w.to_string(), Prototype::of(&rets, &params)));
                        } else {
                            out.push(Stmt::Label(w.to_string(), line));
                        }
                    } else {
                        out.push(Stmt::Inst(self.inst()?));
                    }
                }
                _ => return self.fail("a statement"),
            }
        }
    }

    fn body_directive(&mut self, word: &str, line: u32, out: &mut Vec<Stmt>) -> Res<()> {
        match word {
            ".reg" => {
                let w = self.word("a register type")?;
                let Some(ty) = w.strip_prefix('.').and_then(Ty::parse) else {
                    return Err(LoadError::new(line, format!("registers of type `{w}` are not supported")));
                };
                loop {
                    let name = self.word("a register name")?.to_string();
                    let count = if self.eat(b'<') {
                        let n = self.int()?;
                        self.need(b'>')?;
                        if n > MAX_REGS {
                            return Err(LoadError::new(
                                line,
                                format!("`.reg` declares {n} registers, limit {MAX_REGS}"),
                            ));
                        }
                        n as u32
                    } else {
                        0
                    };
                    out.push(Stmt::Reg(ty, name, count, line));
                    if !self.eat(b',') {
                        break;
                    }
                }
                self.need(b';')
            }
            ".local" | ".shared" | ".param" | ".global" | ".const" => {
                let space = Space::parse(&word[1..]).unwrap_or(Space::Local);
                out.extend(self.vars(space, false, line)?.into_iter().map(Stmt::Var));
                Ok(())
            }
            ".loc" => {
                let file = self.small()?;
                let source_line = self.small()?;
                self.int()?;
                let mut at = (0, 0);
                // `, function_name label+offset, inlined_at file line column`
                while self.eat(b',') {
                    match self.word("function_name or inlined_at")? {
                        "inlined_at" => {
                            at = (self.small()?, self.small()?);
                            self.int()?;
                        }
                        _ => {
                            self.word("a label")?;
                            self.offset()?;
                        }
                    }
                }
                out.push(Stmt::Loc((file, source_line), at));
                Ok(())
            }
            ".pragma" => {
                if let Tok::Str(s) = self.next() {
                    out.push(Stmt::Pragma(s.to_string()));
                } else {
                    return Err(LoadError::new(line, "expected a string after `.pragma`"));
                }
                self.need(b';')
            }
            _ => Err(LoadError::new(line, format!("directive `{word}` is not supported inside a function"))),
        }
    }

    fn inst(&mut self) -> Res<Inst> {
        let guard = if self.eat(b'@') {
            let negated = self.eat(b'!');
            Some((self.word("a predicate")?.to_string(), negated))
        } else {
            None
        };
        let line = self.line();
        let word = self.word("an opcode")?;
        let opcode = word.split('.').map(str::to_string).collect();
        let mut operands = Vec::new();
        if !self.eat(b';') {
            loop {
                let named = |e: LoadError| LoadError { message: format!("`{word}`: {}", e.message), ..e };
                operands.push(self.operand(0).map_err(named)?);
                if !self.eat(b',') {
                    break;
                }
            }
            self.need(b';')?;
        }
        Ok(Inst { guard, opcode, operands, line })
    }

    fn operand_list(&mut self, close: u8, depth: u32) -> Res<Vec<Operand>> {
        let mut out = Vec::new();
        while !self.eat(close) {
            out.push(self.operand(depth + 1)?);
            if !self.eat(b',') && !self.is(close) {
                return self.fail("`,` or the closing bracket");
            }
        }
        Ok(out)
    }

    fn operand(&mut self, depth: u32) -> Res<Operand> {
        if depth > MAX_DEPTH {
            return self.fail("fewer nested brackets");
        }
        match *self.peek() {
            Tok::Punct(b'{') => {
                self.next();
                Ok(Operand::Vector(self.operand_list(b'}', depth)?))
            }
            Tok::Punct(b'(') => {
                self.next();
                Ok(Operand::List(self.operand_list(b')', depth)?))
            }
            Tok::Punct(b'!') => {
                self.next();
                Ok(Operand::Not(self.word("a predicate")?.to_string()))
            }
            Tok::Punct(b'[') => {
                self.next();
                let op = match *self.peek() {
                    Tok::Word(name) => {
                        self.next();
                        Operand::Mem(name.to_string(), self.offset()?)
                    }
                    _ => match self.signed_number()? {
                        Number::Int(v) => Operand::Mem(String::new(), v as i64),
                        _ => return self.fail("an integer address"),
                    },
                };
                if self.is(b',') {
                    let text = "operands like `[map, {x, y}]` belong to textures and tensors, which are not supported";
                    return Err(LoadError::new(self.line(), text));
                }
                self.need(b']')?;
                Ok(op)
            }
            Tok::Punct(b'-' | b'+') | Tok::Num(_) => Ok(Operand::Number(self.signed_number()?)),
            Tok::Word("_") => {
                self.next();
                if self.eat(b'|') {
                    return Ok(Operand::Pair("_".to_string(), self.word("a predicate")?.to_string()));
                }
                Ok(Operand::Sink)
            }
            Tok::Word(name) => {
                self.next();
                if self.eat(b'|') {
                    return Ok(Operand::Pair(name.to_string(), self.word("a predicate")?.to_string()));
                }
                Ok(Operand::Name(name.to_string(), self.offset()?))
            }
            _ => self.fail("an operand"),
        }
    }
}
