//! Reading JSON bodies: bounded, valid UTF-8, at most so deep, no duplicate keys, no unknown fields; every refusal
//! names the place. The checks are one pass over the bytes without building a tree, since they stand on the way of
//! each submit.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tidewheel_proto::code::Code;

use crate::problem::Failure;
use crate::text::nearest;

/// Deepest nesting of a body. Deeper ones are attacks or accidents, and recursion has to stop somewhere.
pub(crate) const MAX_DEPTH: usize = 64;

/// Checks and reads a body.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Failure::new(Code::MalformedBody, "The body is empty; a JSON object is needed."));
    }
    let text = check(bytes)?;
    // The parser would read an array as the fields of an object in their order.
    if !text.trim_start().starts_with('{') {
        parse_borrowed::<serde::de::IgnoredAny>(text)?;
        return Err(Failure::field("", "the body has to be a JSON object"));
    }
    parse_borrowed(text)
}

/// Reads a text that [`check`] passed into a type that borrows from it.
pub(crate) fn parse_borrowed<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| explain(text, &error))
}

/// Like [`parse`], but an empty body stands for the default: actions whose fields are all optional.
pub(crate) fn parse_or_default<T: DeserializeOwned + Default>(bytes: &[u8]) -> Result<T, Failure> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    parse(bytes)
}

/// Checks that bytes are one JSON value, without keeping anything of it.
pub(crate) fn check_json(bytes: &[u8]) -> Result<(), Failure> {
    parse_borrowed::<serde::de::IgnoredAny>(check(bytes)?).map(|_| ())
}

/// UTF-8, depth, duplicate keys, and what many parsers of JSON cannot read although its grammar allows it: numbers beyond a double, and
/// halves of surrogate pairs. Taken in here, they would fail wherever they are read.
pub(crate) fn check(bytes: &[u8]) -> Result<&str, Failure> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        Failure::new(Code::MalformedBody, format!("The body is not valid UTF-8 at byte {}.", error.valid_up_to()))
    })?;
    Scanner { bytes, at: 0, keys: Vec::new() }.run()?;
    Ok(text)
}

/// Walks the tokens of a JSON text. It is lenient where the parser that follows is strict.
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Keys of all open objects, one segment per object.
    keys: Vec<&'a [u8]>,
}

enum Open {
    Array,
    /// Where the object's keys begin in [`Scanner::keys`].
    Object(usize),
}

