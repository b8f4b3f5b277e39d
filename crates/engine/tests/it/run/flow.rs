//! Statements one after another, and the data that flow through them.

use serde_json::json;
use tidewheel_engine::run::eval::Var;
use tidewheel_engine::run::head::Phase;
use tidewheel_engine::run::plan::{Case, Extension, Flow, Kind};

use super::kit::{Flowchart, S, World, local, run};

#[test]
fn statements_follow_each_other_and_the_last_output_is_the_runs() {
    let world = run(&[S::push("red"), S::push("green"), S::push("blue")], json!(null));
    assert_eq!(world.output(), json!(["red", "green", "blue"]));
    assert_eq!(world.segments.len(), 1, "one turn");
    assert_eq!(world.keys()[1], "/set:/do/0/step#0");
}

#[test]
fn a_workflow_without_statements_gives_its_input() {
    assert_eq!(run(&[], json!({"a": 1})).output(), json!({"a": 1}));
}

#[test]
fn then_goes_forward_backward_out_and_to_the_end() {
    let world = run(
        &[
            S::push("red").then(Flow::To(2)),
            S::push("blue").then(Flow::End),
            S::push("green").then(Flow::To(1)),
            S::push("no"),
        ],
        json!(null),
    );
    assert_eq!(world.output(), json!(["red", "green", "blue"]));
    let inner = S::Do(vec![S::push("a").then(Flow::Exit), S::push("never")]);
    assert_eq!(run(&[inner, S::push("b")], json!(null)).output(), json!(["a", "b"]));
    let deep = S::Do(vec![S::Do(vec![S::push("a").then(Flow::End)]), S::push("never")]);
    assert_eq!(run(&[deep, S::push("never")], json!(null)).output(), json!(["a"]));
}

#[test]
fn going_back_in_a_list_gives_new_keys() {
    let again = S::kind(|chart, _| {
        let when = chart.expr(|scope| json!(scope.dot().as_array().map_or(0, Vec::len) < 3));
        Kind::Switch(vec![Case { name: "again".into(), when: Some(when), then: Flow::To(0) }])
    });
    let world = run(&[S::Do(vec![S::push("x")]), again], json!(null));
    assert_eq!(world.output(), json!(["x", "x", "x"]));
    assert!(world.keys().contains(&"/r2@2/set:/do/0/step/do/0/step#0".to_owned()), "{:?}", world.keys());
}

#[test]
fn a_switch_takes_the_first_case_that_holds_and_gives_its_input() {
    let switch = |color: &'static str| {
        let switch = S::kind(move |chart, _| {
            let is = |chart: &mut Flowchart, wanted: &'static str| {
                chart.expr(move |scope| json!(scope.dot()["color"] == wanted))
            };
            let (red, blue) = (is(chart, "red"), is(chart, "blue"));
            Kind::Switch(vec![
                Case { name: "red".into(), when: Some(red), then: Flow::To(1) },
                Case { name: "blue".into(), when: Some(blue), then: Flow::To(2) },
            ])
        })
        .then(Flow::End);
        let set = |text: &str| S::Lit(json!(text)).then(Flow::End);
        run(&[switch, set("was red"), set("was blue")], json!({"color": color})).output()
    };
    assert_eq!(switch("red"), json!("was red"));
    assert_eq!(switch("blue"), json!("was blue"));
    assert_eq!(switch("pink"), json!({"color": "pink"}));
}

#[test]
fn a_loop_hands_its_output_on_and_names_item_and_index() {
    let body = S::eval(|scope| {
        let mut list = scope.dot().as_array().cloned().unwrap_or_default();
        list.push(json!([local(scope, "item"), local(scope, "index")]));
        list.into()
    });
    let world = run(&[S::For(json!(["a", "b"]), vec![body])], json!([]));
    assert_eq!(world.output(), json!([["a", 0], ["b", 1]]));
    assert!(world.keys().contains(&"/i1/set:/do/0/step/do/0/step#0".to_owned()), "{:?}", world.keys());
    assert_eq!(run(&[S::For(json!([]), vec![S::push("x")])], json!(7)).output(), json!(7));
    assert_eq!(run(&[S::For(json!([1, 2, 3]), vec![])], json!(7)).output(), json!(7));
}

