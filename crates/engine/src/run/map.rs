//! `map`: many items, so many at work at a time. Its only state is a cursor, and for each page of 1,000 items what is done;
//! results of a finished page are one value. Items have no entries of their own in the journal.

use std::sync::Arc;

use super::act::{Act, OpenTask, Outcome, StartChild};
use super::data::Data;
use super::eval::Json;
use super::fault::{Fault, Standard};
use super::head::{Next, Outside, Seq, Step};
use super::look::Look;
use super::machine::{End, Machine, Res, Stop};
use super::plan::{Kind, Node, ParentClose, Target};
use crate::limit::{MAP_CONCURRENCY, MAP_PAGE, MAP_PAGES, MAP_RESULT, STATEMENT_WORK};

/// Items of a page that are copied when one of them ends.
const CHUNK: u64 = 50;
/// Bytes of results of unfinished pages that the run carries along; further ones are blobs of their own.
const UNFINISHED: usize = 256 * 1024;
/// Bytes of finished pages that the run carries along; further ones are blobs, so that a map of any length leaves room.
const FINISHED: usize = 256 * 1024;
/// Bytes of a value that is put together, written and hashed in the time of a step.
const BYTES_PER_STEP: u64 = 10;

/// State of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct MapState {
    /// The items: an array.
    pub items: Data,
    /// How many there are.
    pub total: u64,
    /// The first that was not opened yet.
    pub cursor: u64,
    /// How many are at work.
    pub working: u32,
    /// How many are done.
    pub done: u64,
    /// Results of finished pages, in order.
    pub finished: Vec<Data>,
    /// Pages after those, as far as the cursor is.
    pub pages: Vec<Arc<Page>>,
    /// Bytes of the values in them.
    pub bytes: usize,
    /// Items to be opened again, the first of each batch.
    pub again: Vec<u64>,
    /// How it is done, where a program asked for it; else the plan says so.
    pub given: Option<Box<Given>>,
}

/// How a program wants a map to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// By whom.
    pub target: Target,
    /// What of a call is the same for all items.
    pub call: Data,
    /// Items at work at a time.
    pub concurrency: u32,
    /// Items per task.
    pub batch: u32,
    /// Whether errors become results.
    pub collect: bool,
}

/// Results of up to 1,000 items, in chunks; what is done has one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Chunks of 50.
    pub chunks: Vec<Arc<Vec<Option<Data>>>>,
    /// How many are done.
    pub done: u64,
}

impl Page {
    /// An empty page of so many items.
    pub fn new(items: u64) -> Page {
        let chunk = |at: u64| Arc::new(vec![None; CHUNK.min(items - at * CHUNK) as usize]);
        Page { chunks: (0..items.div_ceil(CHUNK)).map(chunk).collect(), done: 0 }
    }

    fn get(&self, at: u64) -> Option<&Data> {
        self.chunks.get((at / CHUNK) as usize)?.get((at % CHUNK) as usize)?.as_ref()
    }

    fn set(&mut self, at: u64, value: Data) {
        if let Some(chunk) = self.chunks.get_mut((at / CHUNK) as usize)
            && let Some(slot) = Arc::make_mut(chunk).get_mut((at % CHUNK) as usize)
        {
            *slot = Some(value);
            self.done += 1;
        }
    }

    fn items(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.len() as u64).sum()
    }

    fn values(&self) -> impl Iterator<Item = &Data> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().flatten())
    }
}

impl MapState {
    fn first_page(&self) -> u64 {
        self.finished.len() as u64
    }

    /// Whether an item is done.
    pub fn is_done(&self, item: u64) -> bool {
        let page = item / MAP_PAGE;
        if page < self.first_page() {
            return true;
        }
        self.pages.get((page - self.first_page()) as usize).is_some_and(|page| page.get(item % MAP_PAGE).is_some())
    }

    /// Whether an item was opened and is not done.
    pub fn at_work(&self, item: u64) -> bool {
        item < self.cursor && !self.is_done(item) && !self.again.contains(&item)
    }

    pub(super) fn stored(&self) -> usize {
        self.items.stored() + self.bytes + self.finished.iter().map(Data::stored).sum::<usize>()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Data> {
        let pages = self.pages.iter().flat_map(|page| page.values());
        std::iter::once(&self.items).chain(&self.finished).chain(pages)
    }
}

/// How a map is done, from the plan.
struct How<'a> {
    target: &'a Target,
    with: Option<super::plan::ExprId>,
    concurrency: u32,
    batch: u64,
    collect: bool,
}