impl<'a> Scanner<'a> {
    fn run(&mut self) -> Result<(), Failure> {
        let mut stack: Vec<Open> = Vec::new();
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b'{' | b'[' => {
                    if stack.len() == MAX_DEPTH {
                        let detail = format!("The body is nested deeper than {MAX_DEPTH} levels.");
                        return Err(Failure::new(Code::MalformedBody, detail));
                    }
                    stack.push(if *byte == b'{' { Open::Object(self.keys.len()) } else { Open::Array });
                    self.at += 1;
                }
                b'}' | b']' => {
                    if let Some(Open::Object(start)) = stack.pop() {
                        self.close_object(start)?;
                    }
                    self.at += 1;
                }
                b'"' => {
                    let start = self.at;
                    let string = self.string();
                    if string.contains(&b'\\') && has_half_pair(string) {
                        let what = "the text has half of a surrogate pair (\\ud800 to \\udfff), which is no character";
                        return Err(Failure::field(pointer_at(self.bytes, start), what));
                    }
                    if matches!(stack.last(), Some(Open::Object(_))) && self.colon_follows() {
                        self.keys.push(string);
                    }
                }
                b'-' | b'0'..=b'9' => {
                    let start = self.at;
                    if is_beyond_double(self.number()) {
                        let what = "the number is larger than a double holds (1.8e308); send it as a text";
                        return Err(Failure::field(pointer_at(self.bytes, start), what));
                    }
                }
                _ => self.at += 1,
            }
        }
        Ok(())
    }

    /// The number that begins here.
    fn number(&mut self) -> &'a [u8] {
        let start = self.at;
        let more = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        self.at = self.bytes[start..].iter().position(|byte| !more(byte)).map_or(self.bytes.len(), |end| start + end);
        &self.bytes[start..self.at]
    }

    /// The content of the string that begins here, quotes excluded; an unterminated one ends with the text.
    fn string(&mut self) -> &'a [u8] {
        let start = self.at + 1;
        let mut i = start;
        while let Some(byte) = self.bytes.get(i) {
            match byte {
                b'\\' => i += 2,
                b'"' => break,
                _ => i += 1,
            }
        }
        let end = i.min(self.bytes.len());
        self.at = (end + 1).min(self.bytes.len());
        &self.bytes[start..end]
    }

    fn colon_follows(&self) -> bool {
        self.bytes[self.at..].iter().find(|b| !b.is_ascii_whitespace()) == Some(&b':')
    }

    fn close_object(&mut self, start: usize) -> Result<(), Failure> {
        let keys = &mut self.keys[start..];
        // Keys written with escapes may be equal without looking equal.
        let escaped = keys.iter().any(|k| k.contains(&b'\\'));
        let duplicate = if escaped {
            let mut decoded: Vec<String> = keys.iter().map(|k| decoded_key(k)).collect();
            decoded.sort_unstable();
            decoded.windows(2).find(|w| w[0] == w[1]).map(|w| w[0].clone())
        } else if keys.len() <= 8 {
            let pairs = keys.iter().enumerate();
            let found = pairs.clone().find(|(i, k)| keys[..*i].contains(k));
            found.map(|(_, k)| String::from_utf8_lossy(k).into_owned())
        } else {
            keys.sort_unstable();
            keys.windows(2).find(|w| w[0] == w[1]).map(|w| String::from_utf8_lossy(w[0]).into_owned())
        };
        self.keys.truncate(start);
        match duplicate {
            None => Ok(()),
            Some(key) => {
                let shown: String = key.chars().take(80).collect();
                Err(Failure::new(
                    Code::MalformedBody,
                    format!("The key '{shown}' occurs twice in one object of the body."),
                ))
            }
        }
    }
}

/// The longest number that cannot be too large, if it has no exponent: the largest double has 309 digits.
const DOUBLE_DIGITS: usize = 308;

fn is_beyond_double(number: &[u8]) -> bool {
    let may_be = number.len() > DOUBLE_DIGITS || number.iter().any(|byte| matches!(byte, b'e' | b'E'));
    let read = || std::str::from_utf8(number).ok()?.parse::<f64>().ok();
    may_be && read().is_some_and(f64::is_infinite)
}

/// Whether the content of a string has an escape `\uD800` to `\uDFFF` that is not one of a pair.
fn has_half_pair(string: &[u8]) -> bool {
    let unit = |at: usize| {
        let escape = string.get(at..at + 6).filter(|escape| escape.starts_with(b"\\u"))?;
        u16::from_str_radix(std::str::from_utf8(&escape[2..]).ok()?, 16).ok()
    };
    let mut at = 0;
    while let Some(found) = string[at..].iter().position(|byte| *byte == b'\\') {
        at += found;
        at += match unit(at) {
            Some(0xD800..=0xDBFF) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => 12,
            Some(0xD800..=0xDFFF) => return true,
            _ => 2,
        };
        if at >= string.len() {
            break;
        }
    }
    false
}

fn decoded_key(raw: &[u8]) -> String {
    let quoted = [b"\"", raw, b"\""].concat();
    serde_json::from_slice(&quoted).unwrap_or_else(|_| String::from_utf8_lossy(raw).into_owned())
}

