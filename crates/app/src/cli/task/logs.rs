//! `task logs`

use clap::Args;
use serde_json::Value;

use crate::cli::Ctx;
use crate::cli::common::{field, items};
use crate::client::Client;
use crate::fail::Outcome;
use crate::text;

/// Show what a task printed and logged
///
/// Lines of standard output, standard error and `ctx.log`, of all attempts in order. With `--follow` new lines appear
/// as they come, until the task has ended.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel task logs task_01jd8z5r7m0000000000000000 --follow
  tidewheel task logs task_01jd8z5r7m0000000000000000 --tail 100 --level warning")]
pub(crate) struct Logs {
    /// Id of the task
    id: String,
    /// Go on with new lines until the task ends
    #[arg(long, short)]
    follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Only lines since then: a time, or so long ago (`10m`)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// At least this severe: debug, info, warning, error
    #[arg(long)]
    level: Option<String>,
    /// Only this attempt
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

impl Logs {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        if self.follow {
            let mut events = self.request(&client, None).query("follow", true).events();
            while let Some(event) = events.next().await? {
                if let Ok(line) = serde_json::from_str::<Value>(&event.data)
                    && line.get("text").is_some()
                {
                    print_line(ctx, &line, "")?;
                }
            }
            return Ok(());
        }
        let mut after = None;
        loop {
            let page = crate::cli::common::as_page(self.request(&client, after).value().await?);
            for line in items(&page) {
                print_line(ctx, line, "")?;
            }
            after = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            if after.is_none() || self.tail.is_some() {
                return Ok(());
            }
        }
    }

    fn request(&self, client: &Client, after: Option<String>) -> crate::client::Request {
        client
            .get(format!("{}/logs", super::path(&self.id)))
            .doing(format!("read the logs of {}", self.id))
            .next("tidewheel task list")
            .maybe("tail", self.tail)
            .maybe("since", self.since.as_deref())
            .maybe("level", self.level.as_deref())
            .maybe("attempt", self.attempt)
            .maybe("after", after)
    }
}

/// Prints a line, behind what it belongs to if that is said.
pub(crate) fn print_line(ctx: &Ctx, line: &Value, of: &str) -> Outcome {
    let shown = || {
        let time = field(line, "at").get(11..23).unwrap_or_default();
        let level = field(line, "level");
        let mark = match (level, ctx.out.colour) {
            ("error", true) => "\u{1b}[31merror\u{1b}[0m  ".to_owned(),
            ("warning", true) => "\u{1b}[33mwarning\u{1b}[0m".to_owned(),
            _ => format!("{level:<7}"),
        };
        let body = text::log_line(field(line, "text"), ctx.out.colour);
        let of = if of.is_empty() { String::new() } else { format!("{} | ", text::one_line(of)) };
        format!("{time} {mark} {of}{body}")
    };
    ctx.out.text_or(shown, line)
}
