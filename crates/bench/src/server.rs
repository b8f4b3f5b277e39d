//! A server of our own in a temporary folder, ended with the value that stands for it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::Options;

/// A running server.
pub(crate) struct Server {
    child: Option<Child>,
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) folder: Option<tempfile::TempDir>,
    port: u16,
    binary: PathBuf,
    /// From the start of the process until `/health/ready` said yes.
    pub(crate) ready_in: Duration,
}

impl Server {
    /// Starts one, or uses the one of the options.
    pub(crate) fn start(options: &Options) -> anyhow::Result<Server> {
        if let Some(url) = &options.url {
            let token = options.token.clone().context("--url needs --token or TIDEWHEEL_TOKEN")?;
            let binary = options.binary.clone();
            return Ok(Server { child: None, url: url.clone(), token, folder: None, port: 0, binary, ready_in: Duration::ZERO });
        }
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let mut server = Server {
            child: None,
            url: format!("http://127.0.0.1:{port}"),
            token: String::new(),
            folder: Some(folder),
            port,
            binary: options.binary.clone(),
            ready_in: Duration::ZERO,
        };
        server.launch()?;
        Ok(server)
    }

    fn data(&self) -> &Path {
        self.folder.as_ref().expect("a server of our own has a folder").path()
    }

    /// Starts the process on the same folder and waits until it is ready.
    pub(crate) fn launch(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let log = std::fs::File::create(self.data().join("server.log"))?;
        let child = Command::new(&self.binary)
            .args(["server", "--listen", &format!("127.0.0.1:{}", self.port), "--data-dir"])
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        self.child = Some(child);
        loop {
            if self.ask("/health/ready").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                break;
            }
            if begun.elapsed() > Duration::from_secs(120) {
                bail!("the server did not become ready; its log:\n{}", self.log());
            }
            if let Some(child) = self.child.as_mut()
                && let Some(status) = child.try_wait()?
            {
                bail!("the server ended with {status}; its log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.ready_in = begun.elapsed();
        self.token = std::fs::read_to_string(self.data().join("admin-token")).context("the server wrote no admin token")?;
        self.token = self.token.trim().to_owned();
        Ok(())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.data().join("server.log")).unwrap_or_default()
    }

    /// A GET, by hand: no client library in the way of a start time.
    pub(crate) fn ask(&self, path: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let token = &self.token;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Of a histogram at `/metrics`: the smallest edge below which this part of its observations lies, and how many there
    /// were.
    pub(crate) fn quantile_edge(&self, histogram: &str, part: f64) -> anyhow::Result<(f64, f64)> {
        let text = self.ask("/metrics")?;
        let value = |line: &str| line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok());
        let count = text.lines().find(|l| l.starts_with(&format!("{histogram}_count"))).and_then(value);
        let count = count.with_context(|| format!("/metrics has no {histogram}"))?;
        let edges = text.lines().filter_map(|line| {
            let edge = line.strip_prefix(&format!("{histogram}_bucket{{le=\""))?.split('"').next()?;
            Some((edge.replace("+Inf", "inf").parse::<f64>().ok()?, value(line)?))
        });
        let edge = edges.into_iter().find(|(_, below)| *below >= part * count);
        Ok((edge.map_or(f64::INFINITY, |(edge, _)| edge), count))
    }

    /// Its process.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.as_ref().map(Child::id).context("only a server started here can be looked at")
    }

    /// SIGKILL, and wait.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts a part of a benchmark as a process of its own.
    pub(crate) fn role(&self, role: &str, arguments: &[String]) -> anyhow::Result<Role> {
        let child = Command::new(&self.binary)
            .args(["bench", "--role", role, "--"])
            .args(arguments)
            .env("TIDEWHEEL_BENCH_URL", &self.url)
            .env("TIDEWHEEL_BENCH_TOKEN", &self.token)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        Ok(Role { child })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A benchmark that failed leaves nothing running.
        let _ = self.kill();
    }
}

/// A part of a benchmark in a process of its own.
pub(crate) struct Role {
    child: Child,
}

impl Role {
    /// Its answer: one JSON object on stdout.
    pub(crate) fn answer(mut self) -> anyhow::Result<serde_json::Value> {
        let mut text = String::new();
        self.child.stdout.take().context("stdout is piped")?.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("a part of the benchmark ended with {status}");
        }
        serde_json::from_str(text.trim()).with_context(|| format!("a part of the benchmark said: {text}"))
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
