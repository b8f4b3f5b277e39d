//! Promises that are completed by a token, which is all that its holder has.

use self::hmac_of_a_program::token_of;
use axum::body::Body;
use axum::http::Method;
use bytes::Bytes;
use serde_json::{Value, json};
use tidewheel_proto::v1;

use crate::grpc::{Worker, hello};
use crate::listener::{Served, start};
use crate::node::Got;
use crate::packages::{archive, put};

/// What a program does with what it is given; in Python it is `tidewheel._promise`.
mod hmac_of_a_program {
    use sha2::{Digest, Sha256};
    use tidewheel_proto::promise::PromiseToken;

    pub(super) fn token_of(given: &[u8], key: &str) -> String {
        let (head, secret) = given.split_at(21);
        let pad = |with: u8| -> Vec<u8> { (0..64).map(|i| with ^ secret.get(i).copied().unwrap_or(0)).collect() };
        let inner = Sha256::digest([&pad(0x36)[..], head, key.as_bytes()].concat());
        let whole = Sha256::digest([&pad(0x5C)[..], &inner].concat());
        let tenant = u32::from_be_bytes(head[1..5].try_into().unwrap());
        let run = u128::from_be_bytes(head[5..].try_into().unwrap());
        PromiseToken { tenant, run, mac: whole[..16].try_into().unwrap(), key: key.to_owned() }.text()
    }
}

const KEY: &str = "/promise:answer#0";

struct Place {
    served: Served,
    worker: Worker,
}

/// A run whose program waits for promises.
struct Run {
    id: String,
    /// What its program makes tokens from.
    given: Bytes,
}

impl Place {
    async fn new() -> Place {
        let served = start().await;
        let token = served.node.token("worker").await;
        let manifest =
            r#"{"format":"folder","entries":[{"name":"ask","fn":"flows:ask","kind":"workflow","version":"1.0.0"}]}"#;
        let bytes = archive(&[("flows.py", "def ask(): pass")]);
        put(&served.node, "/api/v1/packages/flows/1.0.0", &bytes, manifest).await.is(201);
        let mut worker = Worker::connect(&served, &token, hello(1)).await.unwrap();
        worker.welcome().await;
        Place { served, worker }
    }

    async fn activation(&mut self) -> v1::Grant {
        self.worker.grant().await
    }

    async fn answer(&self, grant: &v1::Grant, result: Value) {
        let outcome = v1::task_result::Outcome::Ok(result.to_string().into());
        self.worker.result(grant.token.clone(), outcome).await;
    }

