//! Promises of workflows in Python, completed over HTTP by whoever got their tokens and has nothing else.

use serde_json::{Value, json};
use tidewheel_e2e::agent::Agent;
use tidewheel_e2e::rest::{Answer, Rest};
use tidewheel_e2e::server::{Server, run};
use tidewheel_e2e::{PATIENCE, gate, need, need_binary, until};

use super::programs::Place;

const FLOWS: &str = r#"
import os
import time

from tidewheel import TaskFailed, task, wf, workflow


@task
def mail(to: str, token: str, folder: str):
    with open(os.path.join(folder, to + ".part"), "w") as file:
        file.write(token)
    os.rename(os.path.join(folder, to + ".part"), os.path.join(folder, to))


@workflow(version="1")
def two(folder: str) -> dict:
    first, second = wf.promise("answer"), wf.promise("answer", timeout="1h")
    wf.all(mail.submit("ann", first.token, folder), mail.submit("bob", second.token, folder))
    try:
        rejected = second.result()
    except TaskFailed as error:
        rejected = str(error)
    return {"first": first.result(), "second": rejected}


@workflow(version="1")
async def one(folder: str, to: str):
    answer = wf.promise("answer")
    await mail(to, answer.token, folder)
    return await answer


@workflow(version="1")
def early(folder: str):
    answer = wf.promise("answer")

    def send():
        with open(os.path.join(folder, "early.part"), "w") as file:
            file.write(answer.token)
        os.rename(os.path.join(folder, "early.part"), os.path.join(folder, "early"))
        while not os.path.exists(os.path.join(folder, "answered")):
            time.sleep(0.05)

    wf.step("send", send)
    return answer.result()
"#;

/// Someone who got a token and has no credentials.
struct Stranger(Rest);

impl Stranger {
    async fn answers(&self, run: &str, token: &str, body: &Value) -> anyhow::Result<Answer> {
        self.0.post(&format!("/api/v1/runs/{run}/promises/{token}"), body).await
    }
}

impl Place {
    fn stranger(&self) -> Stranger {
        Stranger(self.server.rest().with_token(""))
    }

