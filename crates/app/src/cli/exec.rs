//! `tidewheel exec`: one function, here and now, through the Python test kit.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;
use serde_json::{Map, Value, json};

use super::Ctx;
use super::common::{field, json_input, scalar};
use super::package;
use crate::fail::{Exit, Failure, Outcome, While};

/// What runs the function.
const SCRIPT: &str = include_str!("exec/run.py");

/// Run a function on this machine, without a server
///
/// Runs a task, or any function, through the test kit: the input goes to JSON and back as it would on the way through a
/// server, retries happen as the task's policy says without waiting, and the result is printed. What the function
/// prints goes to standard error. The dependencies of the project around the file (its `pyproject.toml`) are installed
/// into an environment that is kept.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel exec tasks.py:greet name=Ann times=3
  tidewheel exec tasks.py:extract --input @order.json --no-retries")]
pub(crate) struct Exec {
    /// Python file and function
    #[arg(value_name = "FILE:FUNC")]
    target: String,
    /// Arguments: `name=value`, or values in order; JSON where it reads as JSON
    args: Vec<String>,
    /// Input: JSON, `@FILE`, or `-` for standard input
    #[arg(long, short, value_name = "JSON", allow_hyphen_values = true, conflicts_with = "args")]
    input: Option<String>,
    /// End with the first failure
    #[arg(long)]
    no_retries: bool,
}

impl Exec {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        let what = format!("run {}", self.target);
        let (file, function) =
            self.target.rsplit_once(':').filter(|(file, f)| !file.is_empty() && !f.is_empty()).ok_or_else(|| {
                Failure::usage(format!("cannot {what}"), "it has to name a file and a function, such as tasks.py:greet")
            })?;
        if !Path::new(file).is_file() {
            return Err(Failure::new(Exit::Missing, format!("cannot {what}"), format!("there is no file {file}")));
        }
        let (args, kwargs) = self.arguments()?;
        let call =
            json!({"file": file, "function": function, "args": args, "kwargs": kwargs, "retries": !self.no_retries});
        let answer = python(Path::new(file), &call, &what)?;
        self.report(ctx, &answer, file, &what)
    }

    fn arguments(&self) -> Outcome<(Vec<Value>, Map<String, Value>)> {
        if let Some(input) = &self.input {
            let text = json_input(input)?;
            let value = serde_json::from_str(&text).doing(Exit::Usage, || "cannot read the input".to_owned())?;
            return Ok(match value {
                Value::Object(map) => (Vec::new(), map),
                Value::Array(items) => (items, Map::new()),
                other => (vec![other], Map::new()),
            });
        }
        let (mut args, mut kwargs) = (Vec::new(), Map::new());
        for text in &self.args {
            match text.split_once('=').filter(|(name, _)| is_identifier(name)) {
                Some((name, value)) => {
                    kwargs.insert(name.to_owned(), parsed(value));
                }
                None => args.push(parsed(text)),
            }
        }
        Ok((args, kwargs))
    }

    fn report(&self, ctx: &Ctx, answer: &Value, file: &str, what: &str) -> Outcome {
        let failed = |exit| {
            let why = format!("{}: {}", field(answer, "type"), field(answer, "message"));
            Failure::new(exit, format!("cannot {what}"), why)
        };
        match field(answer, "kind") {
            "ok" => {
                let attempts = answer["attempts"].as_u64().unwrap_or(1);
                if attempts > 1 {
                    ctx.out.note(&format!("succeeded at attempt {attempts}"));
                }
                ctx.out.value(&answer["result"])
            }
            "missing" => {
                let names: Vec<_> =
                    answer["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let wanted = self.target.rsplit(':').next().unwrap_or_default();
                let near = crate::text::did_you_mean(wanted, names.iter().copied());
                let why = format!("{file} has no '{wanted}'{near}; its tasks are: {}", names.join(", "));
                Err(Failure::new(Exit::Missing, format!("cannot {what}"), why))
            }
            "setup" => Err(failed(Exit::Usage).next("tidewheel doctor")),
            _ => {
                let detail = field(answer, "detail");
                if !detail.is_empty() {
                    ctx.out.note(detail.trim_end());
                }
                Err(failed(Exit::Failed))
            }
        }
    }
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// JSON where it reads as JSON, else the text itself.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| scalar(text))
}

/// Runs the script and reads its answer.
fn python(file: &Path, call: &Value, what: &str) -> Outcome<Value> {
    let setup = || format!("cannot {what}");
    let code = prepared(file, what)?;
    let mut paths = code.paths;
    paths.extend(std::env::var_os("PYTHONPATH").iter().flat_map(std::env::split_paths));
    let paths = std::env::join_paths(paths).doing(Exit::Usage, setup)?;
    let mut command = Command::new(&code.python);
    command.args(["-c", SCRIPT]).env("PYTHONPATH", paths).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        let why = format!("{} cannot be started: {error}", code.python.display());
        Failure::usage(setup(), why).next("tidewheel doctor")
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says more by its exit than this error would.
        let _ = stdin.write_all(call.to_string().as_bytes());
    }
    let output = child.wait_with_output().doing(Exit::Failed, setup)?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let why = format!("the function ended the interpreter ({})", output.status);
        Failure::new(Exit::Failed, setup(), why)
    })
}

/// The interpreter and the module path: with the dependencies of the project the file belongs to, as an agent would.
fn prepared(file: &Path, what: &str) -> Outcome<tidewheel_agent::LocalCode> {
    let setup = || format!("cannot {what}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing(Exit::Failed, setup)?;
    let options = tidewheel_agent::BuildOptions::new(package::cache_dir());
    runtime
        .block_on(tidewheel_agent::prepare_local(file, &options))
        .map_err(|error| Failure::usage(setup(), error.to_string()).next("tidewheel doctor"))
}
