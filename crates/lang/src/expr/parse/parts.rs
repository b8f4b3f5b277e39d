//! Objects, definitions and patterns.

use serde_json::Value as Json;

use super::super::ExprError;
use super::super::ast::{Def, Kind, Pattern, Term};
use super::super::lex::Token;
use super::{Parsed, Parser, keyword};

impl Parser<'_> {
    pub(super) fn object(&mut self) -> Parsed<Kind> {
        self.expect("{")?;
        let mut entries = Vec::new();
        loop {
            if self.take("}") {
                return Ok(Kind::Object(entries));
            }
            entries.push(self.entry()?);
            if !self.take(",") {
                self.expect("}")?;
                return Ok(Kind::Object(entries));
            }
        }
    }

    fn entry(&mut self) -> Parsed<(Term, Term)> {
        let at = self.at();
        let name = |name: &str| Term::new(at, Kind::Literal(Json::from(name)));
        let (key, short) = match self.peek() {
            Token::Var(variable) => {
                let value = self.primary()?;
                (name(variable), Some(value))
            }
            Token::Word(word) => {
                self.advance();
                (name(word), None)
            }
            Token::Text(_) | Token::Format(_) => (self.primary()?, None),
            Token::Number(..) => {
                return Err(
                    ExprError::new(at, "a number cannot be the key of an object").hinted("put it in double quotes")
                );
            }
            Token::Sign("(") => {
                self.advance();
                let key = self.query()?;
                self.expect(")")?;
                if let Kind::Literal(value) = &key.kind
                    && !value.is_string()
                {
                    return Err(ExprError::new(
                        at,
                        format!("{value} cannot be the key of an object: a key is a string"),
                    ));
                }
                if !self.sign(":") {
                    return Err(self.unexpected("`:` and a value"));
                }
                (key, None)
            }
            _ => return Err(self.unexpected("the key of an object")),
        };
        if self.take(":") {
            let value = self.object_value()?;
            // `{$name: ...}`: the key is the value of the variable.
            return Ok((short.unwrap_or(key), value));
        }
        match short {
            Some(value) => Ok((key, value)),
            None if self.sign(",") || self.sign("}") => {
                let value = Kind::Index(Term::boxed(at, Kind::Identity), Box::new(key.clone()), false);
                Ok((key, Term::new(at, value)))
            }
            None => Err(self.unexpected("`:` after the key (a computed key stands in parentheses), `,` or `}`")),
        }
    }

    /// A value of an object: all but `,`.
    fn object_value(&mut self) -> Parsed<Term> {
        let at = self.at();
        let left = self.deeper(|parser| parser.binary(0))?;
        if self.take("|") {
            let right = self.deeper(Self::object_value)?;
            return Ok(Term::new(at, Kind::Pipe(Box::new(left), Box::new(right))));
        }
        Ok(left)
    }

    pub(super) fn definition(&mut self) -> Parsed<Def> {
        self.expect_word("def")?;
        let name = match self.advance() {
            Token::Word(name) if !keyword(name) => name.clone(),
            _ => {
                self.next = self.next.saturating_sub(1);
                return Err(self.unexpected("the name of a function"));
            }
        };
        let mut params = Vec::new();
        if self.take("(") {
            loop {
                match self.peek() {
                    Token::Word(param) => params.push(param.clone()),
                    Token::Var(param) => params.push(format!("${param}")),
                    _ => return Err(self.unexpected("a parameter")),
                }
                self.advance();
                if !self.take(";") {
                    break;
                }
            }
            self.expect(")")?;
        }
        self.expect(":")?;
        let body = self.query()?;
        self.expect(";")?;
        Ok(Def { name, params, body })
    }

    pub(super) fn variable(&mut self) -> Parsed<String> {
        match self.peek() {
            Token::Var(name) => {
                self.advance();
                Ok(name.clone())
            }
            _ => Err(self.unexpected("a name with `$`")),
        }
    }

    pub(super) fn patterns(&mut self) -> Parsed<Vec<Pattern>> {
        let mut patterns = vec![self.pattern()?];
        while self.take("?//") {
            patterns.push(self.pattern()?);
        }
        Ok(patterns)
    }

    fn pattern(&mut self) -> Parsed<Pattern> {
        self.deeper(Self::pattern_inner)
    }

    fn pattern_inner(&mut self) -> Parsed<Pattern> {
        if self.take("[") {
            let mut items = vec![self.pattern()?];
            while self.take(",") {
                items.push(self.pattern()?);
            }
            self.expect("]")?;
            return Ok(Pattern::Array(items));
        }
        if !self.take("{") {
            return self.variable().map(Pattern::Var);
        }
        let mut entries = Vec::new();
        loop {
            let at = self.at();
            let (name, key) = match self.peek() {
                Token::Var(name) => {
                    self.advance();
                    (Some(name.clone()), Term::new(at, Kind::Literal(Json::from(name.as_str()))))
                }
                Token::Word(word) => {
                    self.advance();
                    (None, Term::new(at, Kind::Literal(Json::from(word.as_str()))))
                }
                Token::Text(_) => (None, self.primary()?),
                Token::Sign("(") => (None, self.primary()?),
                _ => return Err(self.unexpected("`$name` or a key")),
            };
            if let Kind::Literal(value) = &key.kind
                && !value.is_string()
            {
                return Err(ExprError::new(at, format!("{value} cannot be the key of an object: a key is a string")));
            }
            let inner = match (self.take(":"), &name) {
                (true, _) => Some(self.pattern()?),
                (false, Some(_)) => None,
                (false, None) => return Err(self.unexpected("`:` and what the value is taken apart by")),
            };
            entries.push((name, key, inner));
            if !self.take(",") {
                break;
            }
        }
        self.expect("}")?;
        Ok(Pattern::Object(entries))
    }
}
