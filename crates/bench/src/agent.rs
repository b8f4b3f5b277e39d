//! An agent of our own, a package to run on it, and what was seen of its handlers.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tidewheel_proto::v1::client_client::ClientClient;
use tidewheel_proto::v1::{GetRequest, SubmitRequest};

use crate::Options;
use crate::client::{Arguments, Authed, channel, now_us, spec};
use crate::server::{EndsWithUs, Server};

/// `noop` for throughput, whatever its input; `stamp` says when its handler was called, in microseconds since 1970.
const TASKS: &str = "import time\n\nfrom tidewheel import task\n\n\n@task\ndef noop(at=None):\n    return None\n\n\n\
                     @task\ndef stamp():\n    return time.time_ns() // 1000\n";

/// A workflow of three tasks, one after another, and one of many that says how long a step took at its begin and at its end.
const FLOWS: &str = "\n\nfrom tidewheel import wf, workflow\n\n\n@workflow\ndef three(n=None):\n    noop(1)\n    noop(2)\n    noop(3)\n    \
                     return n\n\n\n@workflow\ndef long(steps):\n    at = {}\n    for n in range(steps):\n        \
                     if n in (10, 210, steps - 201, steps - 1):\n            at[n] = wf.now().timestamp()\n        noop(n)\n    \
                     early, late = (at[210] - at[10]) / 200, (at[steps - 1] - at[steps - 201]) / 200\n    \
                     return {\"early_ms\": early * 1000, \"late_ms\": late * 1000}\n";

/// A running agent.
pub(crate) struct Agent(Child);

