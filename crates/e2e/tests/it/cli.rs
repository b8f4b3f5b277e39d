//! The command line as scripts meet it: exit codes, streams, JSON, and the commands of the README.

use serde_json::{Value, json};
use tidewheel_e2e::agent::Agent;
use tidewheel_e2e::server::{Server, command, output, run};
use tidewheel_e2e::{gate, need, need_binary, not_run, root};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_tell_scripts_what_happened() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let server = Server::start().await?;
    let agent = Agent::start(&server, "one", &server.home().join("agent"), 2, &[]).await?;
    let here = server.home().to_path_buf();
    let unknown = tidewheel_proto::id::format("task", 7);
    let cases: &[(i32, &[&str])] = &[
        (0, &["--version"]),
        (0, &["version"]),
        (0, &["whoami"]),
        (0, &["status"]),
        (0, &["status", "--probe"]),
        (0, &["task", "submit", "builtin.noop", "--wait"]),
        (0, &["task", "list"]),
        (0, &["queue", "list"]),
        (0, &["worker", "list"]),
        (0, &["package", "list"]),
        (1, &["task", "submit", "builtin.fail", "--max-attempts", "1", "--wait"]),
        (2, &["--nonsense"]),
        (2, &["tusk"]),
        (2, &["task", "submit"]),
        (2, &["task", "submit", "a", "--priority", "11"]),
        (2, &["task", "submit", "a", "--input", "{"]),
        (2, &["task", "submit", "a", "--delay", "soon"]),
        (2, &["task", "list", "--filter", "stat:failed"]),
        (4, &["task", "get", &unknown]),
        (4, &["task", "submit", "a", "--queue", "nowhere"]),
        (4, &["queue", "get", "nowhere"]),
        (5, &["task", "submit", "builtin.sleep", "--input", r#"{"ms":60000}"#, "--wait=1s"]),
    ];
    let mut wrong = Vec::new();
    for (code, args) in cases {
        if let Err(error) = run(&server, &here, args).await?.exits(*code) {
            wrong.push(format!("tidewheel {}: {error}", args.join(" ")));
        }
    }
    let mut denied = command(&here);
    denied.args(["task", "list"]).env("TIDEWHEEL_URL", server.url()).env("TIDEWHEEL_TOKEN", "tw_wrong");
    wrong.extend(output(&mut denied).await?.exits(3).err().map(|e| format!("a wrong token: {e}")));
    let mut nobody = command(&here);
    let port = tidewheel_e2e::server::free_port()?;
    nobody.args(["task", "list"]).env("TIDEWHEEL_URL", format!("http://127.0.0.1:{port}"));
    nobody.env("TIDEWHEEL_TOKEN", &server.token);
    wrong.extend(output(&mut nobody).await?.exits(5).err().map(|e| format!("no server: {e}")));
    anyhow::ensure!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), agent.log_end());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_goes_to_stdout_and_is_json_where_asked() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let server = Server::start().await?;
    let here = server.home().to_path_buf();
    let made = run(&server, &here, &["task", "submit", "a", "--input", r#"{"x":1}"#, "-o", "json"]).await?.exits(0)?;
    let id = made.json()?["id"].as_str().unwrap_or_default().to_owned();
    anyhow::ensure!(id.starts_with("task_"), "{made:?}");
    let listed = run(&server, &here, &["task", "list", "-o", "json"]).await?.exits(0)?.json()?;
    anyhow::ensure!(listed["items"][0]["id"] == id.as_str() || listed[0]["id"] == id.as_str(), "{listed}");
    // The same record as REST gives.
    let shown = run(&server, &here, &["task", "get", &id, "-o", "json"]).await?.exits(0)?.json()?;
    let record = server.rest().get(&format!("/api/tasks/{id}")).await?.ok()?.json()?;
    anyhow::ensure!(shown == record, "the command line shows {shown}, REST {record}");
    // In a pipe: one line per item, no frames, no colours.
    run(&server, &here, &["task", "submit", "b"]).await?.exits(0)?;
    let piped = run(&server, &here, &["task", "list"]).await?.exits(0)?;
    let lines: Vec<Value> = piped.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    anyhow::ensure!(lines.len() == 2 && !piped.stdout.contains('\u{1b}'), "{piped:?}");
    let names = run(&server, &here, &["task", "list", "-o", "name"]).await?.exits(0)?;
    anyhow::ensure!(names.stdout.lines().all(|line| line.contains("task_")), "{names:?}");
    let picked = run(&server, &here, &["task", "get", &id, "-o", "json", "--jq", ".input.x"]).await?.exits(0)?;
    anyhow::ensure!(picked.stdout.trim() == "1", "{picked:?}");
    // Errors are one object on stderr, and nothing is on stdout.
    let failed = run(&server, &here, &["task", "submit", "a", "--queue", "defualt", "-o", "json"]).await?.exits(4)?;
    let problem: Value = serde_json::from_str(failed.stderr.trim())?;
    anyhow::ensure!(failed.stdout.is_empty() && problem["code"] == "unknown-queue", "{failed:?}");
    anyhow::ensure!(problem["detail"].as_str().is_some_and(|d| d.contains("default")), "no nearest name: {problem}");
    let plain = run(&server, &here, &["task", "get", "task_x"]).await?;
    anyhow::ensure!(plain.stderr.contains("error:") && plain.stderr.contains("why:"), "{plain:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_never_show_in_processes_or_files_of_others() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let server = Server::start().await?;
    let path = server.data.join("admin-token");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path)?.permissions());
    anyhow::ensure!(mode & 0o077 == 0, "the admin token can be read by others: {mode:o}");
    anyhow::ensure!(!server.log().contains(&server.token), "the log holds the admin token");
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", server.pid()))?;
    anyhow::ensure!(!line.contains(&server.token), "the command line holds the token");
    Ok(())
}

