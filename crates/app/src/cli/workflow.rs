//! `tidewheel workflow`: check, format, draw and test workflow files, which needs no server; deploy them, and run them.

mod delete;
mod deploy;
mod diff;
mod get;
mod list;
mod start;
mod test;

pub(crate) use start::{Start, follow_run, run_outcome};

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use tidewheel_engine::run::plan::Profile;
use tidewheel_lang::check::check;
use tidewheel_lang::diagnostic::{Diagnostic, Severity, has_errors};
use tidewheel_lang::feature::Features;
use tidewheel_lang::graph::Graph;
use tidewheel_lang::lint::{Class, Report, lint};
use tidewheel_lang::render::render;
use tidewheel_lang::resolve::{Offline, Options};
use tidewheel_lang::text::{MAX_TEXT, Tree};

use super::Ctx;
use crate::fail::{Exit, Failure, Outcome, While};

/// Check, deploy and run workflows
///
/// Workflows are written in the Open Workflow Specification, in YAML or JSON. `lint`, `fmt`, `graph` and `test` work on files
/// alone; nothing is sent anywhere, and nothing that a file names elsewhere is fetched. `deploy` keeps a version at the server, `run`
/// starts it; `tidewheel run` follows what was started.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  tidewheel workflow lint order.yaml
  tidewheel workflow test order.test.yaml
  tidewheel workflow deploy order.yaml
  tidewheel workflow run shop/order --input '{\"id\": 7}' --wait")]
pub(crate) struct WorkflowCommand {
    #[command(subcommand)]
    verb: WorkflowVerb,
}

#[derive(Subcommand)]
enum WorkflowVerb {
    Deploy(deploy::Deploy),
    List(list::List),
    Get(get::Get),
    Run(Start),
    Diff(diff::Diff),
    Delete(delete::Delete),
    Lint(Lint),
    Fmt(Fmt),
    Graph(Draw),
    Test(test::Test),
}

/// Editions of the standard.
#[derive(Clone, Copy, ValueEnum)]
enum Edition {
    /// Version 1.0.3.
    #[value(name = "1.0.3")]
    V103,
    /// What is to follow it.
    Next,
}

impl Edition {
    fn profile(self) -> Profile {
        match self {
            Edition::V103 => Profile::V1_0_3,
            Edition::Next => Profile::Next,
        }
    }
}

