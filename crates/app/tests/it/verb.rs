//! What verbs send.

use serde_json::{Value, json};

use crate::mock::{Mock, events, json as answer, problem};

fn body(mock: &Mock, number: usize) -> Value {
    serde_json::from_str(&mock.asked()[number].body).unwrap_or_else(|e| panic!("{e}: {:?}", mock.asked()[number]))
}

#[test]
fn only_parts_that_the_server_has_not_are_sent() {
    let has = std::sync::atomic::AtomicU8::new(0);
    let mock = Mock::start(move |asked, _| match (asked.method.as_str(), asked.path.as_str()) {
        ("POST", "/api/v1/blobs:missing") => match has.load(std::sync::atomic::Ordering::Relaxed) {
            0 => answer(
                200,
                json!({"missing": serde_json::from_str::<serde_json::Value>(&asked.body).unwrap()["hashes"]}),
            ),
            1 => answer(200, json!({"missing": []})),
            // A server of an earlier version.
            _ => problem(404, "not-found", "There is nothing at this path."),
        },
        ("PUT", path) if path.starts_with("/api/v1/blobs/sha256%3A") => answer(201, json!({})),
        _ => {
            has.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            answer(200, json!({"name": "p", "version": "1", "entries": [], "warnings": ["queue 'q' differs"]}))
        }
    });
    let folder = mock.home.path().join("p");
    std::fs::create_dir(&folder).unwrap();
    let project = "[project]\nname = \"p\"\nversion = \"1\"\n\n[tool.tidewheel]\nmodules = [\"code\"]\n";
    std::fs::write(folder.join("pyproject.toml"), project).unwrap();
    std::fs::write(folder.join("code.py"), "from tidewheel import task\n\n@task\ndef f(): pass\n").unwrap();
    for (calls, kind, said) in
        [(3, "application/json", " sent"), (2, "application/json", "0 B of "), (2, "multipart/form-data", "")]
    {
        let before = mock.asked().len();
        let ran = mock.run(&["package", "push", folder.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.err.contains("warning: queue 'q' differs") && ran.err.contains(said), "{ran:?}");
        let asked = mock.asked().split_off(before);
        assert_eq!(asked.len(), calls, "{asked:?}");
        let last = asked.last().unwrap();
        assert!(last.header("content-type").unwrap().starts_with(kind), "{asked:?}");
        if kind == "application/json" {
            let named: serde_json::Value = serde_json::from_str(&last.body).unwrap();
            assert!(
                named["hash"].as_str().unwrap().starts_with("sha256:") && named["parts"][0]["size"].is_u64(),
                "{named}"
            );
            assert_eq!(named["manifest"]["entries"][0]["name"], "f", "{named}");
        }
    }
}

#[test]
fn flags_of_submit_become_the_body() {
    let mock = Mock::always(answer(201, json!({"id": "task_1", "state": "scheduled"})));
    let ran = mock.run(&[
        "task",
        "submit",
        "resize",
        "--input",
        r#"{"w": 12345678901234567890123}"#,
        "--queue",
        "pdf",
        "--priority",
        "high",
        "--delay",
        "10m",
        "--timeout",
        "5m",
        "--max-attempts",
        "4",
        "--retry-delay",
        "2s",
        "--key",
        "inv-7",
        "--require",
        "gpu=true",
        "--require",
        "zone=a",
        "--memory",
        "512MB",
        "--label",
        "env=prod",
        "--idempotency-key",
        "k-1",
    ]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let asked = &mock.asked()[0];
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/api/v1/tasks"));
    assert_eq!(asked.header("idempotency-key"), Some("k-1"));
    assert!(asked.body.contains("12345678901234567890123"), "a long number lost digits: {}", asked.body);
    let body: Value = serde_json::from_str(&asked.body.replace("12345678901234567890123", "1")).unwrap();
    assert_eq!(
        body,
        json!({
            "type": "resize", "queue": "pdf", "priority": "high", "delay": "10m", "timeout": {"run": "5m"},
            "retry": {"max_attempts": 4, "delay": "2s"}, "key": "inv-7", "requires": {"gpu": true, "zone": "a"},
            "resources": {"memory": "512MB"}, "labels": {"env": "prod"}, "idempotency_key": "k-1", "input": {"w": 1},
        })
    );
    assert_eq!(mock.run(&["task", "submit", "a", "--dry-run"]).json(), json!({"type": "a"}));
    assert_eq!(mock.asked().len(), 1, "a dry run was sent");
}

#[test]
fn inputs_come_from_files_and_standard_input() {
    let mock = Mock::always(answer(201, json!({"id": "task_1", "state": "queued"})));
    std::fs::write(mock.home.path().join("in.json"), "[1, 2]").unwrap();
    assert_eq!(mock.run(&["task", "submit", "a", "-i", "@in.json"]).code, 0);
    assert_eq!(body(&mock, 0)["input"], json!([1, 2]));
    assert_eq!(mock.run_with(&["task", "submit", "a", "--input", "-"], "\"text\"").code, 0);
    assert_eq!(body(&mock, 1)["input"], json!("text"));
    let ran = mock.run(&["task", "submit", "a", "--input", "in.json"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("--input @in.json"), "{ran:?}");
}

/// Answers a batch with one id per task.
fn batch(asked: &crate::mock::Asked) -> crate::mock::Answer {
    let tasks = serde_json::from_str::<Value>(&asked.body).unwrap()["tasks"].as_array().unwrap().clone();
    let items: Vec<_> =
        tasks.iter().map(|task| json!({"status": 201, "id": format!("task_{}", task["type"])})).collect();
    answer(200, json!({"items": items, "accepted": tasks.len(), "refused": 0}))
}

#[test]
fn a_file_of_tasks_goes_out_in_batches_with_a_key_each() {
    let mock = Mock::start(|asked, _| batch(asked));
    let lines: String = (0..1_201).map(|n| format!("{{\"n\": {n}}}\n")).collect();
    std::fs::write(mock.home.path().join("in.jsonl"), format!("\n{lines}")).unwrap();
    let ran = mock.run(&["task", "submit", "resize", "--many", "in.jsonl", "--queue", "pdf"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("1,201 tasks stored, 0 refused"), "{ran:?}");
    let mut keys = std::collections::HashSet::new();
    let mut inputs = 0;
    for asked in mock.asked() {
        let tasks = serde_json::from_str::<Value>(&asked.body).unwrap()["tasks"].as_array().unwrap().clone();
        assert!(tasks.len() <= 1_000);
        for task in &tasks {
            assert_eq!((&task["type"], &task["queue"]), (&json!("resize"), &json!("pdf")));
            assert!(keys.insert(task["idempotency_key"].as_str().unwrap().to_owned()), "a key twice");
            inputs += usize::from(task["input"]["n"].is_u64());
        }
    }
    assert_eq!((keys.len(), inputs), (1_201, 1_201));
    // The blank line is counted, so that numbers are the editor's.
    assert!(ran.out.lines().next().unwrap().contains("\"line\":2"), "{}", ran.out.lines().next().unwrap());
}

#[test]
fn whole_tasks_of_a_file_are_sent_as_they_are() {
    let mock = Mock::start(|asked, _| batch(asked));
    std::fs::write(
        mock.home.path().join("t.jsonl"),
        "{\"type\":\"a\",\"priority\":9}\n{\"type\":\"b\",\"idempotency_key\":\"k\"}\n",
    )
    .unwrap();
    assert_eq!(mock.run(&["task", "submit", "--many", "t.jsonl"]).code, 0);
    let tasks = body(&mock, 0)["tasks"].clone();
    assert_eq!((&tasks[0]["priority"], &tasks[1]["idempotency_key"]), (&json!(9), &json!("k")));
    assert!(tasks[0]["idempotency_key"].is_string());
    let slip = mock.run(&["task", "submit", "--many", "t.jsonl", "--queue", "pdf"]);
    assert_eq!(slip.code, 2, "{slip:?}");
    std::fs::write(mock.home.path().join("bad.jsonl"), "{\"type\":\"a\"}\nnonsense\n").unwrap();
    let bad = mock.run(&["task", "submit", "--many", "bad.jsonl"]);
    assert_eq!(bad.code, 2, "{bad:?}");
    assert!(bad.err.contains("line 2 of bad.jsonl") && bad.err.contains("0 tasks stored"), "{bad:?}");
}

#[test]
fn tasks_refused_for_the_moment_are_sent_again_alone() {
    let mock = Mock::start(|asked, number| {
        if number > 0 {
            return batch(asked);
        }
        let problem = json!({"code": "overloaded", "detail": "full", "retryable": true, "retry_after": 0});
        let full = json!({"status": 503, "problem": problem});
        let wrong = json!({"status": 400, "problem": {"code": "invalid-field", "detail": "no", "retryable": false}});
        answer(200, json!({"items": [{"status": 201, "id": "task_1"}, full, wrong], "accepted": 1, "refused": 2}))
    });
    std::fs::write(mock.home.path().join("t.jsonl"), "{\"type\":\"a\"}\n{\"type\":\"b\"}\n{\"type\":\"c\"}\n").unwrap();
    let ran = mock.run(&["task", "submit", "--many", "t.jsonl"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("2 tasks stored, 1 refused"), "{ran:?}");
    let again = body(&mock, 1)["tasks"].as_array().unwrap().clone();
    assert_eq!((again.len(), &again[0]["type"]), (1, &json!("b")));
}

#[test]
fn ids_come_from_a_pipe_and_each_has_its_outcome() {
    let mock = Mock::start(|asked, _| {
        if asked.path.contains("task_2") {
            return problem(409, "conflict", "it has ended");
        }
        answer(200, json!({"id": "task_x", "state": "cancelled"}))
    });
    let ran = mock.run_with(&["task", "cancel", "-", "--reason", "wrong"], "task_1\ntask_2\n\ntask_3\n");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(ran.out.lines().count(), 2, "{ran:?}");
    assert!(ran.err.contains("task_2") && ran.err.contains("1 of 3 were not changed"), "{ran:?}");
    assert!(mock.asked().iter().any(|asked| asked.path == "/api/v1/tasks/task_1:cancel"));
    assert_eq!(body(&mock, 0), json!({"reason": "wrong"}));
}

#[test]
fn a_bulk_action_counts_first() {
    let mock = Mock::start(|asked, _| {
        if asked.method == "GET" {
            return answer(
                200,
                json!({"id": "op_1", "action": "retry", "state": "done", "seen": 9, "done": 9, "failed": 0, "would_change": 9}),
            );
        }
        answer(202, json!({"id": "op_1", "action": "retry", "state": "running", "seen": 0, "done": 0, "failed": 0}))
    });
    let ran = mock.run(&["bulk", "retry", "--filter", "state:failed", "--dry-run"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("9 tasks would be retried"), "{ran:?}");
    let ran = mock.run(&["bulk", "retry", "--filter", "state:failed"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("9 tasks will be retried") && ran.err.contains("--yes"), "{ran:?}");
    let posts = mock.asked().into_iter().filter(|asked| asked.method == "POST").collect::<Vec<_>>();
    assert!(posts.iter().all(|asked| asked.body.contains("\"dry_run\":true")), "{posts:?}");
    let ran = mock.run(&["bulk", "redrive", "--filter", "queue:pdf", "--yes", "--wait"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let last = mock.asked().into_iter().rfind(|asked| asked.method == "POST").unwrap();
    assert_eq!(last.path, "/api/v1/tasks:retry");
    assert!(last.body.contains("state:dead queue:pdf"), "{last:?}");
}

#[test]
fn names_are_escaped_in_paths() {
    let mock = Mock::always(answer(200, json!({"name": "a"})));
    mock.run(&["queue", "get", "a/b:pause?x=1"]);
    assert_eq!(mock.asked()[0].path, "/api/v1/queues/a%2Fb%3Apause%3Fx%3D1");
}

#[test]
fn a_watched_task_is_followed_over_a_broken_stream() {
    let mock = Mock::start(|asked, number| {
        if !asked.path.ends_with("/events") {
            return answer(200, json!({"id": "task_1", "state": "succeeded"}));
        }
        let change =
            |state: &str| format!("event: state\ndata: {{\"id\":\"task_1\",\"state\":\"{state}\",\"attempt\":1}}\n\n");
        match number {
            // Cut off without an end.
            0 => events(&format!(": hello\n\n{}", change("running"))),
            _ => events(&format!(
                "{}{}event: end\ndata: {{\"reason\":\"the task has ended\"}}\n\n",
                change("running"),
                change("succeeded")
            )),
        }
    });
    let ran = mock.run(&["task", "watch", "task_1"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let states: Vec<Value> =
        ran.out.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["state"].clone()).collect();
    assert_eq!(states, [json!("running"), json!("succeeded")]);
}

#[test]
fn followed_logs_resume_after_the_last_line() {
    let mock = Mock::start(|_, number| {
        let line = |n: u32| {
            format!(
                "id: {n}\nevent: line\ndata: {{\"text\":\"line {n}\",\"at\":\"2026-01-02T03:04:05.678Z\",\
                 \"level\":\"info\"}}\n\n"
            )
        };
        match number {
            0 => events(&line(1)),
            _ => events(&format!("{}event: end\ndata: {{\"reason\":\"the task has ended\"}}\n\n", line(2))),
        }
    });
    let ran = mock.run(&["task", "logs", "task_1", "--follow", "-o", "table"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out, "03:04:05.678 info    line 1\n03:04:05.678 info    line 2\n");
    assert_eq!(mock.asked()[1].header("last-event-id"), Some("1"));
}

#[test]
fn an_artifact_lands_in_a_file_and_nothing_is_overwritten_unasked() {
    let mock = Mock::start(|asked, _| {
        if asked.path.contains("/blobs/") {
            return crate::mock::Answer { status: 200, headers: Vec::new(), body: "a,b\n1,2\n".to_owned() };
        }
        answer(200, json!({"items": [{"name": "../x/report.csv", "hash": "sha256:00", "size": 8}]}))
    });
    assert_eq!(mock.run(&["artifact", "get", "task_1"]).code, 0);
    assert_eq!(std::fs::read_to_string(mock.home.path().join("report.csv")).unwrap(), "a,b\n1,2\n");
    assert_eq!(mock.run(&["artifact", "get", "task_1"]).code, 2);
    assert_eq!(mock.run(&["artifact", "get", "task_1", "--yes"]).code, 0);
    assert_eq!(mock.run(&["artifact", "get", "task_1", "reprot.csv"]).code, 4);
}

#[test]
fn a_new_package_is_complete_and_never_overwritten() {
    let mock = Mock::always(answer(200, json!({})));
    assert_eq!(mock.run(&["init", "my-reports"]).code, 0);
    let folder = mock.home.path().join("my-reports");
    let project = std::fs::read_to_string(folder.join("pyproject.toml")).unwrap();
    assert!(project.contains("name = \"my-reports\""), "{project}");
    assert!(std::fs::read_to_string(folder.join("tasks.py")).unwrap().contains("@task"));
    assert_eq!(mock.run(&["init", "my-reports"]).code, 4);
    for bad in ["../x", "a b", "-x", "1a"] {
        assert_eq!(mock.run(&["init", "--", bad]).code, 2, "{bad}");
    }
}

#[test]
fn a_version_is_deleted_by_its_name_and_after_a_question() {
    let mock = Mock::start(|asked, _| match asked.path.as_str() {
        "/api/v1/packages/reports/1.4.1%2Bdev.7" => problem(409, "conflict", "task_1 has not ended and runs it."),
        _ => answer(200, json!({})),
    });
    assert_eq!(mock.run(&["package", "delete", "reports"]).code, 2, "no version is no version");
    assert_ne!(mock.run(&["package", "delete", "reports@1.4.0"]).code, 0, "nobody said yes");
    assert!(mock.asked().is_empty(), "{:?}", mock.asked());
    let gone = mock.run(&["package", "delete", "reports", "1.4.0", "--yes", "-o", "json"]);
    assert_eq!((gone.code, gone.json()["state"].as_str()), (0, Some("deleted")), "{gone:?}");
    let asked = mock.asked();
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("DELETE", "/api/v1/packages/reports/1.4.0"));
    let kept = mock.run(&["package", "delete", "reports@1.4.1+dev.7", "--yes"]);
    assert!(kept.code != 0 && kept.err.contains("task_1 has not ended"), "{kept:?}");
}

#[test]
fn any_call_can_be_made_by_hand() {
    let mock = Mock::always(answer(200, json!({"counts": {"queued": 3}})));
    assert_eq!(mock.run(&["api", "get", "/api/v1/tasks/counts", "--jq", ".counts.queued"]).out, "3\n");
    mock.run(&["api", "PATCH", "queues/pdf", "--input", "{\"concurrency\": 5}"]);
    mock.run(&["api", "GET", "/health/ready"]);
    let asked = mock.asked();
    assert_eq!(asked[0].path, "/api/v1/tasks/counts");
    assert_eq!((asked[1].method.as_str(), asked[1].path.as_str()), ("PATCH", "/api/v1/queues/pdf"));
    assert_eq!(asked[2].path, "/health/ready");
}

/// The folder of a bare file name is the current one; it was looked for under an empty name.
#[test]
fn a_secret_is_written_to_a_file_of_the_current_folder() {
    let mock = Mock::always(answer(201, json!({"id": "tok_1", "name": "ops", "role": "admin", "secret": "tw_s"})));
    let ran = mock.run(&["token", "create", "ops", "--role", "admin", "--to", "ops.token"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let file = mock.home.path().join("ops.token");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "tw_s\n");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(!ran.out.contains("tw_s") && !ran.err.contains("tw_s"), "{ran:?}");
}

#[test]
fn an_export_is_one_line_for_each_run_with_its_history_as_the_server_gives_it() {
    // Not as this program would write it: what comes is passed on, and not read.
    const HISTORY: &str = r#"{"v":1, "turns":[ {"no":1,"done":[]} ]}"#;
    let mock = Mock::start(|asked, _| {
        let run = |id: &str| json!({"id": id, "namespace": "shop", "workflow": "flow", "version": "1.0.0", "phase": "completed"});
        match asked.path.split('?').collect::<Vec<_>>()[..] {
            ["/api/v1/runs/run_1"] => answer(200, run("run_1")),
            ["/api/v1/runs/run_2"] => answer(200, run("run_2")),
            ["/api/v1/runs/run_3" | "/api/v1/runs/run_4"] => {
                let id = asked.path.rsplit('/').next().unwrap();
                answer(200, json!({"id": id, "namespace": "shop", "workflow": "deleted", "version": "1.0.0"}))
            }
            ["/api/v1/workflows/shop/flow/1.0.0/document"] => answer(200, json!({"program": {"fn": "a:flow"}})),
            [path, query] if path.ends_with("/journal") && query.contains("cursor=more") => {
                answer(200, json!({"items": [{"key": "/task:b#0"}]}))
            }
            [path, _] if path.ends_with("/journal") => {
                answer(200, json!({"items": [{"key": "/task:a#0"}], "next_cursor": "more"}))
            }
            [path] if path.ends_with("run_1/history") || path.ends_with("run_3/history") => {
                crate::mock::Answer { body: HISTORY.to_owned(), ..answer(200, json!({})) }
            }
            [path] if path.ends_with("run_2/history") => problem(409, "conflict", "The history of run_2 has a hole."),
            _ => problem(404, "not-found", "There is nothing at this path."),
        }
    });
    let ran = mock.run(&["run", "export", "run_1"]);
    assert_eq!((ran.code, ran.out.lines().count()), (0, 1), "{ran:?}");
    assert!(ran.out.contains(&format!("\"history\":{HISTORY}")), "{ran:?}");
    let whole = ran.json();
    assert_eq!(whole["journal"], json!([{"key": "/task:a#0"}, {"key": "/task:b#0"}]));
    assert_eq!((&whole["run"]["id"], &whole["document"]["program"]["fn"]), (&json!("run_1"), &json!("a:flow")));
    // As one value it is the same.
    assert_eq!(mock.run(&["run", "export", "run_1", "-o", "json"]).json(), whole);
    let picked = mock.run(&["run", "export", "run_1", "--jq", ".history.turns | length"]);
    assert_eq!(picked.out.trim(), "1", "{picked:?}");
    // Of a version that was deleted there is no document; what has a history still has it.
    let gone = mock.run(&["run", "export", "run_3"]).json();
    assert_eq!((&gone["document"], &gone["history"]["v"]), (&Value::Null, &json!(1)));
    assert!(mock.run(&["run", "export", "run_4"]).json().get("history").is_none());
    // What cannot be read whole is a failure, whatever was written by then.
    let ran = mock.run(&["run", "export", "run_1", "run_2"]);
    assert!(ran.code != 0 && ran.err.contains("The history of run_2 has a hole."), "{ran:?}");
    assert!(serde_json::from_str::<Value>(ran.out.lines().next().unwrap()).is_ok());
}
