//! Programs that never end, or that take all memory: each ends at the same step every time, whatever catches its errors.

use std::time::Instant;

use serde_json::json;
use tidewheel_engine::run::eval::{EvalError, Fuel};

use crate::support::{FULL, SLICE, World, eval_with};

const BOMBS: &[&str] = &[
    "def f: f; f",
    "def f: f, f; [f]",
    "[range(1e9)]",
    "\"x\" * 1e9",
    "[limit(1e9; repeat(1))]",
    "reduce range(1e9) as $i ([]; . + [$i])",
    "reduce range(1e9) as $i (\"\"; . + \"xxxxxxxxxxxxxxxx\")",
    "last(range(1e12))",
    "[recurse(. + 1)]",
    "def f: 1 + f; f",
    "def f: [f]; f",
    "def f: {a: f}; f",
    "def f(g): f(g | g); f(.)",
    "def f: . as $x | f | $x; f",
    "def f: path(f); f",
    "def f: (., .) | f; f",
    "reduce range(1e9) as $i (0; [.])",
    "reduce range(1e9) as $i (0; {a: .})",
    "[range(1e5)] | [paths] | map(. + .) | [paths, paths, paths, paths]",
    "[range(1e5)] | .. |= [., ., .]",
    "def f: (.. |= [., .]) | f; [1] | f",
    "def f: [., .] | f; 1 | f",
    "def f: . + . | f; \"xxxxxxxx\" | f",
    "def f: . + . | f; [1] | f",
    "[1] | .[500000000] = 1 | .[500000001] = 1",
    "path(repeat(.a))",
    "[path(repeat(.a))]",
    "until(false; .)",
    "[while(true; .)]",
    "foreach repeat(1) as $x (0; . + $x; empty)",
    "label $l | repeat(1) | empty",
    "[range(1e6)] | sort | tojson | fromjson | tojson",
    "[range(1e6) | tostring] | join(\",\") | explode | implode",
    "\"a\" * 1e6 | [match(\"a\"; \"g\")]",
    "\"a\" * 1e6 | gsub(\"a\"; \"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\")",
    "\"a\" * 1e6 | [match(\".*[^A-Z]|[A-Z]\"; \"g\")]",
    "\"A\" * 1e6 | [match(\".*[^A-Z]|[A-Z]\"; \"g\")]",
    "\"A\" * 1e6 | gsub(\"[A-Z]*b|A\"; \"\")",
    "\"ab\" * 5e5 | test(\"(a|b)*a(a|b){14}c\")",
    "\"ab\" * 5e5 | [match(\"(a|b)*a(a|b){14}c|a|b\"; \"g\")]",
    "[range(1e5)] | map(. as $x | \"a\" | test(\"\\\\pL{50}\\($x)\"))",
    "\"a\" * 1e6 | test(\"(a*)*(a*)*(a*)*b\")",
    "[range(1e5)] | map(tostring) | map(. as $x | \"a\" | test($x + \"{1,50}\"))",
    "\"aGVsbG8=\" * 1e7 | @base64d | @base64 | @base64",
    "\"\\u0000\" * 1e7 | tojson",
    "[range(1e5)] | [.[] as $x | .[] as $y | $x * $y] | add",
    "[range(1e5)] | . - map(. + 0.5)",
    "[range(3e3)] | [combinations(9)]",
    "first(repeat(empty))",
    "isempty(repeat(empty))",
    "any(repeat(false); .)",
    "[splits(\"\"; \"g\")] | repeat(.)",
    "reduce repeat(1) as $x (0; empty)",
    "getpath([range(1e9)])",
    "{} | reduce range(1e9) as $i (.; .[$i | tostring] = $i)",
    "[range(1e6)] | group_by(. % 2) | map(unique)",
    "def b(f): f; def a: b(a); a",
    "\"x\" | def f: ascii_upcase + . | f; f",
    "[range(1e9; 0; -1)] | tojson",
    "range(0; 1; 0)",
    "[range(0; infinite)]",
    "def f($n): f($n + 1); f(0)",
    "walk(repeat(.))",
    "[limit(1e9; range(0; infinite))] | length",
    "[1, 2] | del(.[repeat(0)])",
    "@text \"\\(repeat(1))\" | empty",
    "def f: try f catch f; f",
    "def f: (f)? // f; f",
    "def f: try error(\"x\") catch f; f",
];

