//! `tidewheel workflow test`: runs the tests of workflows. No server is needed.

use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use tidewheel_lang::render::render;
use tidewheel_lang::testkit::{Coverage, Files, Findings, Played, load};
use tidewheel_lang::text::MAX_TEXT;

use crate::cli::Ctx;
use crate::fail::{Exit, Failure, Outcome, While};

/// Ends of the names of test files.
const TESTS: [&str; 3] = [".test.yaml", ".test.yml", ".test.json"];
/// Ends of the names of workflows.
const ENDS: [&str; 3] = ["yaml", "yml", "json"];

/// Run the tests of workflows
///
/// A test file (`order.test.yaml` beside `order.yaml`) says for each test what the run is given, how its calls are answered,
/// and what has to hold at its end. Everything happens in memory: nothing is sent, and time jumps to whatever happens next.
/// A test that fails shows how what was expected and what was found differ, and its journal. With `--crash` every run loses
/// its memory after each commit and has to come to the same end. Ends with 1 if a test fails or a file has a mistake.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel workflow test
  tidewheel workflow test flows/order.test.yaml --filter refund
  tidewheel workflow test flows --crash --coverage
  tidewheel workflow test --output json --jq '.files[].tests[] | select(.passed | not) | .name'")]
pub(super) struct Test {
    /// Test files, and folders in which to look for `*.test.yaml`
    #[arg(value_name = "PATH", default_value = ".")]
    paths: Vec<PathBuf>,
    /// Run only the tests whose names hold this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Crash after every commit, go on, and come to the same end
    #[arg(long)]
    crash: bool,
    /// Say which statements no test ran
    #[arg(long)]
    coverage: bool,
}

/// What became of a file.
struct Done {
    name: String,
    findings: Vec<Findings>,
    tests: Vec<Played>,
    coverage: Option<Vec<Coverage>>,
    /// Whether the file has a mistake.
    broken: bool,
}

/// The test files below a folder, or the path itself if it is one.
pub(super) fn below(path: &Path) -> Outcome<Vec<PathBuf>> {
    let doing = || format!("cannot read {}", path.display());
    if path.is_dir() {
        return crate::files::below(path, &TESTS).doing(Exit::Usage, doing);
    }
    let is_test = path.to_str().is_some_and(|name| TESTS.iter().any(|end| name.ends_with(end)));
    Ok(if is_test { vec![path.to_owned()] } else { Vec::new() })
}

impl Test {
    /// Of these files, with nothing else asked for.
    pub(super) fn of(paths: Vec<PathBuf>) -> Test {
        Test { paths, filter: None, crash: false, coverage: false }
    }

    pub(super) fn run(self, ctx: &Ctx) -> Outcome {
        let files = self.files()?;
        let mut done = Vec::with_capacity(files.len());
        for file in &files {
            let one = self.file(file)?;
            if ctx.out.is_table() {
                ctx.out.write(&self.text(&one, ctx.out.colour))?;
            }
            done.push(one);
        }
        let count = |passed: bool| done.iter().flat_map(|one| &one.tests).filter(|one| one.passed == passed).count();
        let (passed, failed) = (count(true), count(false));
        let broken = done.iter().filter(|one| one.broken).count();
        let shown = || {
            let broken = match broken {
                0 => String::new(),
                1 => ", 1 file with mistakes".to_string(),
                many => format!(", {many} files with mistakes"),
            };
            format!("{passed} passed, {failed} failed{broken}")
        };
        let value = json!({
            "ok": failed == 0 && broken == 0,
            "passed": passed,
            "failed": failed,
            "files": done.iter().map(Done::value).collect::<Vec<_>>(),
        });
        ctx.out.text_or(shown, &value)?;
        if broken > 0 || failed > 0 {
            let what = match (broken, failed) {
                (0, failed) => format!("{failed} of {} tests failed", passed + failed),
                (broken, _) => format!("{broken} of {} test files cannot be run", done.len()),
            };
            return Err(Failure::new(Exit::Failed, what, "see the findings above"));
        }
        if passed == 0
            && let Some(filter) = &self.filter
        {
            let why = format!("none of {} files has a test with `{filter}` in its name", files.len());
            return Err(Failure::usage("no test was run", why).next("tidewheel workflow test"));
        }
        Ok(())
    }

    /// The files to run: those given, and the test files in the folders given.
    fn files(&self) -> Outcome<Vec<PathBuf>> {
        let mut files = Vec::new();
        for path in &self.paths {
            let doing = || format!("cannot read {}", path.display());
            if std::fs::metadata(path).doing(Exit::Usage, doing)?.is_dir() {
                files.extend(crate::files::below(path, &TESTS).doing(Exit::Usage, doing)?);
            } else {
                files.push(path.clone());
            }
        }
        files.sort();
        files.dedup();
        if files.is_empty() {
            let where_ = self.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            return Err(Failure::usage("there are no tests", format!("no file `*.test.yaml` is in {where_}")));
        }
        Ok(files)
    }

