//! `listen`: events that came are looked at one after another, in order of arrival, by whoever waits. Each is taken once.

use super::act::{Act, EventFilter};
use super::data::Data;
use super::eval::{Fuel, Json, Scope, Var};
use super::fault::Fault;
use super::head::{List, Next, Outside, Step, Waiting};
use super::look::Look;
use super::machine::{End, Machine, Res, Stop};
use super::plan::{Filter, Kind, Listen, Read, Strategy, Until};
use crate::id::Name;
use crate::limit::{INBOX, INBOX_BYTES, INLINE_VALUE, STATEMENT_WORK};

/// Names of correlations and what they have to be.
pub type Known = Vec<(Name, Json)>;

/// State of a `listen`.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenState {
    /// What was read of the events taken, or what was done for each gave: those after the pages.
    pub read: Vec<Data>,
    /// The earlier ones, an array each.
    pub pages: Vec<Data>,
    /// How many there are in all.
    pub count: u64,
    /// Which filters of `all` have theirs.
    pub matched: Vec<bool>,
    /// Which filters of the `until` that waits for all of several have theirs.
    pub ended: Vec<bool>,
    /// What correlations have to be.
    pub correlations: Known,
    /// The event that the body is at.
    pub at_hand: Option<Data>,
    /// Whether nothing further is taken.
    pub complete: bool,
    /// The last arrival that was looked at.
    pub looked: u64,
}

impl ListenState {
    /// Bytes of values.
    pub(super) fn stored(&self) -> usize {
        self.read.iter().chain(&self.pages).map(Data::stored).sum::<usize>()
            + self.at_hand.as_ref().map_or(0, Data::stored)
    }
}

/// What an event is for a `listen`.
enum Fit {
    /// One of those it waits for, by which filter.
    Main(usize),
    /// One of those that end it, by which filter.
    End(usize),
}

/// Calls for each filter of a strategy; `None` = every event.
pub(super) fn filters_of(strategy: &Strategy, each: &mut dyn FnMut(Option<&Filter>)) {
    match strategy {
        Strategy::One(filter) => each(Some(filter)),
        Strategy::All(filters) => filters.iter().for_each(|filter| each(Some(filter))),
        Strategy::Any(filters, until) => {
            if filters.is_empty() {
                each(None);
            }
            filters.iter().for_each(|filter| each(Some(filter)));
            if let Some(Until::Events(until)) = until {
                filters_of(until, each);
            }
        }
    }
}

struct Nothing;

impl Scope for Nothing {
    fn dot(&self) -> std::borrow::Cow<'_, Json> {
        std::borrow::Cow::Owned(Json::Null)
    }
    fn var(&self, _: &Var) -> std::borrow::Cow<'_, Json> {
        std::borrow::Cow::Owned(Json::Null)
    }
    fn now(&self) -> u64 {
        0
    }
}

