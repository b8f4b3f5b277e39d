//! Runs as no program would make them: every field by chance.

use std::sync::Arc;

use bytes::Bytes;
use tidewheel_engine::id::{Name, RunId};
use tidewheel_engine::run::act::{Act, Event, EventFilter, OpenTask, Outcome, StartChild, TaskHints};
use tidewheel_engine::run::code::{Await, CodeState};
use tidewheel_engine::run::data::{BlobHash, Data};
use tidewheel_engine::run::eval::{Json, Violation};
use tidewheel_engine::run::fault::Fault;
use tidewheel_engine::run::head::{
    Branch, Compacted, Frame, HEAD_VERSION, Head, Identity, Line, List, Next, Open, Outside, Parent, Phase, Place,
    Step, TryState, Waiting,
};
use tidewheel_engine::run::history::{CodeTurn, Told};
use tidewheel_engine::run::journal::{Ending, Fact, Key, Segment, Taped, ValueId};
use tidewheel_engine::run::listen::ListenState;
use tidewheel_engine::run::map::{Given, MapState, Page};
use tidewheel_engine::run::plan::{Backoff, Flow, ParentClose, Process, Protocol, Target};
use tidewheel_engine::run::saga::SagaState;
use tidewheel_engine::run::undo::{Compensations, Undo, UndoRetry};

use super::super::act::KINDS;

