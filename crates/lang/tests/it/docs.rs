//! The examples of the documentation.

use tidewheel_lang::diagnostic::Severity;
use tidewheel_lang::feature::Features;
use tidewheel_lang::fmt::format;
use tidewheel_lang::lint::lint;
use tidewheel_lang::resolve::{Offline, Options};
use tidewheel_lang::testkit::load;

use crate::testkit::Memory;

#[test]
fn every_example_of_the_language_page_is_sound_and_formatted() {
    let page = include_str!("../../../../docs/reference/workflow-language.md");
    let examples: Vec<&str> = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 4);
    for example in examples {
        let report = lint(example.as_bytes(), Options { profile: None, features: Features::all() }, &Offline);
        let bad: Vec<_> = report.diagnostics.iter().filter(|one| one.severity != Severity::Hint).collect();
        assert!(bad.is_empty(), "{bad:#?}\n{example}");
        let formatted = format(example.as_bytes()).unwrap();
        assert!(formatted == example, "formatted it is:\n{formatted}");
    }
}

#[test]
fn the_tests_of_the_page_about_tests_pass_and_run_every_statement() {
    let page = include_str!("../../../../docs/guide/testing-workflows.md");
    let examples: Vec<&str> = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let [workflow, tests] = examples[..] else { panic!("{} examples", examples.len()) };
    for example in [workflow, tests] {
        assert_eq!(format(example.as_bytes()).unwrap(), example);
    }
    let files = Memory([("refund.yaml".to_string(), workflow.to_string())].into());
    let (suite, found) = load(tests.as_bytes(), Some("refund.yaml"), &files);
    let suite = suite.unwrap_or_else(|| panic!("{found:#?}"));
    for crash in [false, true] {
        let report = suite.play_all(None, crash);
        assert!(report.failed == 0 && report.passed == 4, "{report:#?}");
        let coverage = &suite.coverage(&report.tests)[0];
        assert_eq!((coverage.run, coverage.statements), (5, 5), "{coverage:?}");
        for test in &report.tests {
            let passed = match test.elapsed_ms {
                0 => String::new(),
                millis => format!(", {} passed", tidewheel_lang::duration::text(millis)),
            };
            let calls = test.calls.len();
            let line = format!("  ok   {} ({calls} call{}{passed})\n", test.name, if calls == 1 { "" } else { "s" });
            assert!(page.contains(&line), "{line}");
        }
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
