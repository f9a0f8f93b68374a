//! Managed variables in PTX. A declaration goes. Where an address is a number, a variable's name becomes one; in the operand of a
//! load or a store, where only registers and names may stand, the name stays and is a register's, which each function that
//! needs it declares and sets at its beginning.
use super::{Edit, Impossible, Link, Variables, Write};
use std::collections::BTreeSet;
use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A name, a directive, an opcode or a number.
    Word(&'a [u8]),
    /// A text in quotes.
    Quoted,
    Mark(u8),
}

/// The tokens of a text, and where they lie.
struct Tokens<'a> {
    tokens: Vec<(Token<'a>, Range<usize>)>,
}

fn is_part_of_a_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

impl<'a> Tokens<'a> {
    fn new(text: &'a [u8]) -> Result<Self, Impossible> {
        let find = |from: usize, what: &[u8]| {
            let found = text[from..].windows(what.len()).position(|part| part == what);
            found.map(|at| from + at + what.len())
        };
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            let rest = &text[at..];
            let (token, end) = if byte.is_ascii_whitespace() {
                (None, at + 1)
            } else if rest.starts_with(b"//") {
                (None, find(at, b"\n").unwrap_or(text.len()))
            } else if rest.starts_with(b"/*") {
                (None, find(at + 2, b"*/").ok_or(Impossible)?)
            } else if byte == b'"' {
                (Some(Token::Quoted), find(at + 1, b"\"").ok_or(Impossible)?)
            } else if is_part_of_a_word(byte) {
                let len = rest.iter().take_while(|&&byte| is_part_of_a_word(byte)).count();
                (Some(Token::Word(&rest[..len])), at + len)
            } else {
                (Some(Token::Mark(byte)), at + 1)
            };
            tokens.extend(token.map(|token| (token, at..end)));
            at = end;
        }
        Ok(Self { tokens })
    }

    fn get(&self, at: usize) -> Option<Token<'a>> {
        self.tokens.get(at).map(|(token, _)| *token)
    }

    /// The one before.
    fn before(&self, at: usize) -> Option<Token<'a>> {
        self.get(at.checked_sub(1)?)
    }

    fn is(&self, at: usize, word: &[u8]) -> bool {
        self.get(at) == Some(Token::Word(word))
    }

    fn is_mark(&self, at: usize, mark: u8) -> bool {
        self.get(at) == Some(Token::Mark(mark))
    }

    fn word(&self, at: usize) -> Result<&'a [u8], Impossible> {
        match self.get(at) {
            Some(Token::Word(word)) => Ok(word),
            _ => Err(Impossible),
        }
    }

    /// Past the bracket that closes the one at `at`.
    fn past(&self, at: usize, open: u8, close: u8) -> Result<usize, Impossible> {
        let mut depth = 0usize;
        for next in at..self.tokens.len() {
            match self.get(next) {
                Some(Token::Mark(mark)) if mark == open => depth += 1,
                Some(Token::Mark(mark)) if mark == close => {
                    depth = depth.checked_sub(1).ok_or(Impossible)?;
                    if depth == 0 {
                        return Ok(next + 1);
                    }
                }
                _ => {}
            }
        }
        Err(Impossible)
    }

    /// Where the text of some tokens lies.
    fn range(&self, tokens: Range<usize>) -> Range<usize> {
        self.tokens[tokens.start].1.start..self.tokens[tokens.end - 1].1.end
    }
}

/// An integer as PTX has it.
fn integer(word: &[u8]) -> Result<u64, Impossible> {
    let text = std::str::from_utf8(word).map_err(|_| Impossible)?;
    let digits = text.strip_suffix('U').unwrap_or(text);
    let based = |start: &str| {
        digits
            .strip_prefix(start)
            .or(digits.strip_prefix(&start.to_uppercase()))
    };
    let parsed = if let Some(hex) = based("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(binary) = based("0b") {
        u64::from_str_radix(binary, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(digits, 8)
    } else {
        digits.parse()
    };
    parsed.map_err(|_| Impossible)
}

/// Bytes of an element of a type.
fn size(ty: &[u8]) -> Result<usize, Impossible> {
    match ty {
        b".b8" | b".u8" | b".s8" => Ok(1),
        b".b16" | b".u16" | b".s16" | b".f16" => Ok(2),
        b".b32" | b".u32" | b".s32" | b".f32" => Ok(4),
        b".b64" | b".u64" | b".s64" | b".f64" => Ok(8),
        _ => Err(Impossible),
    }
}

/// The declaration of a managed variable.
struct Declaration<'a> {
    name: &'a [u8],
    len: usize,
    initial: Vec<u8>,
    links: Vec<Link>,
    /// Its tokens.
    tokens: Range<usize>,
}

