//! Short cuts give what the machine gives, and both give what jaq, another engine, gives.

use std::time::Instant;

use jaq_core::data::JustLut;
use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Vars, unwrap_valr};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tidewheel_engine::run::eval::{EvalError, Var};
use tidewheel_lang::expr::Builder;

use crate::support::{FULL, SLICE, World, eval_with};

/// Values of a program in jaq, up to its first error.
fn jaq(code: &str, dot: &Json, input: &Json) -> Option<Result<Json, ()>> {
    let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let funs = jaq_core::funs().chain(jaq_std::base_funs()).chain(jaq_json::funs());
    let arena = Arena::default();
    let modules = Loader::new(defs).load(&arena, File { code, path: () }).ok()?;
    let filter = Compiler::default().with_funs(funs).with_global_vars(["$input"]).compile(modules).ok()?;
    let val = |value: &Json| serde_json::from_value::<jaq_json::Val>(value.clone()).ok();
    let ctx = Ctx::<JustLut<jaq_json::Val>>::new(&filter.lut, Vars::new([val(input)?]));
    let mut outputs = filter.id.run((ctx, val(dot)?)).map(unwrap_valr);
    let first = match outputs.next() {
        None => return Some(Ok(Json::Null)),
        Some(first) => first,
    };
    if outputs.next().is_some() {
        return Some(Err(()));
    }
    match first {
        Ok(value) => serde_json::from_str(&value.to_string()).ok().map(Ok),
        Err(_) => Some(Err(())),
    }
}

fn value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        (-5i64..5).prop_map(Json::from),
        (-3i32..3).prop_map(|n| json!(f64::from(n) + 0.5)),
        "[ab]{0,2}".prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map("[abc]", inner, 0..4).prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

fn path() -> impl Strategy<Value = String> {
    let step =
        prop_oneof![Just(".a"), Just(".b"), Just(".c"), Just("[0]"), Just("[-1]"), Just("[\"a\"]"), Just("[1.5]")];
    (prop_oneof![Just(""), Just("$input")], prop::collection::vec(step, 0..4)).prop_map(|(root, steps)| {
        let steps = steps.concat();
        match (root.is_empty(), steps.starts_with('.')) {
            (true, true) => steps,
            (true, false) => format!(".{steps}"),
            (false, _) => format!("{root}{steps}"),
        }
    })
}

fn shape() -> impl Strategy<Value = String> {
    let literal = prop_oneof![
        Just("1"),
        Just("\"a\""),
        Just("null"),
        Just("true"),
        Just("[1, \"a\"]"),
        Just("-0.5"),
        Just("{}"),
        Just("{\"a\": [1]}")
    ];
    let op = prop_oneof![Just("=="), Just("!="), Just("<"), Just("<="), Just(">"), Just(">=")];
    let compare = (path(), op, literal.clone()).prop_map(|(path, op, literal)| format!("{path} {op} {literal}"));
    let one = prop_oneof![4 => path(), 1 => literal.prop_map(str::to_owned), 2 => compare];
    let object = prop::collection::vec(("[abc]", one.clone()), 0..4).prop_map(|entries| {
        let entries: Vec<String> = entries.into_iter().map(|(key, value)| format!("{key}: {value}")).collect();
        format!("{{{}}}", entries.join(", "))
    });
    prop_oneof![one, object]
}

fn general() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        path(),
        Just("1".to_owned()),
        Just("\"ab\"".to_owned()),
        Just(".[]?".to_owned()),
        Just("empty".to_owned()),
        Just("length?".to_owned()),
        Just("keys?".to_owned()),
        Just("add?".to_owned()),
        Just("..".to_owned()),
        Just("type".to_owned()),
        Just("tojson".to_owned())
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            two.clone().prop_map(|(a, b)| format!("({a} | {b})")),
            two.clone().prop_map(|(a, b)| format!("({a}, {b})")),
            two.clone().prop_map(|(a, b)| format!("({a} // {b})")),
            two.clone().prop_map(|(a, b)| format!("({a} and {b})")),
            two.clone().prop_map(|(a, b)| format!("(try {a} catch {b})")),
            two.clone().prop_map(|(a, b)| format!("(if {a} then {b} else . end)")),
            two.clone().prop_map(|(a, b)| format!("({a} as $x | [$x, {b}])")),
            two.clone().prop_map(|(a, b)| format!("(reduce {a} as $x (0; [., $x, {b}]))")),
            two.clone().prop_map(|(a, b)| format!("first({a}, {b})")),
            two.prop_map(|(a, b)| format!("(def f: {a}; f | {b})")),
            inner.clone().prop_map(|a| format!("[{a}]")),
            inner.clone().prop_map(|a| format!("{{k: {a}}}")),
            inner.clone().prop_map(|a| format!("map({a})?")),
            inner.prop_map(|a| format!("([limit(3; {a})] | tojson)")),
        ]
    })
}

