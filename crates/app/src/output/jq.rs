//! `--jq`: filters run by jaq in a thread of their own, so that one that never ends, recurses without end or prints
//! without end is stopped and reported. The guard protects the caller's terminal and machine; the expression is the
//! caller's own.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Vars, data, unwrap_valr};
use jaq_json::{Val, read};
use serde_json::Value;

use crate::fail::{Exit, Failure, Outcome};

/// Time for one input. A filter over a page of a list needs milliseconds.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// Values from one input.
const MAX_OUTPUTS: usize = 1_000_000;
/// Text from one input.
const MAX_BYTES: usize = 256 << 20;
/// Stack of the filter's thread; jaq recurses for what is not a tail call.
const STACK: usize = 256 << 20;
/// Address space of the process from then on: a filter that builds without end is stopped by the allocator, not by the
/// machine's memory running out. The allocator itself reserves a gigabyte or two that it does not use.
const ADDRESS_SPACE: u64 = 6 << 30;

/// One output of a filter.
pub(crate) enum Output {
    /// A string, shown without quotes.
    Text(String),
    /// Any other value as JSON text.
    Json(String),
}

/// A compiled filter.
pub(crate) struct Jq {
    expression: String,
    inputs: Sender<Vec<u8>>,
    outputs: Receiver<Result<Vec<Output>, String>>,
}

impl Jq {
    /// Compiles a filter; a wrong one is a usage error that points at the place.
    pub(crate) fn compile(expression: &str) -> Outcome<Jq> {
        bound_memory();
        let (inputs, input_of) = mpsc::channel::<Vec<u8>>();
        let (output_to, outputs) = mpsc::channel();
        let (ready_to, ready) = mpsc::channel();
        let text = expression.to_owned();
        let spawned = std::thread::Builder::new().name("jq".to_owned()).stack_size(STACK).spawn(move || {
            let filter = match compile(&text) {
                Ok(filter) => filter,
                Err(why) => {
                    let _ = ready_to.send(Err(why));
                    return;
                }
            };
            let _ = ready_to.send(Ok(()));
            for input in input_of {
                if output_to.send(evaluate(&filter, &input)).is_err() {
                    return;
                }
            }
        });
        let failed = |why: String| Failure::usage(format!("cannot use --jq '{expression}'"), why);
        spawned.map_err(|error| failed(error.to_string()))?;
        match ready.recv_timeout(TIME_LIMIT) {
            Ok(Ok(())) => Ok(Jq { expression: expression.to_owned(), inputs, outputs }),
            Ok(Err(why)) => Err(failed(why)),
            Err(_) => Err(failed("it could not be compiled".to_owned())),
        }
    }

    /// Runs the filter on one value.
    pub(crate) fn run(&self, value: &Value) -> Outcome<Vec<Output>> {
        let failed = |exit, why: String| Err(Failure::new(exit, format!("--jq '{}' failed", self.expression), why));
        if self.inputs.send(super::compact(value).into_bytes()).is_err() {
            return failed(Exit::Failed, "the filter's thread has ended".to_owned());
        }
        match self.outputs.recv_timeout(TIME_LIMIT) {
            Ok(Ok(outputs)) => Ok(outputs),
            Ok(Err(why)) => failed(Exit::Usage, why),
            Err(_) => failed(Exit::Usage, format!("it did not end within {} s", TIME_LIMIT.as_secs())),
        }
    }
}

fn bound_memory() {
    let limit = libc::rlimit { rlim_cur: ADDRESS_SPACE, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the struct lives across the call. A refused limit changes nothing but the guard.
    unsafe {
        let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_AS, &mut old) == 0 && old.rlim_cur > ADDRESS_SPACE {
            libc::setrlimit(libc::RLIMIT_AS, &libc::rlimit { rlim_max: old.rlim_max, ..limit });
        }
    }
}

type Filter = jaq_core::Filter<data::JustLut<Val>>;

fn compile(expression: &str) -> Result<Filter, String> {
    let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let funs = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let arena = Arena::default();
    let modules = Loader::new(defs).load(&arena, File { code: expression, path: () }).map_err(|errors| {
        use jaq_core::load::Error;
        for (file, error) in errors {
            let (found, expected) = match error {
                Error::Lex(errors) => match errors.into_iter().next() {
                    Some((expected, found)) => (found, expected.as_str().to_owned()),
                    None => continue,
                },
                Error::Parse(errors) => match errors.into_iter().next() {
                    Some((expected, found)) => (found, expected.as_str().to_owned()),
                    None => continue,
                },
                Error::Io(_) => return "modules cannot be imported here".to_owned(),
            };
            return format!("{} here: {}", expected, place(file.code, found));
        }
        "it cannot be read".to_owned()
    })?;
    Compiler::default().with_funs(funs).compile(modules).map_err(|errors| {
        let first = errors.into_iter().flat_map(|(_, undefined)| undefined).next();
        first.map_or_else(
            || "it cannot be compiled".to_owned(),
            |(name, undefined)| format!("there is no {} '{name}'", undefined.as_str()),
        )
    })
}

/// The text around a place, with an arrow where the mistake is.
fn place(code: &str, found: &str) -> String {
    let at = (found.as_ptr() as usize).wrapping_sub(code.as_ptr() as usize);
    match code.get(..at) {
        Some(before) if !found.is_empty() => format!("{before}-->{}", &code[at..]),
        _ => format!("{code}<-- end"),
    }
}

fn evaluate(filter: &Filter, input: &[u8]) -> Result<Vec<Output>, String> {
    let value = read::parse_single(input).map_err(|error| error.to_string())?;
    let ctx = Ctx::<data::JustLut<Val>>::new(&filter.lut, Vars::new([]));
    let (mut outputs, mut bytes) = (Vec::new(), 0);
    for result in filter.id.run((ctx, value)).map(unwrap_valr) {
        let value = result.map_err(|error| crate::text::one_line(&error.to_string()))?;
        let output = match &value {
            Val::TStr(text) => Output::Text(String::from_utf8_lossy(text).into_owned()),
            other => Output::Json(other.to_string()),
        };
        bytes += match &output {
            Output::Text(text) | Output::Json(text) => text.len(),
        };
        outputs.push(output);
        if outputs.len() > MAX_OUTPUTS || bytes > MAX_BYTES {
            return Err(format!("it gave more than {MAX_OUTPUTS} values or {} MiB from one input", MAX_BYTES >> 20));
        }
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(expression: &str, value: &Value) -> Vec<String> {
        let outputs = Jq::compile(expression).unwrap().run(value).unwrap();
        let text = |output| match output {
            Output::Text(text) | Output::Json(text) => text,
        };
        outputs.into_iter().map(text).collect()
    }

    #[test]
    fn strings_come_without_quotes_and_values_as_json() {
        let value = json!({"items": [{"id": "a", "n": 1}, {"id": "b", "n": 2}]});
        assert_eq!(texts(".items[].id", &value), ["a", "b"]);
        assert_eq!(texts("[.items[].n] | add", &value), ["3"]);
        assert_eq!(texts("{x: .items[0].n}", &value), [r#"{"x":1}"#]);
    }

    #[test]
    fn wrong_filters_are_usage_errors() {
        for expression in [".items[", "nosuch", "."] {
            let result = Jq::compile(expression);
            assert_eq!(result.is_ok(), expression == ".", "{expression}");
        }
        let failure = Jq::compile(".").unwrap().run(&Value::Null).map(|_| ());
        assert!(failure.is_ok());
        let failure = Jq::compile(".a").unwrap().run(&json!([])).err().unwrap();
        assert_eq!(failure.exit(), Exit::Usage);
    }
}
