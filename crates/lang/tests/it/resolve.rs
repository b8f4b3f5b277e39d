//! What a deploy fetches, keeps and refuses.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::json;
use tidewheel_engine::run::eval::{Compiler, Definition};
use tidewheel_engine::run::plan::Kind;
use tidewheel_lang::compile::Language;
use tidewheel_lang::feature::Features;
use tidewheel_lang::resolve::{Options, Request, Resolver, deploy};

use crate::compile::fuel;

const HEAD: &str = "document: { dsl: '1.0.3', namespace: test, name: flow, version: '1.0.0' }\n";

/// Serves texts, and remembers what was asked for.
#[derive(Default)]
struct Peers {
    texts: BTreeMap<&'static str, &'static str>,
    asked: RefCell<Vec<Request>>,
}

impl Peers {
    fn of(texts: &[(&'static str, &'static str)]) -> Peers {
        Peers { texts: texts.iter().copied().collect(), asked: RefCell::default() }
    }
}

impl Resolver for Peers {
    fn fetch(&self, request: &Request) -> Result<Vec<u8>, String> {
        self.asked.borrow_mut().push(request.clone());
        self.texts.get(&*request.uri).map(|text| text.as_bytes().to_vec()).ok_or_else(|| "404".to_string())
    }
}

fn options() -> Options {
    Options { profile: None, features: Features::all() }
}

#[test]
fn functions_of_catalogs_and_urls_are_fetched_once_and_kept_with_what_they_call_themselves() {
    let peers = Peers::of(&[
        (
            "https://raw.githubusercontent.com/acme/catalog/main/functions/greet/1.0.0/function.yaml",
            "call: https://acme.example/inner.yaml\n",
        ),
        ("https://acme.example/inner.yaml", "set: { hello: '${ .name }' }\n"),
    ]);
    let text = format!(
        "{HEAD}use: {{ catalogs: {{ acme: {{ endpoint: {{ uri: https://github.com/acme/catalog, authentication: {{ bearer: {{ token: t }} }} }} }} }} }}\ndo:\n  - a: {{ call: greet:1.0.0@acme, with: {{ name: x }} }}\n  - b: {{ call: greet:1.0.0@acme, with: {{ name: y }} }}\n"
    );
    let (resolved, compiled) = deploy(text.as_bytes(), options(), &peers).workflow.unwrap();
    assert_eq!(peers.asked.borrow().len(), 2);
    assert_eq!(peers.asked.borrow()[0].authentication, Some(json!({"bearer": {"token": "t"}})));
    assert!(compiled.plan().find("/use/functions/greet:1.0.0@acme").is_some());
    // The stored form needs nobody; the author's document is shown without what was fetched.
    let again = Language.compile(&resolved.bytes).unwrap();
    assert_eq!(again.plan(), compiled.plan());
    let shown = again.eval(again.plan().definition, &crate::compile::Dot(json!(null)), &mut fuel()).unwrap();
    assert_eq!(shown["use"].get("functions"), None);
}

