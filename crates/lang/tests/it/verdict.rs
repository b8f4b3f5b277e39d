//! The verdict of the checker equals that of the official schema of the edition.

use serde_json::{Value as Json, json};
use tidewheel_engine::run::plan::Profile;
use tidewheel_lang::check::check;
use tidewheel_lang::feature::Features;
use tidewheel_lang::fmt::format;
use tidewheel_lang::lint::lint;
use tidewheel_lang::resolve::Options;
use tidewheel_lang::text::Tree;

use crate::suite::Peers;
use crate::suite::{files, folder};

struct Official {
    profile: Profile,
    schema: jsonschema::Validator,
}

fn official(version: &str, profile: Profile) -> Option<Official> {
    let folder = folder(&format!("ows/{version}/schema"))?;
    let text = std::fs::read_to_string(folder.join("workflow.yaml")).unwrap();
    let tree = Tree::parse(text.as_bytes()).unwrap();
    let schema = jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .should_validate_formats(true)
        .build(&tree.json(tree.root()))
        .unwrap();
    Some(Official { profile, schema })
}

fn verdict(document: &Json, profile: Profile) -> (bool, String) {
    let text = document.to_string();
    let tree = Tree::parse(text.as_bytes()).unwrap();
    let (model, found) = check(&tree, Some(profile));
    (model.is_some(), found.iter().map(|one| format!("{} {} {one}; ", one.code, one.pointer)).collect())
}

fn compare(official: &Official, name: &str, document: &Json, wrong: &mut Vec<String>) {
    let expected = official.schema.is_valid(document);
    let (given, found) = verdict(document, official.profile);
    if expected != given {
        let reason = official.schema.iter_errors(document).next().map(|error| error.to_string()).unwrap_or_default();
        let reason: String = reason.chars().take(300).collect();
        wrong.push(format!(
            "{name} ({:?}): the schema says {expected}, the checker {given}: {found}\n    {reason}",
            official.profile
        ));
    }
}

fn documents() -> Vec<(String, Json)> {
    let mut all = Vec::new();
    for version in ["v1.0.3", "main"] {
        for part in ["examples", "reference-blocks", "invalid"] {
            let Some(folder) = folder(&format!("ows/{version}/{part}")) else { return all };
            for (name, text) in files(&folder, "yaml") {
                if let Ok(tree) = Tree::parse(text.as_bytes()) {
                    all.push((format!("{version}/{part}/{name}"), tree.json(tree.root())));
                }
            }
        }
    }
    all
}

fn editions() -> Vec<Official> {
    [("v1.0.3", Profile::V1_0_3), ("main", Profile::Next)]
        .into_iter()
        .filter_map(|(version, profile)| official(version, profile))
        .collect()
}

/// How many verdicts were compared, all of them equal; `None` = there are no data.
pub(crate) fn documents_compared() -> Option<usize> {
    let mut wrong = Vec::new();
    let mut count = 0;
    for official in editions() {
        for (name, document) in documents() {
            compare(&official, &name, &document, &mut wrong);
            count += 1;
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    (count > 0).then_some(count)
}

#[test]
fn the_verdict_on_every_document_is_that_of_the_schema() {
    documents_compared();
}

#[test]
fn the_verdict_on_mutations_of_every_document_is_that_of_the_schema() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for official in editions() {
        let mut seen = std::collections::BTreeSet::new();
        for (name, document) in documents() {
            let mut paths = Vec::new();
            collect(&document, String::new(), &mut paths);
            for path in paths {
                for (what, mutated) in mutations(&document, &path) {
                    // Mutations of the head are the same for all documents.
                    if path.starts_with("/document") && !seen.insert(format!("{path} {what}")) {
                        continue;
                    }
                    count += 1;
                    compare(&official, &format!("{name} {what} {path}"), &mutated, &mut wrong);
                    // What the schema lets through must not make the compiler, the linter or the formatter panic.
                    if count % 97 == 0 {
                        let text = mutated.to_string();
                        let options = Options { profile: Some(official.profile), features: Features::all() };
                        let _ = lint(text.as_bytes(), options, &Peers);
                        let _ = format(format!("# yaml\n{text}").as_bytes());
                    }
                }
            }
        }
    }
    eprintln!("{count} mutations compared");
    let shown: Vec<String> = wrong.iter().take(25).cloned().collect();
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), shown.join("\n"));
}

fn collect(value: &Json, path: String, into: &mut Vec<String>) {
    into.push(path.clone());
    match value {
        Json::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, format!("{path}/{index}"), into);
            }
        }
        Json::Object(fields) => {
            for (key, item) in fields {
                collect(item, format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), into);
            }
        }
        _ => {}
    }
}

fn mutations(document: &Json, path: &str) -> Vec<(String, Json)> {
    let mut all = Vec::new();
    let mut with = |what: &str, change: &dyn Fn(&mut Json)| {
        let mut copy = document.clone();
        change(copy.pointer_mut(path).unwrap());
        if copy != *document {
            all.push((what.to_string(), copy));
        }
    };
    let replacements = [
        json!(null),
        json!(true),
        json!(7),
        json!(7.5),
        json!("some-text"),
        json!("${ .x }"),
        json!("https://x.y/{z}"),
        json!("PT5M"),
        json!(""),
        json!([]),
        json!({}),
        json!(["a"]),
        json!([{"a": 1}]),
        json!({"use": "a"}),
        json!({"seconds": 1}),
        json!([{"a": {"set": "x"}}]),
        json!({"after": "PT1S"}),
    ];
    for replacement in replacements {
        with(&format!("replaced by {replacement} at"), &|value| *value = replacement.clone());
    }
    if let Some(fields) = document.pointer(path).and_then(Json::as_object) {
        for key in fields.keys() {
            with(&format!("without {key} at"), &|value| {
                value.as_object_mut().unwrap().shift_remove(key);
            });
        }
        for (key, value) in [
            ("extra", json!(1)),
            ("then", json!("exit")),
            ("until", json!("x")),
            ("do", json!([])),
            ("with", json!({})),
            ("read", json!("data")),
            ("set", json!({"a": 1})),
            ("use", json!("x")),
            ("output", json!({"as": "."})),
            ("detail", json!("x")),
            ("metadata", json!({})),
            ("after", json!({"days": 2})),
            ("endpoints", json!({})),
        ] {
            if !fields.contains_key(key) {
                with(&format!("with {key} at"), &|target| {
                    target.as_object_mut().unwrap().insert(key.to_string(), value.clone());
                });
            }
        }
    }
    all
}