/// Scripts wait for the server and then read the token: it has to be there by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_token_is_there_when_the_server_is_ready() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    for _ in 0..3 {
        let mut server = Server::prepare()?;
        server.spawn()?;
        server.wait_ready(tidewheel_e2e::PATIENCE).await?;
        let token = std::fs::read_to_string(server.data.join("admin-token"));
        let token = token.map_err(|e| anyhow::anyhow!("ready, but the file admin-token cannot be read: {e}"))?;
        let answer = server.rest().with_token(token.trim()).get("/api/whoami").await?;
        anyhow::ensure!(answer.status == 200, "{}", answer.shown());
    }
    Ok(())
}

/// Whenever the first start was killed: the second one leaves the owner a token that opens the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_that_is_killed_leaves_nobody_locked_out() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    // What a crash between the file and the commit leaves: a token that no store knows.
    let mut server = Server::prepare()?;
    std::fs::create_dir_all(&server.data)?;
    std::fs::write(server.data.join("admin-token"), "tw_of_a_start_that_was_killed\n")?;
    server.launch().await?;
    server.still_serves().await?;
    for step in 0..12 {
        let mut server = Server::prepare()?;
        server.spawn()?;
        // From before the store is there until after everything is.
        tokio::time::sleep(std::time::Duration::from_millis(step * 12)).await;
        server.kill()?;
        server.launch().await?;
        server.still_serves().await.map_err(|e| e.context(format!("killed after {} ms", step * 12)))?;
    }
    Ok(())
}

/// Every verb explains itself with examples.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_help_text_has_examples() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let here = tempfile::tempdir()?;
    let help = |args: Vec<String>| {
        let mut command = command(here.path());
        command.args(&args).arg("--help");
        async move { output(&mut command).await?.exits(0).map(|o| o.stdout) }
    };
    let top = help(Vec::new()).await?;
    let mut wrong = Vec::new();
    let mut verbs = 0;
    for verb in names(&top) {
        let text = help(vec![verb.clone()]).await?;
        verbs += 1;
        if !text.contains("Examples:") {
            wrong.push(verb.clone());
        }
        for inner in text.split("Commands:").nth(1).map(names).unwrap_or_default() {
            verbs += 1;
            let text = help(vec![verb.clone(), inner.clone()]).await?;
            if !text.contains("Examples:") {
                wrong.push(format!("{verb} {inner}"));
            }
        }
    }
    anyhow::ensure!(verbs > 20, "only {verbs} verbs were found in:\n{top}");
    anyhow::ensure!(wrong.is_empty(), "help without examples: {}", wrong.join(", "));
    for needed in ["server", "agent", "dev", "bench"] {
        anyhow::ensure!(names(&top).iter().any(|n| n == needed), "there is no verb '{needed}':\n{top}");
    }
    Ok(())
}

