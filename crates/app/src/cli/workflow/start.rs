//! `workflow run`, which is `run start` too.

use clap::Args;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::WorkflowName;
use crate::cli::Ctx;
use crate::cli::common::{Wait, WaitArg, field, json_input, put};
use crate::cli::shapes::RUN;
use crate::client::Client;
use crate::fail::{Exit, Failure, Outcome, While};

/// Start a run of a workflow
///
/// Returns when the run is on the server's disk, or with `--wait` when it has ended: exit 0 if it completed, 1 if it did not.
/// Sending the same command again starts a second run unless `--idempotency-key` names it.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel workflow run shop/order --input '{\"id\": 7}' --wait
  tidewheel workflow run shop/order:1.2.0 --input @order.json --correlation-id order-7
  tidewheel run start shop/order --input - --idempotency-key order-7")]
pub(crate) struct Start {
    /// NAMESPACE/NAME, or NAMESPACE/NAME:VERSION; the latest version if none is named
    #[arg(value_name = "WORKFLOW")]
    workflow: WorkflowName,
    /// Input: JSON, `@FILE`, or `-` for standard input; `{}` if absent
    #[arg(long, short, value_name = "JSON", allow_hyphen_values = true)]
    input: Option<String>,
    /// Ties related work together
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// The same key gives the same run for 24 hours
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    wait: WaitArg,
}

impl Start {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        let wait = self.wait.get()?;
        let input = self.input.as_deref().map(json_input).transpose()?;
        let body = self.body(input.as_deref())?;
        let client = ctx.client()?;
        let mut request = client.post(format!("{}/runs", self.workflow.path()));
        request =
            request.doing(format!("start {}", self.workflow.text())).next("tidewheel workflow list").raw_json(body);
        if let Some(key) = &self.idempotency_key {
            request = request.idempotency_key(key);
        }
        let run = request.value().await?;
        if wait == Wait::No {
            ctx.out.brief(&RUN, &run)?;
            if ctx.out.is_for_people() {
                ctx.out.note(&format!("follow it: tidewheel run watch {}", field(&run, "id")));
            }
            return Ok(());
        }
        let run = follow_run(ctx, &client, run, wait).await?;
        ctx.out.one(&RUN, &run)?;
        run_outcome(&run)
    }

    /// The body with the input as it was written.
    fn body(&self, input: Option<&str>) -> Outcome<String> {
        #[derive(serde::Serialize)]
        struct Body<'a> {
            #[serde(flatten)]
            rest: Map<String, Value>,
            #[serde(skip_serializing_if = "Option::is_none")]
            input: Option<&'a RawValue>,
        }
        let mut rest = Map::new();
        put(&mut rest, "version", &self.workflow.version);
        put(&mut rest, "correlation_id", &self.correlation_id);
        let input = input.map(serde_json::from_str::<&RawValue>).transpose();
        let input = input.doing(Exit::Usage, || "cannot read the input".to_owned())?;
        serde_json::to_string(&Body { rest, input }).doing(Exit::Usage, || "cannot build the request".to_owned())
    }
}

/// Whether a phase is a run's last.
pub(crate) fn has_ended(run: &Value) -> bool {
    matches!(field(run, "phase"), "cancelled" | "faulted" | "completed")
}

/// Waits for the end of a run, with a line that says where it is.
pub(crate) async fn follow_run(ctx: &Ctx, client: &Client, mut run: Value, wait: Wait) -> Outcome<Value> {
    let id = field(&run, "id").to_owned();
    let spinner = crate::progress::spinner(&ctx.out, &where_it_is(&run));
    while !has_ended(&run) {
        if wait.is_over() {
            spinner.finish_and_clear();
            let why = format!("it is {}; it goes on at the server", field(&run, "phase"));
            return Err(Failure::new(Exit::Unreachable, format!("the wait for {id} ran out"), why)
                .next(format!("tidewheel run get {id}")));
        }
        // Short steps where somebody looks: the line is to show where the run is.
        let step = if ctx.out.is_for_people() { wait.step().min(LOOK) } else { wait.step() };
        let request = client.get(format!("/runs/{}", crate::client::segment(&id))).doing(format!("wait for {id}"));
        run = request.query("wait", format!("{}ms", step.as_millis())).value().await?;
        spinner.set_message(where_it_is(&run));
    }
    spinner.finish_and_clear();
    Ok(run)
}

/// Time between two looks of a person.
const LOOK: std::time::Duration = std::time::Duration::from_secs(2);

fn where_it_is(run: &Value) -> String {
    let waits = run.get("waiting").and_then(Value::as_array);
    let at = waits.and_then(|waits| waits.first()).map(|wait| format!(" at {}", field(wait, "statement")));
    format!("{} is {}{}", field(run, "id"), field(run, "phase"), at.unwrap_or_default())
}

/// The failure of a run that has ended without completing; nothing for one that completed.
pub(crate) fn run_outcome(run: &Value) -> Outcome {
    let phase = field(run, "phase");
    if phase == "completed" {
        return Ok(());
    }
    let id = field(run, "id");
    let none = json!({});
    let error = run.get("error").unwrap_or(&none);
    let why = match (field(error, "detail"), field(error, "title"), field(run, "reason")) {
        ("", "", "") => format!("its phase is {phase}"),
        ("", "", reason) => reason.to_owned(),
        (detail, title, _) => {
            let at = match field(error, "instance") {
                "" => String::new(),
                at => format!(" (at {at})"),
            };
            format!("{}{at}", if detail.is_empty() { title } else { detail })
        }
    };
    Err(Failure::new(Exit::Failed, format!("run {id} ended as {phase}"), why)
        .next(format!("tidewheel run journal {id}")))
}
