//! Help, reference, completions: what is made from the command definitions.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Command;

use crate::mock::{command, ran};

/// Every verb with its path.
fn all_verbs(command: &Command, path: &str, out: &mut Vec<(String, Command)>) {
    for verb in command.get_subcommands() {
        let path = format!("{path} {}", verb.get_name());
        out.push((path.clone(), verb.clone()));
        all_verbs(verb, &path, out);
    }
}

fn verbs() -> Vec<(String, Command)> {
    let mut root = tidewheel_app::command();
    root.build();
    let mut out = Vec::new();
    all_verbs(&root, "tidewheel", &mut out);
    out
}

/// The commands of an examples section.
fn examples(command: &Command) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let lines = help.lines().filter_map(|line| line.strip_prefix("  "));
    lines.map(str::to_owned).collect()
}

#[test]
fn every_verb_has_one_line_a_long_help_and_two_examples() {
    let mut wrong = Vec::new();
    for (path, verb) in verbs() {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        let long = verb.get_long_about().map(ToString::to_string).unwrap_or_default();
        let examples = examples(&verb);
        if about.is_empty() || about.contains('\n') || about.ends_with('.') {
            wrong.push(format!("{path}: the one line is '{about}'"));
        }
        if long.len() < about.len() + 40 {
            wrong.push(format!("{path}: the long help says nothing more than the one line"));
        }
        if examples.len() < 2 {
            wrong.push(format!("{path}: {} examples", examples.len()));
        }
        for argument in verb.get_arguments().filter(|a| !a.is_hide_set() && a.get_help().is_none()) {
            wrong.push(format!("{path}: {} is not explained", argument.get_id()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_example_parses_and_belongs_to_its_verb() {
    let mut wrong = Vec::new();
    let mut root = Vec::from([("tidewheel".to_owned(), tidewheel_app::command())]);
    root.extend(verbs());
    for (path, verb) in root {
        let mut own = false;
        for example in examples(&verb) {
            own |= example.contains(path.as_str());
            // Only what this program is given: pipes, redirections and `&&` are the shell's.
            for part in example.split(" | ").flat_map(|p| p.split(" && ")) {
                let part = part.split(" > ").next().unwrap_or(part).trim().trim_start_matches("xargs ");
                if !part.starts_with("tidewheel") {
                    continue;
                }
                let mut words = tidewheel_app::shell_words(part);
                if example.contains("| xargs tidewheel") && part.ends_with(path.trim_start_matches("tidewheel ")) {
                    words.push("x".to_owned());
                }
                if let Err(error) = tidewheel_app::command().try_get_matches_from(&words) {
                    wrong.push(format!("{path}: {part}\n{error}"));
                }
            }
        }
        if !own {
            wrong.push(format!("{path}: no example shows it"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn definitions_are_sound() {
    tidewheel_app::command().debug_assert();
}

#[test]
fn every_verb_stands_in_one_group_of_the_help() {
    let help = tidewheel_app::command().render_help().to_string();
    for verb in tidewheel_app::command().get_subcommands() {
        let line = format!("\n  {:<12} ", verb.get_name());
        assert_eq!(help.matches(&line).count(), 1, "{} in\n{help}", verb.get_name());
    }
    let order: Vec<_> = ["Start:", "Work:", "Operate:", "Admin:", "Options:"].map(|t| help.find(t).expect(t)).into();
    assert!(order.is_sorted(), "{help}");
}

#[test]
fn lists_are_also_ls() {
    for (path, verb) in verbs().iter().filter(|(path, _)| path.ends_with(" list")) {
        assert!(verb.get_visible_aliases().any(|alias| alias == "ls"), "{path}");
    }
}

/// Compares a file with what it should hold; `UPDATE_EXPECT=1` writes it.
fn golden(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == text, "{} is stale: run the test with UPDATE_EXPECT=1", path.display());
}

#[test]
fn the_reference_page_is_up_to_date() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    golden(&page, &tidewheel_app::markdown());
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/configuration.md");
    golden(&page, &tidewheel_app::configuration_markdown());
}

#[test]
fn help_texts_are_as_reviewed() {
    let home = tempfile::tempdir().unwrap();
    for (name, args) in [
        ("root", vec!["-h"]),
        ("task-submit", vec!["task", "submit", "-h"]),
        ("task-list", vec!["task", "list", "-h"]),
        ("queue", vec!["queue", "-h"]),
        ("server", vec!["server", "-h"]),
        ("agent", vec!["agent", "-h"]),
    ] {
        let mut command = command(home.path());
        command.args(&args).env("COLUMNS", "100");
        let ran = ran(command, "");
        assert_eq!(ran.code, 0, "{ran:?}");
        golden(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/golden/{name}.txt")), &ran.out);
    }
}

#[test]
fn a_slip_of_the_hand_gets_a_proposal() {
    let home = tempfile::tempdir().unwrap();
    for (args, near) in
        [(vec!["taks", "list"], "task"), (vec!["task", "lst"], "list"), (vec!["task", "list", "--filtr"], "--filter")]
    {
        let mut command = command(home.path());
        command.args(&args);
        let ran = ran(command, "");
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains(near), "{ran:?}");
    }
}

#[test]
fn the_version_comes_at_once() {
    let home = tempfile::tempdir().unwrap();
    // The best of several, and far above what it takes: the machine does other things beside the tests.
    let best = (0..10)
        .map(|_| {
            let start = Instant::now();
            let mut command = command(home.path());
            command.arg("--version");
            let ran = ran(command, "");
            assert_eq!(ran.out, format!("tidewheel {}\n", env!("CARGO_PKG_VERSION")), "{ran:?}");
            start.elapsed()
        })
        .min()
        .unwrap();
    assert!(best < Duration::from_millis(200), "{best:?}");
}

#[test]
fn a_shell_that_asks_gets_verbs_and_live_names() {
    let mock = crate::mock::Mock::always(crate::mock::json(
        200,
        serde_json::json!({"items": [{"name": "pdf"}, {"name": "mail"}]}),
    ));
    let ask = |words: &[&str]| {
        let mut asked = command(mock.home.path());
        asked.env("TIDEWHEEL_COMPLETE", "fish").env("TIDEWHEEL_URL", &mock.url).env("TIDEWHEEL_TOKEN", "tw_x");
        asked.arg("--").args(words);
        ran(asked, "").out
    };
    assert!(ask(&["tidewheel", "ta"]).contains("task"));
    assert!(ask(&["tidewheel", "queue", "pause", ""]).contains("pdf"), "{}", ask(&["tidewheel", "queue", "pause", ""]));
    assert!(!ask(&["tidewheel", "queue", "pause", "m"]).contains("pdf"));
    let mut script = command(mock.home.path());
    script.args(["completions", "bash", "--live"]);
    assert!(ran(script, "").out.contains("TIDEWHEEL_COMPLETE"));
}

#[test]
fn completions_and_man_pages_are_generated() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let mut command = command(home.path());
        command.args(["completions", shell]);
        let ran = ran(command, "");
        assert!(ran.code == 0 && ran.out.contains("reprioritise"), "{shell}: {}", ran.err);
    }
    let mut command = command(home.path());
    command.args(["man", "--dir", "man"]);
    let ran = ran(command, "");
    assert_eq!(ran.code, 0, "{ran:?}");
    let page = std::fs::read_to_string(home.path().join("man/tidewheel-task-submit.1")).unwrap();
    assert!(page.contains(".TH tidewheel-task-submit 1") && page.contains("Examples"), "{page}");
}
