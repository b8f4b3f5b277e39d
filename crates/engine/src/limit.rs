//! Every bound of the engine, in one place, each with its reason.

/// Tasks of one lane held ready in memory. A refill costs one indexed read; 64 rows make that read cheap per task while
/// 100,000 lanes would still need no more than the lanes of [`LINE_LANES`] in memory.
pub const LANE_WINDOW: usize = 64;
/// Tasks of one lane held ready while memory is plenty, so that a backlog of a second or so is not read back from the
/// store: a read costs about a tenth of a task's whole life.
pub const LANE_WINDOW_MOST: usize = 65_536;
/// Tasks of one lane held ready when memory is short.
pub const LANE_WINDOW_LEAST: usize = 4;
/// Tasks in memory up to which windows may be large. About 400 bytes each: 160 MB at twice this number, where windows
/// shrink to [`LANE_WINDOW_LEAST`].
pub const WINDOW_TASKS: usize = 200_000;
/// Rows of one lane read at once: about 10 ms of a reader's time.
pub const LANE_READ: usize = 4_096;
/// Lanes of one line (queue and class) in memory. Beyond, lanes are found by a skip scan in lane order.
pub const LINE_LANES: usize = 256;
/// Lanes remembered for each requirement of a queue that nobody free met when they were found in the store. What serves
/// them then reads them by name; the scan that finds the next ones is made once for so many.
pub const LANES_ASIDE: usize = 256;
/// Lanes of a queue read by name at once when somebody came free for them; the first time it is one, and twice as many each time
/// while nothing is granted.
pub const LANES_BROUGHT: usize = 16;
/// Tasks without work in memory (scheduled, close to due) that are kept to spare a read when they fire. About 300 bytes each.
pub const WARM_TASKS: usize = 200_000;
/// How far ahead due times are held in the wheel; later ones stay in the store. One window load per half of it. Five
/// minutes, as document D has it (lines 121 to 126).
pub const TIMER_HORIZON_MS: u64 = 300_000;
/// Due times in the wheel from which on it holds less far ahead. About 64 bytes each.
pub const TIMERS_IN_MEMORY: usize = 1_000_000;
/// What is due so soon goes into the wheel, however full it is.
pub const TIMER_URGENT_MS: u64 = 2_000;
/// Rows of one due-window load.
pub const DUE_PAGE: usize = 10_000;
/// Timers fired in one apply turn, so that a burst of due timers delays other commands by a millisecond or two only.
pub const TIMERS_PER_TURN: usize = 2_048;
/// Grants in one apply turn, so that a timer that comes due during a burst of grants waits a millisecond or two only.
pub const GRANTS_PER_TURN: usize = 1_024;
/// A task expected to run shorter than this is a short one: light workers serve it.
pub const SHORT_MS: u64 = 60_000;
/// A task expected to run longer than this is a long one: dedicated workers serve it.
pub const LONG_MS: u64 = 600_000;
/// How long a task waits for the worker of its affinity key, where its queue says nothing else. Long enough for a worker to
/// finish what it has at hand, short enough that a stuck one does not hold its keys up.
pub const AFFINITY_WAIT_MS: u64 = 5_000;
/// Lanes of one line that wait for workers of their affinity keys, for each lane that the line may have beside: 4,096 with
/// [`LINE_LANES`], about a kilobyte each. Above, a key goes to whoever is free.
pub const WAITING_LINES: usize = 16;
/// Affinity keys whose worker is remembered, about 40 bytes each. It is found anew by a look at all sessions.
pub const KNOWN_HOMES: usize = 65_536;
/// Executor keys that one worker may name: each is compared with every lane it is looked at for.
pub const SERVED_EXECUTORS: usize = 64;
/// Data that a task may name as being near: each is compared with what a worker holds.
pub const NEAR_HINTS: usize = 8;
/// Names of data that one worker may announce.
pub const HELD_DATA: usize = 10_000;
/// Attempts of a silent worker that are given away at once, and the pause before the next ones: about 50,000 a second, so
/// that the end of a large worker takes a part of the writer's time and not all of it.
pub const LOST_AT_ONCE: usize = 256;
/// See [`LOST_AT_ONCE`], in milliseconds.
pub const LOST_EVERY_MS: u64 = 5;
/// What has lain in a worker's buffer for so long goes to a worker that is idle. Several times what a buffer of short
/// tasks holds (50 ms), so that those are never asked back.
pub const RECALL_MS: u64 = 200;
/// A bound on a queue's depth below this is not announced by throttling: there is no room for it.
pub const THROTTLED_DEPTH: u64 = 100;
/// A throttled queue takes in at least so many tasks per second, so that one without workers comes to its bound and says so.
pub const THROTTLED_LEAST_PER_S: f64 = 1.0;
/// Items that one call may take.
pub const TAKE_ITEMS: u32 = 100;
/// Calls that wait for items of one queue. Above, another one is refused as overloaded.
pub const WAITING_TAKERS: usize = 10_000;
/// Commands that wait for a load. Above, a command that would wait is refused as overloaded.
pub const PARKED_COMMANDS: usize = 10_000;
/// What runs may do in one apply turn: each turn of a run counts one, and each record that changes by it. About two milliseconds.
pub const RUN_CHANGES_PER_TURN: usize = 1_000;
/// What a turn, or a head, counts for in the size of a batch, where a task counts one: it takes about three times as long to
/// write.
pub const TURN_WEIGHT: usize = 3;
/// Steps of expressions that count as one of [`RUN_CHANGES_PER_TURN`]: as [`SLICE_STEPS`] says, about a microsecond.
pub const STEPS_PER_CHANGE: u64 = 20;
/// Ends of items of a map that one turn takes in. Each may open another item, for which a turn has room.
pub const ENDS_PER_TURN: usize = 128;
/// Runs that are read at a time, unless the runs in memory have used up their room: then one after the other.
pub const RUN_LOADS: usize = 256;
/// Stored bytes of a run up to which it is read without knowing how large it is: a few times what most have. Of a larger one its
/// size is read first, and then the run itself when there is room for it.
pub const RUN_READ: usize = 16 * 1024;
/// Bytes in memory for each stored byte of a run that is on its way, about: its text, and what is made of it.
pub const READ_IN_MEMORY: usize = 2;
/// Turns of a journal that was played of which the memory is given back in one apply turn.
pub const TURNS_LET_GO: usize = 2_000;
/// Tasks of items that are cancelled in one apply turn.
pub const CANCELS_PER_TURN: usize = 256;
/// Commands that wait for one run to be read.
pub const RUN_COMMANDS: usize = 1_000;
/// Bytes that a run in memory takes besides its values, about.
pub const RUN_BYTES: usize = 1_024;
/// Bytes of runs in memory from which on runs are read one after the other, each when another one has gone. At twice as many no
/// run is started from outside.
pub const RUN_ROOM_BYTES: usize = 2 * RUN_CACHE_BYTES;
/// Bytes in memory for each byte of the text of a large value, about: a number of five digits takes 32.
pub const VALUE_IN_MEMORY: usize = 4;
/// Values that were read for a run are kept for its next turns up to so many bytes.
pub const RUN_BLOB_BYTES: usize = 8 << 20;
/// Bytes of runs kept in memory while nothing happens to them.
pub const RUN_CACHE_BYTES: usize = 64 << 20;
/// Compiled workflows kept in memory: document B's bound.
pub const DEFINITIONS: usize = 1_000;
/// Payload bytes kept inline in a record; larger ones are blobs (`architecture.md`, section 6).
pub const INLINE_BYTES: usize = 64 * 1024;
/// Task types per tenant. They are held in memory and interned for ever.
pub const TYPES_PER_TENANT: usize = 10_000;
/// Distinct requirement sets (type, labels, resources) held at once.
pub const REQUIREMENTS: usize = 1_000_000;
/// Grants allowed to one task, at most.
pub const MAX_ATTEMPTS: u32 = 1_000;
/// Bytes of a key of a task, of any kind.
pub const KEY_BYTES: usize = 256;
/// Labels of one task; each is an indexed row.
pub const LABELS: usize = 8;
/// Bytes of a label's name or value.
pub const LABEL_BYTES: usize = 256;
/// Requirements of one task: each is compared with every worker.
pub const REQUIRES: usize = 16;
/// Cores that one task may ask for.
pub const TASK_CORES: f64 = 1_024.0;
/// Longest error text that is stored with a task, in bytes; the rest is in the log.
pub const ERROR_BYTES: usize = 16 * 1024;
/// Tasks in one bulk submit.
pub const SUBMIT_ITEMS: usize = 10_000;
/// An idempotency key is remembered for so long at least.
pub const IDEMPOTENCY_MS: u64 = 24 * 3_600_000;
/// Bytes of a value up to which it is carried along in the run; larger ones are blobs, so that a head stays small enough to
/// be written often.
pub const INLINE_VALUE: usize = 64 * 1024;
/// Bytes of values that a run carries along in all. A result that would pass it becomes a blob; an input, a context or an event that
/// would fails its statement, and the run stays usable.
pub const INLINE_STATE: usize = 1024 * 1024;
/// What a program asks for is not begun if the run would carry more than this with its arguments. The rest is left for results.
pub const ASKED_STATE: usize = INLINE_STATE / 4 * 3;
/// A value of fewer bytes is always taken.
pub const SMALL_VALUE: usize = 512;
/// What one turn asks of the shell at most; the rest follows in the next. A commit stays below its bound of records.
pub const ACTS_PER_TURN: usize = 256;
/// Acts that one statement may need besides those it counts itself: no statement begins with fewer left.
pub const ACTS_PER_STATEMENT: usize = 16;
/// Statements that one turn begins: about a millisecond.
pub const STATEMENTS_PER_TURN: u32 = 512;
/// Work (steps of expressions, and statements) without anything from outside in between, after which a run that loops for
/// ever gets a `runtime` error. About ten seconds of a core.
pub const RUN_WORK: u64 = 10_000_000;
/// Work of a statement besides its expressions: so a loop that does nothing ends after a million statements, before its journal
/// fills a disk.
pub const STATEMENT_WORK: u64 = 10;
/// Bytes of values in the journal that count as one unit of [`RUN_WORK`]: a run that makes values without waiting for anything
/// ends after 160 MB of them.
pub const WRITTEN_PER_WORK: u64 = 16;
/// Steps of a turn in the loop of a partition: about a millisecond. What needs more is computed beside it.
pub const SLICE_STEPS: u64 = 20_000;
/// Bytes of values made by a turn in the loop of a partition.
pub const SLICE_BYTES: u64 = 4 << 20;
/// Steps of one evaluation. The same on every machine, and far above what a sensible expression needs.
pub const EVAL_STEPS: u64 = 1_000_000;
/// Bytes of values made by one evaluation: what a server of 1 GB can spare beside its work.
pub const EVAL_BYTES: u64 = 64 << 20;
/// Turns after which the head is written whole, so that a load folds few segments.
pub const TURNS_PER_HEAD: u64 = 16;
/// Bytes of values in a head above which it is written half as often, and so on with each doubling: a head of 1 MiB every 512
/// turns, which a load folds in a millisecond or two.
pub const BYTES_PER_HEAD: usize = 32 * 1024;
/// Child runs of child runs: deeper is a recursion that does not end.
pub const CHILD_DEPTH: u8 = 32;
/// Frames of one line of statements: deeper is a recursion of functions that does not end.
pub const FRAMES: usize = 256;
/// Events that wait in a run for a `listen`. Further ones are put off until some were taken.
pub const INBOX: usize = 1_000;
/// Bytes of events that wait in the run itself; further ones are blobs, so that they leave room for its values.
pub const INBOX_BYTES: usize = 256 * 1024;
/// Events that a run remembers having seen, so that one that comes twice is taken once.
pub const SEEN: usize = 4_096;
/// Items of a map at work at a time, whatever its concurrency.
pub const MAP_CONCURRENCY: u32 = 2_000;
/// Items of a map for which results are kept together.
pub const MAP_PAGE: u64 = 1_000;
/// Pages of a map with items not done: one slow item holds up the others only so far.
pub const MAP_PAGES: u64 = 16;
/// Bytes of the result of a map up to which it is one array; larger ones are an object that names the pages.
pub const MAP_RESULT: u64 = 16 << 20;
/// The longest pause between retries that grows by a backoff, in milliseconds.
pub const BACKOFF_MS: u64 = 3_600_000;
/// Things that a program (durable Python) has open at once, unless it is set otherwise: each is a line of the run, which every
/// turn looks at. About two milliseconds of each turn at this number.
pub const CODE_OPEN: usize = 50_000;
/// Things that a program has open at once from which on it is said to have many, unless it is set otherwise.
pub const CODE_OPEN_MANY: usize = 10_000;
/// [`CODE_OPEN`] until revision 5 of journals.
pub(crate) const CODE_OPEN_BEFORE: usize = 10_000;
/// Commands of one activation.
pub const CODE_COMMANDS: usize = 10_000;
/// Bytes of the key of a command.
pub const CODE_KEY: usize = 512;
/// Bytes of the turns of a program that are over and still carried along, unless it is set otherwise: with more of them they
/// become a page beside the journal. Each activation gets as much, and a head that is written has as much, so it is small; a page
/// is about as large, and a process that replays the program reads all of them, so it is not smaller.
pub const CODE_TAIL: usize = 16 * 1024;
/// Bytes of what one activation is told; the rest is told with the next one.
pub const CODE_NEWS: usize = 512 * 1024;
/// Bytes of what a run carries of the history of its program from which on the values in it become blobs.
pub const CODE_INLINE: usize = 256 * 1024;
/// Bytes of the history of a program past which it had to continue as new, until revision 5 of journals.
pub(crate) const CODE_BYTES_BEFORE: usize = 768 * 1024;
/// Search attributes of a run, and bytes of each: they are rows of their own in the commit.
pub const ATTRIBUTES: usize = 32;
/// See [`ATTRIBUTES`].
pub const ATTRIBUTE_BYTES: usize = 256;
