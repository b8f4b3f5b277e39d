//! `task submit`: one task from flags, or many from a file.

mod many;

use clap::Args;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tidewheel_proto::rest;

use crate::cli::Ctx;
use crate::cli::common::{
    Wait, WaitArg, field, is_terminal, json_input, pair, put, scalar, state_of, task_outcome, wait_task,
};
use crate::cli::shapes::TASK;
use crate::client::Client;
use crate::fail::{Exit, Failure, Outcome, While};

/// Submit a task, or many from a file
///
/// Returns when the task is on the server's disk. Sending the same command again makes a second task unless
/// `--idempotency-key` names it; a repeat after a lost answer is safe by itself. With `--many`, each line of the file
/// is one task: a whole task in JSON, or, when TYPE is given too, the input of one task of that type.
#[derive(Args)]
#[command(visible_alias = "create")]
#[command(after_help = "Examples:
  tidewheel task submit greet --input '{\"name\": \"Ann\"}' --wait
  tidewheel task submit resize --input @photo.json --queue pdf --priority high --delay 10m
  tidewheel task submit resize --many inputs.jsonl --label batch=7")]
pub(crate) struct Submit {
    /// Task type, as the package names it
    #[arg(value_name = "TYPE", required_unless_present = "many")]
    kind: Option<String>,
    /// Input: JSON, `@FILE`, or `-` for standard input
    #[arg(long, short, value_name = "JSON", allow_hyphen_values = true, conflicts_with = "many")]
    input: Option<String>,
    /// Submit one task per line of a file (`-` for standard input)
    #[arg(long, value_name = "FILE.jsonl")]
    many: Option<String>,
    /// Queue to wait in; if absent where `tidewheel routing` sends it, else that of its type, else `default`
    #[arg(long)]
    queue: Option<String>,
    /// 0 to 9, 9 first, or low, medium, high
    #[arg(long, value_parser = priority)]
    priority: Option<rest::Priority>,
    /// Not before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    run_at: Option<String>,
    /// Not before so long from now: `10m`
    #[arg(long, value_name = "TIME", conflicts_with = "run_at")]
    delay: Option<String>,
    /// Expires if it has not started by then
    #[arg(long, value_name = "TIME")]
    ttl: Option<String>,
    /// Longest run of one attempt
    #[arg(long, value_name = "TIME", help_heading = "Time limits and retries")]
    timeout: Option<String>,
    /// Longest wait in the queue
    #[arg(long, value_name = "TIME", help_heading = "Time limits and retries")]
    queue_timeout: Option<String>,
    /// Longest time from grant to start
    #[arg(long, value_name = "TIME", help_heading = "Time limits and retries")]
    start_timeout: Option<String>,
    /// Longest time between two signs of progress
    #[arg(long, value_name = "TIME", help_heading = "Time limits and retries")]
    heartbeat_timeout: Option<String>,
    /// Attempts in all
    #[arg(long, value_name = "N", help_heading = "Time limits and retries")]
    max_attempts: Option<u32>,
    /// Wait before the second attempt
    #[arg(long, value_name = "TIME", help_heading = "Time limits and retries")]
    retry_delay: Option<String>,
    /// Ordering key: tasks with the same key run one after another
    #[arg(long, help_heading = "Order, limits and placement")]
    key: Option<String>,
    /// Concurrency key: its tasks share a limit
    #[arg(long, value_name = "KEY", help_heading = "Order, limits and placement")]
    concurrency_key: Option<String>,
    /// Limit of the concurrency key
    #[arg(long, value_name = "N", help_heading = "Order, limits and placement")]
    concurrency_limit: Option<u32>,
    /// Tasks with the same key go to the same worker, where the queue's policy is consistent_hash
    #[arg(long, value_name = "KEY", help_heading = "Order, limits and placement")]
    affinity_key: Option<String>,
    /// Label a worker has to have; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair, help_heading = "Order, limits and placement")]
    require: Vec<(String, String)>,
    /// How long it is expected to run: below 1m it is short, above 10m long
    #[arg(long, value_name = "TIME", help_heading = "Order, limits and placement")]
    expected_duration: Option<String>,
    /// Data it works on: a worker that holds it goes before its equals; may be given several times
    #[arg(long, value_name = "DATA", help_heading = "Order, limits and placement")]
    near: Vec<String>,
    /// Resource class: cpu-intensive, memory-intensive, io-intensive, default
    #[arg(long, help_heading = "Order, limits and placement")]
    class: Option<String>,
    /// Cores needed
    #[arg(long, value_name = "CORES", help_heading = "Order, limits and placement")]
    cpu: Option<f64>,
    /// Memory needed: `512MB`, `4Gi`
    #[arg(long, value_name = "SIZE", help_heading = "Order, limits and placement")]
    memory: Option<String>,
    /// `high`: its reads and writes go before those of others
    #[arg(long, value_name = "LEVEL", help_heading = "Order, limits and placement")]
    iops: Option<String>,
    /// May be handed over together with others of its type
    #[arg(long, help_heading = "Order, limits and placement")]
    batchable: bool,
    /// Package to run: `name` or `name@version`; found by the type if absent
    #[arg(long, help_heading = "Order, limits and placement")]
    package: Option<String>,
    /// Searchable label; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Ties related work together
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// The workflow run this belongs to
    #[arg(long, value_name = "ID")]
    workflow_id: Option<String>,
    /// The same key gives the same task for 24 hours
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    wait: WaitArg,
    /// Print what would be sent, send nothing
    #[arg(long)]
    dry_run: bool,
}