    async fn mailed(&self, to: &str) -> anyhow::Result<String> {
        let path = self.work.join(to);
        let found = until("the mail to come", PATIENCE, || async { Ok(std::fs::read_to_string(&path).ok()) });
        found.await.map_err(|e| e.context(self.agent.log_end()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_complete_their_promises_once_also_after_a_kill_of_the_server() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let mut place = Place::with(FLOWS).await?;
    let id = place.start("default/two", &place.input(json!({}))).await?;
    let (ann, bob) = (place.mailed("ann").await?, place.mailed("bob").await?);
    anyhow::ensure!(ann != bob && ann.starts_with("twp_"), "{ann} {bob}");
    place.phase(&id, "waiting").await?;
    let answer = place.stranger().answers(&id, &ann, &json!({"value": {"by": "ann"}})).await?;
    anyhow::ensure!(answer.status == 204, "{answer:?}");
    place.server.kill()?;
    place.server.launch().await?;
    // What was acknowledged is there; the token is the same, and so is the answer to what was said.
    let stranger = place.stranger();
    for (body, status) in
        [(json!({"value": {"by": "ann"}}), 204), (json!({"value": {"by": "bob"}}), 409), (json!({}), 409)]
    {
        let answer = stranger.answers(&id, &ann, &body).await?;
        anyhow::ensure!(answer.status == status, "{body}: {answer:?}");
    }
    // By the command line, without a token of the API.
    let bare = ["run", "promise", &bob, "--error", "the customer said no"];
    let mut command = tidewheel_e2e::server::command(&place.home);
    command.args(bare).env("TIDEWHEEL_URL", place.server.url());
    tidewheel_e2e::server::output(&mut command).await?.exits(0)?;
    let done = place.get(&id, "--wait=60s").await?;
    let wanted = json!({"first": {"by": "ann"}, "second": "the customer said no"});
    anyhow::ensure!(done["phase"] == "completed" && done["output"] == wanted, "{done}");
    for (by, status) in [("ann", 204), ("bob", 409)] {
        let late = stranger.answers(&id, &ann, &json!({"value": {"by": by}})).await?;
        anyhow::ensure!(late.status == status, "{by}: {late:?}");
    }
    // Nobody is told the token but who was given it: not the logs, and of the run's own tasks none but the mail.
    let activations = ["task", "list", "--filter", &format!("run:{id}"), "--all", "-o", "json"];
    let tasks = run(&place.server, &place.home, &activations).await?.exits(0)?.stdout;
    anyhow::ensure!(!tasks.contains("promises"), "{tasks}");
    for log in [place.server.log(), place.agent.log_end()] {
        anyhow::ensure!(!log.contains(&ann[4..40]) && !log.contains(&bob[4..40]), "{log}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_answers_at_once_exactly_one_wins_and_what_is_hostile_changes_nothing() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let place = Place::with(FLOWS).await?;
    let (id, other) = (
        place.start("default/one", &place.input(json!({"to": "a"}))).await?,
        place.start("default/one", &place.input(json!({"to": "b"}))).await?,
    );
    let (token, foreign) = (place.mailed("a").await?, place.mailed("b").await?);
    let stranger = place.stranger();
    let elsewhere = Server::start().await?;
    let far = Stranger(elsewhere.rest().with_token(""));
    let changed = format!("{}{}", &token[..token.len() - 1], if token.ends_with('0') { "1" } else { "0" });
    let body = json!({"value": 1});
    let mut details = std::collections::BTreeSet::new();
    for (who, run, token) in [
        (&stranger, &id, &foreign),
        (&stranger, &other, &token),
        (&stranger, &id, &changed),
        (&stranger, &id, &"twp_".to_owned()),
        (&stranger, &"run_01jd8z5r7m0000000000000000".to_owned(), &token),
        (&far, &id, &token),
    ] {
        let answer = who.answers(run, token, &body).await?;
        anyhow::ensure!(answer.status == 404 && !answer.shown().contains(&token[4..]) || token.len() < 5, "{answer:?}");
        details.insert(answer.json()?["detail"].as_str().unwrap_or_default().to_owned());
    }
    anyhow::ensure!(details.len() == 1, "one answer to all of them: {details:?}");
    let without = stranger.answers(&id, "answer", &body).await?;
    anyhow::ensure!(without.status == 401, "{without:?}");
    let huge = stranger.answers(&id, &token, &json!({"value": "x".repeat(10 << 20)})).await?;
    anyhow::ensure!(huge.status == 413, "{huge:?}");
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..12 {
        let (stranger, id, token) = (place.stranger(), id.clone(), token.clone());
        calls.spawn(async move { (n, stranger.answers(&id, &token, &json!({"value": n})).await) });
    }
    let mut won = Vec::new();
    while let Some(ended) = calls.join_next().await {
        let (n, answer) = ended?;
        let answer = answer?;
        anyhow::ensure!(matches!(answer.status, 204 | 409), "{answer:?}");
        won.extend((answer.status == 204).then_some(n));
    }
    anyhow::ensure!(won.len() == 1, "{won:?}");
    let done = place.get(&id, "--wait=60s").await?;
    anyhow::ensure!(done["phase"] == "completed" && done["output"] == won[0], "{won:?} {done}");
    // Nobody answered there.
    place.phase(&other, "waiting").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_before_the_question_is_stored_counts_also_when_everything_is_killed() -> anyhow::Result<()>
{
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let mut place = Place::with(FLOWS).await?;
    let id = place.start("default/early", &place.input(json!({}))).await?;
    let token = place.mailed("early").await?;
    let answer = place.stranger().answers(&id, &token, &json!({"value": "y".repeat(200_000)})).await?;
    anyhow::ensure!(answer.status == 204, "{answer:?}");
    let second = place.stranger().answers(&id, &token, &json!({"value": "z"})).await?;
    anyhow::ensure!(second.status == 409, "{second:?}");
    place.agent.kill()?;
    place.server.kill()?;
    std::fs::write(place.work.join("answered"), "")?;
    place.server.launch().await?;
    place.agent = Agent::start(&place.server, "one", &place.home.join("agent"), 2, &[]).await?;
    let done = place.get(&id, "--wait=60s").await?;
    let whole = done["output"].as_str().map_or(0, str::len) == 200_000 || done["output"]["size"] == 200_002;
    anyhow::ensure!(done["phase"] == "completed" && whole, "{}", done["phase"]);
    anyhow::ensure!(place.mailed("early").await? == token, "the same token in the replay");
    Ok(())
}
