//! `tidewheel doctor`: what this machine has, and what is missing.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::Ctx;
use super::shapes::CHECK;
use crate::fail::{Exit, Failure, Outcome};

/// Time spent on measuring the disk.
const DISK_TIME: Duration = Duration::from_millis(700);
/// Below this many syncs per second each single submit is slower than people expect.
const SLOW_SYNCS: f64 = 100.0;
/// Space that a small installation needs to grow into.
const LITTLE_SPACE: u64 = 2 << 30;
/// A server keeps this many connections; the usual limit of a shell is lower.
const FEW_FILES: u64 = 4_096;

/// Check this machine for what a server and an agent need
///
/// Python, uv, the sandbox, the disk's sync rate and space, open files, the clock against the server's, and whether the
/// server answers. Exit 1 if something that is needed is missing.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel doctor\n  tidewheel doctor --data-dir /var/lib/tidewheel -o json")]
pub(crate) struct Doctor {
    /// Folder whose disk is measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    data_dir: PathBuf,
}

/// One finding.
struct Check {
    name: &'static str,
    result: &'static str,
    found: String,
    advice: &'static str,
}

impl Check {
    fn new(name: &'static str, result: &'static str, found: impl Into<String>, advice: &'static str) -> Check {
        Check { name, result, found: found.into(), advice: if result == "ok" { "" } else { advice } }
    }
}

impl Doctor {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        let mut checks = vec![python(), uv(), bubblewrap(), cgroup(), open_files()];
        checks.extend(disk(&self.data_dir));
        checks.extend(server(ctx));
        let items: Vec<_> = checks
            .iter()
            .map(|c| json!({"check": c.name, "result": c.result, "found": c.found, "advice": c.advice}))
            .collect();
        ctx.out.list(&CHECK, &json!({ "items": items }))?;
        let bad = checks.iter().filter(|c| c.result == "error").count();
        if bad == 0 {
            return Ok(());
        }
        let why = "the table above says what helps";
        Err(Failure::new(Exit::Failed, format!("{bad} checks found something that is needed and missing"), why))
    }
}

/// First line of a program's version, if it runs.
fn version_of(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok().filter(|o| o.status.success())?;
    let text =
        String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout }).into_owned();
    text.lines().next().map(|line| line.trim().to_owned())
}

fn python() -> Check {
    let advice = "install Python 3.9 or later (package python3), or set TIDEWHEEL_PYTHON";
    let given = std::env::var("TIDEWHEEL_PYTHON").ok();
    let program = given.as_deref().unwrap_or("python3");
    match version_of(program) {
        Some(text) => {
            let number =
                text.trim_start_matches("Python ").split('.').take(2).map(str::parse::<u32>).collect::<Vec<_>>();
            let enough = matches!(number.as_slice(), [Ok(3), Ok(minor)] if *minor >= 9)
                || matches!(number.as_slice(), [Ok(n), ..] if *n > 3);
            Check::new("python", if enough { "ok" } else { "error" }, text, advice)
        }
        None => Check::new("python", "error", "not found", advice),
    }
}

fn uv() -> Check {
    let advice = "without uv, environments are built by pip: slower, and dependencies are not locked";
    let given = std::env::var("TIDEWHEEL_UV").ok().filter(|given| !given.is_empty());
    match version_of(given.as_deref().unwrap_or("uv")) {
        Some(text) => Check::new("uv", "ok", text, advice),
        None => Check::new("uv", "warning", "not found", advice),
    }
}

fn bubblewrap() -> Check {
    let advice = "install bubblewrap; a server with several tenants refuses agents without a sandbox";
    let Some(version) = version_of("bwrap") else { return Check::new("sandbox", "warning", "bwrap not found", advice) };
    // Present is not enough: some machines forbid user namespaces.
    let works = Command::new("bwrap").args(["--unshare-all", "--ro-bind", "/", "/", "true"]).output();
    let works = works.is_ok_and(|output| output.status.success());
    let found = if works { version } else { format!("{version}, but namespaces are refused") };
    Check::new("sandbox", if works { "ok" } else { "warning" }, found, advice)
}

fn cgroup() -> Check {
    let advice = "without cgroups, memory and CPU of a task are bounded by rlimits only";
    let found = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "version 2"
    } else if Path::new("/sys/fs/cgroup/memory").exists() {
        "version 1"
    } else {
        "none"
    };
    Check::new("cgroup", if found == "none" { "warning" } else { "ok" }, found, advice)
}

