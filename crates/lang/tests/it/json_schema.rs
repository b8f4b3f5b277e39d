//! The JSON Schema suite, draft 2020-12, and what the suite does not ask for: no network, bounded cost.

use serde_json::{Value as Json, json};
use tidewheel_engine::run::eval::{EvalError, Fuel};
use tidewheel_lang::schema::{Resources, Schema};

use crate::support::{FULL, SLICE, conformance};

fn remotes(folder: &std::path::Path, uri: &str, into: &mut Resources) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if path.is_dir() {
            remotes(&path, &format!("{uri}{name}/"), into);
        } else if name.ends_with(".json") {
            let text = std::fs::read_to_string(&path).expect("a file");
            into.insert(format!("{uri}{name}"), serde_json::from_str(&text).expect("JSON"));
        }
    }
}

#[test]
fn every_required_test_of_the_schema_suite_passes() {
    let Some(folder) = conformance("json-schema") else { return };
    let mut all = Resources::new();
    for name in ["remotes"] {
        let here = folder.join(name);
        // Other drafts lie beside; only what ours may refer to is read.
        for entry in std::fs::read_dir(&here).expect("remotes").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let other = name.starts_with("draft") && name != "draft2020-12" || name == "v1";
            if entry.path().is_dir() && !other {
                remotes(&entry.path(), &format!("http://localhost:1234/{name}/"), &mut all);
            } else if name.ends_with(".json") {
                let text = std::fs::read_to_string(entry.path()).expect("a file");
                all.insert(format!("http://localhost:1234/{name}"), serde_json::from_str(&text).expect("JSON"));
            }
        }
    }
    let (mut files, mut groups, mut tests, mut wrong) = (0, 0, 0, Vec::new());
    let mut most = 0;
    let mut paths: Vec<_> =
        std::fs::read_dir(folder.join("tests/draft2020-12")).expect("tests").flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "json")) {
        files += 1;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let document: Json = serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON");
        for group in document.as_array().expect("groups") {
            groups += 1;
            let label = format!("{name}: {}", group["description"]);
            let schema = match Schema::compile(&group["schema"], &all) {
                Ok(schema) => schema,
                Err(error) => {
                    tests += group["tests"].as_array().map_or(0, Vec::len);
                    wrong.push(format!("{label}: {error}"));
                    continue;
                }
            };
            for test in group["tests"].as_array().expect("tests") {
                tests += 1;
                let mut fuel = FULL;
                let valid = schema.check(&test["data"], &mut fuel).map(|violations| violations.is_empty());
                most = most.max(FULL.steps - fuel.steps);
                if valid != Ok(test["valid"] == true) {
                    wrong.push(format!("{label}: {}: {valid:?}", test["description"]));
                }
            }
        }
    }
    println!(
        "JSON Schema: {files} files, {groups} groups, {tests} tests, {} wrong; most steps of a test {most}",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_reference_to_another_host_is_refused_and_named() {
    let error = Schema::compile(&json!({"$ref": "https://example.com/order.json"}), &Resources::new()).unwrap_err();
    assert!(error.message.contains("https://example.com/order.json"), "{error}");
    assert!(error.message.contains("never fetched"), "{error}");
}

#[test]
fn a_document_among_the_resources_may_be_referred_to() {
    let mut resources = Resources::new();
    resources.insert("https://example.com/order.json", json!({"type": "object", "required": ["id"]}));
    let schema = Schema::compile(&json!({"$ref": "https://example.com/order.json"}), &resources).unwrap();
    let violations = schema.check(&json!({}), &mut SLICE.clone()).unwrap();
    assert_eq!(violations.len(), 1);
    assert!(violations[0].message.contains("id"), "{violations:?}");
}

#[test]
fn violations_are_at_most_sixteen_and_say_where() {
    let schema = Schema::compile(&json!({"items": {"type": "integer"}}), &Resources::new()).unwrap();
    let violations = schema.check(&json!(vec!["x"; 100]), &mut SLICE.clone()).unwrap();
    assert_eq!(violations.len(), 16);
    assert_eq!(violations[0].path, "/0");
}

#[test]
fn a_schema_that_branches_into_itself_runs_out_of_fuel_at_once() {
    let schema = json!({"anyOf": [
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["b"]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["c"]}
    ]});
    let schema = Schema::compile(&schema, &Resources::new()).unwrap();
    let mut value = json!(1);
    for _ in 0..100 {
        value = json!({"a": value});
    }
    let started = std::time::Instant::now();
    let mut fuel = FULL;
    assert_eq!(schema.check(&value, &mut fuel), Err(EvalError::Fuel));
    assert_eq!(fuel.steps, 0);
    assert!(started.elapsed().as_millis() < 1000);
    // A value that is not so deep is checked.
    assert_eq!(schema.check(&json!({"a": {"b": 1}, "b": 2}), &mut SLICE.clone()), Ok(Vec::new()));
}

#[test]
fn a_schema_that_refers_to_itself_in_a_loop_is_refused() {
    for schema in [
        json!({"$ref": "#"}),
        json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}),
    ] {
        let error = Schema::compile(&schema, &Resources::new()).unwrap_err();
        assert!(error.message.contains("never end"), "{error}");
    }
}

#[test]
fn expressions_that_are_not_linear_in_time_are_refused_in_a_pattern() {
    for pattern in ["(?=x)y", "(a)\\1"] {
        assert!(Schema::compile(&json!({"pattern": pattern}), &Resources::new()).is_err(), "{pattern}");
    }
    let schema = Schema::compile(&json!({"pattern": "^(a*)*b$"}), &Resources::new()).unwrap();
    let started = std::time::Instant::now();
    assert_eq!(schema.check(&json!("a".repeat(100_000)), &mut FULL.clone()).unwrap().len(), 1);
    assert!(started.elapsed().as_millis() < 2000);
}

#[test]
fn schemas_that_are_too_large_or_too_deep_are_refused() {
    let large: Vec<Json> = (0..60_000).map(Json::from).collect();
    assert!(Schema::compile(&json!({"enum": large}), &Resources::new()).is_err());
    let mut deep = json!({});
    for _ in 0..200 {
        deep = json!({"not": deep});
    }
    assert!(Schema::compile(&deep, &Resources::new()).is_err());
    assert!(Schema::compile(&json!("x"), &Resources::new()).is_err());
    assert!(Schema::compile(&json!({"type": "strnig"}), &Resources::new()).is_err());
}

#[test]
fn a_check_without_fuel_says_so() {
    let schema = Schema::compile(&json!({"type": "array"}), &Resources::new()).unwrap();
    let value = json!(vec![0; 10_000]);
    assert_eq!(schema.check(&value, &mut Fuel { steps: 100, bytes: 100 }), Err(EvalError::Fuel));
    let (mut one, mut two) = (SLICE, SLICE);
    assert_eq!(schema.check(&value, &mut one), schema.check(&value, &mut two));
    assert_eq!(one, two);
}
