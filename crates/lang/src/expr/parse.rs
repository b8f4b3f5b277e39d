//! Tokens to a program as it is written.

mod parts;

use serde_json::Value as Json;

use super::ExprError;
use super::ast::{Assign, Binary, Def, Kind, Part, Term, Tree};
use super::lex::{self, Fragment, Token};

/// Bytes of a program.
pub(super) const MAX_LENGTH: usize = 64 * 1024;
/// Levels of terms in terms.
const MAX_NESTING: usize = 64;
/// Operators, pipes or parts of a path in a row.
const MAX_ROW: usize = 128;

const KEYWORDS: [&str; 17] = [
    "def", "import", "include", "module", "if", "then", "elif", "else", "end", "as", "reduce", "foreach", "try",
    "catch", "label", "or", "and",
];

fn keyword(word: &str) -> bool {
    KEYWORDS.contains(&word)
}

type Parsed<T> = Result<T, ExprError>;

/// Parses a program.
pub(super) fn program(code: &str) -> Parsed<Term> {
    if code.len() > MAX_LENGTH {
        return Err(ExprError::new(MAX_LENGTH, format!("an expression has at most {MAX_LENGTH} bytes")));
    }
    if code.trim().is_empty() {
        return Err(ExprError::new(0, "the expression is empty").hinted("write `.` for the value itself"));
    }
    let tokens = lex::tokens(code)?;
    let mut parser = Parser { code, tokens: &tokens, next: 0, nesting: 0 };
    let term = parser.query()?;
    parser.end()?;
    Ok(term)
}

/// Parses definitions only.
pub(super) fn definitions(code: &str) -> Parsed<Vec<Def>> {
    let tokens = lex::tokens(code)?;
    let mut parser = Parser { code, tokens: &tokens, next: 0, nesting: 0 };
    let mut defs = Vec::new();
    while parser.word("def") {
        defs.push(parser.definition()?);
    }
    parser.end()?;
    Ok(defs)
}