#[test]
fn while_is_looked_at_before_each_iteration() {
    let looped = S::For(json!([1, 2, 3, 4]), vec![S::push("x")]).with(|chart, node| {
        let enough = chart.expr(|scope| json!(scope.dot().as_array().map_or(0, Vec::len) < 2));
        if let Kind::For { condition, .. } = &mut node.kind {
            *condition = Some(enough);
        }
    });
    assert_eq!(run(std::slice::from_ref(&looped), json!([])).output(), json!(["x", "x"]));
    assert_eq!(run(&[looped], json!([1, 2, 3])).output(), json!([1, 2, 3]));
}

#[test]
fn what_is_skipped_passes_its_raw_input_on_and_says_nothing_of_what_follows() {
    let skipped = S::Lit(json!("no")).then(Flow::End).with(|chart, node| {
        node.condition = Some(chart.expr(|scope| scope.dot()["go"].clone()));
        node.input.from = Some(chart.lit(json!("not this")));
    });
    let world = run(&[skipped, S::eval(|scope| json!([scope.dot().into_owned()]))], json!({"go": false}));
    assert_eq!(world.output(), json!([{"go": false}]));
}

#[test]
fn data_flow_in_the_order_of_the_standard() {
    let statement = S::eval(
        |scope| json!({"dot": scope.dot().into_owned(), "in": scope.var(&Var::Input).into_owned()}),
    )
    .with(|chart, node| {
        node.input.schema = Some(chart.schema(|value| value["raw"] == 1));
        node.input.from = Some(chart.expr(|scope| scope.dot()["raw"].clone()));
        node.output.output_as =
            Some(chart.expr(|scope| json!([scope.dot().into_owned(), scope.var(&Var::Input).into_owned()])));
        node.output.output_schema = Some(chart.schema(|value| value[1] == 1));
        node.output.export_as = Some(
            chart.expr(|scope| json!({"dot": scope.dot().into_owned(), "out": scope.var(&Var::Output).into_owned()})),
        );
        node.output.export_schema = Some(chart.schema(|value| value["dot"] == value["out"]));
    });
    let world = run(&[statement, S::eval(|scope| scope.var(&Var::Context).into_owned())], json!({"raw": 1}));
    let transformed = json!([{"dot": 1, "in": 1}, 1]);
    assert_eq!(world.output(), json!({"dot": transformed, "out": transformed}));
}

#[test]
fn the_runs_own_way_in_and_out() {
    let mut chart = Flowchart::of(&[S::eval(|scope| json!({"x": scope.dot().into_owned()}))]);
    chart.plan.input.schema = Some(chart.schema(|value| value["n"].is_number()));
    chart.plan.input.from = Some(chart.expr(|scope| scope.dot()["n"].clone()));
    chart.plan.output.output_as = Some(chart.expr(|scope| scope.dot()["x"].clone()));
    assert_eq!(World::started(chart, json!({"n": 5})).output(), json!(5));
}

#[test]
fn an_input_that_does_not_fit_faults_the_run() {
    let mut chart = Flowchart::of(&[S::push("x")]);
    chart.plan.input.schema = Some(chart.schema(|_| false));
    let world = World::started(chart, json!(1));
    assert_eq!(world.error()["status"], 400);
    assert!(world.error()["type"].as_str().is_some_and(|kind| kind.ends_with("/errors/validation")));
    assert!(world.error()["detail"].as_str().is_some_and(|detail| detail.contains("/x: does not fit")));
}

