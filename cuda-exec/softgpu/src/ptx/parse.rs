//! Parses PTX text into declarations and statements. Registers are resolved to numbers here, since their
//! scopes are known here; mnemonics stay text until [`super::lower`] decides what they mean.

use super::PtxError;
use super::lexer::{Tok, lex};
use super::types::{Space, Special, Ty};
use std::collections::{HashMap, HashSet};

/// A parsed PTX module.
#[derive(Debug, Default)]
pub struct Module {
    /// `.version`, e.g. (8, 0).
    pub version: (u32, u32),
    /// `.target`, e.g. `sm_90`.
    pub target: String,
    /// Module-scope variables, in the global, constant and shared spaces.
    pub vars: Vec<Var>,
    /// Kernels and device functions.
    pub functions: Vec<Function>,
}

/// A variable in memory.
#[derive(Clone, Debug)]
pub struct Var {
    pub name: String,
    pub space: Space,
    pub align: usize,
    pub ty: Ty,
    /// Size in bytes; 0 for an array whose size is given at launch.
    pub size: usize,
    pub init: Vec<Init>,
    /// Host and device share it.
    pub managed: bool,
    pub line: u32,
}

/// One element of an initialiser.
#[derive(Clone, Debug)]
pub enum Init {
    /// A number.
    Literal(Literal),
    /// The address of a variable plus an offset.
    Address(String, i64),
}

/// A number in the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Literal {
    Int(u64),
    F32(u32),
    F64(u64),
}

/// A kernel (`.entry`) or device function (`.func`).
#[derive(Debug)]
pub struct Function {
    pub name: String,
    pub is_entry: bool,
    /// False for a declaration.
    pub has_body: bool,
    pub params: Vec<Param>,
    pub returns: Vec<Param>,
    /// How many registers the body uses; they are numbered from 0.
    pub registers: u32,
    /// Variables of the body, in the shared, local and parameter spaces.
    pub vars: Vec<Var>,
    pub body: Vec<Stmt>,
    /// `(scope, name)` to index in `body`.
    pub labels: HashMap<(u32, String), usize>,
    /// The enclosing scope of each scope; scope 0 is the body itself.
    pub scopes: Vec<u32>,
    /// What functions that are called by address take and give, by label.
    pub prototypes: HashMap<String, Prototype>,
    /// Product of `.maxntid` or `.reqntid`, if given.
    pub max_threads: Option<u32>,
    /// `.reqntid`
    pub required_threads: Option<[u32; 3]>,
    pub line: u32,
}

/// What a function takes and gives.
#[derive(Clone, Debug, Default)]
pub struct Prototype {
    pub params: Vec<Param>,
    pub returns: Vec<Param>,
}

/// A parameter or return value.
#[derive(Clone, Debug)]
pub struct Param {
    pub name: String,
    /// Size and alignment in bytes.
    pub size: usize,
    pub align: usize,
    /// Where it lies in the parameter buffer, in bytes.
    pub offset: usize,
    /// The register, for a `.reg` parameter of a device function.
    pub register: Option<u32>,
}

/// One instruction as written.
#[derive(Debug)]
pub struct Stmt {
    pub line: u32,
    /// The guard: predicate register, and whether it is negated.
    pub guard: Option<(u32, bool)>,
    /// The mnemonic with all its qualifiers.
    pub op: String,
    pub args: Vec<Arg>,
    /// The scope it stands in, for labels.
    pub scope: u32,
}

/// One operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    Reg(u32),
    /// `!%p`
    NotReg(u32),
    Special(Special),
    Literal(Literal),
    /// A variable, function or label; with an offset where written `name+4`.
    Symbol(String, i64),
    /// `[base+offset]`
    Address(Box<Arg>, i64),
    /// `{a, b}`
    Vector(Vec<Arg>),
    /// `(a, b)`
    List(Vec<Arg>),
    /// `a|b`
    Pair(Box<Arg>, Box<Arg>),
    /// `_`
    Sink,
}