#[test]
fn schemas_are_fetched_with_what_they_refer_to() {
    let peers = Peers::of(&[
        (
            "https://acme.example/order.json",
            r#"{"type": "object", "properties": {"item": {"$ref": "https://acme.example/item.json#/$defs/name"}}}"#,
        ),
        ("https://acme.example/item.json", r#"{"$defs": {"name": {"type": "string"}}}"#),
    ]);
    let text = format!(
        "{HEAD}input: {{ schema: {{ resource: {{ endpoint: https://acme.example/order.json }} }} }}\ndo:\n  - a: {{ set: {{ x: 1 }} }}\n"
    );
    let (resolved, _) = deploy(text.as_bytes(), options(), &peers).workflow.unwrap();
    let compiled = Language.compile(&resolved.bytes).unwrap();
    let schema = compiled.plan().input.schema.unwrap();
    assert!(compiled.check(schema, &json!({"item": "x"}), &mut fuel()).unwrap().is_empty());
    assert_eq!(compiled.check(schema, &json!({"item": 1}), &mut fuel()).unwrap().len(), 1);
}

#[test]
fn the_code_of_a_script_is_put_in_place_of_its_address() {
    let peers = Peers::of(&[("https://acme.example/x.py", "print(1)\n")]);
    let text = format!(
        "{HEAD}do:\n  - a: {{ run: {{ script: {{ language: python, source: {{ endpoint: https://acme.example/x.py }} }} }} }}\n"
    );
    let (_, compiled) = deploy(text.as_bytes(), options(), &peers).workflow.unwrap();
    let Kind::Call { with, .. } = compiled.plan().nodes[0].kind else { panic!() };
    let value = compiled.eval(with, &crate::compile::Dot(json!({})), &mut fuel()).unwrap();
    assert_eq!(value["code"], "print(1)\n");
    assert_eq!(value["return"], "stdout");
}

#[test]
fn what_cannot_be_fetched_is_an_error_at_its_place() {
    let text = format!("{HEAD}do:\n  - a: {{ call: https://acme.example/none.yaml }}\n");
    let found = deploy(text.as_bytes(), options(), &Peers::default()).diagnostics;
    assert_eq!((found[0].code, found[0].span.start.line, found[0].span.start.column), ("not-fetched", 3, 16));
    assert_eq!(found[0].message, "`https://acme.example/none.yaml` could not be fetched: 404");
    let text = format!(
        "{HEAD}input: {{ schema: {{ resource: {{ endpoint: '${{ $workflow.id }}' }} }} }}\ndo:\n  - a: {{ set: {{ x: 1 }} }}\n"
    );
    let found = deploy(text.as_bytes(), options(), &Peers::default()).diagnostics;
    assert!(found[0].message.contains("has to be a plain URI"), "{found:?}");
}

#[test]
fn a_fetched_function_that_is_none_is_reported_where_it_is_called() {
    let peers = Peers::of(&[("https://acme.example/bad.yaml", "cal: http\n")]);
    let text = format!("{HEAD}do:\n  - a: {{ call: https://acme.example/bad.yaml }}\n");
    let found = deploy(text.as_bytes(), options(), &peers).diagnostics;
    assert_eq!((found[0].code, found[0].span.start.line), ("unknown-statement", 3));
}

#[test]
fn functions_that_fetch_each_other_without_end_are_bounded() {
    struct Endless;
    impl Resolver for Endless {
        fn fetch(&self, request: &Request) -> Result<Vec<u8>, String> {
            let number: u32 = request.uri.rsplit('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            Ok(format!("call: https://acme.example/{}\n", number + 1).into_bytes())
        }
    }
    let text = format!("{HEAD}do:\n  - a: {{ call: https://acme.example/0 }}\n");
    let found = deploy(text.as_bytes(), options(), &Endless).diagnostics;
    assert!(found[0].message.contains("at most 64"), "{found:?}");
}

#[test]
fn the_hash_is_that_of_the_content_and_not_of_its_form() {
    let yaml = format!("{HEAD}do:\n  - a: {{ set: {{ x: 1, y: 2 }} }}\n");
    let json = r#"{"do": [{"a": {"set": {"y": 2, "x": 1}}}], "document": {"version": "1.0.0", "name": "flow", "namespace": "test", "dsl": "1.0.3"}}"#;
    let other = yaml.replace("x: 1", "x: 3");
    let hash = |text: &str| deploy(text.as_bytes(), options(), &Peers::default()).workflow.unwrap().0.hash;
    assert_eq!(hash(&yaml), hash(json));
    assert_ne!(hash(&yaml), hash(&other));
}

#[test]
fn what_was_not_stored_by_a_deploy_is_not_compiled() {
    for (bytes, message) in
        [(&b"{}"[..], "`tidewheel` is missing"), (b"no", "not JSON"), (br#"{"tidewheel": 9}"#, "stored form 9")]
    {
        let error = Language.compile(bytes).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}
