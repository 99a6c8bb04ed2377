//! Reads characters, names and literals. There are no tokens: what a character means
//! depends on where it stands, as in ONNX's own parser.

use super::names::{begins_identifier, continues_identifier, is_float_word};
use crate::error::{Error, Result};

/// How deep graphs and types may lie inside each other, so that no text exhausts the
/// stack. Decoders of the binary format stop at 100 messages inside each other, which is
/// 33 graphs or 50 types.
const MAX_DEPTH: usize = 64;

/// A place in the text.
pub(super) struct Cursor<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

/// A literal as it stands in the text.
pub(super) enum Literal<'t> {
    /// Digits, with a sign.
    Int(&'t str),
    /// With a point or an exponent, or infinite.
    Float(&'t str),
    /// The default NaN, or the one with these bits.
    Nan { negative: bool, bits: Option<u64> },
}

impl<'t> Cursor<'t> {
    /// The beginning of `text`.
    pub(super) fn new(text: &'t str) -> Self {
        Cursor {
            text,
            at: 0,
            depth: 0,
        }
    }

    /// The offset of the next character that is neither space nor comment.
    pub(super) fn place(&mut self) -> usize {
        self.skip_space();
        self.at
    }

    /// An error at offset `place`.
    pub(super) fn error_at(&self, place: usize, message: impl std::fmt::Display) -> Error {
        let before = &self.text[..place];
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        let column = before[start..].chars().count() + 1;
        Error::input(format!("{line}:{column}: {message}"))
    }

    /// An error at the next character.
    pub(super) fn error(&mut self, message: impl std::fmt::Display) -> Error {
        let place = self.place();
        self.error_at(place, message)
    }

    /// The error that `what` does not stand here.
    pub(super) fn expected(&mut self, what: &str) -> Error {
        let place = self.place();
        let rest = &self.text[place..];
        let found = match self.peek_identifier() {
            Some(word) => format!("`{word}`"),
            None => match rest.chars().next() {
                Some(c) => format!("`{}`", c.escape_debug()),
                None => "the end of the text".to_owned(),
            },
        };
        self.error_at(place, format!("expected {what}, found {found}"))
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(c) = self.byte() {
            match c {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'#' => {
                    let rest = &self.text[self.at..];
                    self.at += rest.find('\n').unwrap_or(rest.len());
                }
                _ => break,
            }
        }
    }

    /// The next character, if it is ASCII.
    pub(super) fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.byte().filter(u8::is_ascii)
    }

    /// Whether nothing is left.
    pub(super) fn at_end(&mut self) -> bool {
        self.skip_space();
        self.at == self.text.len()
    }

    /// Skips `token`, if it stands here.
    pub(super) fn eat(&mut self, token: &str) -> bool {
        self.skip_space();
        let found = self.text[self.at..].starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Skips `token`, which must stand here.
    pub(super) fn expect(&mut self, token: &str) -> Result<()> {
        match self.eat(token) {
            true => Ok(()),
            false => Err(self.expected(&format!("`{token}`"))),
        }
    }

    /// Reads items with `item`, separated by commas, up to `close`.
    pub(super) fn list(
        &mut self,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        if self.eat(close) {
            return Ok(());
        }
        loop {
            item(self)?;
            if self.eat(close) {
                return Ok(());
            }
            if !self.eat(",") {
                return Err(self.expected(&format!("`,` or `{close}`")));
            }
        }
    }

    /// Enters something that can contain itself. `leave` must follow, except on errors.
    pub(super) fn enter(&mut self) -> Result<()> {
        self.depth += 1;
        match self.depth > MAX_DEPTH {
            true => Err(self.error(format!("more than {MAX_DEPTH} levels of nesting"))),
            false => Ok(()),
        }
    }

    /// The end of what `enter` began.
    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    /// The identifier that stands here.
    pub(super) fn peek_identifier(&mut self) -> Option<&'t str> {
        self.skip_space();
        if !self.byte().is_some_and(begins_identifier) {
            return None;
        }
        let rest = &self.text[self.at..];
        let end = rest.bytes().position(|c| !continues_identifier(c));
        Some(&rest[..end.unwrap_or(rest.len())])
    }

    /// Reads an identifier, if one stands here.
    pub(super) fn try_identifier(&mut self) -> Option<&'t str> {
        let word = self.peek_identifier()?;
        self.at += word.len();
        Some(word)
    }

    /// Reads an identifier, which `what` describes.
    pub(super) fn identifier(&mut self, what: &str) -> Result<&'t str> {
        match self.try_identifier() {
            Some(word) => Ok(word),
            None => Err(self.expected(what)),
        }
    }

    /// Reads an identifier or a quoted name.
    pub(super) fn name(&mut self, what: &str) -> Result<String> {
        match self.try_name()? {
            Some(name) => Ok(name),
            None => Err(self.expected(what)),
        }
    }

    /// Reads an identifier or a quoted name, if one stands here.
    pub(super) fn try_name(&mut self) -> Result<Option<String>> {
        if self.peek() == Some(b'"') {
            return self.string().map(Some);
        }
        Ok(self.try_identifier().map(str::to_owned))
    }

    /// Reads a quoted string. A backslash stands for the character after it.
    pub(super) fn string(&mut self) -> Result<String> {
        let start = self.place();
        self.expect("\"")?;
        let mut out = String::new();
        let mut chars = self.text[self.at..].char_indices();
        while let Some((offset, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += offset + 1;
                    return Ok(out);
                }
                '\\' => match chars.next() {
                    Some((_, c)) => out.push(c),
                    None => break,
                },
                c => out.push(c),
            }
        }
        Err(self.error_at(start, "this string has no closing `\"`"))
    }

    /// Whether a string or a byte string stands here.
    pub(super) fn at_bytes(&mut self) -> bool {
        self.skip_space();
        let rest = &self.text[self.at..];
        rest.starts_with('"') || rest.starts_with("b\"")
    }

    /// Reads a string, or a byte string `b"..."` in which `\xNN` is the byte NN.
    pub(super) fn bytes(&mut self) -> Result<Vec<u8>> {
        let start = self.place();
        if !self.eat("b\"") {
            return self.string().map(String::into_bytes);
        }
        let mut out = Vec::new();
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            let (byte, taken) = match rest {
                [b'"', ..] => {
                    self.at += 1;
                    return Ok(out);
                }
                [b'\\', c @ (b'\\' | b'"'), ..] => (*c, 2),
                [b'\\', b'x', hi, lo, ..] => match (hex(*hi), hex(*lo)) {
                    (Some(hi), Some(lo)) => (hi << 4 | lo, 4),
                    _ => return Err(self.error("expected two hexadecimal digits after `\\x`")),
                },
                [b'\\', ..] => return Err(self.error("expected `\\x`, `\\\\` or `\\\"`")),
                [c, ..] => (*c, 1),
                [] => return Err(self.error_at(start, "this string has no closing `\"`")),
            };
            out.push(byte);
            self.at += taken;
        }
    }

    /// Whether a number stands here.
    pub(super) fn at_number(&mut self) -> bool {
        match self.peek() {
            Some(b'-' | b'0'..=b'9') => true,
            _ => self.peek_identifier().is_some_and(is_float_word),
        }
    }

    /// Reads a number.
    pub(super) fn literal(&mut self) -> Result<Literal<'t>> {
        let start = self.place();
        let negative = self.byte() == Some(b'-');
        self.at += usize::from(negative);
        if self.byte().is_some_and(|c| c.is_ascii_alphabetic()) {
            let word = self.try_identifier().filter(|w| is_float_word(w));
            return match word {
                None => {
                    self.at = start;
                    Err(self.expected("a number"))
                }
                Some(w) if !w.eq_ignore_ascii_case("nan") => {
                    Ok(Literal::Float(&self.text[start..self.at]))
                }
                Some(_) => Ok(Literal::Nan {
                    negative,
                    bits: self.nan_bits()?,
                }),
            };
        }
        let mut float = false;
        let digits = self.digits();
        if digits > 0 && self.byte() == Some(b'.') {
            float = true;
            self.at += 1;
            self.digits();
        }
        if digits > 0 && matches!(self.byte(), Some(b'e' | b'E')) {
            float = true;
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            if self.digits() == 0 {
                return Err(self.expected("the digits of an exponent"));
            }
        }
        let text = &self.text[start..self.at];
        match (digits, float) {
            (0, _) => {
                self.at = start;
                Err(self.expected("a number"))
            }
            (_, true) => Ok(Literal::Float(text)),
            (_, false) => Ok(Literal::Int(text)),
        }
    }

    fn digits(&mut self) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        let n = rest.iter().take_while(|c| c.is_ascii_digit()).count();
        self.at += n;
        n
    }

    /// The bits after `nan`, in parentheses.
    fn nan_bits(&mut self) -> Result<Option<u64>> {
        if !self.eat("(") {
            return Ok(None);
        }
        let start = self.place();
        self.expect("0x")?;
        let rest = &self.text[self.at..];
        let end = rest.find(')').unwrap_or(rest.len());
        let bits = u64::from_str_radix(&rest[..end], 16)
            .map_err(|_| self.error_at(start, "expected the bits of a NaN, such as 0x7fc00001"))?;
        self.at += end;
        self.expect(")")?;
        Ok(Some(bits))
    }

    /// Reads an integer.
    pub(super) fn int(&mut self) -> Result<i64> {
        let place = self.place();
        match self.literal()? {
            Literal::Int(text) => text
                .parse()
                .map_err(|_| self.error_at(place, format!("`{text}` does not fit in 64 bits"))),
            _ => Err(self.error_at(place, "expected an integer")),
        }
    }
}

fn hex(c: u8) -> Option<u8> {
    char::from(c).to_digit(16).map(|d| d as u8)
}