/// Parses a whole module.
pub fn parse(text: &str) -> Result<Module, PtxError> {
    let mut parser = Parser {
        toks: lex(text)?,
        at: 0,
        depth: 0,
    };
    parser.module()
}

struct Parser<'a> {
    toks: Vec<(Tok<'a>, u32)>,
    at: usize,
    /// Brackets open in the operand or initial value being parsed.
    depth: u32,
}

/// Names in force while a body is parsed.
#[derive(Default)]
struct Body {
    registers: u32,
    /// For each open scope: its number, its register names and its variables' names.
    open: Vec<(u32, HashMap<String, u32>, HashSet<String>)>,
    scopes: Vec<u32>,
    stmts: Vec<Stmt>,
    vars: Vec<Var>,
    labels: HashMap<(u32, String), usize>,
    prototypes: HashMap<String, Prototype>,
}

impl Body {
    fn scope(&self) -> u32 {
        self.open.last().map_or(0, |s| s.0)
    }

    fn enter(&mut self) {
        let number = self.scopes.len() as u32;
        self.scopes.push(self.scope());
        self.open.push((number, HashMap::new(), HashSet::new()));
    }

    fn declare(&mut self, name: String) -> u32 {
        let number = self.registers;
        self.registers += 1;
        if let Some(scope) = self.open.last_mut() {
            scope.1.insert(name, number);
        }
        number
    }

    /// Adds a variable. In an inner scope its name may be another's as well, so it gets one of its own.
    fn add_var(&mut self, mut var: Var) {
        if let Some((number, _, names)) = self.open.last_mut().filter(|scope| scope.0 > 0) {
            names.insert(var.name.clone());
            var.name = format!("{}@{number}", var.name);
        }
        self.vars.push(var);
    }

    /// What a name that is no register stands for.
    fn symbol(&self, name: &str) -> String {
        match self.open.iter().rev().find(|scope| scope.2.contains(name)) {
            Some((number, ..)) => format!("{name}@{number}"),
            None => name.to_owned(),
        }
    }

    fn register(&self, name: &str) -> Option<u32> {
        self.open.iter().rev().find_map(|s| s.1.get(name).copied())
    }
}

/// Far above what a compiler emits, far below what would exhaust memory.
const MAX_REGISTERS: u32 = 60_000;
/// Brackets in brackets.
const MAX_NESTING: u32 = 16;
/// Parameters of one kernel, in bytes, as PTX has it.
const MAX_PARAMS: usize = 32_764;

impl<'a> Parser<'a> {
    fn line(&self) -> u32 {
        self.toks.get(self.at).or(self.toks.last()).map_or(1, |t| t.1)
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T, PtxError> {
        Err(PtxError::new(self.line(), message))
    }

    fn peek(&self) -> Option<Tok<'a>> {
        self.toks.get(self.at).map(|t| t.0)
    }