impl<'a> Declaration<'a> {
    /// The one whose attribute is at `attribute`, if that says that it is managed.
    fn at(tokens: &Tokens<'a>, attribute: usize) -> Result<Option<Self>, Impossible> {
        let mut at = tokens.past(attribute + 1, b'(', b')')?;
        if !(attribute..at).any(|at| tokens.is(at, b".managed")) {
            return Ok(None);
        }
        // What stands before: `.visible .global`, say. One that is declared only lies in a module that this one is not linked with.
        let mut start = attribute.checked_sub(1).ok_or(Impossible)?;
        if !tokens.is(start, b".global") {
            return Err(Impossible);
        }
        match tokens.before(start) {
            Some(Token::Word(b".visible" | b".weak" | b".common")) => start -= 1,
            Some(Token::Word(b".extern")) => return Err(Impossible),
            _ => {}
        }
        if tokens.is(at, b".align") {
            integer(tokens.word(at + 1)?)?;
            at += 2;
        }
        let lanes = match tokens.word(at)? {
            b".v2" => 2,
            b".v4" => 4,
            _ => 1,
        };
        at += usize::from(lanes > 1);
        let element = size(tokens.word(at)?)?;
        let name = tokens.word(at + 1)?;
        at += 2;
        let (mut count, mut is_open): (usize, bool) = (lanes, false);
        while tokens.is_mark(at, b'[') {
            if tokens.is_mark(at + 1, b']') {
                is_open = true;
                at += 2;
                continue;
            }
            let dimension = usize::try_from(integer(tokens.word(at + 1)?)?).map_err(|_| Impossible)?;
            count = count.checked_mul(dimension).ok_or(Impossible)?;
            at = tokens.past(at, b'[', b']')?;
        }
        let mut found = Self {
            name,
            len: 0,
            initial: Vec::new(),
            links: Vec::new(),
            tokens: start..at,
        };
        if tokens.is_mark(at, b'=') {
            at = found.initial(tokens, at + 1, element)?;
        }
        if !tokens.is_mark(at, b';') {
            return Err(Impossible);
        }
        found.tokens.end = at + 1;
        found.len = match is_open {
            true => found.initial.len(),
            false => count.checked_mul(element).ok_or(Impossible)?,
        };
        if found.len == 0 || found.initial.len() > found.len {
            return Err(Impossible);
        }
        Ok(Some(found))
    }

    /// Takes the initial values that begin at `at`; what comes after them.
    fn initial(&mut self, tokens: &Tokens<'a>, at: usize, element: usize) -> Result<usize, Impossible> {
        if !tokens.is_mark(at, b'{') {
            return self.value(tokens, at, element);
        }
        let mut at = at + 1;
        while !tokens.is_mark(at, b'}') {
            at = self.value(tokens, at, element)?;
            if tokens.is_mark(at, b',') {
                at += 1;
            }
        }
        Ok(at + 1)
    }

    fn value(&mut self, tokens: &Tokens<'a>, at: usize, element: usize) -> Result<usize, Impossible> {
        let (is_negative, at) = match tokens.is_mark(at, b'-') {
            true => (true, at + 1),
            false => (false, at),
        };
        let word = tokens.word(at)?;
        let (bits, next) = match word {
            [b'0', b'f' | b'F', hex @ ..] if element == 4 => (bits(hex, 8)?, at + 1),
            [b'0', b'd' | b'D', hex @ ..] if element == 8 => (bits(hex, 16)?, at + 1),
            [b'0'..=b'9', ..] => (integer(word)?, at + 1),
            _ if element == 8 && !is_negative => (0, self.link(tokens, at)?),
            _ => return Err(Impossible),
        };
        let bits = if is_negative { bits.wrapping_neg() } else { bits };
        self.initial.extend_from_slice(&bits.to_le_bytes()[..element]);
        Ok(next)
    }

    /// Takes a value that is another variable's address.
    fn link(&mut self, tokens: &Tokens<'a>, at: usize) -> Result<usize, Impossible> {
        let is_generic = tokens.is(at, b"generic");
        let symbol = tokens.word(if is_generic { at + 2 } else { at })?;
        let mut next = match is_generic {
            true => tokens.past(at + 1, b'(', b')')?,
            false => at + 1,
        };
        let mut addend = 0;
        if tokens.is_mark(next, b'+') || tokens.is_mark(next, b'-') {
            let number = i64::try_from(integer(tokens.word(next + 1)?)?).map_err(|_| Impossible)?;
            addend = if tokens.is_mark(next, b'-') {
                -number
            } else {
                number
            };
            next += 2;
        }
        self.links.push(Link {
            at: self.initial.len(),
            symbol: symbol.to_vec(),
            addend,
        });
        Ok(next)
    }
}

