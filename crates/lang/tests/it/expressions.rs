//! Expressions, templates and URI templates as a document has them.

use serde_json::{Value as Json, json};
use tidewheel_engine::id::Name;
use tidewheel_engine::run::eval::{EvalError, Fuel, Var};
use tidewheel_lang::expr::{Builder, ExprError, Global};

use crate::support::{SLICE, World, eval, eval_with, refused};

fn template(value: Json, world: &World) -> Result<Json, EvalError> {
    let mut builder = Builder::new();
    let id = builder.template(&value, &[]).unwrap_or_else(|error| panic!("{value}: {error}"));
    builder.finish().eval(id, world, &mut SLICE.clone())
}

fn uri(text: &str, dot: Json) -> Result<Json, EvalError> {
    let mut builder = Builder::new();
    let id = builder.uri_template(text, &[]).unwrap_or_else(|error| panic!("{text}: {error}"));
    builder.finish().eval(id, &World::of(dot), &mut SLICE.clone())
}

#[test]
fn text_is_an_expression_with_and_without_braces() {
    for text in [".a.b", "${ .a.b }", "  ${.a.b}  ", "${ {b: .a.b} | .b }", "${ .a.b # the b\n }"] {
        assert_eq!(eval(text, json!({"a": {"b": 5}})), Ok(json!(5)), "{text}");
    }
}

#[test]
fn an_expression_gives_one_value() {
    assert_eq!(eval("empty", json!(1)), Ok(Json::Null));
    assert_eq!(eval("first(.[])", json!([1, 2])), Ok(json!(1)));
    let Err(EvalError::Failed(why)) = eval(".[]", json!([1, 2])) else { panic!("two values") };
    assert!(why.contains("more than one value") && why.contains("[ ]"), "{why}");
    assert_eq!(eval(".[]", json!([1])), Ok(json!(1)));
}

#[test]
fn a_template_is_the_value_with_its_expressions_evaluated() {
    let world = World::of(json!({"id": 7, "name": "Ada", "tags": ["x"]}));
    let value = json!({"a": "${ .id }", "b": ["${ .name }", "plain", 3], "c": "no ${ .id + 1 } is ${.name}'s, ${ .tags }", "d": {"$": "{ }"}});
    let expected = json!({"a": 7, "b": ["Ada", "plain", 3], "c": "no 8 is Ada's, [\"x\"]", "d": {"$": "{ }"}});
    assert_eq!(template(value, &world), Ok(expected));
    // `.id` without braces is text in a value.
    assert_eq!(template(json!({"a": ".id"}), &world), Ok(json!({"a": ".id"})));
    assert_eq!(template(json!("${ \"}\" + \"\\(.id + 1)\" }"), &world), Ok(json!("}8")));
}

#[test]
fn text_found_in_data_is_never_evaluated() {
    let world = World::of(json!({"evil": "${ .secret }", "secret": 1}));
    assert_eq!(template(json!({"a": "${ .evil }"}), &world), Ok(json!({"a": "${ .secret }"})));
    assert_eq!(template(json!("x ${ .evil }"), &world), Ok(json!("x ${ .secret }")));
}

#[test]
fn a_template_without_expressions_is_a_literal_and_costs_nothing() {
    let mut builder = Builder::new();
    let id = builder.template(&json!({"a": [1, "x"]}), &[]).unwrap();
    assert_eq!(builder.as_literal(id), Some(&json!({"a": [1, "x"]})));
    let mut fuel = Fuel { steps: 0, bytes: 0 };
    assert_eq!(builder.finish().eval(id, &World::of(Json::Null), &mut fuel), Ok(json!({"a": [1, "x"]})));
}

