//! `task submit --many`: a file of any length, sent in batches, several at once, with bounded memory.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::with_input;
use crate::cli::Ctx;
use crate::cli::common::{Wait, field, items, state_of, wait_task};
use crate::cli::shapes::SUBMITTED;
use crate::client::{Client, random_hex};
use crate::fail::{Exit, Failure, Outcome, While};

/// Tasks per request: half of the server's bound keeps a batch's answer short at little cost.
const BATCH: usize = 500;
/// Bytes per request, so that large inputs do not exceed the server's bound of 16 MiB.
const BATCH_BYTES: usize = 8 << 20;
/// Requests under way at once.
const PARALLEL: usize = 4;
/// Longest line. A task's input above this belongs in a blob.
const MAX_LINE: u64 = 16 << 20;
/// Times that refused tasks are sent again where the refusal is one of the moment.
const REPEATS: u32 = 6;
/// Refusals shown; the count is always complete.
const SHOWN_REFUSALS: usize = 20;

/// Tasks that go together.
#[derive(Default)]
struct Batch {
    /// Their lines in the file.
    lines: Vec<u64>,
    bodies: Vec<String>,
}

/// What came of the whole file.
#[derive(Default)]
struct Tally {
    accepted: u64,
    replayed: u64,
    refused: u64,
    refusals: Vec<Value>,
    ids: Vec<String>,
}

pub(super) async fn run(ctx: &Ctx, file: &str, template: Map<String, Value>, wait: Wait, dry_run: bool) -> Outcome {
    let mut lines = Lines::open(file)?;
    // Without a type each line is a whole task, and flags would have to be merged into it: refuse what looks like a
    // slip.
    let whole = !template.contains_key("type");
    if whole && !template.is_empty() {
        let why = format!(
            "with --many and no TYPE each line is a whole task, and --{} would change nothing",
            first(&template)
        );
        return Err(Failure::usage("cannot combine these flags", why).next("give TYPE, or leave the flag out"));
    }
    // Every line gets a key from this run's random part: a batch that is sent again stores nothing twice.
    let run = random_hex();
    let client = if dry_run { None } else { Some(ctx.client()?) };
    let bar = match lines.bytes {
        Some(bytes) => crate::progress::bytes(&ctx.out, bytes, "submitting"),
        None => crate::progress::spinner(&ctx.out, "submitting"),
    };
    let mut tally = Tally::default();
    let progress = bar.clone();
    let mut wrong = None;
    {
        let batches = std::iter::from_fn(|| match lines.batch(&template, whole, &run) {
            Ok(batch) => {
                progress.set_position(lines.read);
                batch
            }
            Err(failure) => {
                wrong = Some(failure);
                None
            }
        });
        let mut answers = stream::iter(batches).map(|batch| send(client.as_ref(), batch)).buffered(PARALLEL);
        while let Some(answer) = answers.next().await {
            let (lines, answer) = match answer {
                Ok(answer) => answer,
                Err(failure) => {
                    bar.finish_and_clear();
                    ctx.out.note(&format!("{} stored before this", crate::text::tasks_were(tally.accepted)));
                    return Err(failure);
                }
            };
            report(ctx, &mut tally, &lines, &answer, wait != Wait::No)?;
        }
    }
    bar.finish_and_clear();
    finish(ctx, client.as_ref(), tally, wrong, wait).await
}

fn first(template: &Map<String, Value>) -> &str {
    template.keys().next().map_or("", String::as_str)
}

