//! Text to tokens.

use super::ExprError;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Number(f64, String),
    /// A string: plain text and, between, the tokens of expressions inside.
    Text(Vec<Fragment>),
    /// `@name`
    Format(String),
    /// `.name`
    Field(String),
    /// A name or keyword; `a::b` too.
    Word(String),
    /// `$name`
    Var(String),
    /// Anything else.
    Sign(&'static str),
    End,
}

/// A part of a string.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fragment {
    Plain(String),
    Code(Vec<(Token, usize)>),
}

const SIGNS: [&str; 36] = [
    "?//", "//=", "|=", "+=", "-=", "*=", "/=", "%=", "==", "!=", "<=", ">=", "//", "..", "(", ")", "[", "]", "{", "}",
    ".", "|", ",", ":", ";", "=", "<", ">", "+", "-", "*", "/", "%", "?", "$", "@",
];

/// Nesting of strings in strings.
const MAX_NESTING: usize = 32;

/// Tokens with where they start; the last one is the end.
pub(super) fn tokens(code: &str) -> Result<Vec<(Token, usize)>, ExprError> {
    let mut lexer = Lexer { code, at: 0 };
    let mut tokens = lexer.until_close(0, false)?;
    tokens.push((Token::End, code.len()));
    Ok(tokens)
}

