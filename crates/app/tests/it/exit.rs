//! Exit codes and errors: what scripts rely on.

use serde_json::{Value, json};

use crate::mock::{Mock, command, json as answer, problem, ran};

#[test]
fn each_kind_of_refusal_has_its_exit_code() {
    for (status, code, exit) in [
        (400, "malformed-body", 2),
        (400, "invalid-field", 2),
        (400, "invalid-query", 2),
        (401, "unauthenticated", 3),
        (403, "not-allowed", 3),
        (404, "not-found", 4),
        (404, "unknown-queue", 4),
        (409, "conflict", 4),
        (409, "idempotency-mismatch", 4),
        (412, "precondition-failed", 4),
        (413, "too-large", 2),
        (422, "invalid-package", 2),
        (500, "internal", 1),
    ] {
        let mock = Mock::always(problem(status, code, "the reason"));
        let ran = mock.run(&["task", "get", "task_1"]);
        assert_eq!(ran.code, exit, "{code}: {ran:?}");
        assert!(ran.out.is_empty(), "{ran:?}");
        let lines: Vec<_> = ran.err.lines().collect();
        assert!(lines[0].starts_with("error: cannot read task task_1"), "{ran:?}");
        assert!(lines[1].starts_with("  why: the reason"), "{ran:?}");
        assert_eq!(mock.asked().len(), 1, "{code} was sent again");
    }
}

#[test]
fn what_is_wrong_in_a_workflow_is_told_once() {
    let said = "`call: mail` is not supported";
    let mut refused = problem(422, "invalid-workflow", &format!("The workflow cannot be deployed: 4:13: {said}."));
    let mut body: Value = serde_json::from_str(&refused.body).unwrap();
    body["errors"] = json!([{"pointer": "/do/0/call", "detail": said, "line": 4, "column": 13, "hint": "use a task"}]);
    refused.body = body.to_string();
    let mock = Mock::always(refused);
    std::fs::write(mock.home.path().join("mail.yaml"), "document: {}\n").unwrap();
    let ran = mock.run(&["workflow", "deploy", "mail.yaml", "-o", "table"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(
        ran.err.starts_with(&format!("mail.yaml:4:13: {said}; use a task\nerror: cannot deploy mail.yaml\n")),
        "{ran:?}"
    );
    assert_eq!(ran.err.matches(said).count(), 1, "{ran:?}");
    // Without the places it is the reason.
    let ran = mock.run(&["workflow", "deploy", "mail.yaml", "-o", "table", "--quiet"]);
    assert_eq!(ran.err.matches(said).count(), 1, "{ran:?}");
}

#[test]
fn a_log_without_lines_says_so_to_people() {
    let mock = Mock::always(answer(200, json!({"items": []})));
    for noun in ["task", "run"] {
        let ran = mock.run(&[noun, "logs", "x_1", "-o", "table"]);
        assert_eq!((ran.code, &*ran.out, &*ran.err), (0, "", "no log lines\n"), "{ran:?}");
        let ran = mock.run(&[noun, "logs", "x_1", "-o", "jsonl"]);
        assert_eq!((ran.code, &*ran.out, &*ran.err), (0, "", ""), "{ran:?}");
    }
}

/// Takes every connection, answers a request with `head` and never with more.
fn mute(head: &'static str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let _ = std::io::Read::read(&mut stream, &mut [0; 64 << 10]);
            std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
            held.push(stream);
        }
    });
    url
}

