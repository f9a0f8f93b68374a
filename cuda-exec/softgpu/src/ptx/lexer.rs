//! Splits PTX text into tokens, each with its line.
//!
//! A word takes its dots along: `ld.global.v2.f32`, `.visible`, `%tid.x` and `$L__BB0_1` are one token
//! each, which is how PTX reads best: qualifiers never stand alone.

use super::PtxError;

/// One token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tok<'a> {
    /// A mnemonic with its qualifiers, a directive, a register, a label or a symbol.
    Word(&'a str),
    /// An integer literal, as its 64 bits.
    Int(u64),
    /// `0f` literal: the bits of a single.
    F32(u32),
    /// `0d` or decimal literal: the bits of a double.
    F64(u64),
    /// A quoted string, without its quotes.
    Str(&'a str),
    /// Any other character.
    Punct(u8),
}

/// The tokens of `text`, each with its line (from 1).
pub fn lex(text: &str) -> Result<Vec<(Tok<'_>, u32)>, PtxError> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::with_capacity(text.len() / 4);
    let mut line = 1;
    let mut at = 0;
    while at < bytes.len() {
        let c = bytes[at];
        match c {
            b'\n' => {
                line += 1;
                at += 1;
            }
            b' ' | b'\t' | b'\r' | 0x0b | 0x0c => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let end = text[at + 2..]
                    .find("*/")
                    .ok_or_else(|| PtxError::new(line, "comment without an end"))?;
                line += count_lines(&bytes[at..at + 2 + end]);
                at += end + 4;
            }
            b'"' => {
                let end = text[at + 1..]
                    .find('"')
                    .ok_or_else(|| PtxError::new(line, "string without an end"))?;
                tokens.push((Tok::Str(&text[at + 1..at + 1 + end]), line));
                line += count_lines(&bytes[at..at + 1 + end]);
                at += end + 2;
            }
            b'0'..=b'9' => {
                let end = number_end(bytes, at);
                tokens.push((number(&text[at..end], line)?, line));
                at = end;
            }
            _ if is_word_start(c) => {
                let end = word_end(bytes, at);
                tokens.push((Tok::Word(&text[at..end]), line));
                at = end;
            }
            0x21..=0x7e => {
                tokens.push((Tok::Punct(c), line));
                at += 1;
            }
            _ => return Err(PtxError::new(line, format!("unexpected byte {c:#04x}"))),
        }
    }
    Ok(tokens)
}

fn count_lines(bytes: &[u8]) -> u32 {
    bytes.iter().filter(|&&b| b == b'\n').count() as u32
}

fn is_word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn word_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    while at < bytes.len() {
        let c = bytes[at];
        if c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.') {
            at += 1;
        } else if c == b':' && bytes.get(at + 1) == Some(&b':') {
            // `.shared::cta` is one qualifier.
            at += 2;
        } else {
            break;
        }
    }
    at
}

fn number_end(bytes: &[u8], start: usize) -> usize {
    let hex_like = bytes[start] == b'0'
        && matches!(
            bytes.get(start + 1),
            Some(b'x' | b'X' | b'f' | b'F' | b'd' | b'D' | b'b' | b'B')
        );
    let mut at = start + if hex_like { 2 } else { 1 };
    while at < bytes.len() {
        let c = bytes[at];
        let exponent_sign = !hex_like && matches!(c, b'+' | b'-') && matches!(bytes[at - 1], b'e' | b'E');
        if c.is_ascii_alphanumeric() || (c == b'.' && !hex_like) || exponent_sign {
            at += 1;
        } else {
            break;
        }
    }
    at
}

fn number(text: &str, line: u32) -> Result<Tok<'_>, PtxError> {
    let bad = |_| PtxError::new(line, format!("malformed number {text}"));
    let float = |_| PtxError::new(line, format!("malformed number {text}"));
    if let Some(hex) = text.strip_prefix("0f").or_else(|| text.strip_prefix("0F")) {
        return u32::from_str_radix(hex, 16).map(Tok::F32).map_err(bad);
    }
    if let Some(hex) = text.strip_prefix("0d").or_else(|| text.strip_prefix("0D")) {
        return u64::from_str_radix(hex, 16).map(Tok::F64).map_err(bad);
    }
    let digits = text.trim_end_matches(['U', 'u']);
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).map(Tok::Int).map_err(bad);
    }
    if let Some(bin) = digits.strip_prefix("0b").or_else(|| digits.strip_prefix("0B")) {
        return u64::from_str_radix(bin, 2).map(Tok::Int).map_err(bad);
    }
    if digits.contains(['.', 'e', 'E']) {
        return digits
            .parse::<f64>()
            .map(|v| Tok::F64(v.to_bits()))
            .map_err(float);
    }
    let (digits, radix) = match digits.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => (octal, 8),
        _ => (digits, 10),
    };
    u64::from_str_radix(digits, radix).map(Tok::Int).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_dots_and_numbers_their_kind() {
        let toks: Vec<_> = lex("ld.shared::cta.u32 %r1, [%rd1+-4]; // tail\n mov.f32 %f1, 0f3F800000; 1.5 0x1FU 017 /* a\n b */ x")
            .unwrap();
        assert_eq!(toks[0].0, Tok::Word("ld.shared::cta.u32"));
        assert_eq!(toks[3].0, Tok::Punct(b'['));
        assert_eq!(toks[6].0, Tok::Punct(b'-'));
        assert_eq!(toks[7].0, Tok::Int(4));
        assert!(toks.contains(&(Tok::F32(0x3f80_0000), 2)));
        assert!(toks.contains(&(Tok::F64(1.5f64.to_bits()), 2)));
        assert!(toks.contains(&(Tok::Int(31), 2)));
        assert!(toks.contains(&(Tok::Int(15), 2)));
        assert_eq!(toks.last().unwrap(), &(Tok::Word("x"), 3));
    }

    #[test]
    fn malformed_text_is_an_error_with_its_line() {
        assert_eq!(lex("\n\n\"abc").unwrap_err().line, 3);
        assert_eq!(lex("\n0xzz").unwrap_err().line, 2);
        assert!(lex("/* never").is_err());
        assert!(lex("\u{1}").is_err());
    }
}
