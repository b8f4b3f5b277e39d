//! The code of a project, imported for what it says of itself. It is anybody's code and may do anything while it is imported:
//! the time it takes and the bytes it writes are bounded, and an end that it brings about is told as what it is.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::error::Error;
use crate::process::describe_exit;

/// What the code may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Bytes on each of its two streams.
    pub(crate) bytes: usize,
    /// From the start of the interpreter to its end.
    pub(crate) time: Duration,
}

/// Once the interpreter has ended, all that it wrote can be read at once; somebody whom it started may hold the streams open.
const REST_TIME: Duration = Duration::from_secs(5);
/// Bytes kept of what the code wrote, beside a message.
const SAID_BYTES: usize = 16 << 10;

/// A line of the shim about its own way; other lines are the answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
enum Step {
    /// The module that is imported from here on; none = all are.
    #[serde(rename = "importing")]
    Importing(Option<String>),
    /// Why the code cannot be served.
    #[serde(rename = "refused")]
    Refused {
        message: String,
        #[serde(default)]
        traceback: String,
    },
}

/// How far the shim has come.
enum Progress {
    Begun,
    Importing(String),
    Imported,
}

/// Why reading ended before the interpreter did.
enum Stopped {
    Time,
    Output,
    Failed(std::io::Error),
}

/// Runs the shim, which tells its steps (`--steps`), and gives the lines of its answer. Errors: it cannot be started, the code
/// cannot be imported, goes beyond its bounds, or ends the interpreter.
pub(crate) async fn run(mut command: Command, bounds: Bounds) -> Result<Vec<Box<RawValue>>, Error> {
    let program = command.as_std().get_program().to_owned();
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().map_err(Error::file("run", Path::new(&program)))?;
    let (mut answer, mut said) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let ended = {
        let streams =
            async { tokio::try_join!(read(stdout, &mut answer, bounds.bytes), read(stderr, &mut said, bounds.bytes)) };
        tokio::pin!(streams);
        let ended = async {
            tokio::select! {
                all = &mut streams => {
                    all?;
                    child.wait().await.map_err(Stopped::Failed)
                }
                status = child.wait() => {
                    tokio::time::timeout(REST_TIME, &mut streams).await.unwrap_or(Ok(((), ())))?;
                    status.map_err(Stopped::Failed)
                }
            }
        };
        tokio::time::timeout(bounds.time, ended).await.unwrap_or(Err(Stopped::Time))
    };
    if ended.is_err() {
        // One that has ended cannot be killed, and need not be.
        let _ = child.kill().await;
    }
    told(ended, &answer, &said, bounds)
}

async fn read(stream: impl AsyncRead + Unpin, into: &mut Vec<u8>, bound: usize) -> Result<(), Stopped> {
    let mut bounded = stream.take(bound as u64 + 1);
    bounded.read_to_end(into).await.map_err(Stopped::Failed)?;
    if into.len() > bound { Err(Stopped::Output) } else { Ok(()) }
}

