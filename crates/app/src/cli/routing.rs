//! `tidewheel routing`: rules that say where tasks go.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::Ctx;
use super::common::{json_input, pair, put};
use super::shapes::{ROUTE, RULE};
use super::task::priority;
use crate::client::Client;
use crate::fail::{Exit, Failure, Outcome};

/// Say where tasks go: rules for queues and executors
///
/// Rules are looked at in their order when a task is submitted; the first one whose conditions all hold decides. It gives
/// a queue to tasks whose submitter names none, an executor key that only workers with `--serve executor=KEY` (or without
/// any bound) take, or both. Without rules a task goes to the queue of its type, else to `default`.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  tidewheel routing add urgent --priority high --queue fast
  tidewheel routing add pdf --type 'pdf.*' --queue pdf --executor gpu
  tidewheel routing test pdf.render --priority high")]
pub(crate) struct RoutingCommand {
    #[command(subcommand)]
    verb: RoutingVerb,
}

#[derive(Subcommand)]
enum RoutingVerb {
    List(List),
    Add(Box<Add>),
    Remove(Remove),
    Set(Set),
    Test(Test),
}

/// List the rules in their order
///
/// The first rule that matches a task decides.
#[derive(Args)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:\n  tidewheel routing list\n  tidewheel routing list -o json > rules.json")]
struct List {}

/// Add a rule, or replace the one of that name
///
/// A condition that is not given holds for every task. A new rule goes to the end, or before the one that `--before`
/// names; one that is replaced keeps its place.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel routing add urgent --priority high --queue fast --before pdf
  tidewheel routing add eu --label region='eu-*' --queue eu
  tidewheel routing add billing --workflow 'billing-*' --executor finance")]
struct Add {
    /// Name of the rule; shown with each task that it routed
    name: String,
    /// Task type; `*` stands for any characters, `?` for one
    #[arg(long = "type", value_name = "PATTERN")]
    kind: Option<String>,
    /// Priority class: low (0-3), medium (4-6), high (7-9); may be given several times
    #[arg(long, value_name = "CLASS", value_delimiter = ',')]
    priority: Vec<String>,
    /// Who does the work: automated, manual, integration
    #[arg(long = "kind", value_name = "KIND")]
    work: Option<String>,
    /// Workflow id; patterns as in `--type`
    #[arg(long, value_name = "PATTERN")]
    workflow: Option<String>,
    /// Label that the task has; the value is a pattern; may be given several times
    #[arg(long, short, value_name = "NAME=PATTERN", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Queue for tasks whose submitter names none
    #[arg(long, required_unless_present = "executor")]
    queue: Option<String>,
    /// Executor key: only workers that serve it are given the task
    #[arg(long, value_name = "KEY")]
    executor: Option<String>,
    /// Put it before this rule
    #[arg(long, value_name = "RULE")]
    before: Option<String>,
}

/// Remove rules
///
/// Tasks that they routed stay where they are.
#[derive(Args)]
#[command(visible_alias = "rm")]
#[command(after_help = "Examples:\n  tidewheel routing remove urgent\n  tidewheel routing remove pdf eu")]
struct Remove {
    /// Names of the rules
    #[arg(required = true, value_name = "RULE")]
    names: Vec<String>,
}

/// Replace all rules by those of a file
///
/// JSON as `routing list -o json` prints it: an object with `rules`, or the list itself.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel routing set @rules.json\n  echo '[]' | tidewheel routing set -")]
struct Set {
    /// `@FILE`, `-` for standard input, or the JSON itself
    #[arg(value_name = "JSON")]
    rules: String,
}

/// Say where a task would go, and by which rule
///
/// The rules are looked at as they are for a submit with these values; nothing is submitted.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel routing test pdf.render --priority high
  tidewheel routing test invoice --label region=eu-1 --workflow billing-7")]
struct Test {
    /// Task type
    #[arg(value_name = "TYPE")]
    kind: String,
    /// 0 to 9, or low, medium, high
    #[arg(long, value_parser = priority)]
    priority: Option<tidewheel_proto::rest::Priority>,
    /// The queue that its submitter would name
    #[arg(long)]
    queue: Option<String>,
    /// Its workflow id
    #[arg(long, value_name = "ID")]
    workflow: Option<String>,
    /// Its label; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
}

/// The rules as they are, and the version that a change has to be of.
struct Rules {
    list: Vec<Value>,
    version: u64,
}