    /// A run that waits for so many promises `answer`.
    async fn waiting(&mut self, count: usize) -> Run {
        let run = self.served.node.post("/api/v1/runs", r#"{"workflow":"default/ask"}"#).await.is(201).json();
        let id = run["id"].as_str().unwrap().to_owned();
        let grant = self.activation().await;
        assert_eq!(grant.promises.len(), 53, "{} {id}", grant.run);
        assert!(!String::from_utf8_lossy(&grant.input).contains("promises"), "the secret is no part of the input");
        let keys: Vec<String> = (0..count).map(|n| format!("/promise:answer#{n}")).collect();
        let ask = |key: &String| json!({"key": key, "kind": "promise", "name": "answer", "hash": "00"});
        let commands: Vec<Value> = keys.iter().map(ask).collect();
        let wait = json!([{"mode": "all", "keys": keys}]);
        self.answer(&grant, json!({"v": 1, "commands": commands, "wait": wait})).await;
        self.phase(&id, "waiting").await;
        Run { id, given: grant.promises }
    }

    async fn phase(&self, id: &str, wanted: &str) {
        while self.served.node.get(&format!("/api/v1/runs/{id}")).await.is(200).json()["phase"] != wanted {
            tokio::task::yield_now().await;
        }
    }

    /// Without any API token.
    async fn complete(&self, run: &str, token: &str, body: &str) -> Got {
        let path = format!("/api/v1/runs/{run}/promises/{token}");
        let request = axum::http::Request::builder().method(Method::POST).uri(path);
        let request = request.header("content-type", "application/json").body(Body::from(body.to_owned()));
        self.served.node.send(request.unwrap()).await
    }

    /// Lets the program end with what it heard of its promises.
    async fn ends(&mut self, run: &Run) -> Value {
        let grant = self.activation().await;
        assert_eq!(grant.promises, run.given, "the same with each activation");
        let input: Value = serde_json::from_slice(&grant.input).unwrap();
        let turns = input["turns"].as_array().unwrap();
        let done: Vec<Value> = turns.iter().flat_map(|turn| turn["done"].as_array().unwrap().clone()).collect();
        self.answer(&grant, json!({"v": 1, "commands": [], "end": {"ok": null}})).await;
        self.phase(&run.id, "completed").await;
        Value::Array(done)
    }
}

#[tokio::test]
async fn whoever_has_the_token_of_a_promise_completes_it_once_and_sees_nothing_of_the_run() {
    let mut place = Place::new().await;
    let run = place.waiting(1).await;
    let token = token_of(&run.given, KEY);
    let got = place.complete(&run.id, &token, r#"{"value":{"by":"ann"}}"#).await.is(204);
    assert!(got.body.is_empty());
    place.complete(&run.id, &token, r#"{"value":{"by":"ann"}}"#).await.is(204);
    let late = place.complete(&run.id, &token, r#"{"value":{"by":"bob"}}"#).await.is(409);
    assert!(late.json()["detail"].as_str().unwrap().contains("the first one counts"), "{late:?}");
    let done = place.ends(&run).await;
    assert_eq!((done.as_array().unwrap().len(), &done[0]["value"]), (1, &json!({"by": "ann"})));
    // An answer that was lost on its way is repeated, however much later.
    place.complete(&run.id, &token, r#"{"value":{"by":"ann"}}"#).await.is(204);
    let late = place.complete(&run.id, &token, r#"{"value":{"by":"bob"}}"#).await.is(409);
    assert!(late.json()["detail"].as_str().unwrap().contains("the first one counts"), "{late:?}");
    // What nobody asked for, or answered, is not answered any more.
    let other = token_of(&run.given, "/promise:answer#7");
    let ended = place.complete(&run.id, &other, r#"{"value":1}"#).await.is(409);
    assert!(ended.json()["detail"].as_str().unwrap().contains("already ended"), "{ended:?}");
}

#[tokio::test]
async fn a_token_completes_its_own_promise_of_several_with_one_name() {
    let mut place = Place::new().await;
    let run = place.waiting(3).await;
    let tokens: Vec<String> = (0..3).map(|n| token_of(&run.given, &format!("/promise:answer#{n}"))).collect();
    place.complete(&run.id, &tokens[1], r#"{"error":{"title":"Rejected","detail":"too dear"}}"#).await.is(204);
    place.complete(&run.id, &tokens[2], "").await.is(204);
    // By its name it is the next one that waits.
    let path = format!("/api/v1/runs/{}/promises/answer", run.id);
    let shown = place.served.node.post(&path, r#"{"value":1}"#).await.is(200).json();
    assert_eq!(shown["id"], run.id.as_str());
    let done = place.ends(&run).await;
    let of = |n: usize| {
        let key = format!("/promise:answer#{n}");
        done.as_array().unwrap().iter().find(|done| done["key"] == key.as_str()).cloned().unwrap()
    };
    assert_eq!((&of(0)["value"], &of(2)["value"]), (&json!(1), &Value::Null));
    assert_eq!((&of(1)["status"], &of(1)["error"]["detail"]), (&json!("error"), &json!("too dear")));
}

#[tokio::test]
async fn of_two_at_once_exactly_one_wins_and_a_large_value_is_whole() {
    let mut place = Place::new().await;
    let run = place.waiting(1).await;
    let token = token_of(&run.given, KEY);
    let bodies: Vec<String> =
        (0..8).map(|n| json!({"value": {"n": n, "text": "x".repeat(100_000)}}).to_string()).collect();
    let calls = bodies.iter().map(|body| place.complete(&run.id, &token, body));
    let got = futures::future::join_all(calls).await;
    let won: Vec<usize> = (0..8).filter(|n| got[*n].status == 204).collect();
    assert!(won.len() == 1 && got.iter().all(|got| matches!(got.status, 204 | 409)), "{got:?}");
    place.complete(&run.id, &token, &bodies[won[0]]).await.is(204);
    let grant = place.activation().await;
    let input: Value = serde_json::from_slice(&grant.input).unwrap();
    let turns = input["turns"].as_array().unwrap();
    let value = &turns.last().unwrap()["done"][0]["value"];
    assert_eq!(value["size"].as_u64(), Some(json!({"n": 1, "text": "x".repeat(100_000)}).to_string().len() as u64));
    place.answer(&grant, json!({"v": 1, "commands": [], "end": {"ok": null}})).await;
    place.phase(&run.id, "completed").await;
    let journal = place.served.node.get(&format!("/api/v1/runs/{}/journal", run.id)).await.is(200).json();
    let items = journal["items"].as_array().unwrap();
    let entry = items.iter().find(|entry| entry["kind"] == "promise").unwrap();
    let name = entry["output"]["$ref"].as_str().unwrap();
    let history = place.served.node.get(&format!("/api/v1/runs/{}/history", run.id)).await.is(200).json();
    let told = history["turns"].as_array().unwrap().iter().find_map(|turn| turn["done"].get(0)).unwrap();
    assert_eq!(told["value"]["n"], won[0], "{name}");
}

#[tokio::test]
async fn tokens_that_open_nothing_get_one_answer_which_does_not_show_them() {
    let mut place = Place::new().await;
    let run = place.waiting(1).await;
    let other = place.waiting(1).await;
    let token = token_of(&run.given, KEY);
    let foreign = token_of(&other.given, KEY);
    let mut forged = run.given.to_vec();
    forged[30] ^= 1;
    let forged = token_of(&forged, KEY);
    let mut stranger = run.given.to_vec();
    stranger[4] ^= 1;
    let (changed, long) = (format!("{}0", &token[..token.len() - 1]), format!("twp_{}", "0".repeat(9_000)));
    let escaped = token.replacen('t', "%74", 1).replacen("0", "1", 1);
    let (short, stranger) = (token[..40].to_owned(), token_of(&stranger, KEY));
    let mut seen = Vec::new();
    for wrong in ["twp_", "twp_%00", &foreign, &forged, &changed, &long, &escaped, &short, &stranger] {
        if wrong == token {
            continue;
        }
        let got = place.complete(&run.id, wrong, r#"{"value":1}"#).await.is(404);
        let text = String::from_utf8_lossy(&got.body).into_owned();
        assert!((wrong.len() < 10 || !text.contains(wrong)) && text.contains("/promises/twp_..."), "{text}");
        seen.push(text);
    }
    seen.push(
        String::from_utf8_lossy(&place.complete(&other.id, &token, "{}").await.is(404).body)
            .replace(&other.id, &run.id),
    );
    let nobody = "run_01jd8z5r7m0000000000000000";
    seen.push(
        String::from_utf8_lossy(&place.complete(nobody, &token, "{}").await.is(404).body).replace(nobody, &run.id),
    );
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
    // A token is no API token, and its path answers to nothing else.
    let bearer = place.served.node.call_as(&token, Method::GET, "/api/v1/runs", Body::empty()).await;
    assert_eq!(bearer.status, 401);
    let path = format!("/api/v1/runs/{}/promises/{token}", run.id);
    let got = place.served.node.call_as("", Method::GET, &path, Body::empty()).await.is(405);
    assert!(!String::from_utf8_lossy(&got.body).contains(&token));
    // By a name, an API token is needed.
    place.complete(&run.id, "answer", "{}").await.is(401);
}

#[tokio::test]
async fn what_is_wrong_with_a_completion_is_said_and_nothing_of_it_is_kept() {
    let mut place = Place::new().await;
    let run = place.waiting(1).await;
    let token = token_of(&run.given, KEY);
    for (body, pointer) in [
        (r#"{"value":1,"error":"no"}"#, "/error"),
        (r#"{"value":1,"data":2}"#, "/data"),
        (r#"{"error":{"status":9}}"#, "/error/status"),
        (r#"{"id":"x"}"#, "/id"),
        (r#"{"valeu":1}"#, "/valeu"),
    ] {
        let got = place.complete(&run.id, &token, body).await.is(400);
        assert!(got.json()["errors"][0]["pointer"] == pointer, "{body}: {got:?}");
        assert!(!String::from_utf8_lossy(&got.body).contains(&token), "{got:?}");
    }
    place.complete(&run.id, &token, "{").await.is(400);
    let huge = format!("\"{}\"", "x".repeat(10 << 20));
    place.complete(&run.id, &token, &format!("{{\"value\":{huge}}}")).await.is(413);
    // What the path does not take is said to whoever may make the call, and to nobody else.
    let got = place.complete(&run.id, &format!("{token}?utm=mail"), r#"{"value":1}"#).await.is(400);
    assert!(got.code() == "invalid-query" && !String::from_utf8_lossy(&got.body).contains(&token), "{got:?}");
    place.complete(&run.id, &format!("{}z?utm=mail", &token[..token.len() - 1]), "{}").await.is(404);
    place.complete(&run.id, "answer?utm=mail", "{}").await.is(401);
    // An idempotency key is not needed and does not hurt: nobody's answers are kept for it.
    let path = format!("/api/v1/runs/{}/promises/{token}", run.id);
    let request = axum::http::Request::builder().method(Method::POST).uri(path);
    let request = request.header("content-type", "application/json").header("idempotency-key", "k");
    place.served.node.send(request.body(Body::from(r#"{"value":"ok"}"#)).unwrap()).await.is(204);
    assert_eq!(place.ends(&run).await[0]["value"], "ok");
}

#[tokio::test]
async fn a_promise_that_ended_long_ago_is_found_in_the_journal() {
    let mut place = Place::new().await;
    let run = place.waiting(1).await;
    let token = token_of(&run.given, KEY);
    // Before it is asked for: kept for it.
    let early = token_of(&run.given, "/promise:answer#1");
    place.complete(&run.id, &early, r#"{"value":"early"}"#).await.is(204);
    place.complete(&run.id, &early, r#"{"value":"early"}"#).await.is(204);
    place.complete(&run.id, &early, r#"{"value":"other"}"#).await.is(409);
    place.complete(&run.id, &token, r#"{"value":"first"}"#).await.is(204);
    // So many turns later that it has left the run.
    for n in 0..40 {
        let grant = place.activation().await;
        let step = json!({"key": format!("/step:big#{n}"), "kind": "step", "name": "big", "hash": "00", "value": "x".repeat(5_000)});
        place.answer(&grant, json!({"v": 1, "commands": [step], "wait": [], "again": true})).await;
    }
    let grant = place.activation().await;
    place.complete(&run.id, &token, r#"{"value":"first"}"#).await.is(204);
    place.complete(&run.id, &token, r#"{"value":"second"}"#).await.is(409);
    let ask = json!({"key": "/promise:answer#1", "kind": "promise", "name": "answer", "hash": "00"});
    let wait = json!([{"mode": "all", "keys": ["/promise:answer#1"]}]);
    place.answer(&grant, json!({"v": 1, "commands": [ask], "wait": wait})).await;
    let done = place.ends(&run).await;
    let last = done.as_array().unwrap().last().unwrap();
    assert_eq!((&last["key"], &last["value"]), (&json!("/promise:answer#1"), &json!("early")));
}

#[tokio::test]
async fn a_large_signal_reaches_a_program_as_its_value() {
    let mut place = Place::new().await;
    let run = place.served.node.post("/api/v1/runs", r#"{"workflow":"default/ask"}"#).await.is(201).json();
    let id = run["id"].as_str().unwrap().to_owned();
    let grant = place.activation().await;
    let ask = json!({"key": "/signal:big#0", "kind": "signal", "name": "big", "hash": "00"});
    let wait = json!([{"mode": "all", "keys": ["/signal:big#0"]}]);
    place.answer(&grant, json!({"v": 1, "commands": [ask], "wait": wait})).await;
    let body = json!({"data": "x".repeat(100_000), "id": "once"}).to_string();
    for _ in 0..2 {
        place.served.node.post(&format!("/api/v1/runs/{id}/signals/big"), body.clone()).await.is(200);
    }
    let grant = place.activation().await;
    place.answer(&grant, json!({"v": 1, "commands": [], "end": {"ok": null}})).await;
    place.phase(&id, "completed").await;
    let history = place.served.node.get(&format!("/api/v1/runs/{id}/history")).await.is(200).json();
    let told = history["turns"].as_array().unwrap().iter().find_map(|turn| turn["done"].get(0)).unwrap();
    assert_eq!(told["value"].as_str().map(str::len), Some(100_000));
}