/// What it comes to.
fn told(
    ended: Result<ExitStatus, Stopped>,
    answer: &[u8],
    said: &[u8],
    bounds: Bounds,
) -> Result<Vec<Box<RawValue>>, Error> {
    let (mut lines, mut progress) = (Vec::new(), Progress::Begun);
    let said = tail(said);
    for line in answer.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        match serde_json::from_slice::<Step>(line) {
            Ok(Step::Importing(module)) => progress = module.map_or(Progress::Imported, Progress::Importing),
            Ok(Step::Refused { message, traceback }) => {
                let traceback = if traceback.is_empty() { said } else { traceback };
                return Err(Error::Code { message, traceback });
            }
            Err(_) => lines.push(serde_json::from_slice(line)),
        }
    }
    let place = match &progress {
        Progress::Importing(module) => Some(format!("module `{module}`")),
        Progress::Begun | Progress::Imported => None,
    };
    let message = match ended {
        Ok(status) if status.success() && matches!(progress, Progress::Imported) => {
            let read: Result<_, serde_json::Error> = lines.into_iter().collect();
            return read.map_err(|e| Error::Package(format!("what the code says of itself cannot be read: {e}")));
        }
        Ok(status) => match place {
            Some(place) => format!(
                "the code ended the interpreter while {place} was imported ({}); a module has to come back from its import, \
                 so take out what ends the process there, such as os._exit",
                describe_exit(Some(status))
            ),
            // Before the code or after it: what the interpreter says of it comes first.
            None => {
                let (first, rest) = said.split_once('\n').unwrap_or((&said, ""));
                let exit = describe_exit(Some(status));
                let message =
                    if first.is_empty() { format!("the code gave no answer: {exit}") } else { first.to_owned() };
                return Err(Error::Code { message, traceback: rest.to_owned() });
            }
        },
        Err(Stopped::Output) => {
            let bound = bounds.bytes >> 20;
            match place {
                Some(place) => format!(
                    "{place} wrote more than {bound} MiB while it was imported, and was stopped; an import should write \
                     little or nothing"
                ),
                None => format!("the code wrote more than {bound} MiB, and was stopped"),
            }
        }
        Err(Stopped::Time) => {
            let bound = bounds.time.as_secs();
            match place {
                Some(place) => format!(
                    "importing {place} took more than {bound} s, and was stopped; do what takes long in a task or below \
                     `if __name__ == \"__main__\"`, not when the module is imported"
                ),
                None => format!("running the code took more than {bound} s, and was stopped"),
            }
        }
        Err(Stopped::Failed(source)) => {
            return Err(Error::Io { what: "cannot read what the code says of itself".into(), source });
        }
    };
    Err(Error::Code { message, traceback: said })
}

/// The end of what the code wrote, where the reason for most ends stands.
fn tail(said: &[u8]) -> String {
    let cut = said.len().saturating_sub(SAID_BYTES);
    String::from_utf8_lossy(&said[cut..]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command
    }

    async fn why(line: &str, bounds: Bounds) -> (String, String) {
        match run(shell(line), bounds).await.expect_err("it is an error") {
            Error::Code { message, traceback } => (message, traceback),
            other => panic!("{other}"),
        }
    }

    const WIDE: Bounds = Bounds { bytes: 1 << 20, time: Duration::from_secs(600) };

    #[tokio::test]
    async fn the_answer_is_what_is_no_step() {
        let line = r#"echo noise >&2; echo '{"importing":"a"}'; echo '{"importing":null}'; echo '{"run":1}'; echo '{"run":2}'"#;
        let answer = run(shell(line), WIDE).await.expect("an answer");
        assert_eq!(answer.iter().map(|line| line.get()).collect::<Vec<_>>(), [r#"{"run":1}"#, r#"{"run":2}"#]);
    }

    #[tokio::test]
    async fn code_that_takes_too_long_is_stopped() {
        let short = Bounds { time: Duration::from_millis(50), ..WIDE };
        let (message, _) = why("exec sleep 600", short).await;
        assert!(message.contains("took more than 0 s"), "{message}");
        let told = told(Err(Stopped::Time), b"{\"importing\":\"slow.one\"}\n", b"working", WIDE).expect_err("an error");
        assert!(told.to_string().starts_with("importing module `slow.one` took more than 600 s"), "{told}");
    }

    #[tokio::test]
    async fn code_that_writes_without_end_is_stopped() {
        for stream in ["", " >&2"] {
            let (message, said) = why(&format!(r#"echo '{{"importing":"loud"}}'; exec yes{stream}"#), WIDE).await;
            assert!(message.starts_with("module `loud` wrote more than 1 MiB"), "{message}");
            assert!(said.len() <= SAID_BYTES, "{}", said.len());
        }
    }

    #[tokio::test]
    async fn an_interpreter_that_is_ended_by_the_code_is_told() {
        for (end, how) in [("exit 0", "code 0"), ("exit 3", "code 3"), ("kill -9 $$", "signal 9")] {
            let (message, said) = why(&format!(r#"echo bye >&2; echo '{{"importing":"a.b"}}'; {end}"#), WIDE).await;
            assert!(message.contains("ended the interpreter while module `a.b`") && message.contains(how), "{message}");
            assert_eq!(said, "bye");
        }
        let (message, said) = why("echo 'no such option' >&2; echo more >&2; exit 2", WIDE).await;
        assert_eq!((message.as_str(), said.as_str()), ("no such option", "more"));
        let (message, _) = why("exit 0", WIDE).await;
        assert_eq!(message, "the code gave no answer: the process exited with code 0");
    }
}