struct Parser<'t> {
    code: &'t str,
    tokens: &'t [(Token, usize)],
    next: usize,
    nesting: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> &'t Token {
        &self.tokens[self.next].0
    }

    fn at(&self) -> usize {
        self.tokens[self.next].1
    }

    fn advance(&mut self) -> &'t Token {
        let token = self.peek();
        if self.next + 1 < self.tokens.len() {
            self.next += 1;
        }
        token
    }

    fn sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(found) if *found == sign)
    }

    fn word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(found) if found == word)
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = self.sign(sign);
        if found {
            self.advance();
        }
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.word(word);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, sign: &str) -> Parsed<()> {
        if self.take(sign) { Ok(()) } else { Err(self.unexpected(&format!("`{sign}`"))) }
    }

    fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.take_word(word) { Ok(()) } else { Err(self.unexpected(&format!("`{word}`"))) }
    }

    fn end(&self) -> Parsed<()> {
        match self.peek() {
            Token::End => Ok(()),
            _ => Err(self.unexpected("an operator or the end")),
        }
    }

    fn unexpected(&self, wanted: &str) -> ExprError {
        let found = match self.peek() {
            Token::End => "the expression ends here".to_owned(),
            Token::Sign(sign) => format!("`{sign}` cannot stand here"),
            Token::Word(word) | Token::Format(word) => format!("`{word}` cannot stand here"),
            Token::Field(name) => format!("`.{name}` cannot stand here"),
            Token::Var(name) => format!("`${name}` cannot stand here"),
            Token::Number(_, text) => format!("`{text}` cannot stand here"),
            Token::Text(_) => "a string cannot stand here".to_owned(),
        };
        let error = ExprError::new(self.at(), format!("{found}: {wanted} is expected"));
        match self.peek() {
            Token::Sign("=") if self.next > 0 => error.hinted("`==` compares; `=` changes a value"),
            _ if self.code.trim_start().starts_with("{{") => {
                error.hinted("expressions are written `${ }`, not `{{ }}`")
            }
            _ => error,
        }
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(ExprError::new(
                self.at(),
                format!("an expression is nested at most {MAX_NESTING} levels deep"),
            ));
        }
        let parsed = parse(self);
        self.nesting -= 1;
        parsed
    }

    fn query(&mut self) -> Parsed<Term> {
        self.deeper(Self::query_inner)
    }

    fn tree(&mut self) -> Parsed<Tree> {
        self.query().map(Box::new)
    }

    fn query_inner(&mut self) -> Parsed<Term> {
        let at = self.at();
        if self.word("def") {
            let def = self.definition()?;
            return Ok(Term::new(at, Kind::Def(Box::new(def), self.tree()?)));
        }
        if self.take_word("label") {
            let name = self.variable()?;
            self.expect("|")?;
            return Ok(Term::new(at, Kind::Label(name, self.tree()?)));
        }
        if matches!(self.peek(), Token::Word(word) if matches!(word.as_str(), "import" | "include" | "module")) {
            return Err(
                ExprError::new(at, "modules do not exist here").hinted("write the definitions into the expression")
            );
        }
        let mut stages = vec![self.commas()?];
        while self.take("|") {
            let opens = matches!(self.peek(), Token::Word(word) if word == "def" || word == "label");
            stages.push(if opens { self.query()? } else { self.commas()? });
        }
        Ok(balanced(stages, Kind::Pipe))
    }

    fn commas(&mut self) -> Parsed<Term> {
        let mut items = vec![self.operand()?];
        while self.take(",") {
            let opens = matches!(self.peek(), Token::Word(word) if word == "def" || word == "label");
            items.push(if opens { self.query()? } else { self.operand()? });
        }
        Ok(balanced(items, Kind::Comma))
    }

    /// An expression, and what follows if it is bound to variables.
    fn operand(&mut self) -> Parsed<Term> {
        let at = self.at();
        let source = self.binary(0)?;
        if !self.take_word("as") {
            return Ok(source);
        }
        let patterns = self.patterns()?;
        self.expect("|")?;
        Ok(Term::new(at, Kind::As(Box::new(source), patterns, self.tree()?)))
    }

    fn binary(&mut self, least: u8) -> Parsed<Term> {
        let at = self.at();
        let mut left = self.unary()?;
        let mut length = 0;
        while let Some((level, right_level, chains)) = self.operator() {
            if level < least {
                break;
            }
            length += 1;
            if length > MAX_ROW {
                let message = format!("at most {MAX_ROW} operators stand in a row");
                return Err(ExprError::new(self.at(), message).hinted("put parentheses around parts of it"));
            }
            let operator = self.advance().clone();
            let right = Box::new(self.deeper(|parser| parser.binary(right_level))?);
            left = Term::new(at, combine(&operator, Box::new(left), right));
            if !chains && self.operator().is_some_and(|(next, _, _)| next == level) {
                return Err(self.unexpected("parentheses around one of the two"));
            }
        }
        Ok(left)
    }

    /// Level of the operator here, the least level of its right side, and whether it may follow itself.
    fn operator(&self) -> Option<(u8, u8, bool)> {
        Some(match self.peek() {
            Token::Sign("//" | "?//") => (1, 1, true),
            Token::Sign("=" | "|=" | "+=" | "-=" | "*=" | "/=" | "%=" | "//=") => (2, 1, false),
            Token::Word(word) if word == "or" => (3, 4, true),
            Token::Word(word) if word == "and" => (4, 5, true),
            Token::Sign("==" | "!=" | "<" | "<=" | ">" | ">=") => (5, 6, false),
            Token::Sign("+" | "-") => (6, 7, true),
            Token::Sign("*" | "/" | "%") => (7, 8, true),
            _ => return None,
        })
    }

    fn unary(&mut self) -> Parsed<Term> {
        let at = self.at();
        if self.take("-") {
            let inner = self.deeper(Self::unary)?;
            return Ok(Term::new(at, Kind::Negate(Box::new(inner))));
        }
        if self.take_word("try") {
            let body = Box::new(self.deeper(Self::unary)?);
            let catch = match self.take_word("catch") {
                true => Some(Box::new(self.deeper(Self::unary)?)),
                false => None,
            };
            return Ok(Term::new(at, Kind::Try(body, catch)));
        }
        self.postfix()
    }

    fn postfix(&mut self) -> Parsed<Term> {
        let at = self.at();
        let mut term = self.primary()?;
        let mut suffixes = 0;
        loop {
            suffixes += 1;
            if suffixes > MAX_ROW {
                return Err(ExprError::new(self.at(), format!("a path has at most {MAX_ROW} parts")));
            }
            term = match self.peek() {
                Token::Field(name) => {
                    let key_at = self.at();
                    self.advance();
                    let key = Term::boxed(key_at, Kind::Literal(Json::from(name.as_str())));
                    Term::new(at, Kind::Index(Box::new(term), key, self.take("?")))
                }
                Token::Sign(".") if matches!(self.tokens.get(self.next + 1), Some((Token::Text(_), _))) => {
                    self.advance();
                    let key = Box::new(self.primary()?);
                    Term::new(at, Kind::Index(Box::new(term), key, self.take("?")))
                }
                Token::Sign(".") if matches!(self.tokens.get(self.next + 1), Some((Token::Sign("["), _))) => {
                    self.advance();
                    self.brackets(term, at)?
                }
                Token::Sign("[") => self.brackets(term, at)?,
                Token::Sign("?") => {
                    self.advance();
                    Term::new(at, Kind::Try(Box::new(term), None))
                }
                _ => return Ok(term),
            }
        }
    }

    fn brackets(&mut self, target: Term, at: usize) -> Parsed<Term> {
        self.expect("[")?;
        let target = Box::new(target);
        if self.take("]") {
            return Ok(Term::new(at, Kind::Each(target, self.take("?"))));
        }
        if self.take(":") {
            let to = self.tree()?;
            self.expect("]")?;
            return Ok(Term::new(at, Kind::Slice(target, None, Some(to), self.take("?"))));
        }
        let key = self.tree()?;
        if !self.take(":") {
            self.expect("]")?;
            return Ok(Term::new(at, Kind::Index(target, key, self.take("?"))));
        }
        let to = if self.sign("]") { None } else { Some(self.tree()?) };
        self.expect("]")?;
        Ok(Term::new(at, Kind::Slice(target, Some(key), to, self.take("?"))))
    }

    fn primary(&mut self) -> Parsed<Term> {
        let at = self.at();
        let identity = || Term::boxed(at, Kind::Identity);
        let kind = match self.peek() {
            Token::Number(value, text) => {
                self.advance();
                Kind::Literal(literal(*value, text))
            }
            Token::Text(fragments) => {
                self.advance();
                self.text("text", fragments)?
            }
            Token::Format(name) => {
                self.advance();
                match self.peek() {
                    Token::Text(fragments) => {
                        self.advance();
                        self.text(name, fragments)?
                    }
                    _ => Kind::Format(name.clone()),
                }
            }
            Token::Field(name) => {
                self.advance();
                let key = Term::boxed(at, Kind::Literal(Json::from(name.as_str())));
                Kind::Index(identity(), key, self.take("?"))
            }
            Token::Var(name) => {
                self.advance();
                match name.as_str() {
                    "__loc__" => Kind::Location(self.line(at)),
                    _ => Kind::Var(name.clone()),
                }
            }
            Token::Sign("..") => {
                self.advance();
                Kind::Call("recurse".to_owned(), Vec::new())
            }
            Token::Sign(".") => {
                self.advance();
                match self.peek() {
                    Token::Text(_) => {
                        let key = Box::new(self.primary()?);
                        Kind::Index(identity(), key, self.take("?"))
                    }
                    _ => Kind::Identity,
                }
            }
            Token::Sign("(") => {
                self.advance();
                let inner = self.query()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Sign("[") => {
                self.advance();
                let inner = if self.sign("]") { None } else { Some(self.tree()?) };
                self.expect("]")?;
                Kind::Array(inner)
            }
            Token::Sign("{") => self.object()?,
            Token::Word(word) => return self.word_term(word, at),
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Term::new(at, kind))
    }

    fn word_term(&mut self, word: &str, at: usize) -> Parsed<Term> {
        let kind = match word {
            "if" => {
                self.advance();
                self.condition()?
            }
            "reduce" | "foreach" => {
                self.advance();
                let source = Box::new(self.deeper(|parser| parser.binary(0))?);
                self.expect_word("as")?;
                let patterns = self.patterns()?;
                self.expect("(")?;
                let init = self.tree()?;
                self.expect(";")?;
                let update = self.tree()?;
                let extract = if word == "foreach" && self.take(";") { Some(self.tree()?) } else { None };
                self.expect(")")?;
                match word {
                    "reduce" => Kind::Reduce(source, patterns, init, update),
                    _ => Kind::Foreach(source, patterns, init, update, extract),
                }
            }
            "break" if matches!(self.tokens.get(self.next + 1), Some((Token::Var(_), _))) => {
                self.advance();
                Kind::Break(self.variable()?)
            }
            "def" | "label" => return self.query(),
            _ if keyword(word) => return Err(self.unexpected("a value")),
            _ => {
                self.advance();
                let mut args = Vec::new();
                if self.take("(") {
                    loop {
                        args.push(self.query()?);
                        if !self.take(";") {
                            break;
                        }
                    }
                    if self.sign(",") || !self.sign(")") {
                        return Err(self.unexpected("`;` between arguments, or `)`"));
                    }
                    self.advance();
                }
                match (word, args.len()) {
                    ("null", 0) => Kind::Literal(Json::Null),
                    ("true", 0) => Kind::Literal(Json::Bool(true)),
                    ("false", 0) => Kind::Literal(Json::Bool(false)),
                    _ => Kind::Call(word.to_owned(), args),
                }
            }
        };
        Ok(Term::new(at, kind))
    }

    /// After `if` or `elif`.
    fn condition(&mut self) -> Parsed<Kind> {
        let condition = self.tree()?;
        self.expect_word("then")?;
        let then = self.tree()?;
        let at = self.at();
        if self.take_word("elif") {
            let other = self.deeper(Self::condition)?;
            return Ok(Kind::If(condition, then, Some(Term::boxed(at, other))));
        }
        let other = if self.take_word("else") { Some(self.tree()?) } else { None };
        self.expect_word("end")?;
        Ok(Kind::If(condition, then, other))
    }

    fn text(&mut self, format: &str, fragments: &'t [Fragment]) -> Parsed<Kind> {
        let plain = |text: &String| Kind::Literal(Json::String(text.clone()));
        match fragments {
            [] => return Ok(Kind::Literal(Json::from(""))),
            [Fragment::Plain(text)] => return Ok(plain(text)),
            _ => {}
        }
        let mut parts = Vec::with_capacity(fragments.len());
        for fragment in fragments {
            parts.push(match fragment {
                Fragment::Plain(text) => Part::Plain(text.clone()),
                Fragment::Code(tokens) => {
                    let mut inner = Parser { code: self.code, tokens, next: 0, nesting: self.nesting };
                    let term = inner.query()?;
                    inner.end()?;
                    Part::Term(term)
                }
            });
        }
        Ok(Kind::Text(format.to_owned(), parts))
    }

    fn line(&self, at: usize) -> usize {
        1 + self.code.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
    }
}