/// Names of commands in a help text: two spaces, a word, then two spaces or more.
fn names(help: &str) -> Vec<String> {
    let name = |line: &str| {
        let rest = line.strip_prefix("  ")?;
        let word: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
        let sound = word.starts_with(|c: char| c.is_ascii_lowercase()) && rest[word.len()..].starts_with("  ");
        (sound && word != "help").then_some(word)
    };
    help.lines().take_while(|line| !line.starts_with("Options")).filter_map(name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_and_manual_are_generated() -> anyhow::Result<()> {
    need_binary!();
    let here = tempfile::tempdir()?;
    for shell in ["bash", "zsh", "fish"] {
        let text = output(command(here.path()).args(["completions", shell])).await?.exits(0)?.stdout;
        anyhow::ensure!(text.contains("tidewheel") && text.contains("submit"), "{shell}: {} bytes", text.len());
    }
    output(command(here.path()).args(["completions", "tcsh"])).await?.exits(2)?;
    Ok(())
}

/// Each command of the README and of the guide exists with the options it is shown with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_the_readme_exist() -> anyhow::Result<()> {
    need_binary!();
    let Ok(readme) = std::fs::read_to_string(root().join("README.md")) else {
        not_run("there is no README.md");
        return Ok(());
    };
    let makefile = std::fs::read_to_string(root().join("Makefile"))?;
    let here = tempfile::tempdir()?;
    let mut wrong = Vec::new();
    let mut checked = 0;
    for line in shell_lines(&readme) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["make", target, ..] => {
                checked += 1;
                if !makefile.lines().any(|l| l.starts_with(&format!("{target}:"))) {
                    wrong.push(format!("make {target}: there is no such target"));
                }
            }
            ["tidewheel", rest @ ..] => {
                checked += 1;
                let verb: Vec<&str> =
                    rest.iter().copied().take_while(|w| w.bytes().all(|b| b.is_ascii_lowercase())).collect();
                let help = output(command(here.path()).args(verb.iter().take(2)).arg("--help")).await?;
                let help = match help.code {
                    Some(0) => help,
                    // The second word was an argument.
                    _ => output(command(here.path()).args(verb.iter().take(1)).arg("--help")).await?,
                };
                if help.code != Some(0) {
                    wrong.push(format!("{line}: {}", help.stderr.trim()));
                }
                for flag in rest.iter().filter(|w| w.starts_with("--")) {
                    let name = flag.split('=').next().unwrap_or(flag);
                    if !help.stdout.contains(name) {
                        wrong.push(format!("{line}: there is no {name}"));
                    }
                }
            }
            _ => {}
        }
    }
    anyhow::ensure!(checked >= 2, "the README shows no commands");
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Lines of shell blocks, without prompts and comments.
fn shell_lines(markdown: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in markdown.lines() {
        if let Some(fence) = line.trim_start().strip_prefix("```") {
            inside = !inside && matches!(fence.trim(), "sh" | "bash" | "console" | "shell");
        } else if inside {
            let line = line.trim().trim_start_matches("$ ");
            let line = line.split(" #").next().unwrap_or(line).trim();
            if !line.is_empty() && !line.starts_with('#') {
                lines.push(line.to_owned());
            }
        }
    }
    lines
}

/// The server says clearly what is wrong with its command line, and a second one on the same folder is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_start_says_why() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let server = Server::start().await?;
    let here = server.home().to_path_buf();
    let data = server.data.to_string_lossy().into_owned();
    let port = format!("127.0.0.1:{}", tidewheel_e2e::server::free_port()?);
    let taken = format!("127.0.0.1:{}", server.port);
    let fresh = here.join("fresh").to_string_lossy().into_owned();
    let cases: [(&str, Vec<&str>); 4] = [
        ("the folder of another server", vec!["server", "--listen", &port, "--data-dir", &data]),
        ("a port that is taken", vec!["server", "--listen", &taken, "--data-dir", &fresh]),
        ("an address that is none", vec!["server", "--listen", "nowhere", "--data-dir", &fresh]),
        ("an unknown flag", vec!["server", "--listne", &port]),
    ];
    for (what, args) in cases {
        let ended = output(command(&here).args(&args)).await?;
        anyhow::ensure!(ended.code.is_some_and(|c| c != 0), "{what}: exit {:?}", ended.code);
        anyhow::ensure!(!ended.stderr.trim().is_empty(), "{what}: no word about it");
        anyhow::ensure!(!ended.stderr.contains("panicked"), "{what}: {}", ended.stderr);
    }
    let answer = server.rest().post("/api/tasks", &json!({ "type": "a" })).await?;
    anyhow::ensure!(answer.status == 201, "the first server: {}", answer.shown());
    Ok(())
}