impl Machine<'_> {
    /// The `type` of a filter, if it is a literal. Looks at nothing, so that a fold may ask for it too.
    pub(super) fn literal_type(&self, filter: &Filter) -> Option<Name> {
        let (_, expr) = filter.with.iter().find(|(name, _)| &**name == "type")?;
        let mut fuel = Fuel { steps: 1_000, bytes: 65_536 };
        match self.def.eval(*expr, &Nothing, &mut fuel) {
            Ok(Json::String(kind)) => Some(kind.into()),
            _ => None,
        }
    }

    pub(super) fn begin_listen(&mut self, id: u32, listen: &Listen) -> Res<()> {
        let Some(frame) = self.frame(id) else { return Ok(()) };
        let (seq, input) = (frame.seq, frame.input.clone());
        let live = self.node(frame).is_some_and(|node| node.hints.live_only);
        let mut wanted = Vec::new();
        filters_of(&listen.strategy, &mut |filter| {
            wanted.extend(filter.into_iter().flat_map(|filter| filter.correlate.clone()))
        });
        let mut correlations = Vec::new();
        for (name, _, expect) in wanted {
            if let Some(expect) = expect
                && !correlations.iter().any(|(known, _)| *known == name)
            {
                let value = self.eval(expect, &Look::body(id, &input))?;
                correlations.push((name, (*self.json(&value)?).clone()));
            }
        }
        let parts = |strategy: &Strategy| match strategy {
            Strategy::All(filters) => vec![false; filters.len()],
            _ => Vec::new(),
        };
        let ended = match &listen.strategy {
            Strategy::Any(_, Some(Until::Events(until))) => parts(until),
            _ => Vec::new(),
        };
        let state = ListenState {
            read: Vec::new(),
            pages: Vec::new(),
            count: 0,
            matched: parts(&listen.strategy),
            ended,
            correlations,
            at_hand: None,
            complete: false,
            looked: if live { self.head.arrivals } else { 0 },
        };
        if let Some(frame) = self.frame_mut(id) {
            frame.step = Step::Listen(Box::new(state));
        }
        self.subscribe(id, seq, listen);
        self.set_next(id, Next::Listen);
        Ok(())
    }

    fn subscribe(&mut self, id: u32, seq: u64, listen: &Listen) {
        let known = self.listening(id).map_or(Vec::new(), |state| state.correlations.clone());
        let mut filters = Vec::new();
        filters_of(&listen.strategy, &mut |filter| {
            let mut wanted = EventFilter::default();
            if let Some(filter) = filter {
                wanted.kind = self.literal_type(filter);
                let value = |name: &Name| known.iter().find(|known| known.0 == *name).map(|known| known.1.clone());
                wanted.correlate = filter.correlate.iter().map(|(name, ..)| (name.clone(), value(name))).collect();
            }
            filters.push(wanted);
        });
        self.open(seq, id, seq, Outside::Events);
        self.act(Act::Subscribe { entry: seq, filters });
    }

    /// A `listen` that was interrupted goes on with what it had.
    pub(super) fn listen_again(&mut self, id: u32, seq: u64) -> Res<()> {
        if let Some(Kind::Listen(listen)) = self.frame(id).and_then(|frame| self.node(frame)).map(|node| &node.kind) {
            self.subscribe(id, seq, listen);
            self.set_next(id, Next::Listen);
        }
        Ok(())
    }

    fn listening(&self, id: u32) -> Option<&ListenState> {
        match self.frame(id).map(|frame| &frame.step) {
            Some(Step::Listen(state)) => Some(state),
            _ => None,
        }
    }

    fn listening_mut(&mut self, id: u32) -> Option<&mut ListenState> {
        match self.frame_mut(id).map(|frame| &mut frame.step) {
            Some(Step::Listen(state)) => Some(state),
            _ => None,
        }
    }

    /// An event came.
    pub(super) fn arrived(&mut self, event: &Data) -> Result<(), End> {
        if self.head.inbox.len() >= INBOX {
            self.act(Act::Defer { event: event.clone() });
            return Ok(());
        }
        let json = match self.json(event) {
            Ok(json) => json,
            Err(Stop::End(end)) => return Err(end),
            Err(Stop::Fault(_)) => return Ok(()),
        };
        if self.seen_before(identity_of(&json)) {
            return Ok(());
        }
        self.head.arrivals += 1;
        let no = self.head.arrivals;
        let held: usize = self.head.inbox.iter().map(|waiting| waiting.event.stored()).sum();
        let event = if held + event.stored() > INBOX_BYTES { self.as_blob(event) } else { event.clone() };
        self.head.inbox.push(Waiting { no, event });
        let waits = |line: &std::sync::Arc<super::head::Line>| {
            let top = line.frames.last().map(|frame| &frame.step);
            line.next == Next::Wait && matches!(top, Some(Step::Listen(state)) if state.at_hand.is_none())
        };
        let ids: Vec<u32> = self.head.lines.iter().filter(|line| waits(line)).map(|line| line.id).collect();
        ids.into_iter().for_each(|id| self.set_next(id, Next::Listen));
        Ok(())
    }

    /// Looks at the next event that the `listen` at hand has not looked at.
    pub(super) fn listen_on(&mut self, id: u32) -> Res<()> {
        let Some(frame) = self.frame(id) else { return Ok(()) };
        let Some(Kind::Listen(listen)) = self.node(frame).map(|node| &node.kind) else { return Ok(()) };
        let Some(state) = self.listening(id) else { return Ok(()) };
        let looked = state.looked;
        let at = self.head.inbox.partition_point(|waiting| waiting.no <= looked);
        let Some(waiting) = self.head.inbox.get(at).cloned() else { return Ok(()) };
        self.meter.charge(STATEMENT_WORK, 0);
        let (fit, correlations) = self.fit(id, listen, &waiting.event)?;
        if let Some(state) = self.listening_mut(id) {
            state.looked = waiting.no;
            if fit.is_some() {
                state.correlations = correlations;
            }
        }
        let Some(fit) = fit else {
            self.set_next(id, Next::Listen);
            return Ok(());
        };
        self.head.inbox.remove(at);
        match fit {
            Fit::Main(which) => self.take_event(id, listen, which, &waiting.event),
            Fit::End(which) => {
                let Some(state) = self.listening_mut(id) else { return Ok(()) };
                if let Some(ended) = state.ended.get_mut(which) {
                    *ended = true;
                }
                if state.ended.iter().all(|ended| *ended) { self.heard(id) } else { self.next_event(id) }
            }
        }
    }

    fn next_event(&mut self, id: u32) -> Res<()> {
        self.set_next(id, Next::Listen);
        Ok(())
    }

    /// What an event is for a `listen`, and what correlations have to be from then on.
    fn fit(&mut self, id: u32, listen: &Listen, event: &Data) -> Res<(Option<Fit>, Known)> {
        let Some(state) = self.listening(id) else { return Ok((None, Vec::new())) };
        let (matched, ended) = (state.matched.clone(), state.ended.clone());
        let known = state.correlations.clone();
        if let Strategy::Any(_, Some(Until::Events(until))) = &listen.strategy
            && let (Some(which), correlations) = self.fits_one(id, until, &ended, event, &known)?
        {
            return Ok((Some(Fit::End(which)), correlations));
        }
        let (which, correlations) = self.fits_one(id, &listen.strategy, &matched, event, &known)?;
        Ok((which.map(Fit::Main), correlations))
    }

    fn fits_one(
        &mut self,
        id: u32,
        strategy: &Strategy,
        have: &[bool],
        event: &Data,
        known: &[(Name, Json)],
    ) -> Res<(Option<usize>, Known)> {
        let filters = match strategy {
            Strategy::One(filter) => std::slice::from_ref(filter),
            Strategy::Any(filters, _) if filters.is_empty() => return Ok((Some(0), known.to_vec())),
            Strategy::Any(filters, _) | Strategy::All(filters) => filters,
        };
        for (at, filter) in filters.iter().enumerate() {
            if have.get(at) == Some(&true) {
                continue;
            }
            match self.fits_filter(id, filter, event, known) {
                Ok(Some(correlations)) => return Ok((Some(at), correlations)),
                Ok(None) => {}
                // An event from outside cannot make the run fail: where an expression fails on it, it does not fit.
                Err(Stop::Fault(_)) => {}
                Err(end) => return Err(end),
            }
        }
        Ok((None, known.to_vec()))
    }

    fn fits_filter(&mut self, id: u32, filter: &Filter, event: &Data, known: &[(Name, Json)]) -> Res<Option<Known>> {
        let json = self.json(event)?;
        if self.is_for_another(id, &json) {
            return Ok(None);
        }
        for (name, expr) in &filter.with {
            let found = json.get(&**name).cloned().unwrap_or(Json::Null);
            let attribute = Data::small(found);
            let wanted = self.eval(*expr, &Look::body(id, &attribute))?;
            let wanted = self.json(&wanted)?;
            let found = self.json(&attribute)?;
            if *wanted != Json::Bool(true) && wanted != found {
                return Ok(None);
            }
        }
        let mut correlations = known.to_vec();
        for (name, from, _) in &filter.correlate {
            let value = self.eval(*from, &Look::body(id, event))?;
            let value = (*self.json(&value)?).clone();
            match correlations.iter().find(|known| known.0 == *name) {
                Some((_, expected)) if *expected == value => {}
                None if !value.is_null() => correlations.push((name.clone(), value)),
                _ => return Ok(None),
            }
        }
        Ok(Some(correlations))
    }

    fn take_event(&mut self, id: u32, listen: &Listen, which: usize, event: &Data) -> Res<()> {
        if let Some(error) = super::promise::error_of(&*self.json(event)?) {
            let instance = self.frame(id).map_or("", |frame| &frame.place.reference);
            return Err(Stop::Fault(Fault::complete(error, self.plan.profile, instance)));
        }
        let value = match listen.read {
            Read::Envelope => event.clone(),
            Read::Data | Read::Raw => {
                let json = self.json(event)?;
                let raw = if listen.read == Read::Raw { json.get("data_base64") } else { None };
                let data = raw.or_else(|| json.get("data")).cloned().unwrap_or(Json::Null);
                self.keep(data)
            }
        };
        let Some(state) = self.listening_mut(id) else { return Ok(()) };
        if let Some(matched) = state.matched.get_mut(which) {
            *matched = true;
        }
        state.complete = match &listen.strategy {
            Strategy::One(_) | Strategy::Any(_, None) => true,
            Strategy::All(_) => state.matched.iter().all(|matched| *matched),
            Strategy::Any(_, Some(_)) => false,
        };
        let number = state.count;
        match &listen.foreach {
            Some(foreach) if foreach.body.is_some() => {
                state.at_hand = Some(value.clone());
                self.walk(id, List::Body, value, Some(('e', number)))
            }
            _ => self.event_done(id, listen, value),
        }
    }

    /// What was to be done for an event is done.
    pub(super) fn event_done(&mut self, id: u32, listen: &Listen, output: Data) -> Res<()> {
        let mut output = output;
        if let Some(foreach) = &listen.foreach {
            if let Some(transform) = foreach.output.output_as {
                output = self.eval(transform, &Look::body(id, &output))?;
            }
            if let Some(schema) = foreach.output.output_schema {
                self.check(schema, &output, id)?;
            }
            if let Some(export) = foreach.output.export_as {
                let context = self.eval(export, &Look { output: Some(&output), ..Look::body(id, &output) })?;
                if let Some(schema) = foreach.output.export_schema {
                    self.check(schema, &context, id)?;
                }
                self.bound(id, &context)?;
                if let Some(line) = self.line_mut(id) {
                    (line.context, line.exported) = (context, true);
                }
            }
        }
        self.bound(id, &output)?;
        if let Some(frame) = self.frame_mut(id) {
            frame.list = List::None;
        }
        let Some(state) = self.listening_mut(id) else { return Ok(()) };
        state.at_hand = None;
        state.read.push(output);
        state.count += 1;
        let mut complete = state.complete;
        if let Strategy::Any(_, Some(Until::Condition(until))) = &listen.strategy {
            let (pages, read) = (state.pages.clone(), state.read.clone());
            let none = Data::null();
            let look = Look { parts: Some((&pages, &read)), ..Look::body(id, &none) };
            complete |= self.holds(*until, &look)?;
        }
        if complete {
            return self.heard(id);
        }
        self.page_read(id)?;
        self.next_event(id)
    }

    /// Puts what was read aside as a page when it is too much to carry along: a `listen` may go on for ever.
    fn page_read(&mut self, id: u32) -> Res<()> {
        let Some(state) = self.listening_mut(id) else { return Ok(()) };
        if state.read.iter().map(Data::stored).sum::<usize>() <= INLINE_VALUE {
            return Ok(());
        }
        let read = std::mem::take(&mut state.read);
        let values = read.iter().map(|data| self.json(data).map(|json| (*json).clone())).collect::<Res<Vec<_>>>()?;
        let mut page = self.keep(Json::Array(values));
        if let Data::Ref { value, .. } = &mut page {
            *value = None;
        }
        if let Some(state) = self.listening_mut(id) {
            state.pages.push(page);
        }
        Ok(())
    }

    /// The `listen` is over: an array of what was taken, in order.
    fn heard(&mut self, id: u32) -> Res<()> {
        let Some(state) = self.listening(id) else { return Ok(()) };
        let (pages, read, count) = (state.pages.clone(), state.read.clone(), state.count);
        let output = self.assemble(&pages, &read, count)?;
        self.finish_body(id, output, None)
    }
}

/// Hash of the source and id of an event; of all of it where they are missing.
pub(super) fn identity_of(event: &Json) -> u64 {
    let mut hasher = blake3::Hasher::new();
    match (event.get("source").and_then(Json::as_str), event.get("id").and_then(Json::as_str)) {
        (Some(source), Some(id)) => {
            hasher.update(source.as_bytes()).update(&[0]).update(id.as_bytes());
        }
        _ => {
            hasher.update(&serde_json::to_vec(event).unwrap_or_default());
        }
    }
    let mut bytes = [0u8; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}
