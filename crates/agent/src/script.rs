//! Code that a workflow brings: tasks of the types `run.shell` and `run.python`. Each becomes a command line; what it gives is what
//! the statement's `return` says.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use tidewheel_proto::builtin::RUN_SHELL;

use crate::error::Fault;
use crate::shell::{Command, Returns};

/// Runs the script with its arguments: names become variables, a list becomes `sys.argv`.
const RUNNER: &str = "import json, sys
given = json.load(open('arguments.json', encoding='utf-8'))
sys.argv = ['script.py', *(str(a) for a in given)] if isinstance(given, list) else ['script.py']
scope = {'__name__': '__main__', **(given if isinstance(given, dict) else {})}
exec(compile(open('script.py', encoding='utf-8').read(), 'script.py', 'exec'), scope)
";

/// Arguments by name or in order.
#[derive(Deserialize)]
#[serde(untagged)]
enum Arguments {
    Named(serde_json::Map<String, Value>),
    Listed(Vec<Value>),
}

impl Default for Arguments {
    fn default() -> Self {
        Arguments::Listed(Vec::new())
    }
}

/// The input of such a task.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    #[serde(default)]
    command: Option<String>,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    language: Option<String>,
    #[serde(default)]
    arguments: Option<Arguments>,
    #[serde(default)]
    environment: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    stdin: Option<String>,
    #[serde(default, rename = "return")]
    returns: Option<Returns>,
}

/// Reads the input, or says what is wrong with it.
pub(crate) fn parse(kind: &str, input: &[u8]) -> Result<Command, Fault> {
    let bad = |why: &str| Fault::new("invalid-input", format!("{kind}: {why}"), false);
    let script: Script = serde_json::from_slice(input).map_err(|e| bad(&e.to_string()))?;
    let environment = script.environment.unwrap_or_default();
    let env = environment.into_iter().map(|(name, value)| (name, text(&value))).collect();
    let arguments = script.arguments.unwrap_or_default();
    let mut command = Command { env, stdin: script.stdin.unwrap_or_default(), ..Command::default() };
    command.returns = Some(script.returns.unwrap_or_default());
    match kind {
        RUN_SHELL => {
            let line = script.command.ok_or_else(|| bad("`command` is missing"))?;
            command.args = match arguments {
                Arguments::Listed(list) => list.iter().map(text).collect(),
                Arguments::Named(map) => map.iter().map(|(name, value)| flag(name, value)).collect(),
            };
            // The arguments follow the command line, each as one word.
            command.command = if command.args.is_empty() { line } else { format!("{line} \"$@\"") };
        }
        _ => {
            if script.language.as_deref().is_some_and(|language| language != "python") {
                return Err(bad("the language of the script is not `python`"));
            }
            let code = script.code.ok_or_else(|| bad("`code` is missing"))?;
            let given = match arguments {
                Arguments::Listed(list) => Value::Array(list),
                Arguments::Named(map) => Value::Object(map),
            };
            command.files = vec![
                ("script.py".into(), code.into_bytes()),
                ("arguments.json".into(), given.to_string().into_bytes()),
                ("run.py".into(), RUNNER.as_bytes().to_vec()),
            ];
            command.command = "exec python3 -I run.py".into();
        }
    }
    command.checked()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `name=value`, or the name alone where there is no value.
fn flag(name: &str, value: &Value) -> String {
    if value.is_null() { name.to_owned() } else { format!("{name}={}", text(value)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewheel_proto::builtin::RUN_PYTHON;

    #[test]
    fn arguments_of_a_command_are_words_of_their_own() {
        let input = br#"{"command": "echo", "arguments": {"--name": "a b", "-v": null}, "return": "stdout"}"#;
        let command = parse(RUN_SHELL, input).ok().unwrap();
        assert_eq!(command.command, "echo \"$@\"");
        assert_eq!(command.args, ["--name=a b", "-v"]);
    }

    #[test]
    fn wrong_inputs_are_named() {
        for (kind, input) in [
            (RUN_SHELL, "{}"),
            (RUN_PYTHON, r#"{"command":"x"}"#),
            (RUN_PYTHON, r#"{"code":"x","language":"js"}"#),
            (RUN_SHELL, "7"),
        ] {
            assert!(parse(kind, input.as_bytes()).is_err_and(|f| f.kind == "invalid-input"), "{kind} {input}");
        }
    }
}