/// The ways to swallow an error.
fn wrapped(bomb: &str) -> Vec<String> {
    vec![
        bomb.to_owned(),
        format!("try ({bomb}) catch 1"),
        format!("({bomb})?"),
        format!("({bomb}) // 1"),
        format!("[.[]?, (try ({bomb}) catch \"caught\")] | length"),
        format!("first(({bomb})?, 1)"),
    ]
}

fn ends(text: &str, fuel: Fuel) -> (Fuel, Result<(), String>) {
    let (used, value) = eval_with(text, &World::of(json!(null)), fuel);
    let ended = match value {
        Err(EvalError::Fuel) => Err("fuel".to_owned()),
        Err(EvalError::Failed(why)) => Err(why),
        Ok(_) => Ok(()),
    };
    (used, ended)
}

/// What a bomb may end with: without fuel, or as too deep, or with an error of its own; never with a value that a handler
/// gave in place of the error.
fn exhausted(ended: &Result<(), String>) -> bool {
    matches!(ended, Err(why) if why == "fuel" || why.contains("recurses too deep"))
}

#[test]
fn the_same_bomb_ends_at_the_same_step_and_no_handler_survives_it() {
    let mut slowest = (0.0, String::new());
    let mut kept = Vec::new();
    for bomb in BOMBS {
        let plain = ends(bomb, SLICE);
        for text in wrapped(bomb) {
            let started = Instant::now();
            let first = ends(&text, SLICE);
            let seconds = started.elapsed().as_secs_f64();
            if seconds > slowest.0 {
                slowest = (seconds, text.clone());
            }
            let second = ends(&text, SLICE);
            assert_eq!(first, second, "{text}: not the same end twice");
            if exhausted(&plain.1) && !exhausted(&first.1) {
                kept.push(format!("{text}: {:?}", first.1));
            }
        }
    }
    println!("{} bombs, slowest of a slice {:.1} ms: {}", BOMBS.len(), slowest.0 * 1000.0, slowest.1);
    assert!(kept.is_empty(), "a handler swallowed the end of {kept:#?}");
}

#[test]
fn every_bomb_ends_with_full_fuel_too() {
    let mut slowest = (0.0, "");
    for bomb in BOMBS {
        let started = Instant::now();
        let (used, ended) = ends(bomb, FULL);
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{:8.1} ms {:>9} steps {:>10} bytes {:<40} {bomb}",
            seconds * 1000.0,
            used.steps,
            used.bytes,
            format!("{ended:?}").chars().take(40).collect::<String>()
        );
        if seconds > slowest.0 {
            slowest = (seconds, bomb);
        }
    }
    println!("slowest with full fuel {:.1} ms: {}", slowest.0 * 1000.0, slowest.1);
}

#[test]
fn a_bomb_needs_no_more_than_a_small_stack() {
    let run = || {
        for bomb in BOMBS {
            let _ = ends(bomb, SLICE);
        }
    };
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(run);
    assert!(thread.expect("a thread").join().is_ok());
}

#[test]
fn text_that_is_nested_without_end_is_refused() {
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("{a:", "}"),
        ("-", ""),
        ("try ", ""),
        ("if ", ""),
        ("\"\\(", ")\""),
        ("def f: ", "; f"),
        (".[", "]"),
        ("1 as [", "]"),
        ("1+", "1"),
        ("1//", "1"),
        (". as $x | ", "1"),
        ("reduce ", ""),
    ] {
        let text = format!(
            "{}1{}",
            open.repeat(20_000.min(60_000 / open.len())),
            close.repeat(20_000.min(60_000 / close.len().max(1)))
        );
        let started = Instant::now();
        let error = tidewheel_lang::expr::Builder::new().expression(&text, &[]);
        assert!(error.is_err(), "{open} nested 20,000 times compiles");
        assert!(started.elapsed().as_secs() < 5);
    }
    let suffixes = ".a?".to_owned() + &".a".repeat(20_000);
    assert!(tidewheel_lang::expr::Builder::new().expression(&suffixes, &[]).is_err());
}
