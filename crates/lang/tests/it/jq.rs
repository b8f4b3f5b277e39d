//! jq's own tests. Values are compared as JSON.

use serde_json::Value as Json;
use tidewheel_engine::run::eval::{EvalError, Fuel};
use tidewheel_lang::expr::Builder;

use crate::support::{World, conformance};

/// Programs whose result differs, each with the reason. A line here that begins to pass fails the test, and so does one
/// that is missing here.
const DIFFERENCES: &str = include_str!("jq_differences.txt");

struct Case {
    line: usize,
    program: String,
    input: String,
    outputs: Vec<String>,
    must_fail: bool,
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut block: Vec<(usize, &str)> = Vec::new();
    for (at, line) in text.lines().chain([""]).enumerate() {
        let blank = line.trim().is_empty();
        if !blank {
            if !line.trim_start().starts_with('#') {
                block.push((at + 1, line));
            }
            continue;
        }
        if block.is_empty() {
            continue;
        }
        let lines = std::mem::take(&mut block);
        if lines[0].1.starts_with("%%FAIL") {
            cases.push(Case {
                line: lines[1].0,
                program: lines[1].1.to_owned(),
                input: String::new(),
                outputs: Vec::new(),
                must_fail: true,
            });
        } else {
            cases.push(Case {
                line: lines[0].0,
                program: lines[0].1.to_owned(),
                input: lines.get(1).map_or("null", |line| line.1).to_owned(),
                outputs: lines.iter().skip(2).map(|line| line.1.to_owned()).collect(),
                must_fail: false,
            });
        }
    }
    cases
}

/// JSON as jq reads it: with not-a-number and numbers that are too large.
fn read(text: &str) -> Result<Json, String> {
    let text = text.trim_start_matches('\u{feff}');
    serde_json::from_str(text).or_else(|error| {
        let text = text.replace("-Infinity", "-1.7976931348623157e308").replace("Infinity", "1.7976931348623157e308");
        let text =
            text.replace("-NaN", "null").replace("NaN", "null").replace(":nan", ":null").replace("[nan", "[null");
        serde_json::from_str(&text).map_err(|_| error.to_string())
    })
}

fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a == b,
            _ => a.as_f64() == b.as_f64(),
        },
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

fn outputs(program: &str, input: Json) -> Result<Vec<Json>, String> {
    let mut builder = Builder::new();
    let id = builder.expression(program, &[]).map_err(|error| format!("does not compile: {error}"))?;
    let programs = builder.finish();
    let mut fuel = Fuel { steps: 50_000_000, bytes: 1 << 30 };
    let mut values = Vec::new();
    match programs.eval_all(id, &World::of(input), &mut fuel, |value| values.push(value)) {
        Ok(()) => Ok(values),
        Err(EvalError::Fuel) => Err("out of fuel".to_owned()),
        Err(EvalError::Failed(why)) => {
            values.push(Json::from(format!("ERROR: {why}")));
            Ok(values)
        }
    }
}

/// `None` = as expected.
fn difference(case: &Case) -> Option<String> {
    if case.must_fail {
        return match Builder::new().expression(&case.program, &[]) {
            Ok(_) => Some("it compiles".to_owned()),
            Err(_) => None,
        };
    }
    let input = match read(&case.input) {
        Ok(input) => input,
        Err(why) => return Some(format!("the input cannot be read: {why}")),
    };
    let got = match outputs(&case.program, input) {
        Ok(got) => got,
        Err(why) => return Some(why),
    };
    // A run of jq's suite ends at an error without complaint, once all expected values have come.
    let values: Vec<&Json> =
        got.iter().filter(|value| !value.as_str().is_some_and(|text| text.starts_with("ERROR: "))).collect();
    let wanted: Result<Vec<Json>, String> = case.outputs.iter().map(|text| read(text)).collect();
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(why) => return Some(format!("the expected value cannot be read: {why}")),
    };
    let fits = values.len() == wanted.len() && values.iter().zip(&wanted).all(|(got, wanted)| same(got, wanted));
    if fits {
        return None;
    }
    Some(format!("gives {}", got.iter().map(Json::to_string).collect::<Vec<_>>().join(" ")))
}

#[test]
fn programs_of_jq_give_what_jq_gives_but_for_the_listed_differences() {
    let Some(folder) = conformance("jq/tests") else { return };
    let text = std::fs::read_to_string(folder.join("jq.test")).expect("jq.test");
    let cases = cases(&text);
    let listed: Vec<(&str, &str)> = DIFFERENCES
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once("  ## ").unwrap_or((line, "")))
        .collect();
    let (mut passed, mut differ, mut wrong) = (0, 0, Vec::new());
    let mut seen = vec![false; listed.len()];
    for case in &cases {
        let known = listed.iter().position(|(program, _)| *program == case.program);
        if let Some(known) = known {
            seen[known] = true;
        }
        match (difference(case), known) {
            (None, None) => passed += 1,
            (Some(_), Some(_)) => differ += 1,
            // The same program may stand twice in the suite, with different inputs.
            (None, Some(_)) if cases.iter().filter(|other| other.program == case.program).count() > 1 => passed += 1,
            (None, Some(_)) => {
                wrong.push(format!("line {}: {} passes now: take it off the list", case.line, case.program))
            }
            (Some(why), None) => wrong.push(format!(
                "line {}: {}\n      {why}\n      wanted {}",
                case.line,
                case.program,
                case.outputs.join(" ")
            )),
        }
    }
    for (at, (program, why)) in listed.iter().enumerate() {
        if !seen[at] {
            wrong.push(format!("{program} is listed but not in the suite"));
        }
        if why.is_empty() {
            wrong.push(format!("{program} is listed without a reason"));
        }
    }
    let failing = cases.iter().filter(|case| case.must_fail).count();
    println!(
        "jq: {} programs, {failing} that must not compile: {passed} passed, {differ} known differences",
        cases.len()
    );
    assert!(wrong.is_empty(), "{} unexpected:\n{}", wrong.len(), wrong.join("\n"));
}
