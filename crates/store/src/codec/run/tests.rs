//! Runs come back as they were written, whatever is in them, and stay readable.

use std::sync::Arc;

use tidewheel_engine::id::RunId;
use tidewheel_engine::run::data::Data;
use tidewheel_engine::run::head::{Head, Identity, Phase, Step};
use tidewheel_engine::run::journal::Segment;

use super::*;
use random::Random;

mod random;
mod sample;

fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn head_bytes(head: &Head) -> Vec<u8> {
    encoded(|out| encode_run(head, out))
}

fn turn_bytes(segment: &Segment) -> Vec<u8> {
    encoded(|out| encode_turn(segment, out))
}

#[test]
fn any_head_turn_and_event_comes_back_as_it_was() {
    for seed in 0..1_500 {
        let mut random = Random::new(seed);
        let (head, segment, event) = (random.head(), random.segment(), random.event());
        let bytes = head_bytes(&head);
        assert_eq!(decode_run(&bytes).unwrap(), head, "head of seed {seed}");
        let facts = decode_run_facts(&bytes).unwrap();
        assert_eq!((&facts.identity, facts.phase, facts.turns), (&head.identity, head.phase, head.turns));
        assert_eq!((&facts.input, &facts.outcome), (&head.input, &head.outcome));
        assert_eq!(facts.attributes, *head.attributes);
        assert_eq!(decode_turn(&turn_bytes(&segment)).unwrap(), segment, "turn of seed {seed}");
        let bytes = encoded(|out| encode_event(&event, out));
        assert_eq!(decode_event(&bytes).unwrap(), event, "event of seed {seed}");
    }
}

#[test]
fn any_state_of_a_program_comes_back_as_it_was() {
    for seed in 0..1_500 {
        let mut random = Random::new(seed);
        let steps = [Step::Code(Box::new(random.code())), Step::Map(Box::new(random.given_map()))];
        for step in steps {
            let mut head = sample::head();
            let mut line = (*head.lines[0]).clone();
            line.frames.last_mut().unwrap().step = step;
            head.lines = vec![Arc::new(line)];
            assert_eq!(decode_run(&head_bytes(&head)).unwrap(), head, "seed {seed}");
        }
    }
}

#[test]
fn a_read_run_is_written_as_the_same_bytes() {
    for seed in 0..300 {
        let bytes = head_bytes(&Random::new(seed).head());
        let again = head_bytes(&decode_run(&bytes).unwrap());
        assert_eq!(again, bytes, "seed {seed}");
    }
}

#[test]
fn what_a_value_counts_for_is_kept() {
    let head = sample::head();
    assert_eq!(decode_run(&head_bytes(&head)).unwrap().inline(), head.inline());
}

#[test]
fn a_value_that_frames_share_is_written_once_and_shared_again() {
    let mut head = sample::head();
    let value = Data::of(serde_json::Value::String("x".repeat(10_000))).0;
    let mut line = (*head.lines[0]).clone();
    for frame in &mut line.frames {
        (frame.raw, frame.input) = (value.clone(), value.clone());
    }
    line.context = value;
    head.lines = vec![Arc::new(line)];
    let bytes = head_bytes(&head);
    assert!(bytes.len() < 11_000, "{} bytes", bytes.len());
    let read = decode_run(&bytes).unwrap();
    let Data::Inline { value: first, .. } = &read.lines[0].context else { panic!() };
    for frame in &read.lines[0].frames {
        let Data::Inline { value, .. } = &frame.input else { panic!() };
        assert!(Arc::ptr_eq(first, value));
    }
}

#[test]
fn damaged_runs_are_refused_or_read_but_never_end_the_program() {
    let (head, turn) = (head_bytes(&sample::head()), turn_bytes(&sample::segment()));
    let check = |bytes: &[u8]| {
        let errors = [
            decode_run(bytes).err(),
            decode_run_facts(bytes).err(),
            decode_turn(bytes).err(),
            decode_event(bytes).err(),
        ];
        for error in errors.into_iter().flatten() {
            // The number of a version may be what is damaged.
            assert!(matches!(error, Error::Corrupt(_) | Error::TooNew(_)), "{error:?}");
        }
    };
    for whole in [&head, &turn] {
        for length in 0..whole.len() {
            check(&whole[..length]);
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                check(&bytes);
            }
        }
    }
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut bytes = head_bytes(&random.head());
        for _ in 0..8 {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = random.below(256) as u8;
        }
        check(&bytes);
    }
}

#[test]
fn runs_of_a_newer_version_or_layout_are_refused_as_newer() {
    let mut bytes = head_bytes(&sample::head());
    bytes[0] += 1;
    assert!(matches!(decode_run(&bytes), Err(Error::TooNew(_))));
    let newer = Head { version: HEAD_VERSION + 1, ..sample::head() };
    assert!(matches!(decode_run(&head_bytes(&newer)), Err(Error::TooNew(_))));
    let newer = Segment { revision: REVISION + 1, ..sample::segment() };
    assert!(matches!(decode_turn(&turn_bytes(&newer)), Err(Error::TooNew(_))));
    let mut bytes = turn_bytes(&sample::segment());
    bytes[0] += 1;
    assert!(matches!(decode_turn(&bytes), Err(Error::TooNew(_))));
}