#[test]
fn the_variables_that_are_used_are_known() {
    let mut builder = Builder::new();
    let locals: Vec<Name> = vec!["item".into(), "secrets".into()];
    let id = builder
        .template(&json!({"a": "${ $context.x + $item }", "b": "${ $input | 5 as $output | $output }"}), &locals)
        .unwrap();
    let names: Vec<&str> = builder.uses(id).iter().map(Global::name).collect();
    assert_eq!(names, ["context", "input", "item"]);
    let id = builder.expression("$secrets.token", &[]).unwrap();
    assert_eq!(builder.uses(id), [Global::Secrets]);
    assert!(builder.uses(id)[0].sealed());
    let id = builder.expression("$authorization.scheme", &[]).unwrap();
    assert_eq!(builder.uses(id), [Global::Authorization]);
    // A loop may call its variable so: it is not the secrets then.
    let id = builder.expression("$secrets", &locals).unwrap();
    assert_eq!(builder.uses(id), [Global::Engine(Var::Local("secrets".into()))]);
}

#[test]
fn variables_come_out_of_the_scope() {
    let world =
        World { dot: json!(1), vars: vec![(Var::Context, json!({"n": 2})), (Var::Runtime, json!({"name": "t"}))] };
    let (_, value) = eval_with("[., $context.n, $runtime.name, $input] | tojson", &world, SLICE);
    assert_eq!(value, Ok(json!("[1,2,\"t\",null]")));
}

#[test]
fn a_uri_template_expands_top_level_scalars() {
    let dot = json!({"id": "a b/ü", "n": 5, "yes": true, "none": null, "deep": {"x": 1}});
    assert_eq!(
        uri("https://x.org/{id}/{n}?y={yes}&z={none}{missing}", dot.clone()),
        Ok(json!("https://x.org/a%20b%2F%C3%BC/5?y=true&z="))
    );
    assert_eq!(uri("https://x.org/", dot.clone()), Ok(json!("https://x.org/")));
    assert_eq!(uri("${ \"https://x.org/\\(.n)\" }", dot.clone()), Ok(json!("https://x.org/5")));
    assert!(matches!(uri("https://x.org/{deep}", dot), Err(EvalError::Failed(why)) if why.contains("{deep}")));
    for text in ["https://x.org/{id", "https://x.org/}", "https://x.org/{+id}", "https://x.org/{}"] {
        assert!(Builder::new().uri_template(text, &[]).is_err(), "{text}");
    }
}

fn message(text: &str) -> (usize, String) {
    let ExprError { offset, message, hint, .. } = refused(text);
    (offset, format!("{message} ({})", hint.unwrap_or_default()))
}

#[test]
fn errors_say_where_and_what_to_do() {
    for (text, offset, parts) in [
        ("${ .a + }", 8, vec!["the expression ends here", "a value"]),
        (".a == 'x'", 6, vec!["double quotes"]),
        (".a && .b", 3, vec!["`and`"]),
        (".a = = 1", 5, vec!["`==` compares"]),
        ("{{ .a }}", 1, vec!["`${ }`"]),
        ("lenght", 0, vec!["no function `lenght`", "`length`"]),
        (".a | test()", 10, vec!["a value"]),
        ("split", 0, vec!["does not take 0 arguments", "1 or 2"]),
        ("$foo", 0, vec!["`$foo` is not defined", "$context"]),
        ("$ENV.PATH", 0, vec!["environment"]),
        ("env", 0, vec!["does not exist here", "environment"]),
        ("input", 0, vec!["does not exist here"]),
        ("debug", 0, vec!["does not exist here"]),
        ("halt", 0, vec!["does not exist here", "raise"]),
        ("import \"a\" as a; .", 0, vec!["modules do not exist"]),
        ("a::b", 0, vec!["modules do not exist"]),
        ("", 0, vec!["empty"]),
        ("\"abc", 0, vec!["`\"` that ends it"]),
        ("\"\\q\"", 1, vec!["escape"]),
        ("[1, 2", 5, vec!["`]`"]),
        ("if . then 1", 11, vec!["`end`"]),
        ("@base65", 0, vec!["@base65", "@base64"]),
        ("break $x", 0, vec!["label $x"]),
        ("{(1): 2}", 1, vec!["a key is a string"]),
    ] {
        let (at, said) = message(text);
        for part in parts {
            assert!(said.contains(part), "{text}: {said}");
        }
        assert_eq!(at, offset, "{text}: {said}");
    }
}