/// Check workflow files and say what could be better
///
/// Reports every mistake with its line, what to do about it, and whether the workflow runs on other engines too: portable,
/// portable with hints that others ignore, or product-only. Ends with 1 if there is an error; with `--portable` also if
/// a file is product-only, with `--strict` also if there is a warning.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel workflow lint order.yaml
  tidewheel workflow lint --portable --strict flows/*.yaml
  tidewheel workflow lint order.yaml --output json")]
struct Lint {
    #[command(flatten)]
    args: LintArgs,
}

/// Check workflow files; short for `workflow lint`
///
/// Reports every mistake with its line, what to do about it, and whether the workflow runs on other engines too. See
/// `tidewheel workflow lint --help`.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel lint order.yaml
  tidewheel lint --portable --strict flows/*.yaml")]
pub(crate) struct ShortLint {
    #[command(flatten)]
    args: LintArgs,
}

// Without a doc comment: it would become the help of the verbs.
#[derive(Args)]
struct LintArgs {
    /// Files; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Fail if a workflow needs functions that this product alone has
    #[arg(long)]
    portable: bool,
    /// Fail on warnings too
    #[arg(long)]
    strict: bool,
    /// Edition of the standard, in place of the one that `document.dsl` selects
    #[arg(long, value_enum)]
    edition: Option<Edition>,
}

/// Format workflow files in place
///
/// Two spaces, quotes where they are needed; comments, order and single blank lines stay. Standard input (`-`) is
/// formatted to standard output. With `--check` nothing is written, and it ends with 1 if a file would change.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel workflow fmt order.yaml
  tidewheel workflow fmt --check flows/*.yaml
  cat order.yaml | tidewheel workflow fmt -")]
struct Fmt {
    /// Files; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write nothing; fail if a file is not formatted
    #[arg(long)]
    check: bool,
}

/// Draw a workflow as a graph
///
/// Nodes are statements, edges the ways between them. As text for Mermaid (the default) or Graphviz; with a form of data
/// (`--output json`) the nodes and edges themselves.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel workflow graph order.yaml
  tidewheel workflow graph order.yaml --as dot | dot -Tsvg
  tidewheel workflow graph order.yaml --output json")]
struct Draw {
    /// File; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Text to draw it with
    #[arg(long = "as", value_enum, value_name = "LANGUAGE")]
    language: Option<Language>,
    /// Edition of the standard, in place of the one that `document.dsl` selects
    #[arg(long, value_enum)]
    edition: Option<Edition>,
}

/// Languages of drawings.
#[derive(Clone, Copy, ValueEnum)]
enum Language {
    /// Mermaid.
    Mermaid,
    /// Graphviz.
    Dot,
}

impl WorkflowCommand {
    /// Whether it works on files alone, without a server.
    pub(crate) fn is_local(&self) -> bool {
        matches!(
            self.verb,
            WorkflowVerb::Lint(_) | WorkflowVerb::Fmt(_) | WorkflowVerb::Graph(_) | WorkflowVerb::Test(_)
        )
    }

    /// A verb that works on files alone.
    pub(crate) fn run_here(self, ctx: &Ctx) -> Outcome {
        match self.verb {
            WorkflowVerb::Lint(verb) => verb.args.run(ctx),
            WorkflowVerb::Fmt(verb) => verb.run(ctx),
            WorkflowVerb::Graph(verb) => verb.run(ctx),
            WorkflowVerb::Test(verb) => verb.run(ctx),
            _ => Ok(()),
        }
    }

    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        match self.verb {
            WorkflowVerb::Deploy(verb) => verb.run(ctx).await,
            WorkflowVerb::List(verb) => verb.run(ctx).await,
            WorkflowVerb::Get(verb) => verb.run(ctx).await,
            WorkflowVerb::Run(verb) => verb.run(ctx).await,
            WorkflowVerb::Diff(verb) => verb.run(ctx).await,
            WorkflowVerb::Delete(verb) => verb.run(ctx).await,
            _ => Ok(()),
        }
    }
}

/// The test files of documents below a path.
pub(crate) fn test_files(path: &Path) -> Outcome<Vec<PathBuf>> {
    test::below(path)
}

/// Runs test files of documents.
pub(crate) fn run_tests(ctx: &Ctx, files: Vec<PathBuf>) -> Outcome {
    test::Test::of(files).run(ctx)
}

/// A workflow as it is named on the command line: `namespace/name`, and maybe `/version` or `:version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkflowName {
    namespace: String,
    name: String,
    version: Option<String>,
}

impl std::str::FromStr for WorkflowName {
    type Err = String;

    fn from_str(text: &str) -> Result<WorkflowName, String> {
        let (workflow, version) = match text.split_once(':') {
            Some((workflow, version)) => (workflow, Some(version)),
            None => (text, None),
        };
        let parts: Vec<&str> = workflow.split('/').collect();
        let (namespace, name, version) = match (&parts[..], version) {
            ([namespace, name], version) => (*namespace, *name, version),
            ([namespace, name, version], None) => (*namespace, *name, Some(*version)),
            _ => return Err("write NAMESPACE/NAME, or NAMESPACE/NAME:VERSION".to_owned()),
        };
        if namespace.is_empty() || name.is_empty() || version == Some("") {
            return Err("write NAMESPACE/NAME, or NAMESPACE/NAME:VERSION".to_owned());
        }
        let version = version.map(str::to_owned);
        Ok(WorkflowName { namespace: namespace.to_owned(), name: name.to_owned(), version })
    }
}

impl WorkflowName {
    /// The path of the workflow, without a version.
    fn path(&self) -> String {
        format!("/workflows/{}/{}", crate::client::segment(&self.namespace), crate::client::segment(&self.name))
    }

    /// The path of its version; the latest if none is named.
    fn version_path(&self) -> String {
        format!("{}/{}", self.path(), crate::client::segment(self.version.as_deref().unwrap_or("latest")))
    }

    fn text(&self) -> String {
        let version = self.version.as_ref().map(|version| format!(":{version}")).unwrap_or_default();
        format!("{}/{}{version}", self.namespace, self.name)
    }
}

/// Reads a file or standard input, up to the largest text that is a workflow.
fn read(file: &Path) -> Outcome<Vec<u8>> {
    let doing = || format!("cannot read {}", file.display());
    let mut text = Vec::new();
    let limit = MAX_TEXT as u64 + 1;
    if file == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut text).doing(Exit::Usage, doing)?;
    } else {
        let opened = std::fs::File::open(file).doing(Exit::Usage, doing)?;
        opened.take(limit).read_to_end(&mut text).doing(Exit::Usage, doing)?;
    }
    Ok(text)
}

fn name(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_string() } else { file.display().to_string() }
}

impl ShortLint {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        self.args.run(ctx)
    }
}

impl LintArgs {
    fn run(self, ctx: &Ctx) -> Outcome {
        let options = Options { profile: self.edition.map(Edition::profile), features: Features::all() };
        let mut failed = 0;
        for file in &self.files {
            let text = read(file)?;
            let report = lint(&text, options, &Offline);
            let fails = self.fails(&report);
            failed += usize::from(fails);
            let shown = || summary(&text, &name(file), &report, ctx.out.colour);
            let value = json!({
                "file": name(file),
                "ok": !fails,
                "class": report.class,
                "diagnostics": report.diagnostics,
                "critical_path": report.critical_path,
            });
            ctx.out.text_or(shown, &value)?;
        }
        if failed > 0 {
            let what = if self.files.len() == 1 {
                "the workflow did not pass".to_string()
            } else {
                format!("{failed} of {} files did not pass", self.files.len())
            };
            return Err(Failure::new(Exit::Failed, what, "see the findings above"));
        }
        Ok(())
    }

    fn fails(&self, report: &Report) -> bool {
        let warned = report.diagnostics.iter().any(|one| one.severity == Severity::Warning);
        has_errors(&report.diagnostics)
            || self.strict && warned
            || self.portable && report.class == Some(Class::ProductOnly)
    }
}

fn summary(text: &[u8], name: &str, report: &Report, colour: bool) -> String {
    let text = String::from_utf8_lossy(text);
    let count = |severity, name: &str| {
        let count = report.diagnostics.iter().filter(|one| one.severity == severity).count();
        format!("{count} {name}{}", if count == 1 { "" } else { "s" })
    };
    let mut out = render(&text, name, &report.diagnostics, colour);
    let class = report.class.map_or("not a workflow", Class::name);
    out += &format!(
        "{name}: {class}; {}, {}, {}",
        count(Severity::Error, "error"),
        count(Severity::Warning, "warning"),
        count(Severity::Hint, "hint")
    );
    if let Some(path) = report.critical_path.as_ref().filter(|path| path.work > 1) {
        out += &format!("; {} of {} pieces of work wait for each other", path.statements.len(), path.work);
    }
    out
}

/// A text that cannot be read, with its place.
fn unreadable(text: &[u8], name: &str, errors: &[Diagnostic], ctx: &Ctx) -> Failure {
    if ctx.out.is_table() {
        eprint!("{}", render(&String::from_utf8_lossy(text), name, errors, ctx.out.colour));
    }
    let first = errors.first().map_or_else(|| "it is not well formed".to_string(), ToString::to_string);
    Failure::new(Exit::Failed, format!("{name} is not a workflow"), first)
        .next(format!("tidewheel workflow lint {name}"))
}

impl Fmt {
    fn run(self, ctx: &Ctx) -> Outcome {
        let mut stale = Vec::new();
        for file in &self.files {
            let text = read(file)?;
            let formatted = tidewheel_lang::fmt::format(&text)
                .map_err(|error| unreadable(&text, &name(file), std::slice::from_ref(&error), ctx))?;
            let changed = formatted.as_bytes() != text;
            if file == Path::new("-") && !self.check {
                ctx.out.write(&formatted)?;
                continue;
            }
            if changed && !self.check {
                write(file, &formatted)?;
            }
            if changed {
                stale.push(name(file));
                ctx.out.note(&format!("{}{}", if self.check { "would format " } else { "formatted " }, name(file)));
            }
        }
        if self.check && !stale.is_empty() {
            let what = format!("{} of {} files are not formatted", stale.len(), self.files.len());
            return Err(Failure::new(Exit::Failed, what, stale.join(", ")).next("tidewheel workflow fmt FILE"));
        }
        Ok(())
    }
}

/// Puts a new text in place of a file at once, so that no reader ever sees half of it.
fn write(file: &Path, text: &str) -> Outcome {
    let doing = || format!("cannot write {}", file.display());
    let target = std::fs::canonicalize(file).doing(Exit::Failed, doing)?;
    let folder = crate::profile::folder_of(&target);
    let mut new = tempfile::NamedTempFile::new_in(folder).doing(Exit::Failed, doing)?;
    std::io::Write::write_all(&mut new, text.as_bytes()).doing(Exit::Failed, doing)?;
    let permissions = std::fs::metadata(&target).doing(Exit::Failed, doing)?.permissions();
    new.as_file().set_permissions(permissions).doing(Exit::Failed, doing)?;
    new.persist(&target).map_err(|error| error.error).doing(Exit::Failed, doing)?;
    Ok(())
}

impl Draw {
    fn run(self, ctx: &Ctx) -> Outcome {
        let text = read(&self.file)?;
        let name = name(&self.file);
        let tree = Tree::parse(&text).map_err(|error| unreadable(&text, &name, std::slice::from_ref(&error), ctx))?;
        let (document, found) = check(&tree, self.edition.map(Edition::profile));
        let Some(document) = document else { return Err(unreadable(&text, &name, &found, ctx)) };
        let graph = Graph::of(&tree, &document);
        match self.language {
            Some(Language::Dot) => ctx.out.write(&graph.dot()),
            Some(Language::Mermaid) => ctx.out.write(&graph.mermaid()),
            None if ctx.out.is_text() => ctx.out.write(&graph.mermaid()),
            None => ctx.out.value(&serde_json::to_value(&graph).unwrap_or_default()),
        }
    }
}
