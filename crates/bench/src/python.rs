//! Python through agent and shim: no-op tasks per second, and the three kinds of start.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::figure::percentile;
use crate::server::Server;
use crate::{Figure, Options};

const PROJECT: &str = "[project]\nname = \"benchtasks\"\nversion = \"0.1.0\"\ndependencies = []\n\n[tool.tidewheel]\nmodules = [\"benchtasks\"]\n";
const TASKS: &str = "from tidewheel import task\n\n\n@task\ndef noop():\n    return None\n";

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let server = Server::start(options)?;
    let folder = tempfile::tempdir()?;
    let package = folder.path().join("benchtasks");
    std::fs::create_dir(&package)?;
    std::fs::write(package.join("pyproject.toml"), PROJECT)?;
    std::fs::write(package.join("benchtasks.py"), TASKS)?;
    cli(&server, options, &["deploy", &package.to_string_lossy()])?;
    let _agent = start_agent(&server, options, folder.path())?;
    // The first task pays for environment and process, the next ones find them warm.
    let first = timed(&server, options)?;
    let mut warm: Vec<f64> = (0..if options.quick { 5 } else { 20 }).map(|_| timed(&server, options)).collect::<Result<_, _>>()?;
    warm.sort_by(f64::total_cmp);
    let config = json!({"agents": 1});
    report(Figure::low("python", "first_task_ms", first, "ms", None).with(config.clone()));
    report(Figure::low("python", "warm_round_trip_ms", percentile(&warm, 0.5), "ms", None)
        .with(json!({"includes": "start of the command line client"})));
    let total: u64 = if options.quick { 2_000 } else { 50_000 };
    let begun = Instant::now();
    bulk(&server, options, folder.path(), total)?;
    let seconds = begun.elapsed().as_secs_f64();
    report(Figure::high("python", "noop_per_s", total as f64 / seconds, "tasks/s", 10_000.0)
        .with(json!({"agents": 1, "tasks": total, "from": "first submit", "until": "last result stored"})));
    Ok(())
}

fn cli(server: &Server, options: &Options, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
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

fn start_agent(server: &Server, options: &Options, folder: &std::path::Path) -> anyhow::Result<Agent> {
    let log = std::fs::File::create(folder.join("agent.log"))?;
    let child = Command::new(&options.binary)
        .args(["agent", "--server", &server.url, "--data-dir"])
        .arg(folder.join("agent"))
        .env("TIDEWHEEL_TOKEN", &server.token)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    Ok(Agent(child))
}

fn timed(server: &Server, options: &Options) -> anyhow::Result<f64> {
    let begun = Instant::now();
    cli(server, options, &["task", "submit", "noop", "--wait=60s", "-o", "json"])?;
    Ok(begun.elapsed().as_secs_f64() * 1000.0)
}

fn bulk(server: &Server, options: &Options, folder: &std::path::Path, total: u64) -> anyhow::Result<()> {
    let file = folder.join("many.jsonl");
    std::fs::write(&file, "{\"type\":\"noop\"}\n".repeat(total as usize))?;
    let before = ended(server, options)?;
    cli(server, options, &["task", "submit", "--many", &file.to_string_lossy(), "-o", "none"])?;
    let limit = Instant::now() + Duration::from_secs(300);
    while ended(server, options)? < before + total {
        if Instant::now() > limit {
            bail!("only {} of {total} tasks ended in five minutes", ended(server, options)? - before);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn ended(server: &Server, options: &Options) -> anyhow::Result<u64> {
    let text = cli(server, options, &["api", "GET", "/api/v1/tasks/counts"])?;
    let counts: Value = serde_json::from_slice(&text)?;
    counts["counts"]["succeeded"].as_u64().context("counts.succeeded")
}
