//! What becomes of attempts: good ones, bad ones and those that have to be ended.

use tidewheel_proto::v1::server_message::Message as ToAgent;
use tidewheel_proto::v1::task_result::Outcome;
use tidewheel_proto::v1::{Cancel, Grant, Resources};

use crate::mock::*;

fn cancel(token: &str, grace_ms: u32) -> ToAgent {
    ToAgent::Cancel(Cancel { token: token.as_bytes().to_vec().into(), reason: "asked".into(), grace_ms })
}

#[tokio::test(flavor = "multi_thread")]
async fn python_tasks_end_with_their_result_or_their_exception() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    s.grant(vec![
        bench.python("1", "add", r#"{"a": 2, "b": 3}"#),
        bench.python("2", "fail", "null"),
        bench.python("3", "strange", "null"),
        bench.python("4", "missing", "null"),
        bench.python("5", "add", r#"{"a": "x"}"#),
        bench.python("6", "add", "{not json"),
        Grant { package: String::new(), ..bench.python("7", "add", "[1]") },
    ])
    .await;
    assert_eq!(s.ok("1").await, 5);
    let fail = s.failure("2").await;
    assert_eq!((fail.r#type.as_str(), fail.message.as_str(), fail.retryable), ("ValueError", "no luck", true));
    assert!(fail.detail.contains("tasks.py"), "{}", fail.detail);
    assert!(s.failure("3").await.message.contains("object"));
    assert!(!s.failure("4").await.retryable);
    assert_eq!(s.failure("5").await.r#type, "TypeError");
    assert_eq!(s.failure("6").await.r#type, "invalid-input");
    assert_eq!(s.failure("7").await.r#type, "no-package");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_process_imports_its_package_once() {
    let mut bench = Bench::start_with(|c| c.permits = 1).await;
    let mut s = bench.connected().await;
    s.grant(vec![bench.python("1", "where", "null")]).await;
    let first = s.ok("1").await;
    for token in ["2", "3", "4"] {
        s.grant(vec![bench.python(token, "where", "null")]).await;
        assert_eq!(s.ok(token).await, first, "the same process, the same import");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_process_of_one_tenant_ran_the_task_of_another() {
    let mut bench = Bench::start_with(|c| c.permits = 1).await;
    let mut s = bench.connected().await;
    let mut seen = Vec::new();
    for (token, tenant) in [("1", 1), ("2", 2), ("3", 1), ("4", 2)] {
        s.grant(vec![Grant { tenant, ..bench.python(token, "where", "null") }]).await;
        seen.push(s.ok(token).await);
    }
    assert_ne!(seen[0], seen[1], "the same package, another tenant, another process");
    assert_eq!((&seen[0], &seen[1]), (&seen[2], &seen[3]), "each stays warm for its own tenant");
    let environments = std::fs::read_dir(bench.dir.path().join("envs")).expect("a folder").flatten();
    assert_eq!(
        environments.filter(|e| e.path().join("bin/python").exists()).count(),
        2,
        "what a build wrote is its tenant's"
    );
}

/// Many calls of a function that was quick so far, of which the first waits for a file: what was sent ahead to its process is
/// taken back and done by others, cancelled, or given back, all while it still waits.
#[tokio::test(flavor = "multi_thread")]
async fn one_long_task_does_not_hold_up_those_sent_ahead() {
    for permits in [2, 1] {
        let mut bench = Bench::start_with(|c| c.permits = permits).await;
        let mut s = bench.connected().await;
        let (there, missing) = (bench.dir.path().to_owned(), bench.dir.path().join("missing"));
        let input = |path: &std::path::Path| serde_json::json!({ "path": path }).to_string();
        let grants = |prefix: &str, n: u32| {
            let one = |i| bench.python(&format!("{prefix}{i}"), "wait_for", &input(&there));
            (0..n).map(one).collect::<Vec<_>>()
        };
        s.grant(grants("quick", 60)).await;
        for i in 0..60 {
            s.ok(&format!("quick{i}")).await;
        }
        let mut mixed = vec![bench.python("long", "wait_for", &input(&missing))];
        mixed.extend(grants("behind", 30));
        s.grant(mixed).await;
        s.started("long").await;
        if permits == 2 {
            for i in 0..30 {
                assert_eq!(s.ok(&format!("behind{i}")).await, "seen");
            }
        } else {
            // There is nobody else to do it. It waits where it can be cancelled and given back.
            s.send(cancel("behind3", 0)).await;
            assert!(s.failure("behind3").await.cancelled);
            bench.shutdown.cancel();
            s.until("the others come back", |s| s.returned.len() == 29).await;
        }
        assert!(!s.results.contains_key(&b"long"[..]));
        std::fs::write(&missing, "").expect("written");
        assert_eq!(s.ok("long").await, "seen");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ends_its_process_fails_alone() {
    let mut bench = Bench::start_with(|c| c.permits = 1).await;
    let mut s = bench.connected().await;
    let grants = (0..40).map(|i| match i {
        20 => bench.python("20", "quit_hard", "null"),
        _ => bench.python(&i.to_string(), "add", &format!(r#"{{"a": {i}}}"#)),
    });
    s.grant(grants.collect()).await;
    for i in 0..40 {
        if i == 20 {
            let failure = s.failure("20").await;
            assert_eq!(failure.r#type, "worker-exit");
            assert!(failure.message.contains("code 3"), "{}", failure.message);
        } else {
            assert_eq!(s.ok(&i.to_string()).await, i + 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_is_killed_when_it_is_cancelled() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    s.grant(vec![bench.python("1", "spin", "null"), bench.python("2", "stubborn", "null")]).await;
    s.started("1").await;
    s.started("2").await;
    let marker = bench.dir.path().display().to_string();
    assert_eq!(processes_of(&format!("TIDEWHEEL_ARTIFACTS={marker}")).len(), 2);
    s.send(cancel("1", 100)).await;
    s.send(cancel("2", 100)).await;
    for token in ["1", "2"] {
        let failure = s.failure(token).await;
        assert!(failure.cancelled, "{failure:?}");
        assert!(failure.message.contains("asked"));
    }
    eventually("both processes are gone", || processes_of(&format!("TIDEWHEEL_ARTIFACTS={marker}")).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_attempt_is_cancelled_without_being_run() {
    let mut bench = Bench::start_with(|c| c.permits = 1).await;
    let mut s = bench.connected().await;
    s.grant(vec![bench.python("1", "spin", "null"), bench.python("2", "add", "[1]")]).await;
    s.started("1").await;
    s.send(cancel("2", 60_000)).await;
    assert!(s.failure("2").await.cancelled);
    assert!(!tokens(&s.started).contains("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_ends_at_its_deadline() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let late = Grant { run_timeout_ms: 1500, ..bench.python("1", "spin", "null") };
    let shell = Grant { run_timeout_ms: 1500, ..shell("2", "sleep 600") };
    s.grant(vec![late, shell]).await;
    for token in ["1", "2"] {
        let failure = s.failure(token).await;
        assert_eq!((failure.r#type.as_str(), failure.retryable, failure.cancelled), ("timeout", true, false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_left_running_is_killed_with_it() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let pid_file = bench.dir.path().join("grandchild");
    let input = serde_json::json!({ "path": pid_file }).to_string();
    s.grant(vec![bench.python("1", "fork", &input)]).await;
    eventually("the grandchild is there", || read_pid(&pid_file).is_some_and(alive)).await;
    s.send(cancel("1", 0)).await;
    assert!(s.failure("1").await.cancelled);
    let grandchild = read_pid(&pid_file).expect("read above");
    eventually("the grandchild is gone", || !alive(grandchild)).await;
    let marker = format!("HOME={}", bench.dir.path().display());
    eventually("everything is gone", || processes_of(&marker).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_of_output_neither_blocks_the_task_nor_fills_the_log() {
    let mut bench = Bench::start_with(|c| c.limits.output_bytes = 1 << 20).await;
    let mut s = bench.connected().await;
    s.grant(vec![
        bench.python("1", "chatter", r#"{"megabytes": 1024}"#),
        bench.python("2", "say", r#"{"what": "hi"}"#),
    ])
    .await;
    assert_eq!(s.ok("2").await, "hi");
    assert_eq!(s.ok("1").await, "done");
    s.until("the last line", |s| s.lines("1").last() == Some(&"output truncated")).await;
    assert!(s.lines("1").len() <= 1025, "{}", s.lines("1").len());
    s.until("the other's lines", |s| s.lines("2").len() >= 2).await;
    let mut lines = s.lines("2");
    lines.sort_unstable();
    assert_eq!(lines, ["hi", "logged hi"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_belongs_to_the_task_that_wrote_it() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let names: Vec<String> = (0..100).map(|i| i.to_string()).collect();
    s.grant(names.iter().map(|n| bench.python(n, "say", &format!(r#"{{"what": "it is {n}"}}"#))).collect()).await;
    for name in &names {
        s.ok(name).await;
    }
    s.until("all lines", |s| s.logs.len() >= 200).await;
    for name in &names {
        let mut lines = s.lines(name);
        lines.sort_unstable();
        assert_eq!(lines, [format!("it is {name}"), format!("logged it is {name}")], "task {name}");
        let offsets: Vec<u64> = s.logs.iter().filter(|l| l.token == name.as_bytes()).map(|l| l.offset).collect();
        assert_eq!(offsets, [0, 1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_one_call_and_a_failing_member_fails_alone() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let member = |token: &str, input: &str| Grant { batch: 1, ..bench.python(token, "squares", input) };
    s.grant(vec![member("1", "2"), member("2", "13"), member("3", "4")]).await;
    assert_eq!(s.ok("1").await, 4);
    assert_eq!(s.failure("2").await.message, "odd one out");
    assert_eq!(s.ok("3").await, 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let resources = Some(Resources { memory_bytes: 128 << 20, ..Resources::default() });
    let greedy = Grant { resources, ..bench.python("1", "hoard", r#"{"megabytes": 4096}"#) };
    s.grant(vec![greedy, bench.python("2", "add", "[1]")]).await;
    let failure = s.failure("1").await;
    assert!(["memory-limit", "MemoryError"].contains(&failure.r#type.as_str()), "{failure:?}");
    assert_eq!(s.ok("2").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_is_bounded() {
    let mut bench = Bench::start_with(|c| c.limits.processes = 64).await;
    let mut s = bench.connected().await;
    let bomb = Grant { run_timeout_ms: 3000, ..shell("1", "b() { b | b & b; }; b; sleep 600") };
    s.grant(vec![bomb]).await;
    s.started("1").await;
    s.grant(vec![bench.python("2", "add", "[1]")]).await;
    assert_eq!(s.ok("2").await, 2);
    s.failure("1").await;
    let marker = format!("HOME={}/work", bench.dir.path().display());
    eventually("the bomb is gone", || {
        processes_of(&marker).iter().all(|p| processes_of("tidewheel._shim").contains(p))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shell_commands_run() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let input = serde_json::json!({ "command": "cat; echo \"$1 $X\" >&2", "args": ["one"], "env": {"X": "two"}, "stdin": "three" });
    s.grant(vec![
        Grant { r#type: "shell".into(), ..grant("1", &input.to_string()) },
        shell("2", "echo before; exit 7"),
        Grant { r#type: "shell".into(), ..grant("3", r#"{"command": 5}"#) },
        shell("4", "sleep 600 & echo left"),
        Grant { r#type: "builtin.echo".into(), ..grant("5", "[1]") },
    ])
    .await;
    assert_eq!(s.ok("1").await, serde_json::json!({ "code": 0, "stdout": "three\n", "stderr": "one two\n" }));
    let failure = s.failure("2").await;
    assert_eq!(failure.r#type, "exit-code");
    assert!(failure.message.contains("code 7") && failure.detail.contains("before"));
    assert_eq!(s.failure("3").await.r#type, "invalid-input");
    assert_eq!(s.ok("4").await["stdout"], "left\n");
    assert_eq!(s.ok("5").await, serde_json::json!([1]));
    let marker = format!("HOME={}", bench.dir.path().display());
    eventually("the background process is gone", || processes_of(&marker).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn code_of_workflows_runs_and_gives_what_was_asked_for() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let run = |token: &str, kind: &str, input: serde_json::Value| Grant {
        r#type: kind.into(),
        ..grant(token, &input.to_string())
    };
    use serde_json::json;
    let script = "import sys\nprint(greeting, sys.stdin.read().upper())\n";
    s.grant(vec![
        run("1", "run.shell", json!({"command": "echo", "arguments": {"--name": "a b", "-v": null}})),
        run("2", "run.shell", json!({"command": "exit 3", "return": "code"})),
        run("3", "run.shell", json!({"command": "echo out; echo err >&2", "return": "all"})),
        run("4", "run.shell", json!({"command": "exit 3", "return": "stdout"})),
        run("5", "run.python", json!({"code": script, "arguments": {"greeting": "hi"}, "stdin": "you"})),
        run("6", "run.python", json!({"code": "import sys; print(sys.argv[1:])", "arguments": ["x", 2]})),
        run("7", "run.python", json!({"code": "raise SystemExit('no')", "language": "python"})),
        run("8", "run.python", json!({"nonsense": 1})),
    ])
    .await;
    assert_eq!(s.ok("1").await, json!("--name=a b -v"));
    assert_eq!(s.ok("2").await, json!(3));
    assert_eq!(s.ok("3").await, json!({"code": 0, "stdout": "out\n", "stderr": "err\n"}));
    assert_eq!(s.failure("4").await.r#type, "exit-code");
    assert_eq!(s.ok("5").await, json!("hi YOU"));
    assert_eq!(s.ok("6").await, json!("['x', '2']"));
    let failure = s.failure("7").await;
    assert!(failure.r#type == "exit-code" && failure.detail.contains("no"), "{failure:?}");
    assert_eq!(s.failure("8").await.r#type, "invalid-input");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_results_inputs_and_artifacts_go_through_the_blob_store() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let text = serde_json::json!({ "what": "w".repeat(200_000) }).to_string();
    let hash = hash_of(text.as_bytes());
    bench.blobs.lock().insert(hash.clone(), text.clone().into());
    s.grant(vec![
        bench.python("1", "big", r#"{"n": 1000000}"#),
        Grant { input_ref: hash, ..bench.python("2", "say", "") },
        bench.python("3", "report", "null"),
    ])
    .await;
    for (token, size) in [("1", 1_000_002), ("2", 200_002)] {
        let Some(Outcome::OkRef(stored)) = s.result(token).await.outcome else { panic!("{token} is stored apart") };
        assert_eq!(bench.blobs.lock()[&stored].len(), size);
    }
    let result = s.result("3").await;
    let [artifact] = &result.artifacts[..] else { panic!("one artifact: {result:?}") };
    assert_eq!((artifact.name.as_str(), artifact.size), ("report.csv", 8));
    assert_eq!(&bench.blobs.lock()[&artifact.hash][..], b"a,b\n1,2\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_is_kept_for_the_next_task_of_its_tenant_and_for_no_other() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let text = serde_json::json!({ "what": "w".repeat(200_000) }).to_string();
    let hash = hash_of(text.as_bytes());
    bench.blobs.lock().insert(hash.clone(), text.clone().into());
    let of = |token: &str, tenant: u32| Grant { input_ref: hash.clone(), tenant, ..bench.python(token, "say", "") };
    // Two at once fetch it once.
    s.grant(vec![of("1", 1), of("2", 1)]).await;
    let came = |outcome| matches!(outcome, Some(Outcome::OkRef(_)));
    assert!(came(s.result("1").await.outcome) && came(s.result("2").await.outcome));
    s.until("the input is announced", |s| s.data.contains(&hash)).await;
    let folder = bench.dir.path().join("inputs");
    let place = folder.join(format!("1-{}", &hash["sha256:".len()..]));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&folder).expect("there").permissions());
    assert_eq!(mode & 0o077, 0, "for the agent alone");
    // The server has it no more: it comes from here, for the same tenant and for none else, nor where none is named.
    bench.blobs.lock().remove(&hash);
    s.grant(vec![of("3", 1), of("4", 2), of("5", 0)]).await;
    assert!(came(s.result("3").await.outcome));
    assert_eq!(s.failure("4").await.r#type, "input");
    assert_eq!(s.failure("5").await.r#type, "input");
    // A file of it, for a task that asks for stored content by its hash.
    let fetch = serde_json::json!({ "hash": hash }).to_string();
    s.grant(vec![Grant { tenant: 1, ..bench.python("6", "fetch_size", &fetch) }]).await;
    assert_eq!(s.ok("6").await, text.len());
    s.grant(vec![Grant { tenant: 2, ..bench.python("7", "fetch_size", &fetch) }]).await;
    s.failure("7").await;
    // A damaged one is seen, and fetched anew.
    std::fs::write(place.join("content"), text.replace('w', "x")).expect("damaged");
    bench.blobs.lock().insert(hash.clone(), text.clone().into());
    s.grant(vec![of("8", 1)]).await;
    assert!(came(s.result("8").await.outcome));
    assert_eq!(std::fs::read(place.join("content")).expect("there"), text.as_bytes());
    // A new stream says what is here.
    s.hang_up();
    let next = bench.session().await;
    assert!(next.hello.data.contains(&hash), "{:?}", next.hello.data);
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_beyond_the_bound_of_the_cache_go_and_are_taken_back() {
    let mut bench = Bench::start_with(|c| c.cache_bytes = 4 << 20).await;
    let mut s = bench.connected().await;
    let mut hashes = Vec::new();
    for n in 0..30 {
        let text = serde_json::json!({ "what": format!("{n}-{}", "w".repeat(300_000)) }).to_string();
        let hash = hash_of(text.as_bytes());
        bench.blobs.lock().insert(hash.clone(), text.into());
        let token = n.to_string();
        s.grant(vec![Grant { input_ref: hash.clone(), tenant: 1, ..bench.python(&token, "say", "") }]).await;
        s.result(&token).await;
        hashes.push(hash);
    }
    let inputs = bench.dir.path().join("inputs");
    let here = || std::fs::read_dir(&inputs).expect("there").flatten().filter(|e| e.path().is_dir()).count();
    s.until("the oldest are taken back", |s| !s.data.contains(&hashes[0]) && s.data.len() == here()).await;
    assert!(here() < 20, "{} of 30 are here", here());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_fetched_stored_content_with_the_right_of_an_attempt_of_another_process() {
    let mut bench = Bench::start_with(|c| c.permits = 2).await;
    let mut s = bench.connected().await;
    let hash = hash_of(b"content");
    bench.blobs.lock().insert(hash.clone(), "content".into());
    let flag = bench.dir.path().join("flag");
    s.grant(vec![bench.python("1", "wait_for", &serde_json::json!({ "path": flag }).to_string())]).await;
    s.started("1").await;
    // Leases are small numbers: one of these is that of the other attempt.
    let mut leases: Vec<_> = (0..50).map(|n| serde_json::json!(n.to_string())).collect();
    leases.extend([serde_json::json!("no number"), serde_json::Value::Null]);
    let input = serde_json::json!({ "hash": hash, "leases": leases });
    s.grant(vec![bench.python("2", "fetch_as", &input.to_string())]).await;
    let said = s.ok("2").await;
    let said: Vec<&str> = said.as_array().expect("a list").iter().filter_map(|v| v.as_str()).collect();
    let (own, refused): (Vec<&str>, Vec<&str>) = said.iter().partition(|text| **text == "content");
    assert_eq!((own.len(), refused.len()), (2, 50), "its own by number and by name, and no other: {said:?}");
    assert!(refused.iter().all(|text| text.contains("that this process runs")), "{refused:?}");
    std::fs::write(&flag, "").expect("a flag");
    assert_eq!(s.ok("1").await, "seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn isolation_is_had_or_refused() {
    let mut bench = Bench::start_with(|c| c.isolation = tidewheel_agent::Isolation::Off).await;
    let mut s = bench.session().await;
    s.welcome(|w| w.require_isolation = true).await;
    s.grant(vec![bench.python("1", "add", "[1]"), shell("2", "true")]).await;
    assert_eq!(s.failure("1").await.r#type, "isolation-unavailable");
    assert_eq!(s.failure("2").await.r#type, "isolation-unavailable");
    if !has_sandbox("isolation_is_had_or_refused") {
        return;
    }
    let mut bench = Bench::start_with(|c| c.isolation = tidewheel_agent::Isolation::On).await;
    let mut s = bench.connected().await;
    assert_eq!(s.hello.enforced["sandbox"], "bubblewrap");
    assert_eq!(s.hello.enforced["seccomp"], "refuses dangerous calls");
    s.grant(vec![
        bench.python("1", "look", "null"),
        bench.python("2", "report", "null"),
        shell("3", "ls /root /home 2>&1; cat /proc/1/environ; id -u"),
        bench.python("4", "spin", "null"),
        shell("5", "! unshare --user true && ! mount -t tmpfs none /tmp && grep -q '^Seccomp:.2' /proc/self/status"),
    ])
    .await;
    s.ok("5").await;
    let seen = s.ok("1").await;
    assert_eq!((seen["tmp"].as_array().map(Vec::len), seen["root"].as_bool()), (Some(1), Some(false)), "{seen}");
    assert!(seen["pid"].as_i64().is_some_and(|pid| pid < 20), "{seen}");
    assert_eq!(s.result("2").await.artifacts.len(), 1);
    s.result("3").await;
    s.started("4").await;
    s.send(cancel("4", 0)).await;
    assert!(s.failure("4").await.cancelled);
    let marker = format!("{}/work", bench.dir.path().display());
    eventually("the sandbox is gone", || {
        processes_of(&marker).len() <= processes_of("tidewheel._shim").len().min(2 * 4)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_submits_and_awaits_others_through_its_agent() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    s.grant(vec![bench.python("1", "fan_out", "null")]).await;
    let seen = s.ok("1").await;
    assert_eq!((&seen["id"], &seen["result"]["rows"]), (&"task_0".into(), &3.into()), "{seen}");
    assert_eq!((&seen["state"], &seen["wait"]), (&"failed".into(), &"Timeout".into()), "{seen}");
    assert!(seen["error"].as_str().is_some_and(|e| e.contains("no luck")), "{seen}");
    let submitted = bench.submitted.lock();
    assert_eq!(submitted.len(), 1, "the refused submit was repeated once");
    assert_eq!(submitted[0]["tasks"].as_array().map(Vec::len), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_takes_items_through_its_agent_in_its_own_tenant() {
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    // An agent of several tenants is told their names; one of one tenant is not, and its token says it.
    let names = [(2, "ann".to_owned()), (3, "bob".to_owned())];
    for (token, tenant, name) in [("1", 2, "ann"), ("2", 3, "bob"), ("3", 0, "")] {
        bench.submitted.lock().clear();
        let grants = vec![Grant { tenant, ..bench.python(token, "work_off", r#"["in voices/../x"]"#) }];
        s.send(ToAgent::Grants(tidewheel_proto::v1::Grants { grants, tenants: names.clone().into() })).await;
        assert_eq!(s.ok(token).await, serde_json::json!(["task_i", 7]));
        let asked = bench.submitted.lock().clone();
        let paths: Vec<&str> = asked.iter().map(|a| a["path"].as_str().expect("a path")).collect();
        // The name is one part of the path, whatever is in it; an item is settled in the queue that it came from.
        let queue = "in voices/../x";
        assert_eq!(paths, [&format!("{queue}/items"), &format!("{queue}/items:take"), "q/items/task_i:done"]);
        assert!(asked.iter().all(|a| a["tenant"] == name), "{asked:?}");
        assert_eq!((&asked[0]["body"]["input"]["n"], &asked[1]["body"]["lease"]), (&1.into(), &"10m".into()));
        assert_eq!((&asked[2]["body"]["result"], &asked[2]["body"]["token"]), (&8.into(), &"t".into()));
    }
}

/// An activation that has to replay what it does not bring asks for it through the agent, in pieces; one that goes on in memory does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_is_replayed_from_a_history_that_the_agent_fetches() {
    use serde_json::{Value, json};
    let mut bench = Bench::start().await;
    let mut s = bench.connected().await;
    let key = |n: u64| format!("/signal:go#{n}");
    let turn = |no: u64| {
        let done: Vec<Value> =
            (no > 1).then(|| json!({"key": key(no - 2), "status": "ok", "value": no, "at": no})).into_iter().collect();
        let hash = "74234e98afe7498f";
        json!({"no": no, "now": 1_000 + no, "done": done, "opened": [{"key": key(no - 1), "hash": hash}]})
    };
    let activation = |run: &str, first: u64, last: u64| {
        let mut turns: Vec<Value> = (first..=last).map(turn).collect();
        turns.last_mut().expect("one").as_object_mut().expect("an object").remove("opened");
        let input = json!({
            "v": 1, "run": run, "workflow": "default/waits:1.0.0", "seed": "00", "generation": 0, "epoch": 1,
            "input": {"times": 6}, "first": first, "turns": turns, "before": {"$ref": "sha256:00", "size": 1},
        });
        input.to_string()
    };
    {
        let mut blobs = bench.blobs.lock();
        blobs.insert("turns-5".into(), json!([turn(3), turn(4)]).to_string().into());
        blobs.insert("turns-3".into(), json!([turn(1), turn(2)]).to_string().into());
    }
    s.grant(vec![Grant { run: "run_1".into(), ..bench.python("1", "waits", &activation("run_1", 5, 6)) }]).await;
    let first = s.ok("1").await;
    assert_eq!(first["commands"][0]["key"], key(5), "{first}");
    bench.blobs.lock().retain(|name, _| !name.starts_with("turns-"));
    s.grant(vec![Grant { run: "run_1".into(), ..bench.python("2", "waits", &activation("run_1", 6, 7)) }]).await;
    assert_eq!(s.ok("2").await["end"]["ok"], json!([2, 3, 4, 5, 6, 7]), "it went on in memory");
    // Nothing has the turns of this one: its attempt is told why.
    s.grant(vec![Grant { run: "run_2".into(), ..bench.python("3", "waits", &activation("run_2", 5, 6)) }]).await;
    let failure = s.failure("3").await;
    assert!(failure.message.contains("no history of run_2") && failure.message.contains("not current"), "{failure:?}");
}