    fn next(&mut self) -> Result<Tok<'a>, PtxError> {
        match self.peek() {
            Some(tok) => {
                self.at += 1;
                Ok(tok)
            }
            None => self.error("unexpected end of text"),
        }
    }

    fn eat(&mut self, c: u8) -> bool {
        let found = self.peek() == Some(Tok::Punct(c));
        self.at += found as usize;
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(Tok::Word(word));
        self.at += found as usize;
        found
    }

    fn expect(&mut self, c: u8) -> Result<(), PtxError> {
        if self.eat(c) {
            return Ok(());
        }
        self.error(format!("expected '{}', found {:?}", c as char, self.peek()))
    }

    fn word(&mut self) -> Result<&'a str, PtxError> {
        match self.next()? {
            Tok::Word(word) => Ok(word),
            other => {
                self.at -= 1;
                self.error(format!("expected a name, found {other:?}"))
            }
        }
    }

    fn int(&mut self) -> Result<u64, PtxError> {
        match self.next()? {
            Tok::Int(v) => Ok(v),
            other => {
                self.at -= 1;
                self.error(format!("expected a number, found {other:?}"))
            }
        }
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.at < self.toks.len() && self.toks[self.at].1 == line {
            self.at += 1;
        }
    }

    fn module(&mut self) -> Result<Module, PtxError> {
        let mut module = Module::default();
        while let Some(tok) = self.peek() {
            let Tok::Word(word) = tok else {
                return self.error(format!("expected a directive, found {tok:?}"));
            };
            match word {
                ".version" => {
                    self.at += 1;
                    module.version = self.version()?;
                }
                ".target" => {
                    self.at += 1;
                    module.target = self.word()?.to_owned();
                    while self.eat(b',') {
                        self.word()?;
                    }
                }
                ".address_size" => {
                    self.at += 1;
                    if self.int()? != 64 {
                        return self.error("only 64-bit addresses are supported");
                    }
                }
                ".visible" | ".extern" | ".weak" | ".common" => self.at += 1,
                ".entry" | ".func" => {
                    let function = self.function(word == ".entry")?;
                    module.functions.push(function);
                }
                ".global" | ".const" | ".shared" => {
                    let vars = self.vars()?;
                    module.vars.extend(vars);
                }
                ".file" | ".loc" => self.skip_line(),
                ".pragma" => {
                    while !self.eat(b';') {
                        self.next()?;
                    }
                }
                ".section" => {
                    self.at += 1;
                    self.word()?;
                    self.skip_braces()?;
                }
                _ => return self.error(format!("unknown directive {word}")),
            }
        }
        if module.version == (0, 0) {
            return Err(PtxError::new(1, "no .version directive"));
        }
        Ok(module)
    }

    fn version(&mut self) -> Result<(u32, u32), PtxError> {
        match self.next()? {
            // The number went through a double; one decimal digit survives that.
            Tok::F64(bits) => {
                let tenths = (f64::from_bits(bits) * 10.0).round() as u32;
                Ok((tenths / 10, tenths % 10))
            }
            Tok::Int(major) => Ok((major as u32, 0)),
            other => self.error(format!("malformed version {other:?}")),
        }
    }

    fn skip_braces(&mut self) -> Result<(), PtxError> {
        self.expect(b'{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Tok::Punct(b'{') => depth += 1,
                Tok::Punct(b'}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// Type qualifiers up to the name: alignment, attributes, vector width, type.
    fn qualifiers(&mut self) -> Result<(usize, usize, Ty), PtxError> {
        let (mut align, mut lanes, mut ty) = (0usize, 1usize, None);
        while let Some(Tok::Word(word)) = self.peek() {
            let Some(name) = word.strip_prefix('.') else { break };
            self.at += 1;
            match name {
                "align" => align = self.int()? as usize,
                "v2" => lanes = 2,
                "v4" => lanes = 4,
                // `.ptr .global .align 4` describes where a pointer parameter points.
                "ptr" => {
                    while let Some(Tok::Word(".global" | ".const" | ".shared" | ".local" | ".generic")) =
                        self.peek()
                    {
                        self.at += 1;
                    }
                    if self.eat_word(".align") {
                        self.int()?;
                    }
                }
                "attribute" => {
                    while !self.eat(b')') {
                        self.next()?;
                    }
                }
                _ => match Ty::named(name) {
                    Some(t) => ty = Some(t),
                    None => return self.error(format!("unknown qualifier .{name}")),
                },
            }
        }
        let Some(ty) = ty else {
            return self.error("declaration without a type");
        };
        if align == 0 {
            align = ty.size() * lanes;
        }
        if !align.is_power_of_two() || align > 1 << 16 {
            return self.error(format!("alignment {align} is not possible"));
        }
        Ok((align, lanes, ty))
    }

    /// The product of the dimensions after a name, and whether one of them was left open.
    fn dimensions(&mut self) -> Result<(usize, bool), PtxError> {
        let (mut product, mut open) = (1usize, false);
        while self.eat(b'[') {
            if self.eat(b']') {
                open = true;
                continue;
            }
            let count = self.int()?;
            self.expect(b']')?;
            match usize::try_from(count).ok().and_then(|n| product.checked_mul(n)) {
                Some(p) if p < 1 << 40 => product = p,
                _ => return self.error("array too large"),
            }
        }
        Ok((product, open))
    }

    /// `.space qualifiers name[n] = init, name2 ... ;`
    fn vars(&mut self) -> Result<Vec<Var>, PtxError> {
        let line = self.line();
        let space = Space::named(&self.word()?[1..]);
        let Some(space) = space else {
            return self.error("unknown state space");
        };
        let start = self.at;
        let (align, lanes, ty) = self.qualifiers()?;
        let managed = (start..self.at).any(|at| matches!(self.toks[at].0, Tok::Word(".managed")));
        let mut vars = Vec::new();
        loop {
            let name = self.word()?.to_owned();
            let (count, open) = self.dimensions()?;
            let init = if self.eat(b'=') {
                self.initialiser()?
            } else {
                Vec::new()
            };
            let count = if open { init.len() } else { count };
            let size = count.saturating_mul(ty.size() * lanes);
            if init.len() * ty.size() > size {
                return self.error(format!("{name}: more initial values than elements"));
            }
            vars.push(Var {
                name,
                space,
                align,
                ty,
                size,
                init,
                managed,
                line,
            });
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')?;
        Ok(vars)
    }

    /// One level further into brackets; they may not be nested without end.
    fn deeper(&mut self) -> Result<(), PtxError> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            self.error("brackets nested too deeply")
        } else {
            Ok(())
        }
    }

    fn initialiser(&mut self) -> Result<Vec<Init>, PtxError> {
        self.deeper()?;
        let mut values = Vec::new();
        if self.eat(b'{') {
            while !self.eat(b'}') {
                if self.peek() == Some(Tok::Punct(b'{')) {
                    values.extend(self.initialiser()?);
                } else {
                    values.push(self.initial_value()?);
                }
                self.eat(b',');
            }
        } else {
            values.push(self.initial_value()?);
        }
        self.depth -= 1;
        Ok(values)
    }

    fn initial_value(&mut self) -> Result<Init, PtxError> {
        if let Some(Tok::Word(word)) = self.peek() {
            self.at += 1;
            if word == "generic" && self.eat(b'(') {
                let name = self.word()?.to_owned();
                self.expect(b')')?;
                let offset = self.offset()?;
                return Ok(Init::Address(name, offset));
            }
            let offset = self.offset()?;
            return Ok(Init::Address(word.to_owned(), offset));
        }
        Ok(Init::Literal(self.literal()?))
    }

    /// `+4`, `-4`, `+-4` or nothing.
    fn offset(&mut self) -> Result<i64, PtxError> {
        let mut sign = 1i64;
        let mut signed = false;
        loop {
            if self.eat(b'+') {
            } else if self.eat(b'-') {
                sign = -sign;
            } else {
                break;
            }
            signed = true;
        }
        if signed {
            Ok((self.int()? as i64).wrapping_mul(sign))
        } else {
            Ok(0)
        }
    }

    fn literal(&mut self) -> Result<Literal, PtxError> {
        let negative = self.eat(b'-');
        if !negative {
            self.eat(b'+');
        }
        Ok(match (self.next()?, negative) {
            (Tok::Int(v), false) => Literal::Int(v),
            (Tok::Int(v), true) => Literal::Int(v.wrapping_neg()),
            (Tok::F32(v), n) => Literal::F32(v ^ (n as u32) << 31),
            (Tok::F64(v), n) => Literal::F64(v ^ (n as u64) << 63),
            (other, _) => {
                self.at -= 1;
                return self.error(format!("expected a value, found {other:?}"));
            }
        })
    }

    fn params(&mut self, body: &mut Body) -> Result<Vec<Param>, PtxError> {
        let mut params: Vec<Param> = Vec::new();
        let mut end = 0usize;
        self.expect(b'(')?;
        while !self.eat(b')') {
            let space = self.word()?;
            let (align, lanes, ty) = self.qualifiers()?;
            let name = self.word()?.to_owned();
            let (count, _) = self.dimensions()?;
            let size = count * ty.size() * lanes;
            let register = match space {
                ".param" => None,
                ".reg" => Some(body.declare(name.clone())),
                _ => return self.error(format!("unknown parameter space {space}")),
            };
            let offset = end.next_multiple_of(align);
            end = offset + size;
            if end > MAX_PARAMS {
                return self.error("too many parameters");
            }
            params.push(Param {
                name,
                size,
                align,
                offset,
                register,
            });
            self.eat(b',');
        }
        Ok(params)
    }

    /// What follows `.callprototype`, with the semicolon.
    fn prototype(&mut self) -> Result<Prototype, PtxError> {
        let mut lists = [Vec::new(), Vec::new()];
        let mut scratch = Body::default();
        // Results stand before the name, which is a `_`, and parameters behind it.
        for (list, last) in lists.iter_mut().zip([false, true]) {
            if self.peek() == Some(Tok::Punct(b'(')) {
                *list = self.params(&mut scratch)?;
            }
            if !last {
                self.word()?;
            }
        }
        while !self.eat(b';') {
            self.next()?;
        }
        let [returns, params] = lists;
        Ok(Prototype { params, returns })
    }

    fn function(&mut self, is_entry: bool) -> Result<Function, PtxError> {
        let line = self.line();
        self.at += 1;
        let mut body = Body::default();
        body.enter();
        let returns = if self.peek() == Some(Tok::Punct(b'(')) {
            self.params(&mut body)?
        } else {
            Vec::new()
        };
        let name = self.word()?.to_owned();
        let params = if self.peek() == Some(Tok::Punct(b'(')) {
            self.params(&mut body)?
        } else {
            Vec::new()
        };
        let mut max_threads = None;
        let mut required_threads = None;
        // Performance directives stand between the head and the body.
        while let Some(Tok::Word(word)) = self.peek() {
            if matches!(
                word,
                ".entry" | ".func" | ".visible" | ".global" | ".extern" | ".weak"
            ) {
                break;
            }
            self.at += 1;
            if matches!(word, ".pragma") {
                while !self.eat(b';') {
                    self.next()?;
                }
                continue;
            }
            let mut sizes = [1u64; 3];
            let mut at = 0;
            while let Some(Tok::Int(v)) = self.peek() {
                self.at += 1;
                if let Some(size) = sizes.get_mut(at) {
                    *size = v;
                }
                at += 1;
                self.eat(b',');
            }
            if matches!(word, ".maxntid" | ".reqntid") {
                let product = sizes.iter().fold(1, |p: u64, v| p.saturating_mul(*v));
                max_threads = Some(product.min(1024) as u32);
            }
            if word == ".reqntid" {
                required_threads = Some(sizes.map(|v| v.min(1024) as u32));
            }
        }
        let has_body = self.peek() == Some(Tok::Punct(b'{'));
        if has_body {
            self.at += 1;
            self.block(&mut body)?;
        } else {
            self.eat(b';');
        }
        if is_entry && !has_body {
            return Err(PtxError::new(line, format!("kernel {name} has no body")));
        }
        Ok(Function {
            name,
            is_entry,
            has_body,
            params,
            returns,
            registers: body.registers,
            vars: body.vars,
            body: body.stmts,
            labels: body.labels,
            scopes: body.scopes,
            prototypes: body.prototypes,
            max_threads,
            required_threads,
            line,
        })
    }

    /// Statements up to and with the closing brace.
    fn block(&mut self, body: &mut Body) -> Result<(), PtxError> {
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Tok::Punct(b'{') => {
                    body.enter();
                    depth += 1;
                }
                Tok::Punct(b'}') => {
                    if depth > 1 {
                        body.open.pop();
                    }
                    depth -= 1;
                }
                Tok::Punct(b';') => {}
                Tok::Punct(b'@') => {
                    let negated = self.eat(b'!');
                    let name = self.word()?;
                    let Some(register) = body.register(name) else {
                        return self.error(format!("unknown predicate {name}"));
                    };
                    let op = self.word()?;
                    self.statement(body, Some((register, negated)), op)?;
                }
                Tok::Word(".reg") => self.registers(body)?,
                Tok::Word(".local" | ".shared" | ".param" | ".global" | ".const") => {
                    self.at -= 1;
                    let vars = self.vars()?;
                    vars.into_iter().for_each(|var| body.add_var(var));
                }
                Tok::Word(".loc" | ".file") => {
                    self.at -= 1;
                    self.skip_line();
                }
                Tok::Word(".pragma") => {
                    while !self.eat(b';') {
                        self.next()?;
                    }
                }
                Tok::Word(word) if self.eat(b':') => {
                    if self.eat_word(".callprototype") {
                        let prototype = self.prototype()?;
                        body.prototypes.insert(word.to_owned(), prototype);
                        continue;
                    }
                    let here = body.stmts.len();
                    body.labels.insert((body.scope(), word.to_owned()), here);
                }
                // A table of branch targets is a statement that does nothing; its label names it.
                Tok::Word(word) if !word.starts_with('.') || word == ".branchtargets" => {
                    self.statement(body, None, word)?
                }
                other => {
                    self.at -= 1;
                    return self.error(format!("unexpected {other:?}"));
                }
            }
        }
        Ok(())
    }

    fn registers(&mut self, body: &mut Body) -> Result<(), PtxError> {
        let (_, lanes, ty) = self.qualifiers()?;
        if lanes != 1 || ty.bits > 64 {
            return self.error("vector and 128-bit registers are not supported");
        }
        loop {
            let name = self.word()?;
            if self.eat(b'<') {
                let count = self.int()?;
                self.expect(b'>')?;
                if count > u64::from(MAX_REGISTERS - body.registers.min(MAX_REGISTERS)) {
                    return self.error("too many registers");
                }
                for index in 0..count {
                    body.declare(format!("{name}{index}"));
                }
            } else {
                body.declare(name.to_owned());
            }
            if body.registers > MAX_REGISTERS {
                return self.error("too many registers");
            }
            if !self.eat(b',') {
                break;
            }
        }
        self.expect(b';')
    }

    fn statement(&mut self, body: &mut Body, guard: Option<(u32, bool)>, op: &str) -> Result<(), PtxError> {
        let line = self.line();
        let mut args = Vec::new();
        if !self.eat(b';') {
            loop {
                args.push(self.arg(body)?);
                if self.eat(b';') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        body.stmts.push(Stmt {
            line,
            guard,
            op: op.to_owned(),
            args,
            scope: body.scope(),
        });
        Ok(())
    }

    fn arg(&mut self, body: &Body) -> Result<Arg, PtxError> {
        let first = self.simple_arg(body)?;
        if self.eat(b'|') {
            let second = self.simple_arg(body)?;
            return Ok(Arg::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn args_until(&mut self, body: &Body, close: u8) -> Result<Vec<Arg>, PtxError> {
        let mut args = Vec::new();
        while !self.eat(close) {
            args.push(self.simple_arg(body)?);
            self.eat(b',');
        }
        Ok(args)
    }

    fn simple_arg(&mut self, body: &Body) -> Result<Arg, PtxError> {
        self.deeper()?;
        let arg = self.nested_arg(body)?;
        self.depth -= 1;
        Ok(arg)
    }

    fn nested_arg(&mut self, body: &Body) -> Result<Arg, PtxError> {
        match self.peek() {
            Some(Tok::Punct(b'[')) => {
                self.at += 1;
                let base = self.simple_arg(body)?;
                let offset = self.offset()?;
                self.expect(b']')?;
                Ok(match base {
                    Arg::Symbol(name, inner) => {
                        Arg::Address(Box::new(Arg::Symbol(name, 0)), inner.wrapping_add(offset))
                    }
                    base => Arg::Address(Box::new(base), offset),
                })
            }
            Some(Tok::Punct(b'{')) => {
                self.at += 1;
                Ok(Arg::Vector(self.args_until(body, b'}')?))
            }
            Some(Tok::Punct(b'(')) => {
                self.at += 1;
                Ok(Arg::List(self.args_until(body, b')')?))
            }
            Some(Tok::Punct(b'!')) => {
                self.at += 1;
                let name = self.word()?;
                match body.register(name) {
                    Some(register) => Ok(Arg::NotReg(register)),
                    None => self.error(format!("unknown register {name}")),
                }
            }
            Some(Tok::Word("_")) => {
                self.at += 1;
                Ok(Arg::Sink)
            }
            Some(Tok::Word("WARP_SZ")) => {
                self.at += 1;
                Ok(Arg::Literal(Literal::Int(32)))
            }
            Some(Tok::Word(word)) => {
                self.at += 1;
                if let Some(register) = body.register(word) {
                    return Ok(Arg::Reg(register));
                }
                if word.starts_with('%') {
                    return match Special::named(word) {
                        Some(special) => Ok(Arg::Special(special)),
                        None => self.error(format!("unknown register {word}")),
                    };
                }
                let offset = self.offset()?;
                Ok(Arg::Symbol(body.symbol(word), offset))
            }
            _ => Ok(Arg::Literal(self.literal()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = ".version 8.3\n.target sm_90, debug\n.address_size 64\n";

    #[test]
    fn parameters_are_laid_out_with_their_alignment() {
        let text = format!(
            "{HEAD}.visible .entry k(.param .u32 a, .param .u64 .ptr .global .align 4 b, .param .align 8 .b8 c[12], .param .u8 d)\n.maxntid 128, 2, 1\n{{ ret; }}"
        );
        let module = parse(&text).unwrap();
        assert_eq!(module.version, (8, 3));
        let kernel = &module.functions[0];
        let layout: Vec<_> = kernel.params.iter().map(|p| (p.offset, p.size)).collect();
        assert_eq!(layout, [(0, 4), (8, 8), (16, 12), (28, 1)]);
        assert_eq!(kernel.max_threads, Some(256));
    }

    #[test]
    fn registers_and_labels_are_scoped() {
        let text = format!(
            "{HEAD}.entry k() {{ .reg .b32 %r<3>; {{ .reg .b32 t; mov.u32 t, 1; L: add.u32 %r1, t, -4; }} @!%p bra L; .reg .pred %p; }}"
        );
        assert!(parse(&text).unwrap_err().message.contains("%p"));
        let text = text.replace("@!%p bra L;", "bra L;");
        let module = parse(&text).unwrap();
        let body = &module.functions[0].body;
        assert_eq!(body[0].args[0], Arg::Reg(3));
        assert_eq!(body[1].args[2], Arg::Literal(Literal::Int(4u64.wrapping_neg())));
        assert_eq!(body[1].scope, 1);
        assert_eq!(module.functions[0].labels[&(1, "L".to_owned())], 1);
    }

    #[test]
    fn variables_with_initial_values() {
        let text = format!(
            "{HEAD}.global .align 4 .u32 table[4] = {{1, 2, 0x10}};\n.global .u64 p = generic(table)+8; .extern .shared .align 16 .b8 dyn[];\n.const .f32 pi = 0f40490FDB;"
        );
        let module = parse(&text).unwrap();
        assert_eq!(module.vars[0].size, 16);
        assert_eq!(module.vars[0].init.len(), 3);
        assert!(matches!(&module.vars[1].init[0], Init::Address(n, 8) if n == "table"));
        assert_eq!(module.vars[2].size, 0);
        assert_eq!(module.vars[3].space, Space::Const);
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        let brackets = format!(".version 8.0\n.entry k() {{ ld.u32 {}", "[".repeat(1 << 20));
        for (text, line) in [
            (brackets.as_str(), 2),
            ("", 1),
            (".version 8.0\n.target sm_90\nfoo", 3),
            (".version 8.0\n.entry k(", 2),
            (".version 8.0\n.entry k() { .reg .b32 %r<99999999999>; }", 2),
            (".version 8.0\n.entry k(.param .b8 p[1000000])", 2),
            (".version 8.0\n.global .b8 x[99999999999999999];", 2),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text}");
        }
    }
}
