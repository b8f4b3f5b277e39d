//! `tidewheel test`: the tests of a project in the environment that its code has on an agent, and its code against histories of runs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde_json::{Value, json};
use tidewheel_agent::BuildOptions;

use super::Ctx;
use super::common::field;
use super::package::cache_dir;
use super::workflow;
use crate::fail::{Exit, Failure, Outcome, While};

/// Runs the tests of a folder or a file with pytest, where it is there, or with unittest.
const SCRIPT: &str = include_str!("test/run.py");
/// What the script ends with when it has found no test.
const NO_TESTS: i32 = 5;
/// Ends of the names of files of histories in a folder.
const HISTORIES: [&str; 2] = [".json", ".jsonl"];
/// Bytes of one file of histories.
const MAX_BYTES: u64 = 1 << 30;

/// Run the tests of a project, or replay exported runs on its code
///
/// Runs the Python tests below the path in the environment of the project (its dependencies, and the package `tidewheel`, which has
/// not to be installed) with pytest if that is among its dependencies and with unittest else, and then the tests of workflow
/// documents (`*.test.yaml`). No server is needed. With `--replay` it goes through the histories of runs that `tidewheel
/// run export` wrote with the workflows of the project instead, and says where the code does not fit. Ends with 1 if a test
/// fails or a history does not fit.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel test
  tidewheel test reports/tests/test_month.py
  tidewheel test --replay journals")]
pub(crate) struct Test {
    /// Project, or a folder or file of tests in one
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Files that `tidewheel run export` wrote, or folders with such (*.json, *.jsonl); may be given several times
    #[arg(long, value_name = "FILE|DIR")]
    replay: Vec<PathBuf>,
}

