//! Diagnostics as people read them: with the lines of the text, and a mark under what is meant.

use std::fmt::Write;

use crate::diagnostic::{Diagnostic, Severity};

/// Longest line that is shown whole.
const WIDTH: usize = 160;

/// Renders findings about a text. `name` is what the text is called, such as its file.
pub fn render(text: &str, name: &str, diagnostics: &[Diagnostic], colour: bool) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::new();
    for one in diagnostics {
        one_finding(&mut out, &lines, name, one, colour);
    }
    out
}

fn one_finding(out: &mut String, lines: &[&str], name: &str, one: &Diagnostic, colour: bool) {
    let (word, code) = match one.severity {
        Severity::Error => ("error", "31"),
        Severity::Warning => ("warning", "33"),
        Severity::Hint => ("hint", "36"),
    };
    let paint = |style: &str, text: &str| if colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_string() };
    let (start, end) = (one.span.start, one.span.end);
    let line = start.line.max(1);
    let width = line.to_string().len();
    let pad = " ".repeat(width);
    let bar = paint("34", "|");
    let head = paint(&format!("1;{code}"), &format!("{word}[{}]", one.code));
    let _ = writeln!(out, "{head}: {}", paint("1", &one.message));
    let _ = writeln!(out, "{pad}{} {name}:{line}:{}", paint("34", "-->"), start.column.max(1));
    if let Some(source) = lines.get(line as usize - 1).filter(|_| start.line > 0) {
        let (shown, from) = window(source, start.column as usize - 1);
        let last = if end.line == start.line { end.column as usize - 1 } else { source.chars().count() };
        let first = start.column as usize - 1;
        let length = last.saturating_sub(first).clamp(1, WIDTH.saturating_sub(first.saturating_sub(from)).max(1));
        let _ = writeln!(out, "{pad} {bar}");
        let _ = writeln!(out, "{} {bar} {shown}", paint("34", &line.to_string()));
        let blank: String =
            shown.chars().take(first - from).map(|char| if char == '\t' { '\t' } else { ' ' }).collect();
        let _ = writeln!(out, "{pad} {bar} {blank}{}", paint(&format!("1;{code}"), &"^".repeat(length)));
    }
    if !one.pointer.is_empty() {
        let _ = writeln!(out, "{pad} {} at `{}`", paint("34", "="), one.pointer);
    }
    if let Some(hint) = &one.hint {
        let _ = writeln!(out, "{pad} {} {}: {hint}", paint("34", "="), paint("1", "help"));
    }
    if let Some(fix) = one.fix.as_deref().filter(|fix| !fix.contains('\n')) {
        let _ = writeln!(out, "{pad} {} {}: write `{fix}`", paint("34", "="), paint("1", "fix"));
    }
    out.push('\n');
}

/// The part of a long line around a column, and where it begins. Control characters are shown as blanks.
fn window(line: &str, column: usize) -> (String, usize) {
    let clean = |char: char| if char.is_control() && char != '\t' { ' ' } else { char };
    let count = line.chars().count();
    let from = if count <= WIDTH { 0 } else { column.saturating_sub(WIDTH / 2) };
    (line.chars().skip(from).take(WIDTH).map(clean).collect(), from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Tree;

    #[test]
    fn a_finding_shows_its_line_and_a_mark_under_what_is_meant() {
        let text = "do:\n  - a: { then: secnod }\n";
        let tree = Tree::parse(text.as_bytes()).unwrap();
        let at = tree.find("/do/0/a/then").unwrap();
        let found = tree.error(at, "unknown-name", "there is no `secnod`").hint("did you mean `second`?").fix("second");
        let expected = "error[unknown-name]: there is no `secnod`\n --> flow.yaml:2:16\n  |\n2 |   - a: { then: secnod }\n  |                ^^^^^^\n  = at `/do/0/a/then`\n  = help: did you mean `second`?\n  = fix: write `second`\n\n";
        assert_eq!(render(text, "flow.yaml", std::slice::from_ref(&found), false), expected);
        assert!(render(text, "flow.yaml", &[found], true).contains("\x1b[1;31m^^^^^^\x1b[0m"));
    }

    #[test]
    fn a_place_without_text_and_a_very_long_line_are_shown_too() {
        let lost = Diagnostic { span: Default::default(), ..Tree::parse(b"").unwrap_err() };
        assert!(render("", "x", &[lost], false).contains("the document is empty"));
        let text = format!("a: {} {{", "x".repeat(5000));
        let error = Tree::parse(format!("{text}\nb: [").as_bytes()).unwrap_err();
        assert!(render(&text, "x", &[error], false).len() < 1000);
    }
}