impl Rules {
    async fn read(client: &Client) -> Outcome<Rules> {
        let found = client.get("/routing").doing("read the routing rules").value().await?;
        let list = found.get("rules").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(Rules { list, version: found.get("version").and_then(Value::as_u64).unwrap_or(0) })
    }

    /// Stores them if nobody changed them meanwhile.
    async fn write(self, client: &Client, doing: String) -> Outcome<Value> {
        let request = client.put("/routing").doing(doing).header("if-match", &format!("\"{}\"", self.version));
        request.json(&json!({ "rules": self.list })).next("tidewheel routing list").value().await
    }

    fn place_of(&self, name: &str) -> Option<usize> {
        self.list.iter().position(|rule| rule.get("name").and_then(Value::as_str) == Some(name))
    }
}

fn unknown(name: &str) -> Failure {
    Failure::new(Exit::Missing, format!("cannot find rule {name}"), "there is no rule of this name")
        .next("tidewheel routing list")
}

impl Add {
    fn rule(&self) -> Value {
        let mut rule = Map::new();
        put(&mut rule, "name", &Some(&self.name));
        put(&mut rule, "type", &self.kind);
        put(&mut rule, "priority", &(!self.priority.is_empty()).then_some(&self.priority));
        put(&mut rule, "kind", &self.work);
        put(&mut rule, "workflow", &self.workflow);
        let labels: Map<String, Value> = self.label.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        put(&mut rule, "labels", &(!labels.is_empty()).then_some(labels));
        put(&mut rule, "queue", &self.queue);
        put(&mut rule, "executor", &self.executor);
        Value::Object(rule)
    }

    fn insert(&self, rules: &mut Rules) -> Outcome {
        let here = rules.place_of(&self.name);
        let Some(before) = &self.before else {
            match here {
                Some(at) => rules.list[at] = self.rule(),
                None => rules.list.push(self.rule()),
            }
            return Ok(());
        };
        if *before == self.name {
            return Err(Failure::usage("cannot place the rule", "a rule does not go before itself"));
        }
        if let Some(at) = here {
            rules.list.remove(at);
        }
        let at = rules.place_of(before).ok_or_else(|| unknown(before))?;
        rules.list.insert(at, self.rule());
        Ok(())
    }
}

impl RoutingCommand {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        match self.verb {
            RoutingVerb::List(List {}) => show(ctx, &Rules::read(&client).await?.list),
            RoutingVerb::Add(verb) => {
                let mut rules = Rules::read(&client).await?;
                verb.insert(&mut rules)?;
                changed(ctx, rules.write(&client, format!("add rule {}", verb.name)).await?)
            }
            RoutingVerb::Remove(verb) => {
                let mut rules = Rules::read(&client).await?;
                for name in &verb.names {
                    let at = rules.place_of(name).ok_or_else(|| unknown(name))?;
                    rules.list.remove(at);
                }
                changed(ctx, rules.write(&client, format!("remove {}", verb.names.join(", "))).await?)
            }
            RoutingVerb::Set(verb) => {
                // It was read as JSON just before.
                let given: Value = serde_json::from_str(&json_input(&verb.rules)?).unwrap_or_default();
                let given = if given.is_array() { json!({ "rules": given }) } else { given };
                let request = client.put("/routing").doing("set the routing rules");
                changed(ctx, request.json(&given).value().await?)
            }
            RoutingVerb::Test(verb) => {
                let mut body = Map::new();
                put(&mut body, "type", &Some(&verb.kind));
                put(&mut body, "priority", &verb.priority);
                put(&mut body, "queue", &verb.queue);
                put(&mut body, "workflow_id", &verb.workflow);
                let labels: Map<String, Value> = verb.label.iter().map(|(name, v)| (name.clone(), json!(v))).collect();
                put(&mut body, "labels", &(!labels.is_empty()).then_some(labels));
                let request = client.post("/routing:test").doing(format!("test where {} goes", verb.kind));
                ctx.out.one(&ROUTE, &request.json(&Value::Object(body)).value().await?)
            }
        }
    }
}

fn show(ctx: &Ctx, rules: &[Value]) -> Outcome {
    ctx.out.list(&RULE, &json!({ "items": rules }))
}

fn changed(ctx: &Ctx, now: Value) -> Outcome {
    show(ctx, now.get("rules").and_then(Value::as_array).map_or(&[], Vec::as_slice))
}