async fn send(client: Option<&Client>, batch: Batch) -> Outcome<(Vec<u64>, Value)> {
    let Some(client) = client else {
        let items: Vec<_> = batch.bodies.iter().map(|_| json!({"status": 0})).collect();
        return Ok((batch.lines, json!({ "items": items })));
    };
    let body = format!("{{\"tasks\":[{}]}}", batch.bodies.join(","));
    let first = batch.lines.first().copied().unwrap_or_default();
    let what = format!("submit {} from line {first} on", crate::text::tasks(batch.bodies.len() as u64));
    let mut answer = client.post("/tasks:batch").doing(what.clone()).raw_json(body).value().await?;
    // Single tasks may be refused because their queue or the server is full: those are sent again, and only those.
    for round in 0..REPEATS {
        let again: Vec<_> = (0..batch.bodies.len()).filter(|i| is_retryable(&answer["items"][*i])).collect();
        if again.is_empty() {
            break;
        }
        tokio::time::sleep(pause_after(&answer["items"][again[0]], round)).await;
        let bodies: Vec<_> = again.iter().map(|i| batch.bodies[*i].as_str()).collect();
        let body = format!("{{\"tasks\":[{}]}}", bodies.join(","));
        let mut second = client.post("/tasks:batch").doing(what.clone()).raw_json(body).value().await?;
        for (n, i) in again.into_iter().enumerate() {
            answer["items"][i] = second["items"][n].take();
        }
    }
    Ok((batch.lines, answer))
}

fn is_retryable(item: &Value) -> bool {
    item["problem"]["retryable"].as_bool().unwrap_or(false)
}

/// What the server asks for, or a doubling pause.
fn pause_after(item: &Value, round: u32) -> Duration {
    let asked = item["problem"]["retry_after"].as_u64().map(Duration::from_secs);
    asked.unwrap_or(Duration::from_millis(250 << round)).min(Duration::from_secs(30))
}

/// Prints the outcomes of one batch and counts them.
fn report(ctx: &Ctx, tally: &mut Tally, lines: &[u64], answer: &Value, keep_ids: bool) -> Outcome {
    let mut feed = ctx.out.feed(&SUBMITTED);
    for (line, item) in lines.iter().zip(items(answer)) {
        let accepted = item.get("problem").is_none_or(Value::is_null);
        if accepted {
            tally.accepted += 1;
            tally.replayed += u64::from(item.get("replayed").and_then(Value::as_bool).unwrap_or(false));
            if keep_ids {
                tally.ids.push(field(item, "id").to_owned());
            }
        } else {
            tally.refused += 1;
        }
        let mut shown = item.clone();
        if let Value::Object(map) = &mut shown {
            map.insert("line".to_owned(), json!(line));
        }
        // On a terminal a hundred thousand ids help nobody: only refusals are listed, at the end.
        if ctx.out.is_for_people() {
            if !accepted && tally.refusals.len() < SHOWN_REFUSALS {
                tally.refusals.push(shown);
            }
        } else {
            feed.push(&shown)?;
        }
    }
    Ok(())
}

async fn finish(ctx: &Ctx, client: Option<&Client>, tally: Tally, wrong: Option<Failure>, wait: Wait) -> Outcome {
    let Some(client) = client else {
        ctx.out.note(&format!("{} would be sent", crate::text::tasks(tally.accepted)));
        return wrong.map_or(Ok(()), Err);
    };
    if !tally.refusals.is_empty() {
        ctx.out.list(&SUBMITTED, &json!({ "items": tally.refusals }))?;
    }
    let replayed = if tally.replayed > 0 { format!(", {} of them known", tally.replayed) } else { String::new() };
    ctx.out.note(&format!("{} stored{replayed}, {} refused", crate::text::tasks(tally.accepted), tally.refused));
    if let Some(failure) = wrong {
        return Err(failure);
    }
    let failed = wait_all(ctx, client, &tally.ids, wait).await?;
    if tally.refused > 0 {
        let why = "the lines are listed above with the reason";
        return Err(Failure::new(Exit::Failed, format!("{} refused", crate::text::tasks_were(tally.refused)), why));
    }
    if failed > 0 {
        let why = "they ended as failed, dead, cancelled or expired";
        return Err(Failure::new(Exit::Failed, format!("{} did not succeed", crate::text::tasks(failed as u64)), why)
            .next("tidewheel task list --filter state:failed,dead"));
    }
    Ok(())
}