#[test]
fn fields_that_a_later_program_added_to_a_run_are_passed_over() {
    // Field 500 in every form that there is.
    let later: [&[u8]; 4] = [
        &[0xA0, 0x1F, 5],
        &[0xA2, 0x1F, 2, b'h', b'i'],
        &[0xA1, 0x1F, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0xA5, 0x1F, 1, 2, 3, 4],
    ];
    for later in later {
        let mut bytes = head_bytes(&sample::head());
        bytes.extend_from_slice(later);
        assert_eq!(decode_run(&bytes).unwrap(), sample::head());
        let mut bytes = turn_bytes(&sample::segment());
        bytes.extend_from_slice(later);
        assert_eq!(decode_turn(&bytes).unwrap(), sample::segment());
    }
}

/// What each layout has written: a name and the bytes in hexadecimal. A file of a released layout never changes.
const FIRST: &str = include_str!("../golden/run1.txt");
/// See [`FIRST`].
const SECOND: &str = include_str!("../golden/run2.txt");
/// See [`FIRST`].
const THIRD: &str = include_str!("../golden/run3.txt");
/// See [`FIRST`].
const FOURTH: &str = include_str!("../golden/run4.txt");

fn golden(file: &str, name: &str) -> Vec<u8> {
    let line = file.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let text = line.unwrap_or_else(|| panic!("no golden bytes of {name}")).as_bytes();
    let digit = |digit: u8| (digit as char).to_digit(16).unwrap() as u8;
    text.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect::<Vec<u8>>()
}

#[test]
fn runs_of_the_first_layout_are_still_read() {
    let golden = |name: &str| golden(FIRST, name);
    assert_eq!(decode_run(&golden("head")).unwrap(), sample::head());
    assert_eq!(decode_run(&golden("full-head")).unwrap(), Random::of_layout(1, 7).head());
    assert_eq!(decode_turn(&golden("turn")).unwrap(), sample::segment());
    assert_eq!(decode_turn(&golden("full-turn")).unwrap(), Random::of_layout(1, 7).segment());
    assert_eq!(decode_event(&golden("event")).unwrap(), sample::segment().event);
}

#[test]
fn runs_of_the_second_layout_are_still_read() {
    let golden = |name: &str| golden(SECOND, name);
    assert_eq!(decode_run(&golden("head")).unwrap(), sample::head());
    assert_eq!(decode_run(&golden("full-head")).unwrap(), Random::of_layout(2, 7).head());
    assert_eq!(decode_turn(&golden("full-turn")).unwrap(), Random::of_layout(2, 7).segment());
    // A program of then has all its turns with it.
    let head = decode_run(&golden("program")).unwrap();
    let Some(Step::Code(code)) = head.lines[0].frames.last().map(|frame| &frame.step) else { panic!("no program") };
    assert_eq!((code.before.as_ref(), &**code), (None, &program()));
    assert_eq!(head.version, HEAD_VERSION);
}

/// A program without pages.
fn program() -> tidewheel_engine::run::code::CodeState {
    tidewheel_engine::run::code::CodeState { before: None, ..Random::of_layout(2, 7).code() }
}

fn program_head(code: tidewheel_engine::run::code::CodeState) -> Head {
    let mut head = sample::head();
    let mut line = (*head.lines[0]).clone();
    line.frames.last_mut().unwrap().step = Step::Code(Box::new(code));
    head.lines = vec![Arc::new(line)];
    head
}

#[test]
fn runs_of_the_third_layout_are_still_read() {
    let golden = |name: &str| golden(THIRD, name);
    assert_eq!(decode_run(&golden("head")).unwrap(), sample::head());
    assert_eq!(decode_run(&golden("full-head")).unwrap(), Random::of_layout(3, 7).head());
    assert_eq!(decode_turn(&golden("turn")).unwrap(), sample::segment());
    assert_eq!(decode_turn(&golden("full-turn")).unwrap(), Random::of_layout(3, 7).segment());
    assert_eq!(decode_run(&golden("program")).unwrap().version, HEAD_VERSION);
    assert_eq!(decode_turn(&golden("page")).unwrap().revision, 5);
}

#[test]
fn pages_of_a_program_are_still_written_and_read() {
    use tidewheel_engine::run::data::BlobHash;
    use tidewheel_engine::run::journal::{Taped, ValueId};
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let page = Data::Ref { hash: BlobHash([7; 32]), size: 70_000, value: None };
    let code = tidewheel_engine::run::code::CodeState { before: Some(page.clone()), ..program() };
    let tape = vec![Taped::Page { page: ValueId(1), first: 300 }, Taped::Full, Taped::Value(ValueId(0))];
    let values = vec![Data::null(), page];
    let segment = Segment { revision: 5, tape, values, ..sample::segment() };
    for (name, bytes) in [("program", head_bytes(&program_head(code.clone()))), ("page", turn_bytes(&segment))] {
        assert_eq!(hex(&bytes), hex(&golden(FOURTH, name)), "{name}");
    }
    assert_eq!(decode_run(&golden(FOURTH, "program")).unwrap(), program_head(code));
    assert_eq!(decode_turn(&golden(FOURTH, "page")).unwrap(), segment);
    // A program that does not know them does not go on without them.
    assert!(segment.revision <= REVISION && program_head(program()).version == HEAD_VERSION);
}

