//! Who may do what: tokens that are missing, wrong, expired, revoked, of too little right or of another tenant.

use reqwest::Method;
use serde_json::json;
use tidewheel_e2e::rest::{JSON, Rest};
use tidewheel_e2e::server::Server;
use tidewheel_e2e::{PATIENCE, gate, need_binary, until};

use super::problem;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_do_not_stand_are_refused() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    let mut shortened = server.token.clone();
    shortened.pop();
    let wrong = ["", "x", "tw_", "tw_0000_0000", &shortened, &format!("{}0", server.token), &"A".repeat(8_000)];
    for token in wrong {
        let answer = rest.with_token(token).get("/api/tasks").await?;
        let body = problem("a wrong token", &answer, 401, "unauthenticated")?;
        anyhow::ensure!(answer.header("www-authenticate").starts_with("Bearer"), "no WWW-Authenticate");
        anyhow::ensure!(body["detail"].as_str().is_some_and(|d| d.contains("token")), "{body}");
        let answer = rest.with_token(token).post("/api/tasks", &json!({ "type": "a" })).await?;
        problem("a submit without a token", &answer, 401, "unauthenticated")?;
    }
    for scheme in ["Basic YTpi", "Bearer", "bearer  ", "Token x"] {
        let none = rest.with_token("");
        let answer = none.send(Method::GET, "/api/tasks", &[("authorization", scheme)], None).await?;
        problem(scheme, &answer, 401, "unauthenticated")?;
    }
    let query = format!("/api/tasks?token={}", server.token);
    let answer = rest.with_token("").get(&query).await?;
    anyhow::ensure!(answer.status == 401, "a token in the query was taken: {}", answer.shown());
    // Expired: it works, and then it does not.
    let short = rest.new_token("short", "viewer", &json!({ "expires_in": "500ms" })).await?;
    until("the token to expire", PATIENCE, || async {
        Ok((rest.with_token(&short).get("/api/tasks").await?.status == 401).then_some(()))
    })
    .await?;
    let made = rest.post("/api/tokens", &json!({ "name": "gone", "role": "viewer" })).await?.ok()?;
    let gone = rest.with_token(&made.text("/secret")?);
    anyhow::ensure!(gone.get("/api/tasks").await?.status == 200, "a fresh token is refused");
    rest.send(Method::DELETE, &format!("/api/tokens/{}", made.text("/id")?), &[], None).await?.ok()?;
    problem("a revoked token", &gone.get("/api/tasks").await?, 401, "unauthenticated")?;
    let listed = rest.get("/api/tokens").await?.ok()?;
    anyhow::ensure!(!listed.shown().contains(&short), "a list shows a secret");
    server.still_serves().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_allow_what_they_say() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    let id = rest.task(&json!({ "type": "a" })).await?;
    let viewer = rest.with_token(&rest.new_token("v", "viewer", &json!({})).await?);
    let operator = rest.with_token(&rest.new_token("o", "operator", &json!({})).await?);
    let worker = rest.with_token(&rest.new_token("w", "worker", &json!({})).await?);
    anyhow::ensure!(viewer.get(&format!("/api/tasks/{id}")).await?.status == 200, "a viewer cannot look");
    let cancel = format!("/api/tasks/{id}:cancel");
    let task = json!({ "type": "a" });
    let refused: [(&str, &Rest, Method, &str); 7] = [
        ("viewer submits", &viewer, Method::POST, "/api/tasks"),
        ("viewer cancels", &viewer, Method::POST, &cancel),
        ("viewer makes a queue", &viewer, Method::PUT, "/api/queues/q"),
        ("operator makes a token", &operator, Method::POST, "/api/tokens"),
        ("operator makes a tenant", &operator, Method::PUT, "/api/tenants/t"),
        ("worker pauses a queue", &worker, Method::POST, "/api/queues/default:pause"),
        ("worker makes a token", &worker, Method::POST, "/api/tokens"),
    ];
    for (what, client, method, path) in refused {
        let body = if path == "/api/tokens" { json!({ "name": "x", "role": "admin" }) } else { json!({}) };
        let body = if path == "/api/tasks" { &task } else { &body };
        let answer = client.send(method, path, &[JSON], Some(body.to_string().into())).await?;
        problem(what, &answer, 403, "not-allowed")?;
    }
    anyhow::ensure!(operator.post(&cancel, &json!({})).await?.status == 200, "an operator cannot cancel");
    server.still_serves().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tenant_sees_nothing() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    rest.put("/api/tenants/acme", &json!({})).await?.ok()?;
    let in_acme = |method: Method, path: &'static str, body: serde_json::Value| {
        let rest = rest.clone();
        async move { rest.send(method, path, &[JSON, ("tidewheel-tenant", "acme")], Some(body.to_string().into())).await }
    };
    let made = in_acme(Method::POST, "/api/tokens", json!({ "name": "a", "role": "admin" })).await?.ok()?;
    let acme = rest.with_token(&made.text("/secret")?);
    let canary = "canary-5f1d";
    let mine = json!({ "type": canary, "labels": { "c": canary }, "input": canary, "correlation_id": canary });
    let id = rest.task(&mine).await?;
    rest.queue(canary, &json!({})).await?;
    // The same 404 for a task of another tenant as for one that does not exist.
    let nothing = tidewheel_proto::id::format("task", 7);
    for verb in ["", "/result", "/attempts", "/logs", "/why", "/artifacts"] {
        let foreign = acme.get(&format!("/api/tasks/{id}{verb}")).await?;
        problem(verb, &foreign, 404, "not-found")?;
        let absent = acme.get(&format!("/api/tasks/{nothing}{verb}")).await?;
        let same = |answer: &tidewheel_e2e::rest::Answer, id: &str| answer.shown().replace(id, "ID");
        anyhow::ensure!(same(&foreign, &id) == same(&absent, &nothing), "404s differ: {}", foreign.shown());
    }
    for verb in [":cancel", ":retry"] {
        problem(verb, &acme.post(&format!("/api/tasks/{id}{verb}"), &json!({})).await?, 404, "not-found")?;
    }
    for path in [
        "/api/tasks",
        "/api/queues",
        "/api/workers",
        "/api/tenants",
        "/api/tokens",
        "/api/packages",
        "/api/tasks/counts",
    ] {
        let answer = acme.get(path).await?.ok()?;
        anyhow::ensure!(!String::from_utf8_lossy(&answer.body).contains(canary), "{path} shows another tenant's data");
    }
    let listed = acme.get("/api/tasks").await?.ok()?.json()?;
    anyhow::ensure!(listed["items"].as_array().is_some_and(Vec::is_empty), "{listed}");
    // A token without system scope cannot name a tenant.
    let answer = acme.send(Method::GET, "/api/tasks", &[("tidewheel-tenant", "default")], None).await?;
    problem("naming another tenant", &answer, 403, "not-allowed")?;
    let raised = json!({ "name": "x", "role": "admin", "system": true });
    problem("giving system scope", &acme.post("/api/tokens", &raised).await?, 403, "not-allowed")?;
    // A tenant named in a body is an unknown field, not an authority.
    problem(
        "a tenant in a body",
        &acme.post("/api/tasks", &json!({ "type": "a", "tenant": "default" })).await?,
        400,
        "invalid-field",
    )?;
    let task = rest.get(&format!("/api/tasks/{id}")).await?.ok()?.json()?;
    anyhow::ensure!(task["state"] == "queued", "{task}");
    server.still_serves().await
}

