//! The server's configuration, through the verbs that show it.

use serde_json::Value;

use crate::mock::{Ran, command, ran};

fn run(file: Option<(&str, &str)>, env: &[(&str, &str)], args: &[&str]) -> Ran {
    let home = tempfile::tempdir().unwrap();
    let mut command = command(home.path());
    command.args(args);
    if let Some((name, text)) = file {
        std::fs::write(home.path().join(name), text).unwrap();
    }
    for (name, value) in env {
        command.env(name, value);
    }
    ran(command, "")
}

/// Value and origin of a setting.
fn shown(file: (&str, &str), env: &[(&str, &str)], setting: &str) -> (Value, String) {
    let ran = run(Some(file), env, &["config", "show", "--config", file.0]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let row =
        ran.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).find(|row| row["setting"] == setting);
    let row = row.unwrap_or_else(|| panic!("{setting} is not shown"));
    (row["value"].clone(), row["origin"].as_str().unwrap().to_owned())
}

#[test]
fn later_sources_win_and_each_value_knows_where_it_came_from() {
    let yaml = ("s.yaml", "server:\n  listen: 0.0.0.0:9000\n  drainTimeout: 1m\n");
    assert_eq!(shown(yaml, &[], "server.listen"), (Value::from("0.0.0.0:9000"), "s.yaml:2".to_owned()));
    assert_eq!(shown(yaml, &[], "engine.readers"), (Value::from(2), "default".to_owned()));
    let env = [("TIDEWHEEL__SERVER__DRAIN_TIMEOUT", "5s"), ("TIDEWHEEL__AGENT__QUEUES", "pdf, mail")];
    assert_eq!(shown(yaml, &env, "server.drainTimeout").1, "env TIDEWHEEL__SERVER__DRAIN_TIMEOUT");
    assert_eq!(shown(yaml, &env, "agent.queues").0, serde_json::json!(["pdf", "mail"]));
    let toml = ("s.toml", "[agent]\nlabels = { zone = \"a\", gpu = true }\n");
    assert_eq!(
        shown(toml, &[], "agent.labels"),
        (serde_json::json!({"zone": "a", "gpu": true}), "s.toml:2".to_owned())
    );
}

#[test]
fn every_mistake_is_named_with_its_line_and_the_nearest_name() {
    for (name, text, wanted) in [
        (
            "s.yaml",
            "server:\n  lisen: 1\n",
            "s.yaml:2: there is no setting 'server.lisen'; did you mean 'server.listen'?",
        ),
        ("s.yaml", "sever:\n  listen: a:1\n", "s.yaml:1: there is no setting 'sever'; did you mean 'server'?"),
        ("s.toml", "[server]\nlisten = 80\n", "s.toml:2: server.listen: an address such as"),
        ("s.yaml", "engine:\n  lease: soon\n", "s.yaml:2: engine.lease: 'soon' is not a duration"),
        ("s.yaml", "engine:\n  readers: 0\n", "s.yaml:2: engine.readers: a whole number from 1 to 64 is needed, not 0"),
        ("s.yaml", "log:\n  format: jsn\n", "did you mean 'json'?"),
        ("s.yaml", "blobs:\n  backend: s3\n", "blobs.s3.bucket: blobs.backend is s3, which needs a bucket"),
        (
            "s.yaml",
            "blobs:\n  s3:\n    secretKey: abc\n",
            "blobs.s3.secretKey is a secret: write blobs.s3.secretKeyFile",
        ),
        ("s.yaml", "tls:\n  certFile: x\n", "certificate and key go together"),
        ("s.yaml", "engine:\n  heartbeat: 3s\n", "at least two heartbeats have to fit into engine.lease"),
        ("s.yaml", "server:\n  roles: [api, exec]\n", "there is no role 'exec'"),
        ("s.yaml", "server: [1, 2\n", "s.yaml:"),
        ("s.toml", "[server\n", "s.toml:1:"),
    ] {
        let ran = run(Some((name, text)), &[], &["config", "check", name]);
        assert_eq!(ran.code, 2, "{text}: {ran:?}");
        assert!(ran.err.contains(wanted), "{text}:\n{}", ran.err);
    }
    let both = run(Some(("s.yaml", "a: 1\nb: 2\n")), &[], &["config", "check", "s.yaml"]);
    assert!(
        both.err.contains("2 mistakes") && both.err.contains("s.yaml:1") && both.err.contains("s.yaml:2"),
        "{both:?}"
    );
}

#[test]
fn an_unknown_variable_is_a_mistake_too() {
    let ran = run(None, &[("TIDEWHEEL__SERVER__LISTN", "a:1")], &["config", "show"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("did you mean 'TIDEWHEEL__SERVER__LISTEN'?"), "{ran:?}");
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("key"), "s3cr3t\n").unwrap();
    std::fs::write(home.path().join("s.yaml"), "blobs:\n  s3:\n    secretKeyFile: key\n").unwrap();
    let mut show = command(home.path());
    show.args(["config", "show", "--config", "s.yaml"]).env("TIDEWHEEL__BLOBS__S3__ACCESS_KEY", "AKIA");
    let shown = ran(show, "");
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(!shown.out.contains("s3cr3t") && !shown.out.contains("AKIA"), "{shown:?}");
    assert!(
        shown.out.contains(r#""setting":"blobs.s3.secretKey","value":"********","origin":"file key""#),
        "{shown:?}"
    );
    let mut by_file = command(home.path());
    by_file.args(["config", "show"]).env("TIDEWHEEL__BLOBS__S3__ACCESS_KEY_FILE", "key");
    assert!(ran(by_file, "").out.contains(r#""setting":"blobs.s3.accessKey","value":"********","origin":"file key""#));
}

#[test]
fn the_schema_knows_every_setting() {
    let schema = run(None, &[], &["config", "schema", "-o", "json"]).json();
    let rows = run(None, &[], &["config", "show"]);
    for row in rows.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let path = row["setting"].as_str().unwrap();
        let mut at = &schema;
        for part in path.split('.') {
            at = &at["properties"];
            at = if at.get(part).is_some() { &at[part] } else { &at[format!("{part}File")] };
        }
        assert!(at["description"].is_string(), "{path}");
    }
    assert_eq!(schema["additionalProperties"], false);
}
