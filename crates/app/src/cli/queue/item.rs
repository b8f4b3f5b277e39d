//! `queue item`: items as transactions, taken under a lease and settled.

use clap::{Args, Subcommand};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tidewheel_proto::rest;

use crate::cli::Ctx;
use crate::cli::common::{self, ListArgs, json_input, pair, put};
use crate::cli::shapes::{TAKEN, TASK};
use crate::cli::task::priority;
use crate::client::{Client, segment};
use crate::fail::{Exit, Failure, Outcome, While};

/// Put items into a queue, take them, settle them
///
/// An item is work for whoever takes it: a person, a robot, a script. `next` makes it the caller's for the length of a
/// lease; `done`, `fail` and `postpone` end that, and need the token that `next` printed. An item whose lease runs out is
/// for the next one, and the attempt counts.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  tidewheel queue item add invoices --input '{\"number\": 77}'
  tidewheel queue item next invoices --lease 10m -o json")]
pub(crate) struct ItemCommand {
    #[command(subcommand)]
    verb: ItemVerb,
}

#[derive(Subcommand)]
enum ItemVerb {
    Add(Box<Add>),
    List(List),
    Next(Next),
    Done(Done),
    Fail(Fail),
    Postpone(Postpone),
    Renew(Renew),
}

/// Put an item into a queue
///
/// It is durable when the command returns. `--idempotency-key` makes a repeat of the same command find the same item.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel queue item add invoices --input @invoice.json --priority high
  tidewheel queue item add invoices --input '{\"number\": 77}' --key customer-9 --idempotency-key inv-77")]
struct Add {
    /// Name of the queue
    queue: String,
    /// What it is about: JSON, `@FILE`, or `-` for standard input
    #[arg(long, short, value_name = "JSON", allow_hyphen_values = true)]
    input: Option<String>,
    /// 0 to 9, 9 first, or low, medium, high
    #[arg(long, value_parser = priority)]
    priority: Option<rest::Priority>,
    /// Not before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    run_at: Option<String>,
    /// Not before so long from now: `10m`
    #[arg(long, value_name = "TIME", conflicts_with = "run_at")]
    delay: Option<String>,
    /// Expires if nobody has taken it by then
    #[arg(long, value_name = "TIME")]
    ttl: Option<String>,
    /// Attempts in all
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// Wait before the second attempt
    #[arg(long, value_name = "TIME")]
    retry_delay: Option<String>,
    /// Ordering key: items with the same key are taken one after another
    #[arg(long)]
    key: Option<String>,
    /// Searchable label; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Ties related work together
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// The same key gives the same item for 24 hours
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

/// List the items of a queue
///
/// Newest first, in every state. The filter grammar is that of `tidewheel task list`.
#[derive(Args)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:
  tidewheel queue item list invoices
  tidewheel queue item list invoices --filter 'state:queued,scheduled' --all -o name")]
struct List {
    /// Name of the queue
    queue: String,
    #[command(flatten)]
    list: ListArgs,
}

/// Take the next items
///
/// Prints them with their tokens; they are yours until the lease ends. Exit 4 when there is none.
#[derive(Args)]
#[command(visible_alias = "take")]
#[command(after_help = "Examples:
  tidewheel queue item next invoices --lease 10m -o json
  tidewheel queue item next invoices --max 5 --wait 30s -o jsonl")]
struct Next {
    /// Name of the queue
    queue: String,
    /// How long they are yours: 1 s to 24 h; 5 minutes if absent
    #[arg(long, value_name = "TIME")]
    lease: Option<String>,
    /// Items at most, 1 to 100
    #[arg(long, value_name = "N")]
    max: Option<u32>,
    /// Wait so long for the first one
    #[arg(long, value_name = "TIME")]
    wait: Option<String>,
}

/// Which item, and the proof that it is ours.
#[derive(Args)]
struct Taken {
    /// Name of the queue
    queue: String,
    /// Id of the item
    id: String,
    /// Token that `next` printed
    #[arg(long, value_name = "TOKEN")]
    token: String,
}

/// End a taken item with a result
///
/// Refused with exit 4 when the lease is over: then somebody else may have the item, and nothing is changed.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel queue item done invoices task_01jd8z5r7m0000000000000000 --token 0193…
  tidewheel queue item done invoices task_01jd8z5r7m0000000000000000 --token 0193… --result @booked.json")]
struct Done {
    #[command(flatten)]
    taken: Taken,
    /// Result: JSON, `@FILE`, or `-` for standard input
    #[arg(long, short, value_name = "JSON", allow_hyphen_values = true)]
    result: Option<String>,
}

/// Say that a taken item could not be done
///
/// A system error (the default) is tried again by the queue's retry policy, then it is a dead letter. A business error is
/// final: the item itself is wrong.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel queue item fail invoices task_01jd8z5r7m0000000000000000 --token 0193… --message 'SAP is down'
  tidewheel queue item fail invoices task_01jd8z5r7m0000000000000000 --token 0193… --kind business --message 'no such customer'")]
struct Fail {
    #[command(flatten)]
    taken: Taken,
    /// `system`: try again; `business`: final
    #[arg(long, value_parser = ["system", "business"], default_value = "system")]
    kind: String,
    /// Error type, for filters and retry policies
    #[arg(long = "type", value_name = "NAME")]
    error_type: Option<String>,
    /// One line on what went wrong
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
}

/// Give a taken item back for later
///
/// It comes back when the time is over; the attempt is not held against it.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel queue item postpone invoices task_01jd8z5r7m0000000000000000 --token 0193… --delay 1h
  tidewheel queue item postpone invoices task_01jd8z5r7m0000000000000000 --token 0193… --until 2027-01-02T08:00:00Z")]
struct Postpone {
    #[command(flatten)]
    taken: Taken,
    /// For so long from now
    #[arg(long, value_name = "TIME", required_unless_present = "until")]
    delay: Option<String>,
    /// Until this time (RFC 3339)
    #[arg(long, value_name = "TIME", conflicts_with = "delay")]
    until: Option<String>,
}

/// Begin the lease of a taken item anew
///
/// For work that takes longer than the lease; the lease counts its whole length from now.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel queue item renew invoices task_01jd8z5r7m0000000000000000 --token 0193…
  tidewheel queue item renew invoices task_01jd8z5r7m0000000000000000 --token 0193… -o json --jq .leased_until")]
struct Renew {
    #[command(flatten)]
    taken: Taken,
}

impl ItemCommand {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        match self.verb {
            ItemVerb::Add(verb) => verb.run(ctx, &client).await,
            ItemVerb::List(verb) => {
                let path = items(&verb.queue);
                common::list(ctx, &TASK, &verb.list, || client.get(&path).doing("list the items")).await
            }
            ItemVerb::Next(verb) => verb.run(ctx, &client).await,
            ItemVerb::Done(Done { taken, result }) => {
                let result = result.as_deref().map(json_input).transpose()?;
                let body = with("result", result.as_deref(), json!({ "token": taken.token }))?;
                let request = client.post(taken.path("done")).doing(format!("end item {}", taken.id));
                ctx.out.brief(&TASK, &request.raw_json(body).value().await?)
            }
            ItemVerb::Fail(Fail { taken, kind, error_type, message }) => {
                let mut body = Map::from_iter([("kind".to_owned(), json!(kind))]);
                put(&mut body, "type", &error_type);
                put(&mut body, "message", &message);
                taken.send(ctx, &client, "fail", body).await
            }
            ItemVerb::Postpone(Postpone { taken, delay, until }) => {
                let mut body = Map::new();
                put(&mut body, "delay", &delay);
                put(&mut body, "until", &until);
                taken.send(ctx, &client, "postpone", body).await
            }
            ItemVerb::Renew(Renew { taken }) => {
                let request = client.post(taken.path("renew")).doing(format!("renew item {}", taken.id));
                ctx.out.one(&TAKEN, &request.json(&json!({ "token": taken.token })).value().await?)
            }
        }
    }
}