#[test]
fn task_and_workflow_are_there_for_expressions() {
    let see = S::eval(|scope| {
        let (task, workflow) = (scope.var(&Var::Task), scope.var(&Var::Workflow));
        json!([
            task["name"],
            task["reference"],
            task["definition"],
            task["input"],
            workflow["input"],
            workflow["id"],
            workflow["startedAt"]["iso8601"],
            scope.var(&Var::Runtime)["name"]
        ])
    });
    let world = run(&[see.named("look")], json!({"a": 1}));
    let id = "00000000-0000-0000-0000-00000000004d";
    let reference = "/do/0/look";
    assert_eq!(
        world.output(),
        json!(["look", reference, {"of": reference}, {"a": 1}, {"a": 1}, id, "1970-01-01T00:00:01.000Z", "tidewheel"])
    );
}

#[test]
fn extensions_wrap_a_statement_and_leave_its_data_alone() {
    let mark = |what: &'static str| S::Emit(json!({"type": what}));
    let wrapped = S::push("body").with(move |chart, node| {
        for name in ["outer", "inner"] {
            let before = chart.list(
                &[mark(if name == "outer" { "outer before" } else { "inner before" })],
                &format!("/use/{name}/b"),
            );
            let after = chart
                .list(&[mark(if name == "outer" { "outer after" } else { "inner after" })], &format!("/use/{name}/a"));
            node.extensions.push(Extension { when: None, before: Some(before), after: Some(after) });
        }
    });
    let world = run(&[wrapped], json!([]));
    assert_eq!(world.output(), json!(["body"]));
    let types: Vec<_> = world.emitted.iter().map(|event| event["type"].as_str().unwrap_or_default()).collect();
    assert_eq!(types, ["outer before", "inner before", "inner after", "outer after"]);
}

#[test]
fn exit_before_a_statement_stands_in_for_it() {
    let mocked = S::Task("real").with(|chart, node| {
        let before = chart.list(&[S::Lit(json!({"mock": 1})).then(Flow::Exit)], "/use/mock/b");
        node.extensions.push(Extension { when: None, before: Some(before), after: None });
        node.output.output_as = Some(chart.expr(|scope| scope.dot()["mock"].clone()));
    });
    assert_eq!(run(&[mocked], json!(null)).output(), json!(1));
}

#[test]
fn a_function_sees_its_arguments_and_nothing_of_the_loop_around_it() {
    let call = S::kind(|chart, _| {
        let list = chart.list(
            &[S::eval(|scope| {
                json!([scope.dot().into_owned(), scope.var(&Var::Input).into_owned(), local(scope, "item")])
            })],
            "/use/functions/f",
        );
        let body = chart.plan.list(list)[0];
        Kind::Function { with: chart.expr(|scope| json!({"arg": local(scope, "item")})), schema: None, body }
    });
    let world = run(&[S::For(json!([1, 2]), vec![call])], json!(null));
    assert_eq!(world.output(), json!([{"arg": 2}, {"arg": 2}, null]));
}

#[test]
fn a_run_waits_for_its_task_and_goes_on_with_its_result() {
    let mut world = run(&[S::Task("a"), S::push("after")], json!(["in"]));
    assert_eq!(world.head.phase, Phase::Running);
    assert!(world.finished.is_none());
    world.complete("a", json!(["out"]));
    assert_eq!(world.output(), json!(["out", "after"]));
}

#[test]
fn an_emitted_event_is_a_whole_cloud_event() {
    let world = run(&[S::Emit(json!({"type": "com.x", "data": {"a": 1}, "shop": "7"}))], json!(null));
    let event = world.output();
    assert_eq!(event, world.emitted[0]);
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["source"], "/workflows/test/flow");
    assert_eq!(event["time"], "1970-01-01T00:00:01.000Z");
    assert_eq!(event["shop"], "7");
    assert!(event["id"].is_string());
}

#[test]
fn search_attributes_follow_the_context() {
    let mut chart = Flowchart::of(&[S::Lit(json!(1)).with(|chart, node| {
        node.output.export_as = Some(chart.lit(json!({"state": "half"})));
    })]);
    let expr = chart.expr(|scope| scope.dot()["state"].clone());
    chart.plan.attributes.push(("state".into(), expr));
    let world = World::started(chart, json!(null));
    assert_eq!(*world.head.attributes, vec![("state".into(), json!("half"))]);
}
