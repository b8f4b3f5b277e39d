//! A tiny HTTP server on the loopback that answers as a test tells it to and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// What came in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path with query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What goes out.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

/// A JSON answer.
pub(crate) fn json(status: u16, body: serde_json::Value) -> Answer {
    Answer { status, headers: vec![("content-type", "application/json".to_owned())], body: body.to_string() }
}

/// A stream of server-sent events that ends.
pub(crate) fn events(body: &str) -> Answer {
    Answer { status: 200, headers: vec![("content-type", "text/event-stream".to_owned())], body: body.to_owned() }
}

/// A problem document of a code.
pub(crate) fn problem(status: u16, code: &str, detail: &str) -> Answer {
    let body = serde_json::json!({
        "type": format!("/docs/reference/errors#{code}"), "title": code, "status": status, "detail": detail,
        "code": code,
        "retryable": matches!(status, 429 | 503),
    });
    Answer { headers: vec![("content-type", "application/problem+json".to_owned())], ..json(status, body) }
}

type Handler = dyn Fn(&Asked, usize) -> Answer + Send + Sync;

/// The server.
pub(crate) struct Mock {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Home folder of the commands that are run against it.
    pub(crate) home: tempfile::TempDir,
}

impl Mock {
    /// Starts one. The handler gets the request and its number, from 0.
    pub(crate) fn start(handler: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static) -> Mock {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, handler): (_, Arc<Handler>) = (asked.clone(), Arc::new(handler));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, handler) = (seen.clone(), handler.clone());
                std::thread::spawn(move || serve(stream, &seen, &*handler));
            }
        });
        Mock { url, asked, home: tempfile::tempdir().unwrap() }
    }

    /// One that answers everything alike.
    pub(crate) fn always(answer: Answer) -> Mock {
        Mock::start(move |_, _| answer.clone())
    }

    /// Everything it was asked.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Runs the binary against it.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, "")
    }

    /// The same with a standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: &str) -> Ran {
        let mut command = command(self.home.path());
        command.env("TIDEWHEEL_URL", &self.url).env("TIDEWHEEL_TOKEN", "tw_test").args(args);
        ran(command, input)
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Asked>>, handler: &Handler) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    while let Some(asked) = read(&mut reader) {
        let number = {
            let mut all = seen.lock().unwrap();
            all.push(asked.clone());
            all.len() - 1
        };
        let answer = handler(&asked, number);
        let mut head = format!("HTTP/1.1 {} X\r\ncontent-length: {}\r\n", answer.status, answer.body.len());
        let body = if asked.method == "HEAD" { "" } else { &*answer.body };
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if stream.write_all(format!("{head}\r\n{body}").as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut asked = Asked { method: words.next()?, path: words.next()?, ..Asked::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        asked.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut body = Vec::new();
    if let Some(length) = asked.header("content-length").and_then(|v| v.parse::<u64>().ok()) {
        reader.take(length).read_to_end(&mut body).ok()?;
    } else if asked.header("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = u64::from_str_radix(size.trim(), 16).ok()?;
            reader.take(size + 2).read_to_end(&mut body).ok()?;
            body.truncate(body.len() - 2);
            if size == 0 {
                break;
            }
        }
    }
    asked.body = String::from_utf8_lossy(&body).into_owned();
    Some(asked)
}

/// The binary with nothing of the caller's settings.
pub(crate) fn command(home: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewheel"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEWHEEL_")) {
        command.env_remove(name);
    }
    command.env_remove("XDG_CONFIG_HOME").env_remove("NO_COLOR").env("HOME", home).current_dir(home);
    command
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Runs a command to its end.
pub(crate) fn ran(mut command: Command, input: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(input.as_bytes());
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