fn items(queue: &str) -> String {
    format!("{}/items", super::path(queue))
}

impl Taken {
    fn path(&self, verb: &str) -> String {
        format!("{}/{}:{verb}", items(&self.queue), segment(&self.id))
    }

    async fn send(self, ctx: &Ctx, client: &Client, verb: &str, mut body: Map<String, Value>) -> Outcome {
        body.insert("token".to_owned(), json!(self.token));
        let request = client.post(self.path(verb)).doing(format!("{verb} item {}", self.id));
        ctx.out.brief(&TASK, &request.json(&body).value().await?)
    }
}

impl Add {
    async fn run(self, ctx: &Ctx, client: &Client) -> Outcome {
        let mut body = Map::new();
        put(&mut body, "priority", &self.priority);
        put(&mut body, "run_at", &self.run_at);
        put(&mut body, "delay", &self.delay);
        put(&mut body, "ttl", &self.ttl);
        put(&mut body, "key", &self.key);
        put(&mut body, "correlation_id", &self.correlation_id);
        put(&mut body, "idempotency_key", &self.idempotency_key);
        let mut retry = Map::new();
        put(&mut retry, "max_attempts", &self.max_attempts);
        put(&mut retry, "delay", &self.retry_delay);
        let labels = self.label.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<Map<_, _>>();
        for (name, part) in [("retry", retry), ("labels", labels)] {
            if !part.is_empty() {
                body.insert(name.to_owned(), Value::Object(part));
            }
        }
        let input = self.input.as_deref().map(json_input).transpose()?;
        let body = with("input", input.as_deref(), Value::Object(body))?;
        let mut request = client.post(items(&self.queue)).doing("add the item").raw_json(body);
        if let Some(key) = &self.idempotency_key {
            request = request.idempotency_key(key);
        }
        ctx.out.brief(&TASK, &request.next("tidewheel queue list").value().await?)
    }
}

impl Next {
    async fn run(self, ctx: &Ctx, client: &Client) -> Outcome {
        let mut body = Map::new();
        put(&mut body, "lease", &self.lease);
        put(&mut body, "max", &self.max);
        put(&mut body, "wait", &self.wait);
        let request = client.post(format!("{}:take", items(&self.queue))).doing("take an item");
        // The answer may be as late as the wait that it was asked for.
        let page = request.maybe_patient(self.wait.as_deref()).json(&body).value().await?;
        match common::items(&page) {
            [] => {
                let why = "every item is taken, waits for its time, or is held back by a limit";
                let failure = Failure::new(Exit::Missing, format!("queue {} has no item to take", self.queue), why);
                Err(failure.next(format!("tidewheel queue item list {} --filter state:queued", self.queue)))
            }
            [one] => ctx.out.one(&TAKEN, one),
            _ => ctx.out.list(&TAKEN, &page),
        }
    }
}

/// A body with one more field, whose JSON is sent as it was written.
fn with(name: &str, raw: Option<&str>, body: Value) -> Outcome<String> {
    let mut text = body.to_string();
    if let Some(raw) = raw {
        let raw: &RawValue = serde_json::from_str(raw).doing(Exit::Usage, || format!("cannot read the {name}"))?;
        text.pop();
        let comma = if text.len() > 1 { "," } else { "" };
        text.push_str(&format!("{comma}\"{name}\":{}}}", raw.get()));
    }
    Ok(text)
}