/// A worker of one tenant gets no grant of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_gets_work_of_its_own_tenant() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let rest = server.rest();
    rest.put("/api/tenants/acme", &json!({})).await?.ok()?;
    let header = [JSON, ("tidewheel-tenant", "acme")];
    let body = json!({ "name": "a", "role": "worker" }).to_string();
    let made = rest.send(Method::POST, "/api/tokens", &header, Some(body.into())).await?.ok()?;
    let ledger = tidewheel_e2e::ledger::Ledger::default();
    let plan = tidewheel_e2e::worker::Plan::new(&server.url(), &made.text("/secret")?, "acme", &["*"], 10);
    let worker = tidewheel_e2e::worker::Worker::start(plan, ledger.clone());
    worker.connected().await?;
    let mine = rest.task(&json!({ "type": "a", "input": { "n": 1 } })).await?;
    // Submitted later and done, one after the other: had the earlier one been open to this worker, it would have had it first.
    let mut theirs = Vec::new();
    for n in [2, 3] {
        let body = json!({ "type": "a", "input": { "n": n } }).to_string();
        theirs.push(rest.send(Method::POST, "/api/tasks", &header, Some(body.into())).await?.ok()?.text("/id")?);
        until("the worker's own task", PATIENCE, || async { Ok((ledger.completed() == n - 1).then_some(())) }).await?;
    }
    let mut seen: Vec<String> = ledger.book().tasks.keys().map(|id| tidewheel_e2e::wire::text(*id)).collect();
    seen.sort();
    theirs.sort();
    anyhow::ensure!(seen == theirs, "the worker saw {seen:?}");
    anyhow::ensure!(rest.get(&format!("/api/tasks/{mine}")).await?.text("/state")? == "queued", "it ran elsewhere");
    server.still_serves().await
}
