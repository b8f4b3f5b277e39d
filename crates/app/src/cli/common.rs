//! What several verbs share: lists, watching, waiting, inputs, acting on many ids.

use std::collections::HashMap;
use std::future::Future;
use std::io::Read;
use std::time::{Duration, Instant};

use clap::Args;
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use tidewheel_proto::code::Code;

use super::Ctx;
use crate::client::{Client, Request};
use crate::fail::{Exit, Failure, Outcome, While};
use crate::output::{Format, Shape, at_path};
use crate::text::parse_wait;

/// Items of one request when everything is wanted; the server's bound.
const PAGE: usize = 1_000;
/// Requests under way at once when a verb is given many ids.
const PARALLEL: usize = 16;
/// Pause between two reads of a watched list.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Longest single wait asked of the server; below every proxy's idle timeout.
const WAIT_STEP: Duration = Duration::from_secs(20);
/// Longest text read from standard input or a file as a task's input; the server's own bound is lower.
const MAX_INPUT: u64 = 64 << 20;

/// Options of every list.
#[derive(Args, Clone)]
pub(crate) struct ListArgs {
    /// Which ones, in the filter grammar: `state:failed queue:pdf after:2h`
    #[arg(long, short, value_name = "FILTER")]
    pub(crate) filter: Option<String>,
    /// Sort what is shown by a field; `-field` for the largest first
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    pub(crate) sort: Option<String>,
    /// Number of items
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) limit: usize,
    /// Go on where an earlier page ended
    #[arg(long, value_name = "CURSOR", conflicts_with = "all")]
    pub(crate) cursor: Option<String>,
    /// Everything, page by page
    #[arg(long)]
    pub(crate) all: bool,
    /// Keep showing changes until interrupted
    #[arg(long, short, conflicts_with_all = ["cursor", "all"])]
    pub(crate) watch: bool,
}

/// Options of lists that the server gives whole.
#[derive(Args, Clone)]
pub(crate) struct ShortArgs {
    /// Sort what is shown by a field; `-field` for the largest first
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    /// Number of items; all if absent
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Keep showing changes until interrupted
    #[arg(long, short)]
    watch: bool,
}

/// Prints a list that is short enough to be read whole, or watches it.
pub(crate) async fn short_list(ctx: &Ctx, shape: &Shape, args: &ShortArgs, make: impl Fn() -> Request) -> Outcome {
    let read = || async {
        let mut page = as_page(make().value().await?);
        while let Some(cursor) = next_cursor(&page) {
            page = joined(page, as_page(make().query("cursor", cursor).value().await?));
        }
        ctx.out.check_columns(shape, items(&page))?;
        sort(&mut page, args.sort.as_deref());
        truncate(&mut page, args.limit.unwrap_or(usize::MAX));
        Ok(page)
    };
    if args.watch {
        return watch(ctx, shape, read).await;
    }
    ctx.out.list(shape, &read().await?)
}

/// Prints a list, or watches it.
pub(crate) async fn list(ctx: &Ctx, shape: &Shape, args: &ListArgs, make: impl Fn() -> Request) -> Outcome {
    if args.watch {
        return watch(ctx, shape, || async {
            let page = read_list(args, &make).await?;
            ctx.out.check_columns(shape, items(&page)).map(|()| page)
        })
        .await;
    }
    // Forms without a frame are printed as the pages come: a million tasks need no memory.
    let streams = matches!(ctx.out.format, Format::Jsonl | Format::Csv | Format::Name) && ctx.out.jq.is_none();
    if args.all && streams && args.sort.is_none() {
        let mut feed = ctx.out.feed(shape);
        let mut cursor = None;
        loop {
            let page = as_page(page_request(args, &make, PAGE, cursor).value().await?);
            ctx.out.check_columns(shape, items(&page))?;
            for item in items(&page) {
                feed.push(item)?;
            }
            cursor = next_cursor(&page);
            if cursor.is_none() {
                return Ok(());
            }
        }
    }
    let page = read_list(args, &make).await?;
    ctx.out.check_columns(shape, items(&page))?;
    ctx.out.list(shape, &page)?;
    if let Some(cursor) = next_cursor(&page)
        && ctx.out.is_for_people()
    {
        ctx.out.note(&format!("there is more: add --cursor {cursor}, --limit N or --all"));
    }
    if let Some(time) = page.get("searched_back_to").and_then(Value::as_str) {
        ctx.out.note(&format!("searched back to {time}; go on with --cursor, or narrow the filter"));
    }
    Ok(())
}

