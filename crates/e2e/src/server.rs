//! The built binary as a server, and as anything else that is started from it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::process::{Group, Signal};
use crate::rest::Rest;

/// The binary under test: `TIDEWHEEL_BIN`, or the newest build of this checkout.
pub fn binary() -> Result<PathBuf, String> {
    if let Some(given) = std::env::var_os("TIDEWHEEL_BIN").map(PathBuf::from) {
        return if given.is_file() { Ok(given) } else { Err("TIDEWHEEL_BIN names no file".to_owned()) };
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::root().join("target"), PathBuf::from);
    let built = ["release", "debug"].map(|profile| target.join(profile).join("tidewheel"));
    let newest = built.into_iter().max_by_key(|path| path.metadata().and_then(|data| data.modified()).ok());
    newest.filter(|path| path.is_file()).ok_or_else(|| "the binary is not built (cargo build -p tidewheel)".to_owned())
}

/// The path of the binary, or the end of the test with a line that says that it did not run.
#[macro_export]
macro_rules! need_binary {
    () => {
        if let Err(why) = $crate::server::binary() {
            $crate::not_run(&why);
            return Ok(());
        }
    };
}

/// Ends a test that needs a tool which this machine does not have.
#[macro_export]
macro_rules! need {
    ($tool:ident) => {
        if let Err(why) = &$crate::tools::tools().$tool {
            $crate::not_run(why);
            return Ok(());
        }
    };
}

/// A command of the binary with nothing of the caller's environment that could change what it does.
pub fn command(home: &Path) -> Command {
    let mut command = Command::new(binary().expect("tests ask for the binary first"));
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEWHEEL_"));
    for (name, _) in ours.filter(|(name, _)| name != "TIDEWHEEL_UV") {
        command.env_remove(name);
    }
    command.current_dir(home).env("HOME", home).env("XDG_CONFIG_HOME", home.join(".config"));
    command
}

/// A port of the loopback that was free a moment ago.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A server on a folder of its own.
pub struct Server {
    group: Option<Group>,
    /// Its port; kept over restarts, so that workers find it again.
    pub port: u16,
    /// Where it keeps everything.
    pub data: PathBuf,
    /// The token that the first start wrote.
    pub token: String,
    /// Further arguments of `tidewheel server`.
    pub args: Vec<String>,
    home: tempfile::TempDir,
}

impl Server {
    /// Starts one in a new folder and waits until it is ready.
    pub async fn start() -> anyhow::Result<Server> {
        Server::start_at(None, &[]).await
    }

    /// Starts one with its data in a given folder.
    pub async fn start_at(data: Option<&Path>, args: &[&str]) -> anyhow::Result<Server> {
        let home = tempfile::Builder::new().prefix("tidewheel-e2e-").tempdir()?;
        let data = data.map_or_else(|| home.path().join("data"), Path::to_path_buf);
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        let mut server = Server { group: None, port: free_port()?, data, token: String::new(), args, home };
        server.launch().await?;
        Ok(server)
    }

    /// Starts the process on the same folder and port, and waits until it is ready.
    pub async fn launch(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        self.wait_ready(crate::PATIENCE).await?;
        let path = self.data.join("admin-token");
        // That it is there as soon as the server is ready is a test of its own.
        let written = crate::until("the file admin-token", Duration::from_secs(10), || async {
            Ok(std::fs::read_to_string(&path).ok().filter(|text| !text.trim().is_empty()))
        });
        self.token = written.await?.trim().to_owned();
        Ok(())
    }

    /// One in a new folder that is not started yet.
    pub fn prepare() -> anyhow::Result<Server> {
        let home = tempfile::Builder::new().prefix("tidewheel-e2e-").tempdir()?;
        let data = home.path().join("data");
        Ok(Server { group: None, port: free_port()?, data, token: String::new(), args: Vec::new(), home })
    }

    /// Starts the process and does not wait.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        self.group = None;
        let mut command = command(self.home.path());
        command.args(["server", "--listen", &format!("127.0.0.1:{}", self.port), "--data-dir"]).arg(&self.data);
        command.args(&self.args);
        self.group = Some(Group::start(&mut command, &self.home.path().join("server.log"))?);
        Ok(())
    }

    /// Waits for `GET /health/ready` to say yes.
    pub async fn wait_ready(&mut self, limit: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        let rest = self.rest();
        loop {
            if rest.get("/health/ready").await.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            let ended = self.group.as_mut().map(Group::ended).transpose()?.flatten();
            if let Some(status) = ended {
                anyhow::bail!("the server ended with {status}; its log:\n{}", self.log_end());
            }
            let late = begun.elapsed() >= limit;
            anyhow::ensure!(!late, "the server is not ready after {} s; its log:\n{}", limit.as_secs(), self.log_end());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A client with the admin token.
    pub fn rest(&self) -> Rest {
        Rest::new(&self.url(), &self.token)
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A folder for the files of this test, gone with the server.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.group.as_ref().map_or(0, Group::pid)
    }

    /// Whether the process lives.
    pub fn lives(&mut self) -> bool {
        self.group.as_mut().is_some_and(|group| matches!(group.ended(), Ok(None)))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(group) = &self.group {
            group.signal(signal);
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.group.as_mut().map_or(Ok(()), Group::kill)
    }

    /// Waits for its end.
    pub async fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.group.as_mut().context("the server was never started")?.wait(limit).await
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait(crate::PATIENCE).await
    }

    /// All it wrote to its standard streams, over every start.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.home.path().join("server.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Figures of the store since its start.
    pub async fn store_figures(&self) -> anyhow::Result<serde_json::Value> {
        Ok(self.rest().get("/api/v1/system/status").await?.ok()?.json()?["store"].clone())
    }

    /// Fails unless it still answers and takes work: what every test of bad input ends with.
    pub async fn still_serves(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.lives(), "the server ended; its log:\n{}", self.log_end());
        let rest = self.rest();
        let ready = rest.get("/health/ready").await?;
        anyhow::ensure!(ready.status == 200, "the server is not ready: {}", ready.shown());
        let answer = rest.post("/api/tasks", &serde_json::json!({ "type": "alive" })).await?;
        anyhow::ensure!(answer.status == 201, "a sound submit got {}: {}", answer.status, answer.shown());
        Ok(())
    }
}

/// Runs the binary to its end with the address and the token of a server.
pub async fn run(server: &Server, folder: &Path, args: &[&str]) -> anyhow::Result<Output> {
    let mut command = command(server.home());
    command.current_dir(folder).env("TIDEWHEEL_URL", server.url()).env("TIDEWHEEL_TOKEN", &server.token);
    output(command.args(args)).await
}

/// Runs a command to its end.
pub async fn output(command: &mut Command) -> anyhow::Result<Output> {
    command.stdin(std::process::Stdio::null());
    let mut command = tokio::process::Command::from(std::mem::replace(command, Command::new("true")));
    command.kill_on_drop(true);
    let output = tokio::time::timeout(crate::PATIENCE, command.output()).await.context("a command did not end")??;
    Ok(Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; nothing after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Fails unless the exit code is this one.
    pub fn exits(self, code: i32) -> anyhow::Result<Output> {
        anyhow::ensure!(
            self.code == Some(code),
            "exit {:?} instead of {code}:\n{}{}",
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// The standard output as JSON.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_str(self.stdout.trim()).with_context(|| format!("no JSON: {}", self.stdout))
    }
}