/// The bits of a number in floating point.
fn bits(hex: &[u8], digits: usize) -> Result<u64, Impossible> {
    let text = std::str::from_utf8(hex).map_err(|_| Impossible)?;
    match text.len() == digits {
        true => u64::from_str_radix(text, 16).map_err(|_| Impossible),
        false => Err(Impossible),
    }
}

/// The bodies of functions, by the tokens from their opening brace to the closing one.
fn bodies(tokens: &Tokens<'_>) -> Result<Vec<Range<usize>>, Impossible> {
    let mut bodies = Vec::new();
    let mut in_header = false;
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token {
            Token::Word(b".entry" | b".func") => in_header = true,
            // The end of a declaration, or of a `.pragma "..."` before the body.
            Token::Mark(b';') if tokens.before(at) != Some(Token::Quoted) => in_header = false,
            Token::Mark(b'{') => {
                let end = tokens.past(at, b'{', b'}')?;
                if in_header {
                    bodies.push(at..end);
                }
                in_header = false;
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(bodies)
}

/// What makes of PTX one without managed variables; nothing if it has none.
pub(super) fn edits(code: &[u8], variables: &mut Variables) -> Result<Vec<Edit>, Impossible> {
    let end = code.iter().position(|&byte| byte == 0).unwrap_or(code.len());
    let text = &code[..end];
    if !text.windows(8).any(|part| part == b".managed") {
        return Ok(Vec::new());
    }
    let tokens = Tokens::new(text)?;
    let mut declared = Vec::new();
    for at in 0..tokens.tokens.len() {
        if tokens.is(at, b".attribute") {
            declared.extend(Declaration::at(&tokens, at)?);
        }
    }
    if declared.is_empty() {
        return Ok(Vec::new());
    }
    let is_wide = |at| tokens.is(at, b".address_size") && tokens.is(at + 1, b"64");
    if !(0..tokens.tokens.len()).any(is_wide) {
        return Err(Impossible);
    }
    let mut edits = Vec::new();
    let mut gone = Vec::new();
    for it in declared {
        variables.declare(it.name, it.len, it.initial, it.links)?;
        edits.push(Edit {
            range: tokens.range(it.tokens.clone()),
            write: Write::Bytes(Vec::new()),
        });
        gone.push(it.tokens);
    }
    let mut bodies = bodies(&tokens)?.into_iter().peekable();
    let mut brackets = 0usize;
    let mut registers = BTreeSet::new();
    for at in 0..tokens.tokens.len() {
        if let Some(body) = bodies.next_if(|body| body.end <= at + 1) {
            if !registers.is_empty() {
                let start = tokens.range(body).start + 1;
                edits.push(Edit {
                    range: start..start,
                    write: Write::Registers(std::mem::take(&mut registers).into_iter().collect()),
                });
            }
            continue;
        }
        let Some(Token::Word(word)) = tokens.get(at) else {
            match tokens.get(at) {
                Some(Token::Mark(b'[')) => brackets += 1,
                Some(Token::Mark(b']')) => brackets = brackets.checked_sub(1).ok_or(Impossible)?,
                _ => {}
            }
            continue;
        };
        let Some(variable) = variables
            .named(word)
            .filter(|_| !gone.iter().any(|it| it.contains(&at)))
        else {
            continue;
        };
        // An element of an array.
        if tokens.is_mark(at + 1, b'[') {
            return Err(Impossible);
        }
        let is_in_body = bodies.peek().is_some_and(|body| body.contains(&at));
        if is_in_body && brackets > 0 {
            registers.insert(variable);
            continue;
        }
        edits.push(Edit {
            range: tokens.range(address(&tokens, at, is_in_body)?),
            write: Write::Digits(variable),
        });
    }
    Ok(edits)
}

/// The tokens of an address that becomes a number: a name, or `generic(name)` in an initial value. What takes a part of one (`0xff(name)`) is not
/// written anew.
fn address(tokens: &Tokens<'_>, at: usize, is_in_body: bool) -> Result<Range<usize>, Impossible> {
    if is_in_body || tokens.before(at) != Some(Token::Mark(b'(')) {
        return Ok(at..at + 1);
    }
    let start = at.checked_sub(2).ok_or(Impossible)?;
    let is_plain = tokens.is(start, b"generic") && tokens.is_mark(at + 1, b')');
    match is_plain && tokens.before(start) != Some(Token::Mark(b'(')) {
        true => Ok(start..at + 2),
        false => Err(Impossible),
    }
}
