//! Tasks of type `shell`: a command line run through `sh -c`, in a session of its own and behind the same limits as
//! Python code. Its output goes to the log while it runs; the ends of both streams are part of the result.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use crate::config::Limits;
use crate::error::Fault;
use crate::process::{Spawn, Spawner, Tree, describe_exit};
use crate::pump::{Item, Pump, Said, Stream};
use crate::sandbox::{Sandbox, View};

/// Of each stream, in the result.
const TAIL_BYTES: usize = 64 << 10;

/// What a command gives.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Returns {
    /// What it wrote, without the last line break.
    #[default]
    Stdout,
    /// What it wrote as errors, without the last line break.
    Stderr,
    /// Its exit code.
    Code,
    /// All of it.
    All,
    /// Nothing.
    None,
}

/// The input of the task.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Command {
    pub(crate) command: String,
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) stdin: String,
    /// What it gives, where that is not all of it and an exit code other than 0 is not always an error.
    #[serde(skip)]
    pub(crate) returns: Option<Returns>,
    /// Files that it finds in its folder.
    #[serde(skip)]
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

/// Reads the input, or says what is wrong with it.
pub(crate) fn parse(input: &[u8]) -> Result<Command, Fault> {
    let bad = |why: String| Fault::new("invalid-input", format!("shell takes {{\"command\": \"...\"}}: {why}"), false);
    let command: Command = serde_json::from_slice(input).map_err(|e| bad(e.to_string()))?;
    command.checked()
}

impl Command {
    /// The command, if the system can take it.
    pub(crate) fn checked(self) -> Result<Command, Fault> {
        let bad = |why: &str| Fault::new("invalid-input", format!("the command cannot be run: {why}"), false);
        let texts = [&self.command].into_iter().chain(&self.args).chain(self.env.values()).chain(self.env.keys());
        if texts.into_iter().any(|t| t.contains('\0')) {
            return Err(bad("a text holds a zero byte"));
        }
        if self.env.keys().any(|k| k.is_empty() || k.contains('=')) {
            return Err(bad("the name of a variable is not usable"));
        }
        Ok(self)
    }
}

/// What a running command says to the runner.
pub(crate) enum ShellSaid {
    Began(Arc<Tree>),
    Lines(Vec<(Stream, String)>),
    Done(Result<Bytes, Fault>),
}

/// Where and how it runs.
pub(crate) struct Place {
    pub(crate) spawner: Spawner,
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) limits: Limits,
    pub(crate) work: PathBuf,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) muted: Arc<AtomicBool>,
}

/// Runs one command to its end.
pub(crate) async fn run<E: Send + 'static>(
    command: Command,
    place: Place,
    events: mpsc::Sender<E>,
    wrap: impl Fn(ShellSaid) -> E + Send + Sync + Clone + 'static,
) {
    let result = execute(command, place, &events, wrap.clone()).await;
    let _ = events.send(wrap(ShellSaid::Done(result))).await;
}

async fn execute<E: Send + 'static>(
    command: Command,
    place: Place,
    events: &mpsc::Sender<E>,
    wrap: impl Fn(ShellSaid) -> E + Send + Sync + Clone + 'static,
) -> Result<Bytes, Fault> {
    for (name, bytes) in &command.files {
        let written = tokio::fs::write(place.work.join(name), bytes).await;
        written.map_err(|e| Fault::new("worker-start", format!("the script could not be written: {e}"), true))?;
    }
    let returns = command.returns;
    let mut args: Vec<OsString> = vec!["-c".into(), command.command.into(), "sh".into()];
    args.extend(command.args.into_iter().map(OsString::from));
    let mut env = place.env;
    env.extend(command.env.into_iter().map(|(k, v)| (k.into(), v.into())));
    let mut program = PathBuf::from("/bin/sh");
    if let Some(sandbox) = &place.sandbox {
        let view = View { readable: &[], writable: &[place.work.as_path()], network: sandbox.network() };
        (program, args) = sandbox.wrap(&view, &program, args);
    }
    let stdin = command.stdin.into_bytes();
    let spawn =
        Spawn { program, args, env, dir: place.work, limits: place.limits, keep: None, stdin: !stdin.is_empty() };
    let mut running = place
        .spawner
        .spawn(spawn)
        .await
        .map_err(|e| Fault::new("worker-start", format!("the command could not be started: {e}"), true))?;
    let tree = running.tree.clone();
    let _ = events.send(wrap(ShellSaid::Began(tree.clone()))).await;
    if let Some(mut pipe) = running.child.stdin.take() {
        tokio::spawn(async move {
            // A command that does not read its input ends this with an error that nobody needs.
            let _ = pipe.write_all(&stdin).await;
        });
    }
    let (said, mut heard) = mpsc::channel(16);
    let pump = Pump::new(running, None, place.muted);
    tokio::spawn(pump.run(said, |said| said));
    let (mut out, mut err) = (Tail::default(), Tail::default());
    let mut status = None;
    while let Some(said) = heard.recv().await {
        match said {
            Said::Items(items) => {
                let mut lines = Vec::with_capacity(items.len());
                for item in items {
                    if let Item::Line(stream, text) = item {
                        let tail = if stream == Stream::Stdout { &mut out } else { &mut err };
                        tail.push(&text);
                        lines.push((stream, text));
                    }
                }
                let _ = events.send(wrap(ShellSaid::Lines(lines))).await;
            }
            Said::Exited(exit) => status = exit,
        }
    }
    let verdict = tree.verdict();
    // What it left running in the background goes with it.
    tree.kill().await;
    let code = status.and_then(|s| s.code());
    let result = json!({ "code": code, "stdout": out.text(), "stderr": err.text() });
    if verdict.is_none()
        && let Some(returns) = returns
        && (code == Some(0) || matches!(returns, Returns::Code | Returns::All))
    {
        let line = |text: String| json!(text.strip_suffix('\n').unwrap_or(&text));
        let value = match returns {
            Returns::Stdout => line(out.text()),
            Returns::Stderr => line(err.text()),
            Returns::Code => json!(code),
            Returns::All => result,
            Returns::None => json!(null),
        };
        return Ok(Bytes::from(value.to_string()));
    }
    match (verdict, code) {
        (Some(verdict), _) => Err(Fault::new(verdict, describe_exit(status), false).with_detail(err.text())),
        (None, Some(0)) => Ok(Bytes::from(result.to_string())),
        _ => Err(Fault::new("exit-code", describe_exit(status), true).with_detail(result.to_string())),
    }
}

/// The last bytes of a stream.
#[derive(Default)]
struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, line: &str) {
        self.bytes += line.len() + 1;
        self.lines.push_back(line.to_owned());
        while self.bytes > TAIL_BYTES
            && let Some(first) = self.lines.pop_front()
        {
            self.bytes -= first.len() + 1;
        }
    }

    fn text(&self) -> String {
        self.lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_inputs_are_named() {
        assert!(parse(br#"{"command":"true"}"#).is_ok());
        for input in
            ["", "7", "{}", r#"{"command":1}"#, r#"{"command":"x","nonsense":1}"#, "{\"command\":\"a\\u0000b\"}"]
        {
            assert!(parse(input.as_bytes()).is_err_and(|f| f.kind == "invalid-input"), "{input}");
        }
    }

    #[test]
    fn only_the_end_of_a_stream_is_kept() {
        let mut tail = Tail::default();
        (0..10_000).for_each(|i| tail.push(&format!("line {i}")));
        assert!(tail.text().len() <= TAIL_BYTES && tail.text().ends_with("line 9999\n"));
    }
}
