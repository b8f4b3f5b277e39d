//! `workflow deploy`

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use tidewheel_proto::code::Code;

use crate::cli::Ctx;
use crate::cli::common::{field, items};
use crate::cli::shapes::{FINDING, WORKFLOW};
use crate::fail::{Exit, Failure, Outcome};

/// Deploy workflow files
///
/// Each becomes a version under the namespace, name and version of its document. The same content again changes nothing; a
/// version never changes, so that other content needs another version. With `--dry-run` the server says what it would find,
/// and keeps nothing.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel workflow deploy order.yaml
  tidewheel workflow deploy --dry-run flows/*.yaml
  cat order.yaml | tidewheel workflow deploy -")]
pub(crate) struct Deploy {
    /// Files; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Say what the server finds, deploy nothing
    #[arg(long)]
    dry_run: bool,
}

impl Deploy {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let mut deployed = Vec::new();
        let mut undeployable = 0;
        for file in &self.files {
            let (text, name) = (super::read(file)?, super::name(file));
            if self.dry_run {
                let request = client.post("/workflows:lint").doing(format!("check {name}"));
                let report = request.raw_document(text).value().await?;
                undeployable += usize::from(!report.get("deployable").and_then(Value::as_bool).unwrap_or(false));
                show(ctx, &name, &report)?;
                continue;
            }
            let request = client.post("/workflows").doing(format!("deploy {name}"));
            let request = request.next(format!("tidewheel workflow lint {name}"));
            let workflow = match request.raw_document(text).value().await {
                Ok(workflow) => workflow,
                Err(failure) => return Err(explain(ctx, &name, failure)),
            };
            for finding in workflow.get("diagnostics").and_then(Value::as_array).into_iter().flatten() {
                ctx.out.note(&line(&name, finding));
            }
            if let Some(operation) = workflow.get("moving").and_then(Value::as_str) {
                ctx.out.note(&format!("runs of earlier versions move to it: tidewheel op watch {operation}"));
            }
            deployed.push(workflow);
        }
        if undeployable > 0 {
            let what = format!("{undeployable} of {} files cannot be deployed", self.files.len());
            return Err(Failure::new(Exit::Failed, what, "see the findings above"));
        }
        match deployed.as_slice() {
            [] => Ok(()),
            [one] => ctx.out.brief(&WORKFLOW, one),
            all => ctx.out.list(&WORKFLOW, &json!({ "items": all })),
        }
    }
}

/// Says the places of what the server refused. Who has read them is not told the same once more as the reason.
fn explain(ctx: &Ctx, name: &str, failure: Failure) -> Failure {
    if failure.code() != Some(Code::InvalidWorkflow) {
        return failure;
    }
    for one in failure.fields() {
        let hint = one.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        let (line, column) = (one.line.unwrap_or(0), one.column.unwrap_or(0));
        ctx.out.note(&format!("{name}:{line}:{column}: {}{hint}", one.detail));
    }
    let are_said = ctx.out.is_table() && !ctx.out.quiet && !failure.fields().is_empty();
    if are_said { failure.why("see the findings above") } else { failure }
}

fn show(ctx: &Ctx, name: &str, report: &Value) -> Outcome {
    if !ctx.out.is_for_people() {
        let mut report = report.clone();
        report["file"] = name.into();
        return ctx.out.value(&report);
    }
    let found = report.get("diagnostics").cloned().unwrap_or_default();
    if !items(&json!({ "items": found })).is_empty() {
        ctx.out.list(&FINDING, &json!({ "items": found }))?;
    }
    let deployable = report.get("deployable").and_then(Value::as_bool).unwrap_or(false);
    let verdict = if deployable { "can be deployed" } else { "cannot be deployed" };
    let class = match field(report, "class") {
        "" => String::new(),
        class => format!("; {class}"),
    };
    ctx.out.note(&format!("{name}: {verdict}{class}"));
    Ok(())
}

fn line(name: &str, finding: &Value) -> String {
    let at = |key: &str| finding.get(key).and_then(Value::as_u64).unwrap_or(0);
    let hint = match field(finding, "hint") {
        "" => String::new(),
        hint => format!("; {hint}"),
    };
    let (severity, message) = (field(finding, "severity"), field(finding, "message"));
    format!("{name}:{}:{}: {severity}: {message}{hint}", at("line"), at("column"))
}