fn how<'a>(node: &'a Node, given: Option<&'a Given>) -> Option<How<'a>> {
    let Kind::Map { target, with, concurrency, batch, collect, .. } = &node.kind else { return None };
    let (target, concurrency, batch, collect) = match given {
        Some(given) => (&given.target, &given.concurrency, &given.batch, &given.collect),
        None => (target, concurrency, batch, collect),
    };
    let batch = if matches!(target, Target::Workflow(..)) { 1 } else { u64::from((*batch).clamp(1, MAP_PAGE as u32)) };
    Some(How { target, with: *with, concurrency: (*concurrency).clamp(1, MAP_CONCURRENCY), batch, collect: *collect })
}

impl Machine<'_> {
    pub(super) fn begin_map(&mut self, id: u32, node: &Node, input: Data) -> Res<()> {
        let Kind::Map { items, .. } = &node.kind else { return Ok(()) };
        let items = self.eval(*items, &Look::body(id, &input))?;
        let Some(total) = self.json(&items)?.as_array().map(|items| items.len() as u64) else {
            return Err(self.fault(id, Standard::Validation, "the `items` of a map have to be an array"));
        };
        if total == 0 {
            return self.finish_body(id, items, None);
        }
        self.bound(id, &items)?;
        let given = self.given(id, &input)?;
        let state = MapState {
            items: items.clone(),
            total,
            cursor: 0,
            working: 0,
            done: 0,
            finished: Vec::new(),
            pages: Vec::new(),
            bytes: 0,
            again: Vec::new(),
            given,
        };
        let Some(frame) = self.frame_mut(id) else { return Ok(()) };
        frame.step = Step::Map(Box::new(state));
        let seq = frame.seq;
        self.note_args(seq, &items);
        self.open(seq, id, seq, Outside::Items);
        self.set_next(id, Next::Refill);
        Ok(())
    }

    /// A map that was interrupted opens again what is not done.
    pub(super) fn map_again(&mut self, id: u32, seq: Seq) -> Res<()> {
        let given = self.map(id).and_then(|map| map.given.clone());
        let node = self.frame(id).and_then(|frame| self.node(frame));
        let batch = node.and_then(|node| how(node, given.as_deref())).map_or(1, |how| how.batch);
        if let Some(map) = self.map_mut(id) {
            map.working = 0;
            let firsts = (0..map.cursor).step_by(batch as usize);
            let again: Vec<u64> = firsts.filter(|first| !map.is_done(*first)).collect();
            map.again = again;
        }
        self.open(seq, id, seq, Outside::Items);
        self.set_next(id, Next::Refill);
        Ok(())
    }

    fn map(&self, id: u32) -> Option<&MapState> {
        match self.frame(id).map(|frame| &frame.step) {
            Some(Step::Map(map)) => Some(map),
            _ => None,
        }
    }

    fn map_mut(&mut self, id: u32) -> Option<&mut MapState> {
        match self.frame_mut(id).map(|frame| &mut frame.step) {
            Some(Step::Map(map)) => Some(map),
            _ => None,
        }
    }

    /// Opens the next batch of items, if there is room.
    pub(super) fn refill(&mut self, id: u32) -> Res<()> {
        if self.code(id).is_some() {
            self.activate(id);
            return Ok(());
        }
        let Some(frame) = self.frame(id) else { return Ok(()) };
        let Some(node) = self.node(frame) else { return Ok(()) };
        let given = self.map(id).and_then(|map| map.given.clone());
        let (Some(how), Some(map)) = (how(node, given.as_deref()), self.map(id)) else { return Ok(()) };
        let next = map.again.first().copied().unwrap_or(map.cursor);
        let in_window = next / MAP_PAGE < map.first_page() + MAP_PAGES;
        if next >= map.total || map.working >= how.concurrency || !in_window {
            return Ok(());
        }
        // A batch does not cross a page, so that what is done stays a matter of one page.
        let page_end = (next / MAP_PAGE + 1) * MAP_PAGE;
        let count = how.batch.min(map.total - next).min(page_end - next);
        let items = map.items.clone();
        self.meter.charge(STATEMENT_WORK, 0);
        self.open_items(id, node, &how, &items, (next, count))?;
        let Some(map) = self.map_mut(id) else { return Ok(()) };
        if map.again.is_empty() {
            map.cursor = next + count;
            let (from, to) = (map.pages.len() as u64 + map.first_page(), (next / MAP_PAGE) + 1);
            for page in from..to {
                map.pages.push(Arc::new(Page::new(MAP_PAGE.min(map.total - page * MAP_PAGE))));
            }
        } else {
            map.again.remove(0);
        }
        map.working += count as u32;
        self.set_next(id, Next::Refill);
        Ok(())
    }

    fn open_items(&mut self, id: u32, node: &Node, how: &How<'_>, items: &Data, range: (u64, u64)) -> Res<()> {
        let (first, count) = range;
        let input = self.frame(id).map_or_else(Data::null, |frame| frame.input.clone());
        let all = self.json(items)?;
        let mut args = Vec::with_capacity(count as usize);
        for index in first..first + count {
            let item = all.get(index as usize).cloned().unwrap_or(Json::Null);
            let Some(with) = how.with else {
                args.push(item);
                continue;
            };
            let extra = [("item".into(), Data::small(item)), ("index".into(), Data::small(Json::from(index)))];
            let value = self.eval(with, &Look { extra: &extra, ..Look::body(id, &input) })?;
            args.push((*self.json(&value)?).clone());
        }
        let single = how.batch == 1;
        let args = if single { args.pop().unwrap_or(Json::Null) } else { Json::Array(args) };
        let call = self.map(id).and_then(|map| map.given.as_ref()).map(|given| given.call.clone());
        let args = match call {
            Some(call) if *how.target == Target::Python => {
                let mut call = (*self.json(&call)?).clone();
                call["args"] = args;
                call
            }
            _ => args,
        };
        let args = self.keep(args);
        let entry = self.frame(id).map_or(0, |frame| frame.seq);
        let key = self.key(id, node);
        if let Target::Workflow(namespace, name, version) = how.target {
            let depth = self.child_depth(id)?;
            let (namespace, name, version) = (namespace.clone(), name.clone(), version.clone());
            let (item, awaited, close) = (Some(first), true, ParentClose::Cancel);
            let child = StartChild { entry, key, namespace, name, version, input: args, item, awaited, close, depth };
            self.act(Act::StartChild(Box::new(child)));
            return Ok(());
        }
        let hints = self.hints(id, node, &input)?;
        let limit = self.frame(id).map_or(0, |frame| frame.limit_ms);
        let deadline_ms = if limit == 0 { 0 } else { self.now.saturating_add(limit) };
        let items = Some((first, count as u32));
        let target = how.target.clone();
        let task = OpenTask { entry, key, target, args, sealed: false, items, awaited: true, deadline_ms, hints };
        self.act(Act::OpenTask(Box::new(task)));
        Ok(())
    }

    /// Items of a map ended.
    pub(super) fn items_done(&mut self, entry: Seq, first: u64, outcomes: &[Outcome]) -> Result<(), End> {
        let Some(id) = self.head.opened(entry).map(|open| open.line) else { return Ok(()) };
        let result = self.take_items(id, first, outcomes);
        self.guard(id, result)
    }

    fn take_items(&mut self, id: u32, first: u64, outcomes: &[Outcome]) -> Res<()> {
        let Some(frame) = self.frame(id) else { return Ok(()) };
        let instance = frame.place.reference.clone();
        let Some(node) = self.node(frame) else { return Ok(()) };
        let given = self.map(id).and_then(|map| map.given.clone());
        let Some(how) = how(node, given.as_deref()) else { return Ok(()) };
        let Some(map) = self.map(id) else { return Ok(()) };
        let page_end = (first / MAP_PAGE + 1) * MAP_PAGE;
        let count = how.batch.min(map.total - first).min(page_end - first);
        let given = outcomes.len() as u64;
        for at in 0..count {
            // What says less than it should counts as the same for all: an attempt that was lost.
            let outcome = if given == count { &outcomes[at as usize] } else { &outcomes[0] };
            let value = match outcome {
                Outcome::Ok(_) if given != count => {
                    return Err(self.fault(
                        id,
                        Standard::Runtime,
                        "a batch gave another number of results than it has items",
                    ));
                }
                Outcome::Ok(value) if how.collect => Json::from_iter([("ok".to_owned(), (*self.json(value)?).clone())]),
                Outcome::Ok(value) => {
                    self.item_done(id, first + at, value.clone())?;
                    continue;
                }
                Outcome::Err(fault) if how.collect => Json::from_iter([("error".to_owned(), (*fault.0).clone())]),
                Outcome::Err(fault) => {
                    return Err(Stop::Fault(Fault::complete(&fault.0, self.plan.profile, &instance)));
                }
                Outcome::Cancelled => return Err(self.fault(id, Standard::Runtime, "an item was cancelled")),
            };
            let value = self.keep(value);
            self.item_done(id, first + at, value)?;
        }
        self.pages_done(id)?;
        let Some(map) = self.map(id) else { return Ok(()) };
        if map.done == map.total {
            return self.all_done(id);
        }
        self.set_next(id, Next::Refill);
        Ok(())
    }

    fn item_done(&mut self, id: u32, item: u64, value: Data) -> Res<()> {
        let Some(map) = self.map(id) else { return Ok(()) };
        if map.is_done(item) {
            return Ok(());
        }
        let over = map.bytes + value.stored() > UNFINISHED && value.stored() > 256;
        let value = if over { self.as_blob(&value) } else { value };
        let Some(map) = self.map_mut(id) else { return Ok(()) };
        let at = (item / MAP_PAGE).saturating_sub(map.first_page()) as usize;
        map.bytes += value.stored();
        map.done += 1;
        map.working = map.working.saturating_sub(1);
        if let Some(page) = map.pages.get_mut(at) {
            Arc::make_mut(page).set(item % MAP_PAGE, value);
        }
        Ok(())
    }

    /// A value as a blob, however small.
    pub(super) fn as_blob(&mut self, data: &Data) -> Data {
        let Data::Inline { value, .. } = data else { return data.clone() };
        let text = bytes::Bytes::from(serde_json::to_vec(&**value).unwrap_or_default());
        let hash = super::data::BlobHash(<sha2::Sha256 as sha2::Digest>::digest(&text).into());
        let size = text.len() as u64;
        self.put(hash, value.clone(), text);
        Data::Ref { hash, size, value: None }
    }

    /// Turns finished pages at the front into one value each.
    fn pages_done(&mut self, id: u32) -> Res<()> {
        loop {
            let Some(page) = self.map(id).and_then(|map| map.pages.first()).filter(|page| page.done == page.items())
            else {
                return Ok(());
            };
            let page = page.clone();
            let freed: usize = page.values().map(Data::stored).sum();
            self.afford(page.values().map(text_bytes).sum::<u64>() / BYTES_PER_STEP)?;
            let values = self.jsons(page.values())?.iter().map(|json| (**json).clone()).collect();
            let mut page = self.keep(Json::Array(values));
            let kept: usize = self.map(id).map_or(0, |map| map.finished.iter().map(Data::stored).sum());
            if self.revision() >= 2 && kept + page.stored() > FINISHED && page.stored() > 256 {
                page = self.as_blob(&page);
            }
            if let Data::Ref { value, .. } = &mut page {
                *value = None;
            }
            let Some(map) = self.map_mut(id) else { return Ok(()) };
            map.pages.remove(0);
            map.bytes = map.bytes.saturating_sub(freed);
            map.finished.push(page);
        }
    }

    /// All items are done: their results in order.
    fn all_done(&mut self, id: u32) -> Res<()> {
        let Some(map) = self.map(id) else { return Ok(()) };
        let (pages, total) = (map.finished.clone(), map.total);
        let output = self.assemble(&pages, &[], total)?;
        self.finish_map(id, output)
    }

    /// One array of pages and what follows them; an object that names the pages where they are too large for one value.
    pub(super) fn assemble(&mut self, pages: &[Data], rest: &[Data], count: u64) -> Res<Data> {
        if let ([page], []) = (pages, rest) {
            return Ok(page.clone());
        }
        let bytes = pages.iter().chain(rest).map(text_bytes).sum::<u64>();
        if bytes > MAP_RESULT {
            let values: Vec<Json> = self.jsons(rest)?.iter().map(|json| (**json).clone()).collect();
            let mut named: Vec<Json> = pages.iter().map(Data::written).collect();
            if !values.is_empty() {
                named.push(self.keep(Json::Array(values)).written());
            }
            return Ok(self.keep(serde_json::json!({"$pages": named, "count": count})));
        }
        self.afford(count + bytes / BYTES_PER_STEP)?;
        let parts = self.jsons(pages.iter().chain(rest))?;
        let (pages, rest) = parts.split_at(pages.len());
        let mut all = Vec::with_capacity(count as usize);
        all.extend(pages.iter().flat_map(|page| page.as_array().into_iter().flatten().cloned()));
        all.extend(rest.iter().map(|json| (**json).clone()));
        Ok(self.keep(Json::Array(all)))
    }

    fn finish_map(&mut self, id: u32, output: Data) -> Res<()> {
        if let Some(seq) = self.frame(id).map(|frame| frame.seq) {
            self.settle(seq);
        }
        self.finish_body(id, output, None)
    }
}

/// Bytes of the text of a value.
fn text_bytes(data: &Data) -> u64 {
    match data {
        Data::Inline { size, .. } => u64::from(*size),
        Data::Ref { size, .. } => *size,
    }
}