struct Lexer<'c> {
    code: &'c str,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.code[self.at..]
    }

    fn skip_space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{feff}']);
            self.at += rest.len() - trimmed.len();
            if !self.rest().starts_with('#') {
                return;
            }
            // A backslash at the end of a comment continues it.
            let bytes = self.code.as_bytes();
            let mut slashes = 0;
            while self.at < bytes.len() {
                match bytes[self.at] {
                    b'\n' if slashes % 2 == 0 => break,
                    b'\\' => slashes += 1,
                    b'\r' if slashes % 2 == 1 => {}
                    _ => slashes = 0,
                }
                self.at += 1;
            }
        }
    }

    /// Tokens up to the end, or to the `)` of an expression in a string.
    fn until_close(&mut self, nesting: usize, inside: bool) -> Result<Vec<(Token, usize)>, ExprError> {
        if nesting > MAX_NESTING {
            return Err(ExprError::new(self.at, format!("strings are nested at most {MAX_NESTING} deep")));
        }
        let mut tokens = Vec::new();
        let mut open = 0;
        loop {
            self.skip_space();
            if self.at >= self.code.len() {
                return match inside {
                    false => Ok(tokens),
                    true => Err(ExprError::new(self.at, "this string has an expression `\\(` without its `)`")),
                };
            }
            let at = self.at;
            let token = self.token(nesting)?;
            match token {
                Token::Sign("(") => open += 1,
                Token::Sign(")") if open == 0 && inside => return Ok(tokens),
                Token::Sign(")") => open -= 1,
                _ => {}
            }
            tokens.push((token, at));
        }
    }

    fn token(&mut self, nesting: usize) -> Result<Token, ExprError> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let second = bytes.get(1).copied().unwrap_or(b' ');
        match bytes[0] {
            b'"' => return self.string(nesting),
            b'0'..=b'9' => return self.number(),
            b'.' if second.is_ascii_digit() => return self.number(),
            b'.' if starts_word(second) => {
                let name = word(&rest[1..]);
                self.at += 1 + name.len();
                return Ok(Token::Field(name));
            }
            b'$' if starts_word(second) => {
                let name = path_word(&rest[1..]);
                self.at += 1 + name.len();
                return Ok(Token::Var(name));
            }
            b'@' if starts_word(second) => {
                let name = word(&rest[1..]);
                self.at += 1 + name.len();
                return Ok(Token::Format(name));
            }
            first if starts_word(first) => {
                let name = path_word(rest);
                self.at += name.len();
                return Ok(Token::Word(name));
            }
            _ => {}
        }
        let rest = self.rest();
        match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            Some(sign) => {
                self.at += sign.len();
                Ok(Token::Sign(sign))
            }
            None => {
                let found = rest.chars().next().unwrap_or(' ');
                let error = ExprError::new(self.at, format!("`{found}` has no meaning here"));
                Err(match found {
                    '\'' => error.hinted("strings stand in double quotes"),
                    '&' => error.hinted("write `and`"),
                    '!' => error.hinted("write `!=`, or `| not`"),
                    letter if letter.is_alphabetic() => {
                        let word: String =
                            rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').take(40).collect();
                        error
                            .hinted(&format!("a name with other letters than a to z stands in quotes: `.[\"{word}\"]`"))
                    }
                    _ => error,
                })
            }
        }
    }

    fn number(&mut self) -> Result<Token, ExprError> {
        let bytes = self.code.as_bytes();
        let start = self.at;
        let digits = |mut at: usize| {
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            at
        };
        self.at = digits(self.at);
        if bytes.get(self.at) == Some(&b'.') && bytes.get(self.at + 1).is_none_or(|next| *next != b'.') {
            self.at = digits(self.at + 1);
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            let sign = matches!(bytes.get(self.at + 1), Some(b'+' | b'-')) as usize;
            let end = digits(self.at + 1 + sign);
            if end > self.at + 1 + sign {
                self.at = end;
            }
        }
        let text = &self.code[start..self.at];
        match text.parse() {
            Ok(value) => Ok(Token::Number(value, text.to_owned())),
            Err(_) => Err(ExprError::new(start, format!("`{text}` is not a number"))),
        }
    }

    fn string(&mut self, nesting: usize) -> Result<Token, ExprError> {
        let start = self.at;
        self.at += 1;
        let mut fragments = Vec::new();
        let mut plain = String::new();
        loop {
            let rest = self.rest();
            let Some(next) = rest.chars().next() else {
                return Err(ExprError::new(start, "this string has no `\"` that ends it"));
            };
            match next {
                '"' => {
                    self.at += 1;
                    if !plain.is_empty() || fragments.is_empty() {
                        fragments.push(Fragment::Plain(plain));
                    }
                    return Ok(Token::Text(fragments));
                }
                '\\' if rest[1..].starts_with('(') => {
                    self.at += 2;
                    if !plain.is_empty() {
                        fragments.push(Fragment::Plain(std::mem::take(&mut plain)));
                    }
                    let mut inner = self.until_close(nesting + 1, true)?;
                    inner.push((Token::End, self.at));
                    fragments.push(Fragment::Code(inner));
                }
                '\\' => plain.push(self.escape()?),
                other => {
                    plain.push(other);
                    self.at += other.len_utf8();
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, ExprError> {
        let at = self.at;
        let found = self.rest().chars().nth(1);
        self.at += 1 + found.map_or(0, char::len_utf8);
        Ok(match found {
            Some(same @ ('"' | '\\' | '/')) => same,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let first = self.hex(at)?;
                if !(0xD800..0xDC00).contains(&first) {
                    return Ok(char::from_u32(first).unwrap_or('\u{fffd}'));
                }
                let saved = self.at;
                if self.rest().starts_with("\\u") {
                    self.at += 2;
                    let second = self.hex(at)?;
                    if (0xDC00..0xE000).contains(&second) {
                        let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                        return Ok(char::from_u32(code).unwrap_or('\u{fffd}'));
                    }
                    self.at = saved;
                }
                '\u{fffd}'
            }
            _ => {
                return Err(ExprError::new(at, "a string has no such escape")
                    .hinted("write one of \\n \\t \\r \\b \\f \\\\ \\/ \\\" \\u0000, or \\( ) around an expression"));
            }
        })
    }

    fn hex(&mut self, at: usize) -> Result<u32, ExprError> {
        let wrong = || ExprError::new(at, "`\\u` is followed by four hexadecimal digits");
        let digits = self.rest().get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = u32::from_str_radix(digits.ok_or_else(wrong)?, 16).map_err(|_| wrong())?;
        self.at += 4;
        Ok(code)
    }
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

fn path_word(text: &str) -> String {
    let mut name = word(text);
    while let Some(rest) = text[name.len()..].strip_prefix("::") {
        match rest.bytes().next() {
            Some(first) if starts_word(first) => {
                name.push_str("::");
                name.push_str(&word(rest));
            }
            _ => break,
        }
    }
    name
}