fn open_files() -> Check {
    let advice = "raise the limit (ulimit -n 65536); each connection needs one";
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct lives across the call.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0;
    let enough = read && limit.rlim_max >= FEW_FILES;
    let found = format!("{} open files, at most {}", limit.rlim_cur, limit.rlim_max);
    Check::new("limits", if enough { "ok" } else { "warning" }, found, advice)
}

fn disk(folder: &Path) -> Vec<Check> {
    let slow = "every acknowledged submit waits for a sync: use a disk with a fast or protected write cache";
    let sync = match syncs_per_second(folder) {
        Ok(rate) => {
            let result = if rate >= SLOW_SYNCS { "ok" } else { "warning" };
            Check::new("disk sync", result, format!("{rate:.0} fdatasync/s in {}", folder.display()), slow)
        }
        Err(error) => Check::new(
            "disk sync",
            "error",
            format!("{}: {error}", folder.display()),
            "name a folder that can be written",
        ),
    };
    vec![sync, space(folder)]
}

/// Small appends with a sync each, as the store's log does.
fn syncs_per_second(folder: &Path) -> std::io::Result<f64> {
    let path = folder.join(format!(".tidewheel-doctor-{}", std::process::id()));
    let mut file = std::fs::File::create(&path)?;
    let measured = (|| {
        file.write_all(&[0u8; 1 << 20])?;
        file.sync_all()?;
        file.seek(SeekFrom::Start(0))?;
        let (start, mut count) = (Instant::now(), 0u32);
        while start.elapsed() < DISK_TIME {
            file.write_all(&[1u8; 4096])?;
            file.sync_data()?;
            count += 1;
            if count % 200 == 0 {
                file.seek(SeekFrom::Start(0))?;
            }
        }
        Ok(f64::from(count) / start.elapsed().as_secs_f64())
    })();
    let _ = std::fs::remove_file(&path);
    measured
}

fn space(folder: &Path) -> Check {
    let advice = "a server whose disk is full refuses new tasks until there is space";
    let Ok(path) = std::ffi::CString::new(folder.as_os_str().as_encoded_bytes()) else {
        return Check::new("disk space", "error", "the folder's name has a zero byte", advice);
    };
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a zero byte and the struct is filled when the call succeeds.
    let free = unsafe {
        (libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) == 0).then(|| {
            let stat = stat.assume_init();
            stat.f_bavail * stat.f_frsize
        })
    };
    match free {
        Some(free) => {
            let result = if free >= LITTLE_SPACE { "ok" } else { "warning" };
            Check::new("disk space", result, format!("{} free", crate::text::bytes(free as f64)), advice)
        }
        None => Check::new("disk space", "error", "cannot be read", advice),
    }
}

/// Whether a server answers, and how far its clock is away.
fn server(ctx: &Ctx) -> Vec<Check> {
    let start = "start one with `tidewheel dev` or name one with --url";
    let client = match ctx.client() {
        Ok(client) => client,
        Err(failure) => return vec![Check::new("server", "error", failure.to_string(), "repair the profile")],
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![Check::new("server", "error", error.to_string(), start)],
    };
    let asked = Instant::now();
    match runtime.block_on(client.system("/health/ready").doing("reach the server").at_once().send()) {
        Ok(answer) => {
            let took = asked.elapsed();
            let text = format!("{} is ready, answered in {} ms", client.base(), took.as_millis());
            let mut checks = vec![Check::new("server", "ok", text, start)];
            checks.extend(clock(&answer));
            checks
        }
        Err(failure) => vec![Check::new("server", "warning", failure.to_string(), start)],
    }
}

fn clock(answer: &reqwest::Response) -> Option<Check> {
    let date = answer.headers().get("date")?.to_str().ok()?;
    let there = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()?;
    let offset = jiff::Timestamp::now().duration_since(there).as_secs();
    // The header has whole seconds, and the answer took its time.
    let result = if offset.abs() <= 2 { "ok" } else { "warning" };
    let advice = "synchronise the clock (NTP): times of tasks would be off by as much";
    Some(Check::new("clock", result, format!("{offset} s against the server"), advice))
}
