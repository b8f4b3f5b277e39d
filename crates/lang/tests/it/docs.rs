//! The examples of the documentation.

use tidewheel_lang::diagnostic::Severity;
use tidewheel_lang::feature::Features;
use tidewheel_lang::fmt::format;
use tidewheel_lang::lint::lint;
use tidewheel_lang::resolve::{Offline, Options};

#[test]
fn every_example_of_the_language_page_is_sound_and_formatted() {
    let page = include_str!("../../../../docs/reference/workflow-language.md");
    let examples: Vec<&str> = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 3);
    for example in examples {
        let report = lint(example.as_bytes(), Options { profile: None, features: Features::all() }, &Offline);
        let bad: Vec<_> = report.diagnostics.iter().filter(|one| one.severity != Severity::Hint).collect();
        assert!(bad.is_empty(), "{bad:#?}\n{example}");
        let formatted = format(example.as_bytes()).unwrap();
        assert!(formatted == example, "formatted it is:\n{formatted}");
    }
}

#[test]
fn the_page_names_every_code_of_the_linter() {
    let page = include_str!("../../../../docs/reference/workflow-language.md");
    let sources = [
        include_str!("../../src/lint/data.rs"),
        include_str!("../../src/lint/flow.rs"),
        include_str!("../../src/lint/order.rs"),
        include_str!("../../src/lint/mod.rs"),
    ];
    for code in sources.iter().flat_map(|source| codes(source)) {
        assert!(page.contains(&format!("`{code}`")), "{code}");
    }
}

/// Words with a hyphen in quotes: codes are written so and nothing else is.
fn codes(source: &str) -> Vec<&str> {
    let word = |text: &&str| {
        text.contains('-') && text.chars().all(|char| char.is_ascii_lowercase() || char == '-') && text.len() > 3
    };
    source
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(word)
        .filter(|code| *code != "kebab-case" && *code != "not-fetched")
        .collect()
}
