//! `package prefetch` and `package rollout`.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Ctx;
use crate::cli::common::{Wait, field, items};
use crate::cli::op;
use crate::cli::shapes::{OPERATION, ROLLOUT};
use crate::fail::{Exit, Failure, Outcome};

/// Have agents fetch a version before its first task
///
/// The connected agents that serve its queues fetch what they have not and build its environment. Shows the outcome of each
/// agent; exit 1 if one failed or was not done in time.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel package prefetch reports@1.4.1
  tidewheel package prefetch reports 1.4.1 --timeout 2m --no-wait")]
pub(crate) struct Prefetch {
    #[command(flatten)]
    which: Which,
}

/// Give new tasks a version once its agents have it
///
/// Has the connected agents that serve it fetch the version, as `prefetch` does, and then makes it the one that new tasks of
/// its types get. That may be an older version: a rollback on which nobody waits for a download. If fewer agents have it in
/// time than asked for, nothing changes and the exit is 1.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel package rollout reports@1.4.1
  tidewheel package rollout reports@1.4.0 --percent 80 --timeout 2m")]
pub(crate) struct Rollout {
    #[command(flatten)]
    which: Which,
    /// Share of the agents that has to have it, in percent
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    percent: u8,
}

#[derive(Args)]
struct Which {
    /// `name@version`, or the name
    name: String,
    /// The version
    version: Option<String>,
    /// How long agents get; 5 minutes if absent
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// Return at once; `tidewheel op watch` follows it
    #[arg(long)]
    no_wait: bool,
}

impl Prefetch {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        self.which.start(ctx, "prefetch", json!({})).await
    }
}

impl Rollout {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        self.which.start(ctx, "rollout", json!({ "percent": self.percent })).await
    }
}

impl Which {
    async fn start(self, ctx: &Ctx, verb: &str, mut body: Value) -> Outcome {
        let (name, version) = super::name_version(&self.name, self.version.as_deref())?;
        let client = ctx.client()?;
        if let Some(time) = &self.timeout {
            body["timeout"] = json!(time);
        }
        let request = client.post(format!("{}:{verb}", super::path(&name, &version)));
        let request = request.doing(format!("{verb} {name} {version}")).next("tidewheel package list").json(&body);
        let operation = request.value().await?;
        let wait = if self.no_wait { Wait::No } else { Wait::Ever };
        let Some(ended) = op::follow(ctx, &client, operation, wait).await? else { return Ok(()) };
        let agents = json!({ "items": ended.get("agents").cloned().unwrap_or(json!([])) });
        if ctx.out.is_table() {
            ctx.out.list(&ROLLOUT, &agents)?;
        } else {
            ctx.out.brief(&OPERATION, &ended)?;
        }
        let count = |name: &str| ended.get(name).and_then(Value::as_u64).unwrap_or(0);
        let (seen, done) = (count("seen"), count("done"));
        if field(&ended, "state") == "failed" {
            let detail = match field(&ended, "detail") {
                "" => format!("{done} of {seen} agents have it"),
                told => told.trim_end_matches('.').to_owned(),
            };
            let why = format!("{detail}; new tasks get the version they got before");
            return Err(Failure::new(Exit::Failed, format!("{name} {version} was not rolled out"), why)
                .next(format!("tidewheel op get {}", field(&ended, "id"))));
        }
        ctx.out.note(&match items(&agents).is_empty() {
            true => "no agent that serves it is connected".to_owned(),
            false => format!("{done} of {seen} agents have {name} {version}"),
        });
        if done < seen {
            let why = format!("{} of {seen} agents do not have it", seen - done);
            return Err(Failure::new(Exit::Failed, format!("{name} {version} is not everywhere"), why)
                .next("tidewheel worker list"));
        }
        Ok(())
    }
}