/// `a, b, c` or `a | b | c`, not deeper than it has to be.
fn balanced(mut items: Vec<Term>, combine: fn(Tree, Tree) -> Kind) -> Term {
    while items.len() > 1 {
        let mut pairs = Vec::with_capacity(items.len().div_ceil(2));
        let mut rest = items.into_iter();
        while let Some(left) = rest.next() {
            pairs.push(match rest.next() {
                Some(right) => Term::new(left.at, combine(Box::new(left), Box::new(right))),
                None => left,
            });
        }
        items = pairs;
    }
    items.swap_remove(0)
}

/// A number of the text as JSON has it.
fn literal(value: f64, text: &str) -> Json {
    match text.parse::<i64>() {
        Ok(integer) => Json::from(integer),
        Err(_) if value.trunc() == value && value.abs() < 1e15 => Json::from(value as i64),
        Err(_) => super::value::finite(value),
    }
}

fn combine(operator: &Token, left: Tree, right: Tree) -> Kind {
    let sign = match operator {
        Token::Sign(sign) => sign,
        Token::Word(word) if word == "and" => return Kind::And(left, right),
        _ => return Kind::Or(left, right),
    };
    let math = |sign: &str| match sign {
        "+" => Binary::Add,
        "-" => Binary::Sub,
        "*" => Binary::Mul,
        "/" => Binary::Div,
        "%" => Binary::Mod,
        "==" => Binary::Eq,
        "!=" => Binary::Ne,
        "<" => Binary::Lt,
        "<=" => Binary::Le,
        ">" => Binary::Gt,
        _ => Binary::Ge,
    };
    match *sign {
        "//" => Kind::Alternative(left, right),
        // `.a?//b`: the tokens of `?` and `//` run together.
        "?//" => Kind::Alternative(Term::boxed(left.at, Kind::Try(left, None)), right),
        "=" => Kind::Assign(Assign::Set, left, right),
        "|=" => Kind::Assign(Assign::Update, left, right),
        "//=" => Kind::Assign(Assign::Alternative, left, right),
        "+=" | "-=" | "*=" | "/=" | "%=" => Kind::Assign(Assign::Math(math(&sign[..1])), left, right),
        other => Kind::Binary(math(other), left, right),
    }
}