/// Turns the parser's words into a problem with a pointer, and with the nearest name where a field is unknown.
fn explain(text: &str, error: &serde_json::Error) -> Failure {
    let words = error.to_string();
    // The parser appends its position in words; the pointer says it better.
    let message = words.split(" at line ").next().unwrap_or(&words).to_owned();
    if error.is_syntax() || error.is_eof() {
        let detail =
            format!("The body is not valid JSON: {message} at line {}, column {}.", error.line(), error.column());
        return Failure::new(Code::MalformedBody, detail);
    }
    let pointer = pointer_at(text.as_bytes(), offset_of(text, error.line(), error.column()));
    if let Some((field, known)) = unknown_field(&message) {
        let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
        let hint = nearest(&field, known.iter().map(String::as_str))
            .map_or_else(|| format!("known fields are {}", known.join(", ")), |name| format!("did you mean '{name}'?"));
        return Failure::field(format!("{parent}/{field}"), format!("unknown field; {hint}"));
    }
    if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        // The position is the end of the object that lacks it, and there the last key still stands in the pointer.
        let parent = enclosing(text.as_bytes(), offset_of(text, error.line(), error.column()));
        return Failure::field(format!("{parent}/{field}"), "this field is missing");
    }
    if message == "invalid type: sequence, expected an object" {
        // The parser has gone into the array before it learns that there should be none (`proto::rest::object`).
        let array = pointer.rsplit_once('/').map_or("", |(array, _)| array);
        return Failure::field(array, message);
    }
    Failure::field(pointer, message)
}

fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (field, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((field.to_owned(), known))
}

/// Byte offset of the parser's line and column, which count from 1 and name the last byte that was read.
fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (start + column).min(text.len())
}

/// JSON pointer of the value that is being read at an offset.
fn pointer_at(bytes: &[u8], offset: usize) -> String {
    render(&path_at(bytes, offset))
}

/// JSON pointer of the object that closes at an offset.
fn enclosing(bytes: &[u8], offset: usize) -> String {
    let mut path = path_at(bytes, offset.saturating_sub(1));
    path.pop();
    render(&path)
}

fn render(path: &[String]) -> String {
    path.iter().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
}