/// A small generator, so that a case is the same in each run. Source: Marsaglia, Xorshift RNGs (2003).
pub(super) struct Random {
    state: u64,
    /// Values that were used before: the next ones may be the same in memory.
    used: Vec<Data>,
    /// Makes what this layout of heads and revision of journals of its time had, and nothing else.
    layout: u16,
}

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, used: Vec::new(), layout: HEAD_VERSION }
    }

    /// What the same seed gave when heads had an earlier layout.
    pub(super) fn of_layout(layout: u16, seed: u64) -> Random {
        Random { layout, ..Random::new(seed) }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    /// 0, small, or anything.
    fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => 0,
            1 => self.below(300),
            2 => 1_750_000_000_000 + self.below(1_000_000),
            _ => self.next(),
        }
    }

    fn small(&mut self) -> u32 {
        self.number() as u32
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| make(self))
    }

    fn list<T>(&mut self, most: u64, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    fn name(&mut self) -> Name {
        self.pick(&["", "a", "/do/0/step", "größer", "b3/i17/a1", "\0\u{7f}"]).into()
    }

    fn hash(&mut self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.iter_mut().for_each(|byte| *byte = self.next() as u8);
        hash
    }

    fn json(&mut self, depth: u32) -> Json {
        match self.below(if depth == 0 { 6 } else { 8 }) {
            0 => Json::Null,
            1 => Json::Bool(self.flag()),
            2 => self.number().into(),
            3 => (self.next() as i64).into(),
            4 => {
                let number = f64::from_bits(self.next());
                Json::from(if number.is_finite() { number } else { 0.1 + 0.2 })
            }
            5 => Json::String(self.name().repeat(self.below(20) as usize)),
            6 => Json::Array(self.list(4, |random| random.json(depth - 1))),
            _ => Json::Object(
                self.list(4, |random| (random.name().to_string(), random.json(depth - 1))).into_iter().collect(),
            ),
        }
    }

    fn data(&mut self) -> Data {
        if !self.used.is_empty() && self.flag() {
            let at = self.below(self.used.len() as u64) as usize;
            return self.used[at].clone();
        }
        let data = match self.below(6) {
            0 => Data::Ref { hash: BlobHash(self.hash()), size: self.number(), value: None },
            _ => Data::of(self.json(3)).0,
        };
        self.used.push(data.clone());
        data
    }

    fn fault(&mut self) -> Fault {
        Fault(Arc::new(self.json(2)))
    }

    fn outcome(&mut self) -> Outcome {
        match self.below(3) {
            0 => Outcome::Ok(self.data()),
            1 => Outcome::Err(self.fault()),
            _ => Outcome::Cancelled,
        }
    }

    fn close(&mut self) -> ParentClose {
        self.pick(&[ParentClose::Cancel, ParentClose::Abandon, ParentClose::Wait])
    }

    pub(super) fn identity(&mut self) -> Identity {
        let parent = self.maybe(|random| Parent {
            run: RunId(u128::from(random.next())),
            entry: random.number(),
            item: random.maybe(Random::number),
            close: random.close(),
        });
        Identity {
            run: RunId(u128::from(self.next()) << 64 | u128::from(self.next())),
            plan: self.hash(),
            namespace: self.name(),
            name: self.name(),
            version: self.name(),
            parent,
            correlation: self.maybe(Random::name),
            depth: self.next() as u8,
        }
    }

    fn phase(&mut self) -> Phase {
        self.pick(&super::super::act::PHASES)
    }

    fn key(&mut self) -> Key {
        Key { scope: self.name(), kind: self.pick(&KINDS[..22]), name: self.name(), n: self.small() }
    }

    pub(super) fn event(&mut self) -> Event {
        let (entry, reason) = (self.number(), self.name());
        match self.below(if self.layout < 3 { 13 } else { 15 }) {
            13 => Event::Moved { identity: Arc::new(self.identity()), by: reason },
            14 => Event::Accepted { by: reason },
            0 => Event::Start { identity: Arc::new(self.identity()), input: self.data() },
            1 => Event::Continue,
            2 => Event::Done { entry, outcome: self.outcome() },
            3 => Event::Items { entry, first: self.number(), outcomes: self.list(5, Random::outcome) },
            4 => Event::Fired { entry },
            5 => Event::Arrived { event: self.data() },
            6 => Event::Signal { id: reason, kind: self.name(), data: self.data() },
            7 => Event::Cancel { reason },
            8 => Event::Terminate { reason },
            9 => Event::Suspend { reason },
            10 => Event::Resume,
            11 => Event::Retry,
            _ => Event::Reset {
                key: reason,
                input: self.maybe(Random::data),
                next_seq: self.number(),
                identity: Arc::new(self.identity()),
                since: if self.layout < 4 { None } else { self.maybe(|random| 1 + random.number() / 2) },
            },
        }
    }

    fn target(&mut self) -> Target {
        match self.below(14) {
            0 => Target::Python,
            1 => Target::Process(Process::Python),
            2 => Target::Process(Process::JavaScript),
            3 => Target::Process(Process::Shell),
            4 => Target::Process(Process::Container),
            5 => Target::Task(self.name()),
            6 => Target::Workflow(self.name(), self.name(), self.name()),
            7 => Target::Outbound(Protocol::Http),
            8 => Target::Outbound(Protocol::Grpc),
            9 => Target::Outbound(Protocol::OpenApi),
            10 => Target::Outbound(Protocol::AsyncApi),
            11 => Target::Outbound(Protocol::A2a),
            12 => Target::Outbound(Protocol::Mcp),
            _ => Target::Catalog(self.name(), self.name()),
        }
    }

    fn hints(&mut self) -> TaskHints {
        TaskHints {
            queue: self.maybe(Random::name),
            priority: self.maybe(|random| random.next() as u8),
            requires: self.list(3, |random| (random.name(), random.name())),
            affinity_key: self.maybe(Random::name),
            concurrency_key: self.maybe(Random::name),
            idempotency_key: self.maybe(Random::name),
            sla_ms: self.number(),
        }
    }

    fn open_task(&mut self) -> OpenTask {
        let hints = self.hints();
        OpenTask {
            entry: self.number(),
            key: self.key(),
            target: self.target(),
            args: self.data(),
            sealed: self.flag(),
            items: self.maybe(|random| (random.number(), random.small())),
            awaited: self.flag(),
            deadline_ms: self.number(),
            hints,
        }
    }

    fn start_child(&mut self) -> StartChild {
        StartChild {
            entry: self.number(),
            key: self.key(),
            namespace: self.name(),
            name: self.name(),
            version: self.name(),
            input: self.data(),
            item: self.maybe(Random::number),
            awaited: self.flag(),
            close: self.close(),
            depth: self.next() as u8,
        }
    }

    fn attributes(&mut self) -> Vec<(Name, Json)> {
        self.list(3, |random| (random.name(), random.json(1)))
    }

    fn filter(&mut self) -> EventFilter {
        let correlate = self.list(3, |random| (random.name(), random.maybe(|random| random.json(1))));
        EventFilter { kind: self.maybe(Random::name), correlate }
    }

    pub(super) fn act(&mut self) -> Act {
        let entry = self.number();
        match self.below(14) {
            0 => Act::PutBlob { hash: BlobHash(self.hash()), bytes: Bytes::from_static(b"[1]") },
            1 => Act::OpenTask(Box::new(self.open_task())),
            2 => Act::CancelTask { entry },
            3 => Act::CancelItems { entry },
            4 => Act::OpenTimer { entry, due: self.number() },
            5 => Act::CancelTimer { entry },
            6 => Act::StartChild(Box::new(self.start_child())),
            7 => Act::CancelChild { entry },
            8 => Act::Emit { entry, event: self.data() },
            9 => Act::Subscribe { entry, filters: self.list(3, Random::filter) },
            10 => Act::Unsubscribe { entry },
            11 => Act::Defer { event: self.data() },
            12 => Act::Attributes(self.attributes()),
            _ => Act::Finished { phase: self.phase(), outcome: self.outcome() },
        }
    }

    fn flow(&mut self) -> Flow {
        let position = self.small();
        self.pick(&[Flow::Continue, Flow::Exit, Flow::End, Flow::To(position)])
    }

    fn place(&mut self) -> Place {
        Place::new(self.name())
    }

    fn next_step(&mut self) -> Next {
        match self.below(7) {
            0 => Next::Begin { place: self.place(), raw: self.data(), n: self.small(), scope: self.name() },
            1 => Next::Return { output: self.data(), flow: self.flow() },
            2 => Next::Listen,
            3 => Next::Refill,
            4 => Next::Wait,
            5 => Next::Failed(self.fault()),
            _ => Next::Interrupted,
        }
    }

    fn branch(&mut self) -> Branch {
        match self.below(3) {
            0 => Branch::Open(self.small()),
            1 => Branch::Done(self.data(), self.maybe(Random::data)),
            _ => Branch::Failed(self.fault()),
        }
    }

    fn map(&mut self) -> MapState {
        let page = |random: &mut Random| {
            let mut page = Page::new(1 + random.below(1_000));
            for chunk in &mut page.chunks {
                for item in Arc::make_mut(chunk) {
                    *item = (random.below(8) == 0).then(|| random.data());
                }
            }
            page.done = random.number();
            Arc::new(page)
        };
        MapState {
            given: None,
            items: self.data(),
            total: self.number(),
            cursor: self.number(),
            working: self.small(),
            done: self.number(),
            finished: self.list(3, Random::data),
            pages: self.list(2, page),
            bytes: self.small() as usize,
            again: self.list(3, Random::number),
        }
    }

    /// A program's state. Not among the steps of [`Random::head`], whose golden bytes were written before there were programs.
    pub(super) fn code(&mut self) -> CodeState {
        CodeState {
            input: self.data(),
            generation: self.small(),
            epoch: self.number(),
            activation: self.number(),
            active: self.maybe(Random::small),
            before: self.maybe(Random::data),
            turns: self.list(3, |random| {
                Arc::new(CodeTurn {
                    no: random.number(),
                    now_ms: random.number(),
                    done: random.list(3, Random::told),
                    opened: random.list(3, |random| (random.name(), random.name())),
                    cancel: random.maybe(Random::name),
                })
            }),
            bytes: self.below(1 << 40) as usize,
            news: self.list(3, Random::told),
            open: self.list(3, |random| (random.small(), random.name())),
            waits: self.list(3, |random| Await {
                any: random.flag(),
                keys: random.list(3, |random| format!("k{}", random.name()).into()),
            }),
            cancel: self.maybe(Random::name),
            cancel_told: self.flag(),
            state: self.maybe(Random::data),
            failed: self.list(2, |random| (random.name(), random.name(), random.data())),
            blame: self.maybe(Random::name),
            armed: self.small(),
            mismatch: self.maybe(Random::data),
            accepted: if self.layout < 3 { 0 } else { self.number() },
        }
    }

    fn told(&mut self) -> Told {
        Told { key: self.name(), how: self.outcome(), at_ms: self.number() }
    }

    /// A map as a program asks for it.
    pub(super) fn given_map(&mut self) -> MapState {
        let given = Given {
            target: self.target(),
            call: self.data(),
            concurrency: self.small(),
            batch: self.small(),
            collect: self.flag(),
        };
        MapState { given: Some(Box::new(given)), ..self.map() }
    }

    fn listen(&mut self) -> ListenState {
        ListenState {
            read: self.list(3, Random::data),
            pages: self.list(2, Random::data),
            count: self.number(),
            matched: self.list(4, Random::flag),
            ended: self.list(4, Random::flag),
            correlations: self.attributes(),
            at_hand: self.maybe(Random::data),
            complete: self.flag(),
            looked: self.number(),
        }
    }

    fn step(&mut self) -> Step {
        match self.below(if self.layout < 2 { 7 } else { 8 }) {
            0 => Step::Plain,
            1 => Step::Root,
            2 => Step::For { items: self.data(), index: self.small() },
            3 => Step::Fork(self.list(4, Random::branch)),
            4 => Step::Try(TryState {
                attempt: self.small(),
                first_ms: self.number(),
                limit_ms: self.number(),
                error: self.maybe(Random::data),
            }),
            5 => Step::Map(Box::new(self.map())),
            6 => Step::Listen(Box::new(self.listen())),
            _ => Step::Saga(Box::new(SagaState {
                outputs: self.list(3, Random::data),
                armed: self.list(3, Random::undo),
            })),
        }
    }

    fn frame(&mut self) -> Frame {
        let extension = self.next() as u16;
        let lists = [List::None, List::Body, List::Catch, List::Before(extension), List::After(extension)];
        Frame {
            place: self.place(),
            seq: self.number(),
            n: self.small(),
            scope: self.name(),
            inner: self.name(),
            started_ms: self.number(),
            raw: self.data(),
            input: self.data(),
            result: self.maybe(Random::data),
            flow: self.maybe(Random::flow),
            limit_ms: self.number(),
            list: self.pick(&lists),
            cursor: self.small(),
            round: self.small(),
            step: self.step(),
        }
    }

    fn line(&mut self) -> Arc<Line> {
        Arc::new(Line {
            id: self.small(),
            parent: self.maybe(|random| (random.small(), random.small())),
            context: self.data(),
            exported: self.flag(),
            frames: self.list(4, Random::frame),
            next: self.next_step(),
        })
    }

    fn open(&mut self) -> (u64, Open) {
        let close = self.close();
        let all = [
            Outside::Task,
            Outside::Child(close),
            Outside::Items,
            Outside::Wait,
            Outside::Timeout,
            Outside::AttemptLimit,
            Outside::Backoff,
            Outside::Events,
            Outside::Undo,
            Outside::UndoPause,
        ];
        let all = if self.layout < 2 { &all[..8] } else { &all[..] };
        (self.number(), Open { line: self.small(), owner: self.number(), what: self.pick(all) })
    }

    pub(super) fn head(&mut self) -> Head {
        Head {
            version: HEAD_VERSION,
            identity: Arc::new(self.identity()),
            phase: self.phase(),
            reason: self.maybe(Random::name),
            started_ms: self.number(),
            ended_ms: self.number(),
            input: self.data(),
            outcome: self.maybe(Random::outcome),
            closing: self.maybe(|random| (random.phase(), random.outcome())),
            lines: self.list(4, Random::line),
            next_line: self.small(),
            next_seq: self.number(),
            turns: self.number(),
            entries: self.number(),
            work: self.number(),
            open: self.list(4, Random::open),
            children: self.list(3, |random| (random.number(), random.close())),
            attributes: Arc::new(self.attributes()),
            inbox: self.list(3, |random| Waiting { no: random.number(), event: random.data() }),
            arrivals: self.number(),
            seen: Arc::new(self.list(5, Random::next)),
            held: self.list(3, Random::event),
            owed: self.list(3, Random::act),
            compacted: self.maybe(|random| Compacted { turns: random.number(), chain: random.hash() }),
            undo: if self.layout < 2 { None } else { self.maybe(|random| Arc::new(random.compensations())) },
        }
    }

    fn undo(&mut self) -> Undo {
        Undo {
            name: self.name(),
            of: self.number(),
            scope: self.name(),
            reference: self.name(),
            target: self.target(),
            args: self.data(),
            hints: self.hints(),
            retry: UndoRetry {
                count: self.small(),
                delay_ms: self.number(),
                backoff: self.pick(&[Backoff::Constant, Backoff::Exponential, Backoff::Linear]),
            },
            tries: self.small(),
            failures: self.small(),
        }
    }

    fn compensations(&mut self) -> Compensations {
        let mut all = Compensations {
            armed: self.list(3, Random::undo),
            running: self.maybe(|random| (random.number(), random.undo())),
            pause: self.maybe(Random::number),
            unwinding: self.flag(),
            failed: self.list(2, Random::name),
            holds: 0,
        };
        if self.layout >= 4 {
            all.holds = self.below(all.armed.len() as u64 + 1) as usize;
        }
        all
    }

    fn value_id(&mut self) -> ValueId {
        ValueId(self.small())
    }

    fn taped(&mut self) -> Taped {
        match self.below(7) {
            0 => Taped::Value(self.value_id()),
            1 => Taped::Verdict(self.flag()),
            2 => Taped::Failed(self.name()),
            3 => Taped::Fuel,
            4 => {
                Taped::Checked(self.list(3, |random| Violation {
                    path: random.name().to_string(),
                    message: random.name().to_string(),
                }))
            }
            5 => Taped::Millis(self.number()),
            _ => Taped::Work,
        }
    }

    fn fact(&mut self) -> Fact {
        let entry = self.number();
        match self.below(4) {
            0 => Fact::Opened {
                entry,
                within: self.number(),
                key: self.key(),
                value: self.maybe(Random::value_id),
                args_hash: self.number(),
                due_ms: self.number(),
            },
            1 => {
                let id = self.value_id();
                let all = [Ending::Ok(id), Ending::Skipped, Ending::Err(id), Ending::Cancelled];
                Fact::Done { entry, how: self.pick(&all) }
            }
            2 => Fact::Retried { entry, attempt: self.small(), due_ms: self.number(), error: self.value_id() },
            _ => Fact::Phase {
                phase: self.phase(),
                reason: self.maybe(Random::name),
                value: self.maybe(Random::value_id),
            },
        }
    }

    pub(super) fn segment(&mut self) -> Segment {
        Segment {
            revision: 1,
            turn: self.number(),
            now_ms: self.number(),
            event: self.event(),
            begun: self.small(),
            more: self.flag(),
            work: self.number(),
            tape: self.list(10, Random::taped),
            values: self.list(6, Random::data),
            facts: self.list(10, Random::fact),
        }
    }
}