    fn file(&self, file: &Path) -> Outcome<Done> {
        let folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
        let text = read(file).doing(Exit::Usage, || format!("cannot read {}", file.display()))?;
        let beside = beside(file);
        let (suite, findings) = load(&text, beside.as_deref(), &Disk { folder });
        let name = file.strip_prefix(".").unwrap_or(file).display().to_string();
        let Some(suite) = suite else {
            return Ok(Done { name, findings, tests: Vec::new(), coverage: None, broken: true });
        };
        let tests = suite.play_all(self.filter.as_deref(), self.crash).tests;
        let coverage = self.coverage.then(|| suite.coverage(&tests));
        Ok(Done { name, findings, tests, coverage, broken: false })
    }

    fn text(&self, done: &Done, colour: bool) -> String {
        let paint = |style: &str, text: &str| {
            if colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_string() }
        };
        let mut out = String::new();
        for found in &done.findings {
            out += &render(&found.text, &done.place(found), &found.diagnostics, colour);
        }
        if done.tests.is_empty() {
            return out;
        }
        let _ = writeln!(out, "{}", paint("1", &done.name));
        for test in &done.tests {
            let word = if test.passed { paint("32", "ok  ") } else { paint("1;31", "FAIL") };
            let _ = writeln!(out, "  {word} {}{}", clean(&test.name), figures(test));
            for line in &test.unused_mocks {
                let _ = writeln!(out, "       {}: the mock in line {line} answered nothing", paint("33", "note"));
            }
            failures(&mut out, test, &paint);
        }
        for coverage in done.coverage.iter().flatten() {
            covered(&mut out, coverage);
        }
        out
    }
}

impl Done {
    /// The file that something was found in.
    fn place(&self, found: &Findings) -> String {
        let folder = Path::new(&self.name).parent().unwrap_or(Path::new(""));
        found.file.as_ref().map_or_else(|| self.name.clone(), |file| folder.join(file).display().to_string())
    }

    fn value(&self) -> Value {
        let finding = |found: &Findings| json!({ "file": found.file.as_deref().unwrap_or(&self.name), "diagnostics": found.diagnostics });
        let mut value = json!({
            "file": self.name,
            "ok": !self.broken && self.tests.iter().all(|test| test.passed),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
            "tests": self.tests,
        });
        if let Some(coverage) = &self.coverage {
            value["coverage"] = json!(coverage);
        }
        value
    }
}

/// Calls and time of a test.
fn figures(test: &Played) -> String {
    let mut parts = Vec::new();
    match test.call_count {
        0 => {}
        1 => parts.push("1 call".to_string()),
        count => parts.push(format!("{count} calls")),
    }
    if test.elapsed_ms > 0 {
        parts.push(format!("{} passed", tidewheel_lang::duration::text(test.elapsed_ms)));
    }
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

fn failures(out: &mut String, test: &Played, paint: &dyn Fn(&str, &str) -> String) {
    for failure in &test.failures {
        let _ = writeln!(out, "       {}", clean(&failure.message));
        for line in failure.diff.iter().flat_map(|diff| diff.lines()) {
            let style = match line.chars().next() {
                Some('-') => "31",
                Some('+') => "32",
                _ => "0",
            };
            let _ = writeln!(out, "         {}", paint(style, line));
        }
    }
    if !test.journal.is_empty() {
        let _ = writeln!(out, "       the journal:");
        for line in &test.journal {
            let _ = writeln!(out, "         {}", clean(line));
        }
    }
}

fn covered(out: &mut String, coverage: &Coverage) {
    let Coverage { workflow, statements, run, never_run } = coverage;
    let share = (run * 100).checked_div(*statements).unwrap_or(100);
    let _ = writeln!(out, "  {workflow}: {run} of {statements} statements were run ({share} %)");
    for one in never_run {
        let line = if one.line > 0 { format!("line {}, ", one.line) } else { String::new() };
        let _ = writeln!(out, "    never: {} ({line}{})", clean(&one.name), clean(&one.reference));
    }
}

/// Without characters that move the cursor.
fn clean(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

/// The workflow beside a test file: `order.yaml` for `order.test.yaml`.
fn beside(file: &Path) -> Option<String> {
    let stem = file.file_stem()?.to_str()?.strip_suffix(".test")?;
    let folder = file.parent().unwrap_or(Path::new(""));
    ENDS.iter().map(|end| format!("{stem}.{end}")).find(|name| folder.join(name).is_file())
}

/// Files by their path from the folder of the test file.
struct Disk {
    folder: PathBuf,
}

impl Files for Disk {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        read(&self.folder.join(path)).map_err(|error| error.to_string())
    }
}

/// A file, up to the largest text that is read.
fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    if !std::fs::metadata(file)?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut text = Vec::new();
    std::fs::File::open(file)?.take(MAX_TEXT as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}