async fn read_list(args: &ListArgs, make: &impl Fn() -> Request) -> Outcome<Value> {
    let wanted = if args.all { usize::MAX } else { args.limit };
    let mut cursor = args.cursor.clone();
    let mut whole: Option<Value> = None;
    let mut count = 0;
    loop {
        let page = as_page(page_request(args, make, PAGE.min(wanted - count), cursor).value().await?);
        count += items(&page).len();
        cursor = next_cursor(&page);
        whole = Some(match whole {
            None => page,
            Some(whole) => joined(whole, page),
        });
        if cursor.is_none() || count >= wanted {
            let mut whole = whole.unwrap_or_else(|| json!({"items": []}));
            truncate(&mut whole, wanted);
            sort(&mut whole, args.sort.as_deref());
            return Ok(whole);
        }
    }
}

fn page_request(args: &ListArgs, make: &impl Fn() -> Request, limit: usize, cursor: Option<String>) -> Request {
    make().query("limit", limit).maybe("filter", args.filter.as_deref()).maybe("cursor", cursor)
}

/// Short lists may come as a bare array.
pub(crate) fn as_page(value: Value) -> Value {
    match value {
        Value::Array(items) => json!({ "items": items }),
        other => other,
    }
}

/// The items of a page.
pub(crate) fn items(page: &Value) -> &[Value] {
    page.get("items").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn next_cursor(page: &Value) -> Option<String> {
    page.get("next_cursor").and_then(Value::as_str).map(str::to_owned)
}

/// Two pages as one; everything but the items is the later page's.
fn joined(mut first: Value, mut second: Value) -> Value {
    let mut all = match first.get_mut("items") {
        Some(Value::Array(items)) => std::mem::take(items),
        _ => Vec::new(),
    };
    if let Some(Value::Array(items)) = second.get_mut("items") {
        all.append(items);
    }
    second["items"] = Value::Array(all);
    second
}

fn truncate(page: &mut Value, wanted: usize) {
    if let Some(Value::Array(items)) = page.get_mut("items") {
        items.truncate(wanted);
    }
}

fn sort(page: &mut Value, field: Option<&str>) {
    let (Some(field), Some(Value::Array(items))) = (field, page.get_mut("items")) else { return };
    let (path, reverse) = field.strip_prefix('-').map_or((field, false), |path| (path, true));
    items.sort_by(|a, b| {
        let (a, b) = (at_path(a, path), at_path(b, path));
        let order = match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => a.as_str().unwrap_or_default().cmp(b.as_str().unwrap_or_default()),
        };
        if reverse { order.reverse() } else { order }
    });
}