#[test]
fn the_bytes_of_runs_are_still_written_and_read() {
    let golden = |name: &str| golden(FOURTH, name);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let written = [
        ("head", head_bytes(&sample::head())),
        ("full-head", head_bytes(&Random::new(7).head())),
        ("turn", turn_bytes(&sample::segment())),
        ("full-turn", turn_bytes(&Random::new(7).segment())),
        ("event", encoded(|out| encode_event(&sample::segment().event, out))),
        ("reset", encoded(|out| encode_event(&reset(), out))),
    ];
    for (name, bytes) in &written {
        assert_eq!(hex(bytes), hex(&golden(name)), "{name}");
    }
    assert_eq!(decode_run(&golden("head")).unwrap(), sample::head());
    assert_eq!(decode_run(&golden("full-head")).unwrap(), Random::new(7).head());
    assert_eq!(decode_turn(&golden("turn")).unwrap(), sample::segment());
    assert_eq!(decode_turn(&golden("full-turn")).unwrap(), Random::new(7).segment());
    assert_eq!(decode_event(&golden("event")).unwrap(), sample::segment().event);
    assert_eq!(decode_event(&golden("reset")).unwrap(), reset());
}

/// A reset that undoes what was armed since an entry.
fn reset() -> Event {
    let identity = sample::head().identity;
    Event::Reset { key: "/task:/do/1/pay#0".into(), input: None, next_seq: 12, identity, since: Some(7) }
}

#[test]
fn ends_of_items_that_came_together_are_still_written_and_read() {
    use tidewheel_engine::run::act::Outcome;
    let data = |n: u64| Data::of(serde_json::Value::from(n)).0;
    let ended = vec![(0, vec![Outcome::Ok(data(7))]), (3, vec![Outcome::Cancelled, Outcome::Ok(data(8))])];
    let event = Event::Many { entry: 300, ended };
    let bytes = encoded(|out| encode_event(&event, out));
    assert_eq!(decode_event(&bytes).unwrap(), event);
    let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex, MANY, "what was written is read for ever");
}

/// An event as it has been written since revision 2.
const MANY: &str = "01080e10ac02520712050a03010137520b0803120012050a03010138";

#[test]
fn moves_and_what_was_accepted_are_still_written_and_read() {
    let run = RunId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
    let (namespace, name, version) = ("shop".into(), "order".into(), "2.0.0".into());
    let identity = Identity { run, plan: [7; 32], namespace, name, version, parent: None, correlation: None, depth: 0 };
    let moved = Event::Moved { identity: Arc::new(identity), by: "ann".into() };
    for (event, written) in [(moved, MOVED), (Event::Accepted { by: "ann".into() }, ACCEPTED)] {
        let bytes = encoded(|out| encode_event(&event, out));
        assert_eq!(decode_event(&bytes).unwrap(), event);
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex, written, "what was written is read for ever");
    }
}

/// Events as they have been written since revision 4.
const MOVED: &str = "01080f3203616e6e4a480a100102030405060708090a0b0c0d0e0f10122007070707070707070707070707070707070707070707070707070707070707071a0473686f7022056f726465722a05322e302e30";
const ACCEPTED: &str = "0108103203616e6e";

#[test]
fn a_simple_run_is_small() {
    let (head, turn) = (head_bytes(&sample::head()), turn_bytes(&sample::segment()));
    println!("head {} bytes, turn {} bytes", head.len(), turn.len());
    assert!(head.len() < 500 && turn.len() < 250);
    assert_eq!(sample::head().phase, Phase::Running);
}

/// `cargo test --release -p tidewheel-store -- --ignored --nocapture the_codec_of_runs_is_fast`
#[test]
#[ignore = "a measurement"]
fn the_codec_of_runs_is_fast() {
    let (head, segment) = (sample::head(), sample::segment());
    let (rounds, mut out) = (200_000u32, Vec::new());
    let mut time = |what: &str, work: &mut dyn FnMut(&mut Vec<u8>)| {
        let begun = std::time::Instant::now();
        (0..rounds).for_each(|_| work(&mut out));
        println!("{what}: {:?}", begun.elapsed() / rounds);
    };
    let (head_bytes, turn_bytes) = (head_bytes(&head), turn_bytes(&segment));
    time("encode a turn", &mut |out| {
        out.clear();
        encode_turn(&segment, out);
    });
    time("decode a turn", &mut |_| drop(decode_turn(&turn_bytes).unwrap()));
    time("encode a head", &mut |out| {
        out.clear();
        encode_run(&head, out);
    });
    time("decode a head", &mut |_| drop(decode_run(&head_bytes).unwrap()));
}