impl Test {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        let doing = || format!("cannot test {}", self.path.display());
        let path = std::fs::canonicalize(&self.path).doing(Exit::Usage, doing)?;
        if self.replay.is_empty() { tests(ctx, &path) } else { self.replayed(ctx, &path) }
    }

    /// The code of the project against histories.
    fn replayed(&self, ctx: &Ctx, path: &Path) -> Outcome {
        let what = || "cannot replay".to_owned();
        let mut files = Vec::new();
        for given in &self.replay {
            let doing = || format!("cannot read {}", given.display());
            if std::fs::metadata(given).doing(Exit::Usage, doing)?.is_dir() {
                files.extend(crate::files::below(given, &HISTORIES).doing(Exit::Usage, doing)?);
            } else {
                files.push(given.clone());
            }
        }
        files.sort();
        let mut histories = tempfile::NamedTempFile::new().doing(Exit::Failed, what)?;
        let mut count = 0usize;
        for file in &files {
            count += take(ctx, file, histories.as_file_mut())?;
        }
        if count == 0 {
            let why =
                "none of the files has the history of a workflow in Python; `tidewheel run export RUN` writes one";
            return Err(Failure::usage(what(), why));
        }
        let spinner = crate::progress::spinner(&ctx.out, &format!("replaying {count} runs"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing(Exit::Failed, what)?;
        let options = BuildOptions::new(cache_dir());
        let replayed = runtime.block_on(tidewheel_agent::replay(path, histories.path(), &options));
        spinner.finish_and_clear();
        let replayed = replayed.map_err(|error| Failure::new(Exit::Failed, what(), error.to_string()))?;
        let unfit = replayed.iter().filter(|one| one["ok"] != true).count();
        let shown = || {
            let mut lines: Vec<String> = replayed.iter().map(said).collect();
            lines.push(format!("{} fit, {unfit} do not", replayed.len() - unfit));
            lines.join("\n")
        };
        ctx.out.text_or(shown, &json!({ "ok": unfit == 0, "runs": replayed }))?;
        if unfit > 0 {
            let what = format!("{unfit} of {count} runs do not fit the code");
            return Err(
                Failure::new(Exit::Failed, what, "see the findings above").next("guard the change with wf.patched()")
            );
        }
        Ok(())
    }
}

/// Python tests first, then those of documents.
fn tests(ctx: &Ctx, path: &Path) -> Outcome {
    let documents = workflow::test_files(path)?;
    let is_document = path.is_file() && !documents.is_empty();
    let mut found = !documents.is_empty();
    let mut failed = None;
    if !is_document {
        match python(path)? {
            0 => found = true,
            NO_TESTS => {}
            code => failed = Some(code),
        }
    }
    // Both are told, also where the first ones failed.
    let said = if documents.is_empty() { Ok(()) } else { workflow::run_tests(ctx, documents) };
    match failed {
        Some(code) => {
            let why = format!("see the findings above (the test run ended with {code})");
            Err(Failure::new(Exit::Failed, "the Python tests failed", why))
        }
        None if !found => {
            let why = format!("no file test*.py or *.test.yaml is below {}", path.display());
            Err(Failure::usage("there are no tests", why))
        }
        None => said,
    }
}

/// Runs the Python tests of a folder or file; the exit code of the run.
fn python(path: &Path) -> Outcome<i32> {
    let setup = || format!("cannot test {}", path.display());
    let inside = if path.is_dir() { path.join("tests") } else { path.to_owned() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing(Exit::Failed, setup)?;
    let code = runtime
        .block_on(tidewheel_agent::prepare_local(&inside, &BuildOptions::new(cache_dir())))
        .map_err(|error| Failure::usage(setup(), error.to_string()).next("tidewheel doctor"))?;
    let mut paths = code.paths;
    paths.extend(std::env::var_os("PYTHONPATH").iter().flat_map(std::env::split_paths));
    let paths = std::env::join_paths(paths).doing(Exit::Usage, setup)?;
    let status = Command::new(&code.python).args(["-c", SCRIPT]).arg(path).env("PYTHONPATH", paths).status();
    let status = status.map_err(|error| {
        let why = format!("{} cannot be started: {error}", code.python.display());
        Failure::usage(setup(), why).next("tidewheel doctor")
    })?;
    Ok(status.code().unwrap_or(1))
}

/// Appends the histories in a file, one a line; how many there were.
fn take(ctx: &Ctx, file: &Path, into: &mut std::fs::File) -> Outcome<usize> {
    let doing = || format!("cannot read {}", file.display());
    let length = std::fs::metadata(file).doing(Exit::Usage, doing)?.len();
    if length > MAX_BYTES {
        return Err(Failure::usage(doing(), format!("it has {length} bytes; at most {MAX_BYTES} are read")));
    }
    let text = std::fs::read_to_string(file).doing(Exit::Usage, doing)?;
    let mut count = 0;
    // One document after another: a line each, or one that is written over several lines.
    for document in serde_json::Deserializer::from_str(&text).into_iter::<Value>() {
        let document = document.doing(Exit::Usage, doing)?;
        let history = if document.get("turns").is_some() { &document } else { &document["history"] };
        if history.get("turns").is_none() {
            let run = document["run"]["id"].as_str().or(document["id"].as_str()).unwrap_or("a document");
            ctx.out.note(&format!("{}: {run} has no history of a workflow in Python", file.display()));
            continue;
        }
        writeln!(into, "{history}").doing(Exit::Failed, || "cannot write the histories".to_owned())?;
        count += 1;
    }
    Ok(count)
}

/// What came of one history, in words.
fn said(one: &Value) -> String {
    if one["ok"] == true {
        return format!("  ok   {} of {}", field(one, "run"), field(one, "workflow"));
    }
    let place = match (one["file"].as_str(), one["line"].as_u64()) {
        (Some(file), Some(line)) if !file.is_empty() && !field(one, "why").contains(&format!("{file}:{line}")) => {
            format!(" ({file}:{line})")
        }
        _ => String::new(),
    };
    format!("  FAIL {} of {}: {}{place}", field(one, "run"), field(one, "workflow"), field(one, "why"))
}