#[test]
fn a_server_that_never_answers_is_given_up_with_its_name() {
    let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{";
    for url in [mute(""), mute(half)] {
        let home = tempfile::tempdir().unwrap();
        let run = |args: &[&str]| {
            let mut command = command(home.path());
            command.env("TIDEWHEEL_URL", &url).env("TIDEWHEEL_TOKEN", "tw_test").args(args);
            command.env("TIDEWHEEL_SERVER_TIMEOUT", "200ms");
            ran(command, "")
        };
        let why = format!("why: {url} accepted the connection and gave no answer within 200 ms");
        for args in [&["task", "list"][..], &["task", "submit", "a"], &["queue", "list"], &["whoami"]] {
            let ran = run(args);
            assert_eq!(ran.code, 5, "{args:?}: {ran:?}");
            assert!(ran.err.contains(&why) && ran.err.contains("--server-timeout"), "{args:?}: {ran:?}");
            assert_eq!(ran.err.contains("may have been done"), args == ["task", "submit", "a"], "{ran:?}");
        }
        // The flag goes before the environment.
        let ran = run(&["task", "list", "--server-timeout", "300ms"]);
        assert!(ran.err.contains("no answer within 300 ms"), "{ran:?}");
    }
    let ran = Mock::always(answer(200, json!({}))).run(&["task", "list", "--server-timeout", "soon"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("--server-timeout"), "{ran:?}");
}

#[test]
fn with_json_the_problem_itself_is_on_stderr() {
    let mock = Mock::always(problem(404, "unknown-queue", "There is no queue 'pfd'. Did you mean 'pdf'?"));
    let ran = mock.run(&["task", "submit", "a", "--queue", "pfd", "-o", "json"]);
    let problem: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((ran.code, &problem["code"]), (4, &json!("unknown-queue")));
    let ran = mock.run(&["task", "lst", "-o", "json"]);
    let problem: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((ran.code, &problem["code"]), (2, &json!("usage")));
}

#[test]
fn what_a_field_got_wrong_is_said_once() {
    let refused = |detail: &str, pointer: &str, wrong: &str| {
        let mut answer = problem(400, "invalid-field", detail);
        let mut body: Value = serde_json::from_str(&answer.body).unwrap();
        body["errors"] = json!([{ "pointer": pointer, "detail": wrong }]);
        answer.body = body.to_string();
        let ran = Mock::always(answer).run(&["task", "submit", "a"]);
        ran.err.lines().find(|line| line.contains("why:")).unwrap().trim().to_owned()
    };
    let limit = "a whole number from 1 to 1000 is needed";
    assert_eq!(refused(&format!("?limit=: {limit}"), "limit", limit), format!("why: ?limit=: {limit}"));
    // Which of many it was is no repetition.
    let third = refused("There is no such queue.", "/tasks/2/queue", "there is no such queue");
    assert_eq!(third, "why: There is no such queue. [/tasks/2/queue: there is no such queue]");
}

#[test]
fn no_server_is_5_and_says_how_to_get_one() {
    let home = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = command(home.path());
    command.args(["task", "list", "--url", &format!("http://{free}")]);
    let ran = ran(command, "");
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.err.contains("next: tidewheel dev"), "{ran:?}");
}

#[test]
fn a_full_server_is_asked_again_after_the_time_it_names() {
    let mock = Mock::start(|_, number| match number {
        0 => {
            let mut answer = problem(503, "overloaded", "full");
            answer.headers.push(("retry-after", "1".to_owned()));
            answer
        }
        1 => problem(429, "rate-limited", "too fast"),
        _ => answer(201, json!({"id": "task_1", "state": "queued"})),
    });
    let start = std::time::Instant::now();
    let ran = mock.run(&["task", "submit", "a", "-o", "name"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "task_1\n"), "{ran:?}");
    assert!(start.elapsed() >= std::time::Duration::from_secs(1), "it came too early");
    let keys: Vec<_> = mock.asked().iter().map(|asked| asked.header("idempotency-key").map(str::to_owned)).collect();
    assert_eq!(keys.len(), 3);
    assert!(keys[0].is_some() && keys.windows(2).all(|w| w[0] == w[1]), "a repeat has another key: {keys:?}");
}

#[test]
fn a_wait_longer_than_half_a_minute_is_not_sat_out() {
    let mock = Mock::start(|_, _| {
        let mut answer = problem(503, "unavailable", "maintenance");
        answer.headers.push(("retry-after", "3600".to_owned()));
        answer
    });
    let ran = mock.run(&["queue", "list"]);
    assert_eq!((ran.code, mock.asked().len()), (5, 1), "{ran:?}");
}

#[test]
fn a_task_that_fails_is_1_and_a_wait_that_runs_out_is_5() {
    let mock = Mock::start(|asked, _| {
        if asked.path.contains("/result") {
            return problem(409, "conflict", "it ended as failed");
        }
        answer(
            202,
            json!({
                "id": "task_1", "state": if asked.method == "POST" { "running" } else { "failed" },
                "error": {"type": "ValueError", "message": "no such page"},
            }),
        )
    });
    let ran = mock.run(&["task", "submit", "a", "--wait"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.err.contains("ValueError: no such page") && ran.err.contains("next: tidewheel task logs task_1"),
        "{ran:?}"
    );
    let mock = Mock::always(answer(202, json!({"id": "task_1", "state": "running"})));
    let ran = mock.run(&["task", "submit", "a", "--wait=50ms"]);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.err.contains("tidewheel task why task_1"), "{ran:?}");
}

#[test]
fn a_question_without_a_terminal_names_the_flag() {
    let mock = Mock::always(answer(200, json!({"depth": 12, "scheduled": 3})));
    let ran = mock.run(&["queue", "purge", "pdf"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("15 waiting tasks") && ran.err.contains("--yes"), "{ran:?}");
    assert!(mock.asked().iter().all(|asked| asked.method == "GET"), "something was changed");
}

#[test]
fn an_answer_of_a_stranger_is_not_taken_for_a_task() {
    let mock =
        Mock::start(|_, _| crate::mock::Answer { status: 200, headers: Vec::new(), body: "<html>hello</html>".into() });
    let ran = mock.run(&["task", "list"]);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.err.contains("is it a Tidewheel server?"), "{ran:?}");
    let mock = Mock::start(|_, _| crate::mock::Answer { status: 502, headers: Vec::new(), body: "bad gateway".into() });
    assert_eq!(mock.run(&["status"]).code, 5);
}
