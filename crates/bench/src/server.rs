//! A server of our own in a temporary folder, ended with the value that stands for it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::Options;

/// `name=value` pairs for a part of a benchmark.
pub(crate) fn told(pairs: &[(&str, u64)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// A number in the answer of a part.
pub(crate) fn number(value: &Value, name: &str) -> anyhow::Result<f64> {
    value[name].as_f64().with_context(|| format!("`{name}` is missing in {value}"))
}

/// A running server.
pub(crate) struct Server {
    child: Option<Child>,
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) folder: Option<tempfile::TempDir>,
    port: u16,
    binary: PathBuf,
    /// Further arguments of `tidewheel server`.
    arguments: Vec<String>,
    /// Succeeded tasks that were there before.
    before: u64,
    /// From the start of the process until `/health/ready` said yes.
    pub(crate) ready_in: Duration,
}

impl Server {
    /// Starts one, or uses the one of the options.
    pub(crate) fn start(options: &Options) -> anyhow::Result<Server> {
        Server::start_with(options, &[])
    }

    /// Starts one with further arguments of `tidewheel server`.
    pub(crate) fn start_with(options: &Options, arguments: &[&str]) -> anyhow::Result<Server> {
        if let Some(url) = &options.url {
            let token = options.token.clone().context("--url needs --token or TIDEWHEEL_TOKEN")?;
            let binary = options.binary.clone();
            let (arguments, ready_in) = (Vec::new(), Duration::ZERO);
            let (child, folder, url) = (None, None, url.clone());
            let mut server = Server { child, url, token, folder, port: 0, binary, arguments, before: 0, ready_in };
            server.before = server.count("succeeded")?;
            return Ok(server);
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
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            before: 0,
            ready_in: Duration::ZERO,
        };
        server.launch()?;
        Ok(server)
    }

    /// Where it keeps everything.
    pub(crate) fn data(&self) -> &Path {
        self.folder.as_ref().expect("a server of our own has a folder").path()
    }

    /// Starts the process on the same folder and waits until it is ready.
    pub(crate) fn launch(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let log = std::fs::File::create(self.data().join("server.log"))?;
        let child = Command::new(&self.binary)
            .args(["server", "--listen", &format!("127.0.0.1:{}", self.port), "--data-dir"])
            .arg(self.data())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .ends_with_us()
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        self.child = Some(child);
        loop {
            if self.ask("/health/ready").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                break;
            }
            if begun.elapsed() > Duration::from_secs(600) {
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
        self.token =
            std::fs::read_to_string(self.data().join("admin-token")).context("the server wrote no admin token")?;
        self.token = self.token.trim().to_owned();
        Ok(())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.data().join("server.log")).unwrap_or_default()
    }

    /// A GET, by hand: no client library in the way of a start time.
    pub(crate) fn ask(&self, path: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let token = &self.token;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn address(&self) -> &str {
        self.url.trim_start_matches("http://").trim_end_matches('/')
    }

    /// A connection that is kept for many requests.
    pub(crate) fn http(&self) -> anyhow::Result<Http> {
        let stream = TcpStream::connect(self.address()).with_context(|| format!("cannot reach {}", self.url))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Http { stream, token: self.token.clone(), buffer: Vec::new() })
    }

    /// `GET /api/v1/system/status`.
    pub(crate) fn status(&self) -> anyhow::Result<Value> {
        self.http()?.call("GET", "/api/v1/system/status", "", "")
    }

    /// Waits until so many workers are connected.
    pub(crate) fn has_workers(&self, count: u64) -> anyhow::Result<()> {
        self.wait_for(&format!("{count} connected workers"), || Ok(number(&self.status()?, "workers")? as u64 == count))
    }

    /// Waits until a worker of this name is connected.
    pub(crate) fn has_worker(&self, name: &str) -> anyhow::Result<()> {
        let mut http = self.http()?;
        self.wait_for(&format!("the worker {name}"), || {
            let workers = http.call("GET", "/api/v1/workers", "", "")?;
            let mut workers = workers["items"].as_array().into_iter().flatten();
            Ok(workers.any(|w| w["name"] == name && w["state"] == "online"))
        })
    }

    /// Waits until something holds; how long that may take says nothing about speed.
    pub(crate) fn wait_for(&self, what: &str, mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !holds()? {
            if begun.elapsed() > Duration::from_secs(300) {
                bail!("waited five minutes for {what}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// How many tasks of the tenant are in a state.
    pub(crate) fn count(&self, state: &str) -> anyhow::Result<u64> {
        let counts = self.http()?.call("GET", "/api/v1/tasks/counts", "", "")?;
        counts["counts"][state].as_u64().with_context(|| format!("no count of {state}: {counts}"))
    }

    /// Fails unless as many tasks are stored as succeeded as were acknowledged.
    pub(crate) fn has_succeeded(&self, acknowledged: u64) -> anyhow::Result<()> {
        let stored = self.count("succeeded")? - self.before;
        if stored != acknowledged {
            bail!("{acknowledged} tasks were acknowledged and completed, but {stored} are stored as succeeded");
        }
        Ok(())
    }

    /// The sum of a counter at `/metrics` over its series that have a label.
    pub(crate) fn sum(&self, name: &str, label: &str) -> anyhow::Result<f64> {
        let text = self.ask("/metrics")?;
        let series = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        Ok(series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// A histogram at `/metrics`, over all its labels.
    pub(crate) fn histogram(&self, name: &str) -> anyhow::Result<Histogram> {
        let text = self.ask("/metrics")?;
        let prefix = format!("{name}_bucket{{");
        let mut edges: Vec<(f64, f64)> = Vec::new();
        for line in text.lines().filter_map(|line| line.strip_prefix(&prefix)) {
            let edge = line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
            let edge: f64 =
                edge.replace("+Inf", "inf").parse().with_context(|| format!("an edge of {name}: {line}"))?;
            let below: f64 = line.rsplit(' ').next().and_then(|v| v.parse().ok()).unwrap_or(0.0);
            match edges.iter_mut().find(|(known, _)| *known == edge) {
                Some((_, sum)) => *sum += below,
                None => edges.push((edge, below)),
            }
        }
        if edges.is_empty() {
            bail!("/metrics has no {name}");
        }
        edges.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(Histogram(edges))
    }

    /// Of a histogram at `/metrics`: the smallest edge below which this part of its observations lies, and how many there
    /// were.
    pub(crate) fn quantile_edge(&self, histogram: &str, part: f64) -> anyhow::Result<(f64, f64)> {
        let histogram = self.histogram(histogram)?;
        Ok((histogram.edge(part), histogram.count()))
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
        self.role_as(role, &self.token, arguments)
    }

    /// The same with another token.
    pub(crate) fn role_as(&self, role: &str, token: &str, arguments: &[String]) -> anyhow::Result<Role> {
        let child = Command::new(&self.binary)
            .args(["bench", "--role", role, "--"])
            .args(arguments)
            .env("TIDEWHEEL_BENCH_URL", &self.url)
            .env("TIDEWHEEL_BENCH_TOKEN", token)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .ends_with_us()
            .spawn()?;
        Ok(Role { child })
    }
}

/// A child that does not outlive the benchmark, however that ends: a closed pipe or a kill leaves no server behind.
pub(crate) trait EndsWithUs {
    fn ends_with_us(&mut self) -> &mut Self;
}

impl EndsWithUs for Command {
    #[cfg(target_os = "linux")]
    fn ends_with_us(&mut self) -> &mut Self {
        use std::os::unix::process::CommandExt;
        // SAFETY: one system call without memory of ours, as is allowed between fork and exec.
        unsafe {
            self.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn ends_with_us(&mut self) -> &mut Self {
        self
    }
}

/// Observations by edges, each with how many lie below it.
#[derive(Clone, Debug)]
pub(crate) struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    pub(crate) fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, below)| *below)
    }

    /// The smallest edge below which this part of the observations lies.
    pub(crate) fn edge(&self, part: f64) -> f64 {
        let wanted = part * self.count();
        self.0.iter().find(|(_, below)| *below >= wanted).map_or(f64::INFINITY, |(edge, _)| *edge)
    }

    /// How many observations lie above an edge.
    pub(crate) fn above(&self, edge: f64) -> f64 {
        self.count() - self.0.iter().find(|(known, _)| *known >= edge).map_or(0.0, |(_, below)| *below)
    }

    /// What came since an earlier reading.
    pub(crate) fn since(&self, earlier: &Histogram) -> Histogram {
        let before = |edge: f64| earlier.0.iter().find(|(known, _)| *known == edge).map_or(0.0, |(_, below)| *below);
        Histogram(self.0.iter().map(|(edge, below)| (*edge, below - before(*edge))).collect())
    }
}

/// HTTP/1.1 by hand over one connection: what a client library costs is not measured.
pub(crate) struct Http {
    stream: TcpStream,
    token: String,
    buffer: Vec<u8>,
}

impl Http {
    /// One request as a tenant (empty: the token's own), and the JSON of its answer; anything but success is an error.
    pub(crate) fn call(&mut self, method: &str, path: &str, tenant: &str, body: &str) -> anyhow::Result<Value> {
        let tenant = if tenant.is_empty() { String::new() } else { format!("tidewheel-tenant: {tenant}\r\n") };
        let (token, length) = (&self.token, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n{tenant}\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        self.stream.write_all(request.as_bytes())?;
        self.buffer.clear();
        let end = loop {
            self.read()?;
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break end;
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let length = length.with_context(|| format!("an answer without content-length: {head}"))?;
        while self.buffer.len() < end + 4 + length {
            self.read()?;
        }
        let body = &self.buffer[end + 4..];
        if !head.starts_with("http/1.1 2") {
            bail!("{method} {path}: {} {}", head.lines().next().unwrap_or_default(), String::from_utf8_lossy(body));
        }
        Ok(if body.is_empty() { Value::Null } else { serde_json::from_slice(body)? })
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let mut block = [0u8; 64 * 1024];
        let read = self.stream.read(&mut block)?;
        if read == 0 {
            bail!("the server closed the connection");
        }
        self.buffer.extend_from_slice(&block[..read]);
        Ok(())
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
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its answer: one JSON object on stdout.
    pub(crate) fn answer(mut self) -> anyhow::Result<Value> {
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