/// Both as numbers are compared: 1 and 1.0 are one.
fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => a.as_f64() == b.as_f64(),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_short_cut_gives_what_the_machine_gives(text in shape(), dot in value(), input in value()) {
        let world = World { dot, vars: vec![(Var::Input, input)] };
        let (used, short) = eval_with(&text, &world, SLICE);
        let (again, _) = eval_with(&text, &world, SLICE);
        prop_assert_eq!(used, again);
        // A pipe through `.` has no short cut.
        let (_, long) = eval_with(&format!("{text} | ."), &world, SLICE);
        prop_assert_eq!(&short, &long, "{}", text);
        if let Some(theirs) = jaq(&text, &world.dot, &world.vars[0].1) {
            match (&short, &theirs) {
                (Ok(ours), Ok(theirs)) => prop_assert!(same(ours, theirs), "{}: {} and {}", text, ours, theirs),
                (Err(EvalError::Failed(_)), Err(())) => {}
                // jaq refuses to look into null by a number that is not whole, and gives nothing there.
                _ if text.contains("1.5") => {}
                (ours, theirs) => prop_assert!(false, "{}: {:?} and {:?}", text, ours, theirs),
            }
        }
    }

    #[test]
    fn the_machine_never_panics_and_uses_the_same_fuel_twice(text in general(), dot in value()) {
        let world = World { dot, vars: Vec::new() };
        let one = eval_with(&text, &world, SLICE);
        prop_assert_eq!(one, eval_with(&text, &world, SLICE));
    }

    #[test]
    fn any_text_is_compiled_or_refused(text in "[a-z.$\\[\\](){}|,:;\"\\\\0-9 +*/=<>?@#-]{0,40}") {
        let _ = Builder::new().expression(&text, &[]);
        let _ = Builder::new().template(&json!(format!("x ${{{text}}} y ${{ {text}")), &[]);
        let _ = Builder::new().uri_template(&text, &[]);
    }
}

#[test]
fn the_speed_of_common_expressions_is_printed() {
    let dot = json!({"a": {"b": 5}, "y": "text", "items": [{"p": 1, "q": "x"}, {"p": 2, "q": "y"}, {"p": 3, "q": "z"}], "color": "red"});
    let big: Vec<Json> = (0..1000).map(|n| json!({"id": n, "name": format!("n{n}"), "tags": ["a", "b"]})).collect();
    let world = World { dot, vars: vec![(Var::Context, json!({"big": big, "n": 3})), (Var::Input, json!({"x": 1}))] };
    for text in [
        ".",
        ".a.b",
        "{x: .y}",
        ".color == \"red\"",
        "$input.x",
        "$context.n",
        ".a.b + 1",
        ".a.b > 3 and .color == \"red\"",
        "\"\\(.y)-\\(.a.b)\"",
        "[.items[].p] | add",
        ".items | map(select(.p > 1) | .q)",
        "$context.big[500].id + 1",
        "$context + {error: .y}",
        ".items | length",
        "reduce .items[] as $i (0; . + $i.p)",
        ".a.b |= . + 1",
        "[.items[] | {p, q}]",
        "$context.big | map(.id) | add",
    ] {
        let mut builder = Builder::new();
        let id = builder.expression(text, &[]).expect("an expression");
        let programs = builder.finish();
        let mut fuel = FULL;
        programs.eval(id, &world, &mut fuel).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        let steps = FULL.steps - fuel.steps;
        let rounds = if text.contains("map(.id)") { 50 } else { 2000 };
        let started = Instant::now();
        for _ in 0..rounds {
            programs.eval(id, &world, &mut FULL.clone()).expect("a value");
        }
        println!("{:>9.0} ns {steps:>6} steps  {text}", started.elapsed().as_nanos() as f64 / f64::from(rounds));
    }
}