#[test]
fn an_error_in_a_template_names_the_place() {
    let error = Builder::new().template(&json!({"a/b": ["x", {"c": "n ${ .x + } y"}]}), &[]).unwrap_err();
    assert_eq!(error.path, "/a~1b/1/c");
    assert_eq!(error.offset, 10);
    assert!(Builder::new().template(&json!("a ${ .x"), &[]).is_err());
}

#[test]
fn what_fails_says_why() {
    for (text, why) in [
        (".a.b", "Cannot index number with string (\"b\")"),
        ("error(\"no stock\")", "no stock"),
        ("error({code: 5})", "{\"code\":5} (not a string)"),
        ("1 / 0", "number (1) and number (0) cannot be divided because the divisor is zero"),
        ("{} + 1", "object ({}) and number (1) cannot be added"),
        ("test(\"(?=a)b\")", "linear in time"),
    ] {
        let dot = if text.starts_with("test") { json!("b") } else { json!({"a": 1}) };
        assert!(matches!(eval(text, dot), Err(EvalError::Failed(said)) if said.contains(why)), "{text}");
    }
}

#[test]
fn now_is_the_time_of_the_turn_and_local_time_is_utc() {
    assert_eq!(eval("now", json!(null)), Ok(json!(1_700_000_000.25)));
    assert_eq!(eval("now | localtime | mktime", json!(null)), Ok(json!(1_700_000_000)));
    assert_eq!(eval("now | todate", json!(null)), Ok(json!("2023-11-14T22:13:20Z")));
    assert_eq!(eval("0 | strflocaltime(\"%H:%M\")", json!(null)), Ok(json!("00:00")));
}

#[test]
fn integers_are_exact_and_what_came_in_goes_out_as_it_was() {
    assert_eq!(eval(". + 1", json!(9_007_199_254_740_993_i64)), Ok(json!(9_007_199_254_740_994_i64)));
    assert_eq!(eval("[.[] | .]", json!([1.0, 1, u64::MAX])), Ok(json!([1.0, 1, u64::MAX])));
    assert_eq!(eval("10 / 4 * 2", json!(null)), Ok(json!(5)));
    assert_eq!(eval(". * 2", json!(i64::MAX)), Ok(json!(i64::MAX as f64 * 2.0)));
}

#[test]
fn a_value_that_could_not_be_stored_is_refused() {
    let text = "reduce range(150) as $i (0; [.])";
    assert!(matches!(eval(text, json!(null)), Err(EvalError::Failed(why)) if why.contains("100 levels")));
    let mut deep = json!(1);
    for _ in 0..110 {
        deep = json!([deep]);
    }
    assert!(matches!(eval(".", deep), Err(EvalError::Failed(why)) if why.contains("100 levels")));
}

#[test]
fn deep_recursion_that_ends_is_computed() {
    assert_eq!(
        eval_with("def f: if . == 0 then 0 else 1 + (. - 1 | f) end; 5000 | f", &World::of(json!(null)), SLICE).1,
        Ok(json!(5000))
    );
    assert_eq!(
        eval_with("10000 | until(. == 0; . - 1)", &World::of(json!(null)), Fuel { steps: 1_000_000, ..SLICE }).1,
        Ok(json!(0))
    );
    assert_eq!(
        eval_with("last(range(100000))", &World::of(json!(null)), Fuel { steps: 10_000_000, ..SLICE }).1,
        Ok(json!(99_999))
    );
}

#[test]
fn the_examples_of_the_reference_give_what_they_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/expressions.md");
    let text = std::fs::read_to_string(path).expect("the reference");
    let block = text.split("```jq\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of examples");
    let mut count = 0;
    for example in block.split("\n\n") {
        let lines: Vec<&str> = example.trim().lines().collect();
        let [code, dot, value] = lines[..] else { panic!("not three lines: {example}") };
        let read = |text: &str| serde_json::from_str::<Json>(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(eval(code, read(dot)), Ok(read(value)), "{code}");
        count += 1;
    }
    assert!(count >= 10);
}