/// Shows a list again and again: redrawn on a terminal, changed items elsewhere.
pub(crate) async fn watch<F, R>(ctx: &Ctx, shape: &Shape, mut read: F) -> Outcome
where
    F: FnMut() -> R,
    R: Future<Output = Outcome<Value>>,
{
    let mut known: HashMap<String, Value> = HashMap::new();
    let mut feed = ctx.out.feed(shape);
    let mut screen = Screen::default();
    loop {
        let page = as_page(read().await?);
        if ctx.out.is_for_people() {
            screen.show(ctx, &ctx.out.list_text(shape, items(&page)))?;
        } else {
            for item in items(&page) {
                let name = shape.name_of(item);
                if known.get(&name) != Some(item) {
                    feed.push(item)?;
                    known.insert(name, item.clone());
                }
            }
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// A part of the terminal that is redrawn in place, as one update, so that nothing flickers.
#[derive(Default)]
pub(crate) struct Screen {
    lines: usize,
}

impl Screen {
    /// Replaces what was shown.
    pub(crate) fn show(&mut self, ctx: &Ctx, text: &str) -> Outcome {
        let height = usize::from(console::Term::stdout().size().0).max(5) - 1;
        let mut out = String::from("\u{1b}[?2026h");
        if self.lines > 0 {
            out.push_str(&format!("\u{1b}[{}F", self.lines));
        }
        let all: Vec<_> = text.lines().collect();
        let mut shown = all.len();
        if all.len() > height {
            shown = height - 1;
        }
        for line in &all[..shown] {
            out.push_str(line);
            out.push_str("\u{1b}[K\n");
        }
        if shown < all.len() {
            out.push_str(&format!("... {} more\u{1b}[K\n", all.len() - shown));
            shown += 1;
        }
        out.push_str("\u{1b}[J\u{1b}[?2026l");
        self.lines = shown;
        ctx.out.write(&out)
    }
}

/// Prints the changes of one thing as they are committed, until `ended` says of its state that it is the last. `state`: the field
/// that has the state; `number`: that which counts its attempts or turns.
pub(crate) async fn follow_changes(
    ctx: &Ctx,
    shape: &Shape,
    events: Request,
    (state, number): (&str, &str),
    ended: impl Fn(&str) -> bool,
) -> Outcome {
    let mut events = events.events();
    let mut feed = ctx.out.feed(shape);
    let mut last = String::new();
    while let Some(event) = events.next().await? {
        let Ok(change) = serde_json::from_str::<Value>(&event.data) else { continue };
        let now = field(&change, state).to_owned();
        let seen = format!("{now} {}", change.get(number).unwrap_or(&Value::Null));
        // The stream repeats the current state when it is opened again.
        if !now.is_empty() && seen != last && !field(&change, "id").is_empty() {
            feed.push(&change)?;
            last = seen;
        }
        if ended(&now) {
            break;
        }
    }
    Ok(())
}

/// `--wait[=30s]`
#[derive(Args, Clone)]
pub(crate) struct WaitArg {
    /// Wait for the end; with a time, exit 5 when it runs out
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    wait: Option<String>,
}

/// How long a verb waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all.
    No,
    /// To the end.
    Ever,
    /// Until then.
    Until(Instant),
}

impl WaitArg {
    /// What the flag says; the clock starts now.
    pub(crate) fn get(&self) -> Outcome<Wait> {
        match self.wait.as_deref() {
            None => Ok(Wait::No),
            Some("") => Ok(Wait::Ever),
            Some(text) => {
                let time = parse_wait(text).map_err(|why| Failure::usage("cannot read --wait", why))?;
                Ok(Wait::Until(Instant::now() + time))
            }
        }
    }
}

impl Wait {
    /// How long the next request may wait at the server.
    pub(crate) fn step(self) -> Duration {
        match self {
            Wait::No => Duration::ZERO,
            Wait::Ever => WAIT_STEP,
            Wait::Until(end) => WAIT_STEP.min(end.saturating_duration_since(Instant::now())),
        }
    }

    /// Whether it is over.
    pub(crate) fn is_over(self) -> bool {
        match self {
            Wait::No => true,
            Wait::Ever => false,
            Wait::Until(end) => Instant::now() >= end,
        }
    }
}

/// Whether a task's state is its last.
pub(crate) fn is_terminal(state: &str) -> bool {
    matches!(state, "succeeded" | "failed" | "dead" | "cancelled" | "expired")
}

/// The state of a task's JSON.
pub(crate) fn state_of(task: &Value) -> &str {
    task.get("state").and_then(Value::as_str).unwrap_or_default()
}

/// The text of a field.
pub(crate) fn field<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Waits for the end of a task and returns it.
pub(crate) async fn wait_task(client: &Client, id: &str, wait: Wait) -> Outcome<Value> {
    let path = format!("/tasks/{}", crate::client::segment(id));
    let what = format!("wait for {id}");
    loop {
        // The path that can wait. Its answer is the result, which may be large and is not what is wanted here: the
        // status says enough, and a task that ended without success is a conflict there.
        let request = client.get(format!("{path}/result")).doing(what.clone()).next("tidewheel task list");
        let ended = match request.query("wait", format!("{}ms", wait.step().as_millis())).send().await {
            Ok(answer) => answer.status().as_u16() == 200,
            Err(failure) if failure.code() == Some(Code::Conflict) => true,
            Err(failure) => return Err(failure),
        };
        let task = client.get(&path).doing(what.clone()).value().await?;
        if ended || is_terminal(state_of(&task)) {
            return Ok(task);
        }
        if wait.is_over() {
            let why = format!("it is {}; it goes on at the server", state_of(&task));
            return Err(Failure::new(Exit::Unreachable, format!("the wait for {id} ran out"), why)
                .next(format!("tidewheel task why {id}")));
        }
    }
}

/// The failure of a task that ended without success; nothing for one that succeeded.
pub(crate) fn task_outcome(task: &Value) -> Outcome {
    let state = state_of(task);
    if state == "succeeded" {
        return Ok(());
    }
    let id = field(task, "id");
    let error = task.get("error").unwrap_or(&Value::Null);
    let why = match (field(error, "type"), field(error, "message")) {
        ("", "") => format!("its state is {state}"),
        (kind, message) => format!("{kind}: {message}"),
    };
    Err(Failure::new(Exit::Failed, format!("task {id} ended as {state}"), why)
        .next(format!("tidewheel task logs {id}")))
}

/// A JSON text from `@file`, `-` (standard input) or the argument itself.
pub(crate) fn json_input(argument: &str) -> Outcome<String> {
    let (text, from) = match argument {
        "-" | "@-" => (read_stdin()?, "standard input".to_owned()),
        _ => match argument.strip_prefix('@') {
            Some(path) => (read_file(path)?, path.to_owned()),
            None => (argument.to_owned(), "--input".to_owned()),
        },
    };
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) => Ok(text),
        Err(error) => {
            let mut failure =
                Failure::usage(format!("cannot use the input of {from}"), format!("it is not JSON: {error}"));
            if !argument.starts_with('@') && super::exists(argument) {
                failure = failure.next(format!("to read the file, write --input @{argument}"));
            }
            Err(failure)
        }
    }
}