/// The keys and indexes that lead to the value at an offset.
fn path_at(bytes: &[u8], offset: usize) -> Vec<String> {
    let mut scanner = Scanner { bytes, at: 0, keys: Vec::new() };
    // One entry per open container: the last key, or the index.
    let mut path: Vec<(bool, String, usize)> = Vec::new();
    while scanner.at < offset {
        let Some(byte) = bytes.get(scanner.at) else { break };
        match byte {
            b'{' => path.push((true, String::new(), 0)),
            b'[' => path.push((false, String::new(), 0)),
            b'}' | b']' => {
                path.pop();
            }
            b',' => {
                if let Some((is_object, _, index)) = path.last_mut() {
                    *index += usize::from(!*is_object);
                }
            }
            b'"' => {
                let string = scanner.string();
                if scanner.colon_follows()
                    && let Some((true, key, _)) = path.last_mut()
                {
                    *key = decoded_key(string);
                }
                continue;
            }
            _ => {}
        }
        scanner.at += 1;
    }
    path.into_iter().map(|(is_object, key, index)| if is_object { key } else { index.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewheel_proto::rest::SubmitTask;

    fn refused(body: &str) -> tidewheel_proto::rest::Problem {
        match parse::<SubmitTask>(body.as_bytes()) {
            Ok(_) => panic!("accepted: {body}"),
            Err(failure) => *failure.0,
        }
    }

    #[test]
    fn a_wrong_field_is_named_with_its_pointer() {
        for (body, pointer, words) in [
            (r#"{"type":"a","prioritty":3}"#, "/prioritty", "did you mean 'priority'?"),
            (r#"{"type":"a","payload":{}}"#, "/payload", "known fields are"),
            (r#"{"type":"a","retry":{"max_atempts":3}}"#, "/retry/max_atempts", "did you mean 'max_attempts'?"),
            (r#"{"type":7}"#, "/type", "invalid type"),
            (r#"{"type":"a","labels":{"x":1}}"#, "/labels/x", "invalid type"),
            (r#"{"type":"a","retry":{"on":["x",3]}}"#, "/retry/on/1", "invalid type"),
            (r#"{"queue":"default"}"#, "/type", "missing"),
            (r#"["noop"]"#, "", "has to be a JSON object"),
            ("7", "", "has to be a JSON object"),
        ] {
            let problem = refused(body);
            assert_eq!(problem.code, Code::InvalidField, "{body}");
            assert_eq!(problem.errors[0].pointer, pointer, "{body}: {problem:?}");
            assert!(problem.errors[0].detail.contains(words), "{body}: {}", problem.errors[0].detail);
        }
    }

    #[test]
    fn broken_texts_are_malformed() {
        let deep = format!(r#"{{"type":"a","input":{}{}}}"#, "[".repeat(64), "]".repeat(64));
        for body in [r#"{"type":"#, "nonsense", r#"{"type":"a",}"#, r#"{"type":"a"} x"#, "[1,2", &deep, "\u{feff}{}"] {
            assert_eq!(refused(body).code, Code::MalformedBody, "{body}");
        }
    }

    #[test]
    fn what_a_parser_could_not_read_back_is_named() {
        let digits = "9".repeat(400);
        for (value, pointer) in [
            ("1e999", "/input"),
            (r#"{"a":[0,-1E+400]}"#, "/input/a/1"),
            (digits.as_str(), "/input"),
            (r#""\ud800""#, "/input"),
            (r#"{"a":"x\\\ud83d\ude0"}"#, "/input/a"),
            (r#"["\ud83d\ude00\udc00"]"#, "/input/0"),
        ] {
            let problem = refused(&format!(r#"{{"type":"a","input":{value}}}"#));
            assert_eq!((problem.code, &*problem.errors[0].pointer), (Code::InvalidField, pointer), "{value}");
        }
        let zeros = format!("0.{}1", "0".repeat(400));
        let small = "1".repeat(300);
        for value in [r#""\ud83d\ude00 \\ud800 \u00e9""#, "1.7e308", "-1e-400", &zeros, &small, r#""1e999""#] {
            let body = format!(r#"{{"type":"a","input":{value}}}"#);
            assert!(parse::<SubmitTask>(body.as_bytes()).is_ok(), "{value}");
        }
    }

    #[test]
    fn invalid_utf8_is_malformed() {
        let failure = parse::<SubmitTask>(b"{\"type\":\"\xff\xfe\"}").unwrap_err();
        assert_eq!(failure.code(), Code::MalformedBody);
        assert!(failure.0.detail.contains("byte 9"), "{}", failure.0.detail);
    }

    #[test]
    fn duplicate_keys_are_refused_at_every_level() {
        for body in [
            r#"{"type":"a","type":"b"}"#,
            r#"{"type":"a","input":{"x":1,"x":2}}"#,
            r#"{"type":"a","input":[{"k":{"x":1,"\u0078":2}}]}"#,
            r#"{"type":"a","labels":{"a":"1","b":"2","a":"3"}}"#,
            r#"{"type":"a","input":{"1":1,"2":1,"3":1,"4":1,"5":1,"6":1,"7":1,"8":1,"9":1,"5":2}}"#,
        ] {
            let problem = refused(body);
            assert_eq!(problem.code, Code::MalformedBody, "{body}");
            assert!(problem.detail.contains("twice"), "{body}");
        }
    }

    #[test]
    fn equal_texts_that_are_no_keys_pass() {
        let body = r#"{"type":"a","input":{"a":"x","b":["x","x",{"x":"x"},{"x":":"}]}}"#;
        assert!(parse::<SubmitTask>(body.as_bytes()).is_ok());
    }

    #[test]
    fn nesting_is_accepted_up_to_the_bound() {
        let body = format!(r#"{{"type":"a","input":{}{}}}"#, "[".repeat(MAX_DEPTH - 1), "]".repeat(MAX_DEPTH - 1));
        assert!(parse::<SubmitTask>(body.as_bytes()).is_ok());
        let bomb = "[".repeat(100_000);
        assert_eq!(refused(&bomb).code, Code::MalformedBody);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(bytes: Vec<u8>) {
            let _ = parse::<SubmitTask>(&bytes);
        }

        #[test]
        fn no_json_like_text_makes_it_panic(text in r#"[\[\]{}",:a\\ 01ude8E.+-]{0,60}"#) {
            let _ = parse::<SubmitTask>(text.as_bytes());
            let _ = pointer_at(text.as_bytes(), text.len() / 2);
        }
    }
}