impl Agent {
    /// Starts one on a folder and waits until the server knows it.
    pub(crate) fn start(server: &Server, options: &Options, name: &str, folder: &Path) -> anyhow::Result<Agent> {
        let log = std::fs::File::create(folder.join(format!("{name}.log")))?;
        let child = Command::new(&options.binary)
            .args(["agent", "--server", &server.url, "--name", name, "--data-dir"])
            .arg(folder.join(name))
            .env("TIDEWHEEL_TOKEN", &server.token)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .ends_with_us()
            .spawn()?;
        let agent = Agent(child);
        server.has_worker(name)?;
        Ok(agent)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Deploys the package of the benchmarks. `dependencies` are the lines of its project.
pub(crate) fn deploy(
    server: &Server,
    options: &Options,
    folder: &Path,
    version: &str,
    dependencies: &[String],
) -> anyhow::Result<()> {
    let package = folder.join(format!("benchtasks-{version}"));
    std::fs::create_dir_all(&package)?;
    let project = format!(
        "[project]\nname = \"benchtasks\"\nversion = \"{version}\"\ndependencies = {}\n\n[tool.tidewheel]\nmodules = [\"benchtasks\"]\n",
        json!(dependencies)
    );
    std::fs::write(package.join("pyproject.toml"), project)?;
    std::fs::write(package.join("benchtasks.py"), format!("{TASKS}{FLOWS}"))?;
    cli(server, options, &["deploy", &package.to_string_lossy()]).map(drop)
}

/// A wheel that holds one empty module, so that an environment has something to install and needs no network.
pub(crate) fn wheel(folder: &Path, version: &str) -> anyhow::Result<String> {
    let path = folder.join(format!("benchdep-{version}-py3-none-any.whl"));
    let script = "import sys, zipfile\n\
        path, version = sys.argv[1:]\n\
        info = f'benchdep-{version}.dist-info/'\n\
        files = {'benchdep.py': '', info + 'METADATA': f'Metadata-Version: 2.1\\nName: benchdep\\nVersion: {version}\\n',\n\
        \x20        info + 'WHEEL': 'Wheel-Version: 1.0\\nGenerator: bench\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'}\n\
        record = ''.join(f'{name},,\\n' for name in [*files, info + 'RECORD'])\n\
        with zipfile.ZipFile(path, 'w') as wheel:\n\
        \x20   for name, text in {**files, info + 'RECORD': record}.items():\n\
        \x20       wheel.writestr(name, text)\n";
    let output = Command::new("python3").args(["-c", script]).arg(&path).arg(version).stdin(Stdio::null()).output();
    let output = output.context("python3 is needed to measure Python")?;
    if !output.status.success() {
        bail!("cannot make a wheel: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(format!("benchdep @ file://{}", path.display()))
}

/// Runs the command line against the server, as a person would.
pub(crate) fn cli(server: &Server, options: &Options, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let output = Command::new(&options.binary)
        .args(arguments)
        .env("TIDEWHEEL_URL", &server.url)
        .env("TIDEWHEEL_TOKEN", &server.token)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        bail!("tidewheel {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

/// Submits `stamp` one after the other, `every_ms` apart, and takes from each when it was submitted, granted and begun.
pub(crate) fn stamps(server: &Server, count: u64, every_ms: u64) -> anyhow::Result<Stamps> {
    let answer =
        server.role("handlers", &crate::server::told(&[("total", count), ("every_ms", every_ms)]))?.answer()?;
    let handlers = answer["handlers"].as_array().context("`handlers` is missing")?;
    let mut http = server.http()?;
    let (mut starts, mut begins) = (Vec::new(), Vec::new());
    for handler in handlers {
        let number = |name: &str| crate::server::number(handler, name);
        let id = handler["id"].as_str().context("`id` is missing")?;
        let task = http.call("GET", &format!("/api/v1/tasks/{id}"), "", "")?;
        let granted = task["granted_at"].as_str().and_then(millis_of_day);
        let granted = granted.with_context(|| format!("no time of the grant: {task}"))?;
        starts.push((number("begun_us")? - number("submitted_us")?) / 1000.0);
        // Of the day, so that no calendar is needed; a run over midnight is right, too.
        let begun = (number("begun_us")? / 1000.0) % DAY_MS;
        begins.push((begun - granted).rem_euclid(DAY_MS));
    }
    starts.sort_by(f64::total_cmp);
    begins.sort_by(f64::total_cmp);
    Ok(Stamps { starts, begins })
}

const DAY_MS: f64 = 86_400_000.0;

/// The time of day in a text such as `2026-01-31T12:34:56.789Z`.
fn millis_of_day(text: &str) -> Option<f64> {
    let (hours, rest) = text.split_once('T')?.1.trim_end_matches('Z').split_once(':')?;
    let (minutes, seconds) = rest.split_once(':')?;
    let number = |text: &str| text.parse::<f64>().ok();
    Some(((number(hours)? * 60.0 + number(minutes)?) * 60.0 + number(seconds)?) * 1000.0)
}

/// Times of handlers in milliseconds, sorted.
pub(crate) struct Stamps {
    /// Submit to the first line of the handler.
    pub(crate) starts: Vec<f64>,
    /// Grant to the first line of the handler. The store keeps the grant to the millisecond.
    pub(crate) begins: Vec<f64>,
}

/// See [`stamps`].
pub(crate) async fn handlers(arguments: &Arguments) -> anyhow::Result<Value> {
    let (total, every_ms) = (arguments.number("total")?, arguments.number("every_ms")?);
    let (channel, bearer) = channel().await?;
    let mut client: ClientClient<Authed> = ClientClient::with_interceptor(channel, bearer);
    let mut handlers = Vec::new();
    for _ in 0..total {
        let submitted = now_us();
        let answer = client.submit(SubmitRequest { request: 0, tasks: vec![spec("stamp")] }).await?.into_inner();
        let outcome = answer.outcomes.into_iter().next().context("one outcome")?;
        if !outcome.error_code.is_empty() {
            bail!("a submit was refused: {}: {}", outcome.error_code, outcome.error_detail);
        }
        let view = client.get(GetRequest { id: outcome.id.clone(), wait_ms: 120_000 }).await?.into_inner();
        if view.state != "succeeded" {
            bail!("a task is {}: {}", view.state, view.error);
        }
        let begun: u64 = std::str::from_utf8(&view.result)?.trim().parse().context("a handler's time")?;
        let id = outcome.id.as_ref().try_into().map(u128::from_be_bytes).context("an id has 16 bytes")?;
        let id = tidewheel_proto::id::format("task", id);
        handlers.push(json!({"id": id, "submitted_us": submitted, "begun_us": begun}));
        tokio::time::sleep(std::time::Duration::from_millis(every_ms)).await;
    }
    Ok(json!({ "handlers": handlers }))
}