/// SIGTERM: not ready, then a clean end with exit 0, and a start that has everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_asked_to_end_ends_cleanly() -> anyhow::Result<()> {
    need_binary!();
    let _machine = gate::beside().await;
    let mut server = Server::start().await?;
    let id = server.rest().task(&json!({ "type": "a", "input": 1 })).await?;
    let status = server.stop().await?;
    anyhow::ensure!(status.code() == Some(0), "{status}; {}", server.log_end());
    let token = server.token.clone();
    server.launch().await?;
    anyhow::ensure!(server.token == token, "a second start made a new admin token");
    let task = server.rest().get(&format!("/api/tasks/{id}")).await?.ok()?.json()?;
    anyhow::ensure!(task["state"] == "queued" && task["input"] == 1, "{task}");
    server.still_serves().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_project_is_tested_with_nothing_installed() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let here = tempfile::tempdir()?;
    let tidewheel = |arguments: &[&str]| {
        let mut command = command(here.path());
        command.args(arguments);
        async move { output(&mut command).await }
    };
    tidewheel(&["init", "hello"]).await?.exits(0)?;
    let passed = tidewheel(&["test", "hello"]).await?.exits(0)?;
    anyhow::ensure!(passed.stderr.contains("2 tests") || passed.stdout.contains("2 passed"), "{}", passed.stderr);
    std::fs::create_dir(here.path().join("hello/tests"))?;
    let failing = "import unittest\n\nfrom tasks import greet\n\n\nclass T(unittest.TestCase):\n    def test_it(self):\n        \
                   self.assertEqual(greet('a'), 'b')\n";
    std::fs::write(here.path().join("hello/tests/test_more.py"), failing)?;
    let failed = tidewheel(&["test", "hello"]).await?.exits(1)?;
    anyhow::ensure!(failed.stderr.contains("the Python tests failed"), "{}", failed.stderr);
    tidewheel(&["test", "hello/test_tasks.py"]).await?.exits(0)?;
    std::fs::create_dir(here.path().join("nothing"))?;
    let none = tidewheel(&["test", "nothing"]).await?.exits(2)?;
    anyhow::ensure!(none.stderr.contains("there are no tests"), "{}", none.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exported_runs_are_replayed_on_changed_code() -> anyhow::Result<()> {
    need_binary!();
    need!(python);
    let _machine = gate::beside().await;
    let here = tempfile::tempdir()?;
    let code = "from tidewheel import task, workflow\n\n\n@task\ndef one() -> int:\n    return 1\n\n\n@task\ndef two() -> int:\n    \
                return 2\n\n\n@workflow(namespace='shop')\ndef order() -> int:\n    return one()\n";
    std::fs::write(here.path().join("flow.py"), code)?;
    std::fs::write(here.path().join("pyproject.toml"), "[project]\nname = \"shop\"\nversion = \"1.0.0\"\n")?;
    let script = "import json, sys; sys.path.insert(0, sys.argv[1]); import flow\nfrom tidewheel.testing import run\nprint(json.dumps({'run': \
                  {'id': 'run_1'}, 'history': run(flow.order).history()}))";
    let mut python = std::process::Command::new("python3");
    python
        .env("PYTHONPATH", root().join("python/src"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(["-c", script])
        .arg(here.path());
    let history = output(&mut python).await?.exits(0)?.stdout;
    let journals = here.path().join("journals");
    std::fs::create_dir(&journals)?;
    std::fs::write(journals.join("order.jsonl"), format!("{history}{{\"run\": {{\"id\": \"run_2\"}}}}\n"))?;
    let replay = |form: &'static str| {
        let mut command = command(here.path());
        command.args(["test", "--replay", "journals", "-o", form]);
        async move { output(&mut command).await }
    };
    let fits = replay("json").await?.exits(0)?;
    anyhow::ensure!(
        fits.json()?["runs"][0]["ok"] == true && fits.stderr.contains("run_2 has no history"),
        "{}",
        fits.stdout
    );
    std::fs::write(here.path().join("flow.py"), code.replace("return one()", "return two()"))?;
    let differs = replay("table").await?.exits(1)?;
    anyhow::ensure!(
        differs.stdout.contains("/task:two#0") && differs.stdout.contains("flow.py:16"),
        "{}",
        differs.stdout
    );
    Ok(())
}