/// Waits for every task; how many did not succeed.
async fn wait_all(ctx: &Ctx, client: &Client, ids: &[String], wait: Wait) -> Outcome<usize> {
    if wait == Wait::No {
        return Ok(0);
    }
    let bar = crate::progress::bar(&ctx.out, ids.len() as u64, "waiting");
    let mut failed = 0;
    let mut ends = stream::iter(ids).map(|id| wait_task(client, id, wait)).buffer_unordered(PARALLEL * 8);
    while let Some(end) = ends.next().await {
        failed += usize::from(state_of(&end?) != "succeeded");
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(failed)
}

/// The lines of the file.
struct Lines {
    from: Box<dyn BufRead>,
    name: String,
    /// Size of the file, where it has one.
    bytes: Option<u64>,
    read: u64,
    line: u64,
    /// A line that did not fit in the batch before.
    kept: Option<(u64, String)>,
}

impl Lines {
    fn open(file: &str) -> Outcome<Lines> {
        let what = || format!("cannot read {file}");
        if file == "-" {
            if std::io::stdin().is_terminal() {
                let why = "standard input is a terminal";
                return Err(
                    Failure::usage("cannot read the tasks", why).next("give --many FILE.jsonl, or pipe them in")
                );
            }
            let from = Box::new(BufReader::new(std::io::stdin()));
            return Ok(Lines { from, name: "standard input".into(), bytes: None, read: 0, line: 0, kept: None });
        }
        let opened = std::fs::File::open(file).doing(Exit::Usage, what)?;
        let bytes = Some(opened.metadata().doing(Exit::Usage, what)?.len());
        Ok(Lines { from: Box::new(BufReader::new(opened)), name: file.into(), bytes, read: 0, line: 0, kept: None })
    }

    fn batch(&mut self, template: &Map<String, Value>, whole: bool, run: &str) -> Outcome<Option<Batch>> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        while batch.bodies.len() < BATCH {
            let kept = match self.kept.take() {
                Some(kept) => Some(kept),
                None => self.next(template, whole, run)?,
            };
            let Some((line, body)) = kept else { break };
            bytes += body.len();
            if bytes > BATCH_BYTES && !batch.bodies.is_empty() {
                self.kept = Some((line, body));
                break;
            }
            batch.lines.push(line);
            batch.bodies.push(body);
        }
        Ok((!batch.bodies.is_empty()).then_some(batch))
    }

    /// The next line that is not blank, as the body of a task. Blank lines are counted, so that numbers are the
    /// editor's.
    fn next(&mut self, template: &Map<String, Value>, whole: bool, run: &str) -> Outcome<Option<(u64, String)>> {
        let mut text = String::new();
        while text.trim().is_empty() {
            text.clear();
            let what = || format!("cannot read line {} of {}", self.line + 1, self.name);
            let n = (&mut self.from).take(MAX_LINE + 1).read_line(&mut text).doing(Exit::Usage, what)?;
            if n == 0 {
                return Ok(None);
            }
            self.read += n as u64;
            self.line += 1;
            if n as u64 > MAX_LINE {
                return Err(Failure::usage(self.what(), format!("it is longer than {} MiB", MAX_LINE >> 20)));
            }
        }
        let text = text.trim();
        let key = json!(format!("{run}-{}", self.line));
        if !whole {
            let mut task = template.clone();
            task.insert("idempotency_key".to_owned(), key);
            serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| self.not_json(&error))?;
            return with_input(&task, Some(text)).map(|body| Some((self.line, body)));
        }
        // The line goes out as it was written; only a missing key is added.
        let task: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(|error| self.not_json(&error))?;
        if task.contains_key("idempotency_key") || task.is_empty() {
            return Ok(Some((self.line, text.to_owned())));
        }
        Ok(Some((self.line, format!("{{\"idempotency_key\":{key},{}", &text[1..]))))
    }

    fn what(&self) -> String {
        format!("cannot read line {} of {}", self.line, self.name)
    }

    fn not_json(&self, error: &serde_json::Error) -> Failure {
        Failure::usage(self.what(), format!("it is not a task in JSON: {error}"))
            .next("each line is one task (or, with TYPE, one input) in JSON")
    }
}
