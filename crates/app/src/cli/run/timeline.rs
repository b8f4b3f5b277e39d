//! `run timeline`

use clap::Args;
use serde_json::Value;

use crate::cli::Ctx;
use crate::cli::common::{as_page, field, items};
use crate::fail::Outcome;
use crate::text::one_line;

/// Columns of the bars at least, and of the statements at most.
const BAR: usize = 10;
const NAME: usize = 40;

/// Show what a run did when
///
/// A bar for each entry of the journal, on one line of time from the beginning of the run to its end, or until now.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run timeline run_01jd8z5r7m0000000000000000
  tidewheel run timeline run_01jd8z5r7m0000000000000000 -o json --jq '.items[] | [.key, .took_ms]'")]
pub(crate) struct Timeline {
    /// Id of the run
    id: String,
    /// Number of entries
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Everything, page by page
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

impl Timeline {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let mut left = if self.all { usize::MAX } else { self.limit.max(1) };
        let (mut spans, mut cursor, mut timeline) = (Vec::new(), None::<String>, Value::Null);
        while left > 0 {
            let request = super::subject(&self.id).get(&client, "/timeline", "read run");
            let request = request.query("limit", left.min(1_000)).maybe("cursor", cursor.as_deref());
            timeline = as_page(request.value().await?);
            left = left.saturating_sub(items(&timeline).len().max(1));
            spans.extend_from_slice(items(&timeline));
            cursor = timeline.get("next_cursor").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        timeline["items"] = Value::Array(spans);
        if !ctx.out.is_table() {
            return ctx.out.value(&timeline);
        }
        let width = usize::from(console::Term::stdout().size().1).max(40);
        ctx.out.write(&draw(&timeline, width))?;
        if cursor.is_some() {
            ctx.out.note("there is more: add --limit N or --all");
        }
        Ok(())
    }
}

fn number(value: &Value, name: &str) -> Option<u64> {
    value.get(name).and_then(Value::as_u64)
}

/// The spans as lines of a width.
fn draw(timeline: &Value, width: usize) -> String {
    let total = number(timeline, "duration_ms").unwrap_or(0).max(1);
    let spans = items(timeline);
    let depths = depths(spans);
    let name = |span: &Value, depth: usize| {
        let name = field(span, "statement").rsplit('/').next().unwrap_or_default();
        let name = if name.is_empty() { field(span, "kind") } else { name };
        let text = format!("{}{}", "  ".repeat(depth.min(8)), one_line(name));
        text.chars().take(NAME).collect::<String>()
    };
    let names: Vec<String> = spans.iter().zip(&depths).map(|(span, depth)| name(span, *depth)).collect();
    let column = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(9);
    // Status and time stand behind the bar.
    let bar = width.saturating_sub(column + 2 + 22).max(BAR);
    let at = |ms: u64| ((ms.min(total) as u128 * bar as u128) / u128::from(total)) as usize;
    let mut out = format!("{:column$}  {:bar$}  {:<10} {:>9}\n", "STATEMENT", "", "STATUS", "TOOK");
    for (span, name) in spans.iter().zip(&names) {
        let from = number(span, "from_ms").unwrap_or(0);
        let took = number(span, "took_ms");
        let open = field(span, "status") == "open";
        let until = took.map_or(if open { total } else { from }, |took| from + took);
        let (first, last) = (at(from).min(bar - 1), at(until).min(bar));
        let length = last.saturating_sub(first).max(1);
        let mark = if open { "\u{2591}" } else { "\u{2588}" };
        let line = format!("{}{}{}", " ".repeat(first), mark.repeat(length), " ".repeat(bar - first - length));
        let took = took.map(length_text).or(open.then(|| length_text(total.saturating_sub(from))));
        let (status, took) = (field(span, "status"), took.unwrap_or_default());
        out.push_str(&format!("{name:column$}  {line}  {status:<10} {took:>9}\n"));
    }
    out
}

fn length_text(ms: u64) -> String {
    match ms {
        0..=9_999 => format!("{ms}ms"),
        _ => crate::text::rough(jiff::SignedDuration::from_millis(ms as i64)),
    }
}

/// How deep each entry stands in the others.
fn depths(spans: &[Value]) -> Vec<usize> {
    let mut known = std::collections::HashMap::new();
    let mut out = Vec::with_capacity(spans.len());
    for span in spans {
        let within = number(span, "within").and_then(|within| known.get(&within)).copied();
        let depth = within.map_or(0, |depth: usize| depth + 1);
        known.insert(number(span, "entry").unwrap_or(0), depth);
        out.push(depth);
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_timeline_fits_its_terminal() {
        let span = |entry: u64, from: u64, took: Option<u64>, status: &str| {
            json!({"entry": entry, "within": if entry > 1 { json!(1) } else { Value::Null }, "kind": "task",
                "statement": format!("/do/{entry}/a-rather-long-name-of-a-statement-number-{entry}"), "status": status,
                "from_ms": from, "took_ms": took})
        };
        let spans = [span(1, 0, None, "open"), span(2, 0, Some(400), "done"), span(3, 999, Some(1), "failed")];
        let timeline = json!({"duration_ms": 1_000, "items": spans});
        for width in [80, 120, 60] {
            let text = draw(&timeline, width);
            assert!(text.lines().all(|line| line.trim_end().chars().count() <= width.max(76)), "{width}:\n{text}");
            assert_eq!(text.lines().count(), 4);
        }
        assert!(draw(&json!({"items": []}), 80).starts_with("STATEMENT"));
    }
}
