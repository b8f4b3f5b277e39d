//! What tasks and runs have in common at the command line: why one waits, and what was logged for it.

use clap::Args;
use serde_json::Value;

use super::Ctx;
use super::common::{as_page, field, items};
use crate::client::{Client, Request};
use crate::fail::Outcome;
use crate::output::Shape;
use crate::text;

/// A task or a run.
pub(crate) struct Subject<'a> {
    /// `task` or `run`.
    pub(crate) noun: &'static str,
    /// As the person wrote it.
    pub(crate) id: &'a str,
}

impl Subject<'_> {
    /// A call about it; `doing` as in "cannot ... ID".
    pub(crate) fn get(&self, client: &Client, below: &str, doing: &str) -> Request {
        let path = format!("/{}s/{}{below}", self.noun, crate::client::segment(self.id));
        client.get(path).doing(format!("{doing} {}", self.id)).next(format!("tidewheel {} list", self.noun))
    }
}

/// Says what it waits for: a sentence, and the reasons where they say more than that.
pub(crate) async fn why(ctx: &Ctx, of: &Subject<'_>, reasons: &Shape) -> Outcome {
    let mut why = of.get(&ctx.client()?, "/why", "explain").value().await?;
    if !ctx.out.is_table() {
        return ctx.out.value(&why);
    }
    ctx.out.write_line(&text::one_line(field(&why, "summary")))?;
    let page = serde_json::json!({ "items": why["reasons"].take() });
    if say_more(items(&page)) {
        ctx.out.list(reasons, &page)?;
    }
    if why.get("more").is_some() {
        ctx.out.note("there are more");
    }
    Ok(())
}

/// Whether reasons say more than their sentence: there are several, or one has a name or a time at which it ends.
fn say_more(reasons: &[Value]) -> bool {
    let says = |reason: &Value| ["key", "until"].iter().any(|name| !field(reason, name).is_empty());
    reasons.len() > 1 || reasons.iter().any(says)
}

/// Which lines of a log.
#[derive(Args)]
pub(crate) struct LogArgs {
    /// Go on with new lines until the end
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Only lines since then: a time, or so long ago (`10m`)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// At least this severe: debug, info, warning, error
    #[arg(long)]
    level: Option<String>,
}

impl LogArgs {
    /// The request for a page of lines; the first one without `after`.
    pub(crate) fn request(&self, client: &Client, of: &Subject<'_>, after: Option<&str>) -> Request {
        of.get(client, "/logs", "read the logs of")
            .maybe("tail", self.tail.filter(|_| after.is_none()))
            .maybe("since", self.since.as_deref())
            .maybe("level", self.level.as_deref())
            .maybe("after", after)
    }

    /// Prints what there is behind a place, page by page; the place behind it.
    pub(crate) async fn pages(
        &self,
        ctx: &Ctx,
        make: impl Fn(Option<&str>) -> Request,
        mut after: Option<String>,
    ) -> Outcome<Option<String>> {
        loop {
            let page = as_page(make(after.as_deref()).value().await?);
            for line in items(&page) {
                print_line(ctx, line)?;
            }
            // Behind the last line, also where there is no more now: lines that come later are behind it.
            let last = items(&page).last().and_then(|line| line.get("row")).map(Value::to_string);
            let next = page.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            let is_last = next.is_none();
            after = next.or(last).or(after);
            if is_last {
                if after.is_none() && !self.follow && ctx.out.is_table() {
                    ctx.out.note("no log lines");
                }
                return Ok(after);
            }
        }
    }
}

/// Prints a line, behind the statement of the run that it belongs to if that is said.
pub(crate) fn print_line(ctx: &Ctx, line: &Value) -> Outcome {
    let shown = || {
        let time = field(line, "at").get(11..23).unwrap_or_default();
        let level = field(line, "level");
        let mark = match (level, ctx.out.colour) {
            ("error", true) => "\u{1b}[31merror\u{1b}[0m  ".to_owned(),
            ("warning", true) => "\u{1b}[33mwarning\u{1b}[0m".to_owned(),
            _ => format!("{level:<7}"),
        };
        let body = text::log_line(field(line, "text"), ctx.out.colour);
        let of = field(line, "statement");
        let of = if of.is_empty() { String::new() } else { format!("{} | ", text::one_line(of)) };
        format!("{time} {mark} {of}{body}")
    };
    ctx.out.text_or(shown, line)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reasons_are_listed_where_they_say_more_than_the_sentence() {
        let paused = json!({"code": "queue-paused", "text": "queue reports is paused", "until": null});
        let due = json!({"code": "not-due", "text": "its time has not come", "until": "2030-01-01T07:00:00Z"});
        assert!(!say_more(&[]) && !say_more(std::slice::from_ref(&paused)));
        assert!(say_more(&[due]) && say_more(&[paused.clone(), paused]));
        assert!(say_more(&[json!({"code": "task", "key": "/task:pay#0"})]));
    }
}