/// A text file with a bound.
pub(crate) fn read_file(path: &str) -> Outcome<String> {
    let what = || format!("cannot read {path}");
    let file = std::fs::File::open(path).doing(Exit::Usage, what)?;
    read_bounded(file, what)
}

fn read_stdin() -> Outcome<String> {
    read_bounded(std::io::stdin().lock(), || "cannot read standard input".to_owned())
}

fn read_bounded(from: impl Read, what: impl Fn() -> String) -> Outcome<String> {
    let mut text = String::new();
    from.take(MAX_INPUT + 1).read_to_string(&mut text).doing(Exit::Usage, &what)?;
    if text.len() as u64 > MAX_INPUT {
        return Err(Failure::usage(what(), format!("it is larger than {} MiB", MAX_INPUT >> 20)));
    }
    Ok(text)
}

/// Ids from the arguments; a lone `-` reads one per line from standard input.
pub(crate) fn ids(given: &[String]) -> Outcome<Vec<String>> {
    if given != ["-"] {
        return Ok(given.to_vec());
    }
    let text = read_stdin()?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// Does one thing to each of many. One id fails as itself; of several every one is tried, and the failures are listed.
pub(crate) async fn each<F, R>(ctx: &Ctx, shape: &Shape, ids: Vec<String>, act: F) -> Outcome
where
    F: Fn(String) -> R,
    R: Future<Output = Outcome<Value>>,
{
    if let [only] = ids.as_slice() {
        return ctx.out.brief(shape, &act(only.clone()).await?);
    }
    let total = ids.len();
    let bar = crate::progress::bar(&ctx.out, total as u64, shape.plural);
    let mut answers = stream::iter(ids)
        .map(|id| {
            let work = act(id.clone());
            async move { (id, work.await) }
        })
        .buffered(PARALLEL);
    let (mut done, mut failures) = (Vec::new(), Vec::new());
    while let Some((id, outcome)) = answers.next().await {
        bar.inc(1);
        match outcome {
            Ok(value) => done.push(value),
            // Trying the rest against a server that is gone or refuses the token would only repeat the message.
            Err(failure) if matches!(failure.exit(), Exit::Denied | Exit::Unreachable) => return Err(failure),
            Err(failure) => failures.push((id, failure)),
        }
    }
    bar.finish_and_clear();
    if !done.is_empty() {
        ctx.out.list(shape, &json!({ "items": done }))?;
    }
    match failures.as_slice() {
        [] => Ok(()),
        [(_, first), ..] => {
            for (id, failure) in &failures {
                ctx.out.note(&format!("{id}: {failure}"));
            }
            Err(Failure::new(
                Exit::Failed,
                format!("{} of {total} were not changed", failures.len()),
                first.to_string(),
            ))
        }
    }
}

/// `name=value`, for labels and requirements.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write name=value".to_owned()),
    }
}

/// A value from the command line as JSON: `true`, `3` and `null` are themselves, everything else is a text.
pub(crate) fn scalar(text: &str) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(value) if !value.is_object() && !value.is_array() => value,
        _ => Value::String(text.to_owned()),
    }
}

/// Puts an argument in a body if it was given.
pub(crate) fn put<T: serde::Serialize>(body: &mut serde_json::Map<String, Value>, name: &str, value: &Option<T>) {
    if let Some(value) = value {
        // Texts and numbers always serialise.
        body.insert(name.to_owned(), serde_json::to_value(value).unwrap_or_default());
    }
}