/// A priority as the wire has it; the server knows the names.
pub(crate) fn priority(text: &str) -> Result<rest::Priority, String> {
    match text.parse::<u8>() {
        Ok(level) if level <= 9 => Ok(rest::Priority::Level(level)),
        Ok(_) => Err("a priority is 0 to 9".to_owned()),
        Err(_) if matches!(text, "low" | "medium" | "high") => Ok(rest::Priority::Name(text.to_owned())),
        Err(_) => Err("a priority is 0 to 9, low, medium or high".to_owned()),
    }
}

impl Submit {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let wait = self.wait.get()?;
        let mut template = self.template();
        if let Some(file) = &self.many {
            return many::run(ctx, file, template, wait, self.dry_run).await;
        }
        let input = self.input.as_deref().map(json_input).transpose()?;
        if let Some(key) = &self.idempotency_key {
            template.insert("idempotency_key".to_owned(), json!(key));
        }
        let body = with_input(&template, input.as_deref())?;
        if self.dry_run {
            let value = serde_json::from_str(&body).doing(Exit::Usage, || "cannot read the input".to_owned())?;
            return ctx.out.value(&value);
        }
        let client = ctx.client()?;
        let task = submit(&client, &body, self.idempotency_key.as_deref(), wait).await?;
        if wait == Wait::No {
            ctx.out.brief(&TASK, &task)?;
            if ctx.out.is_for_people() {
                ctx.out.note(&format!("follow it: tidewheel task watch {}", field(&task, "id")));
            }
            return Ok(());
        }
        let task = if is_terminal(state_of(&task)) {
            task
        } else {
            let spinner = crate::progress::spinner(&ctx.out, &format!("waiting for {}", field(&task, "id")));
            let waited = wait_task(&client, field(&task, "id"), wait).await;
            spinner.finish_and_clear();
            waited?
        };
        ctx.out.one(&TASK, &task)?;
        task_outcome(&task)
    }

    /// The task without its input.
    fn template(&self) -> Map<String, Value> {
        let mut body = Map::new();
        put(&mut body, "type", &self.kind);
        put(&mut body, "queue", &self.queue);
        put(&mut body, "priority", &self.priority);
        put(&mut body, "run_at", &self.run_at);
        put(&mut body, "delay", &self.delay);
        put(&mut body, "ttl", &self.ttl);
        let mut timeout = Map::new();
        put(&mut timeout, "run", &self.timeout);
        put(&mut timeout, "queue", &self.queue_timeout);
        put(&mut timeout, "start", &self.start_timeout);
        put(&mut timeout, "heartbeat", &self.heartbeat_timeout);
        let mut retry = Map::new();
        put(&mut retry, "max_attempts", &self.max_attempts);
        put(&mut retry, "delay", &self.retry_delay);
        let mut resources = Map::new();
        put(&mut resources, "class", &self.class);
        put(&mut resources, "cpu", &self.cpu);
        put(&mut resources, "memory", &self.memory);
        put(&mut resources, "iops", &self.iops);
        let requires = self.require.iter().map(|(name, value)| (name.clone(), scalar(value))).collect();
        let labels = self.label.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        for (name, part) in [
            ("timeout", timeout),
            ("retry", retry),
            ("resources", resources),
            ("requires", requires),
            ("labels", labels),
        ] {
            if !part.is_empty() {
                body.insert(name.to_owned(), Value::Object(part));
            }
        }
        put(&mut body, "key", &self.key);
        put(&mut body, "concurrency_key", &self.concurrency_key);
        put(&mut body, "concurrency_limit", &self.concurrency_limit);
        put(&mut body, "affinity_key", &self.affinity_key);
        put(&mut body, "expected_duration", &self.expected_duration);
        put(&mut body, "near", &(!self.near.is_empty()).then_some(&self.near));
        put(&mut body, "batchable", &self.batchable.then_some(true));
        put(&mut body, "package", &self.package);
        put(&mut body, "correlation_id", &self.correlation_id);
        put(&mut body, "workflow_id", &self.workflow_id);
        body
    }
}

/// The body with the input as it was written: numbers beyond 64 bits and the order of keys are the caller's.
fn with_input(template: &Map<String, Value>, input: Option<&str>) -> Outcome<String> {
    #[derive(serde::Serialize)]
    struct Body<'a> {
        #[serde(flatten)]
        template: &'a Map<String, Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<&'a RawValue>,
    }
    let input = input.map(serde_json::from_str::<&RawValue>).transpose();
    let input = input.doing(Exit::Usage, || "cannot read the input".to_owned())?;
    serde_json::to_string(&Body { template, input }).doing(Exit::Usage, || "cannot build the request".to_owned())
}

async fn submit(client: &Client, body: &str, key: Option<&str>, wait: Wait) -> Outcome<Value> {
    let mut request = client.post("/tasks").doing("submit the task").raw_json(body.to_owned());
    if let Some(key) = key {
        request = request.idempotency_key(key);
    }
    if wait != Wait::No {
        request = request.query("wait", format!("{}ms", wait.step().as_millis()));
    }
    let task = request.value().await?;
    if field(&task, "id").is_empty() {
        let why = "the answer has no task id: is it a Tidewheel server?";
        return Err(Failure::new(Exit::Unreachable, "cannot submit the task", why).next("tidewheel status"));
    }
    Ok(task)
}
