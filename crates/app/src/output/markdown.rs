//! Markdown as a terminal shows it: paragraphs set to its width, headings, code, tables and links made visible. It knows what
//! the project's own pages use, and shows anything else as it is written.

use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table};

/// Longer lines are hard to read, however wide the terminal is.
const LONGEST: usize = 100;

/// How it is shown.
#[derive(Clone, Copy)]
pub(crate) struct Shown {
    /// Columns of the terminal.
    pub(crate) width: usize,
    /// With colours and weights; without, code keeps its marks and headings theirs.
    pub(crate) colour: bool,
}

/// What a link leads to, as a person goes there; `None` if that need not be said.
type Target<'a> = &'a dyn Fn(&str) -> Option<String>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Bold,
    Italic,
    Code,
    Link,
}

impl Style {
    fn ansi(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Bold => "1",
            Style::Italic => "3",
            Style::Code => "36",
            Style::Link => "4",
        }
    }
}

/// A letter and how it looks.
type Letter = (char, Style);

impl Shown {
    /// The text of a page.
    pub(crate) fn text(self, markdown: &str, target: Target<'_>) -> String {
        let mut out = String::new();
        let lines: Vec<&str> = markdown.lines().collect();
        let mut at = 0;
        while at < lines.len() {
            let line = lines[at];
            let body = line.trim_start();
            let indent = line.len() - body.len();
            if body.is_empty() {
                // One empty line is as good as many.
                if !out.is_empty() && !out.ends_with("\n\n") {
                    out.push('\n');
                }
                at += 1;
            } else if body.starts_with("```") {
                at = self.code(&mut out, &lines, at, indent);
            } else if let Some(title) = heading(line) {
                self.heading(&mut out, line, title, target);
                at += 1;
            } else if body.starts_with('|') {
                let end = (at..lines.len()).find(|i| !lines[*i].trim_start().starts_with('|')).unwrap_or(lines.len());
                out.push_str(&self.table(&lines[at..end], target));
                at = end;
            } else {
                let (mark, first) = item(body).unwrap_or(("", body));
                let mut text = first.to_owned();
                at += 1;
                while at < lines.len() && continues(lines[at]) {
                    text.push(' ');
                    text.push_str(lines[at].trim());
                    at += 1;
                }
                let mark = if matches!(mark, "*" | "-") { "•" } else { mark };
                let lead = format!("{}{mark}{}", " ".repeat(indent), if mark.is_empty() { "" } else { " " });
                self.paragraph(&mut out, &lead, &text, target);
            }
        }
        out
    }

    /// A block of code, as it is: what is copied from it has to be right. The line after it.
    fn code(self, out: &mut String, lines: &[&str], start: usize, indent: usize) -> usize {
        let end = (start + 1..lines.len()).find(|i| lines[*i].trim_start().starts_with("```")).unwrap_or(lines.len());
        for line in &lines[start + 1..end] {
            let blank = line.len() - line.trim_start().len();
            let line = line[blank.min(indent)..].trim_end();
            if line.is_empty() {
                out.push('\n');
            } else {
                out.push_str(&format!("{}    {line}\n", " ".repeat(indent)));
            }
        }
        end + 1
    }

    fn heading(self, out: &mut String, line: &str, title: &str, target: Target<'_>) {
        let mut letters = Vec::new();
        self.inline(title, Style::Plain, target, &mut letters);
        let title: String = letters.iter().map(|(letter, _)| letter).collect();
        if self.colour {
            let style = if line.starts_with("# ") { "1;4" } else { "1" };
            out.push_str(&format!("\u{1b}[{style}m{title}\u{1b}[0m\n"));
        } else {
            out.push_str(&format!("{} {title}\n", line.split(' ').next().unwrap_or_default()));
        }
    }

    /// Words in lines of the width, the later ones below the first letter.
    fn paragraph(self, out: &mut String, lead: &str, text: &str, target: Target<'_>) {
        let mut letters = Vec::new();
        self.inline(text, Style::Plain, target, &mut letters);
        let hang = lead.chars().count();
        let room = self.width.min(LONGEST).saturating_sub(hang).max(20);
        let mut used = 0;
        out.push_str(lead);
        for word in letters.split(|(letter, _)| letter.is_whitespace()).filter(|word| !word.is_empty()) {
            if used > 0 && used + 1 + word.len() > room {
                out.push('\n');
                out.push_str(&" ".repeat(hang));
                used = 0;
            } else if used > 0 {
                out.push(' ');
                used += 1;
            }
            self.paint(out, word);
            used += word.len();
        }
        out.push('\n');
    }

    fn paint(self, out: &mut String, letters: &[Letter]) {
        for run in letters.chunk_by(|a, b| a.1 == b.1) {
            let text: String = run.iter().map(|(letter, _)| letter).collect();
            match run[0].1 {
                style if self.colour && style != Style::Plain => {
                    out.push_str(&format!("\u{1b}[{}m{text}\u{1b}[0m", style.ansi()));
                }
                _ => out.push_str(&text),
            }
        }
    }

    /// A table in the terminal's width; the second row only says that it is one.
    fn table(self, rows: &[&str], target: Target<'_>) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(self.width).unwrap_or(u16::MAX));
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let plain = Shown { colour: true, ..self };
        for (number, row) in rows.iter().enumerate().filter(|(number, _)| *number != 1) {
            let cells = cells(row).into_iter().map(|cell| {
                let mut letters = Vec::new();
                plain.inline(&cell, Style::Plain, target, &mut letters);
                let text: String = letters.iter().map(|(letter, _)| letter).collect();
                let code =
                    !letters.is_empty() && letters.iter().all(|(c, style)| c.is_whitespace() || *style == Style::Code);
                match (number, self.colour) {
                    (0, true) => Cell::new(text).add_attribute(Attribute::Bold),
                    (_, true) if code => Cell::new(text).fg(Color::DarkCyan),
                    _ => Cell::new(text),
                }
            });
            // Of a table without heads that row would be an empty line.
            let cells: Vec<Cell> = cells.collect();
            if number > 0 {
                table.add_row(cells);
            } else if cells.iter().any(|cell| !cell.content().is_empty()) {
                table.set_header(cells);
            }
        }
        let widths = table.column_max_content_widths();
        for (number, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            // Names stand in the first one: half a name is none.
            if number == 0 && widths.first().is_some_and(|width| usize::from(*width) * 2 < self.width) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        super::table::trimmed(&table)
    }

    /// The letters of a line of Markdown.
    fn inline(self, text: &str, base: Style, target: Target<'_>, out: &mut Vec<Letter>) {
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let used = match letter {
                '\\' => escaped(rest, base, out),
                '`' => self.span(rest, out),
                '[' => self.link(rest, base, target, out),
                '*' => self.emphasis(rest, target, out),
                '<' => tag(rest, out),
                _ => None,
            };
            let used = used.unwrap_or_else(|| {
                out.push((letter, base));
                letter.len_utf8()
            });
            rest = &rest[used..];
        }
    }

    /// Code in a line.
    fn span(self, rest: &str, out: &mut Vec<Letter>) -> Option<usize> {
        let end = 1 + rest[1..].find('`')?;
        let shown = if self.colour { &rest[1..end] } else { &rest[..=end] };
        out.extend(shown.chars().map(|letter| (letter, Style::Code)));
        Some(end + 1)
    }

    /// `[text](place)`: the text, and how to get to the place.
    fn link(self, rest: &str, base: Style, target: Target<'_>, out: &mut Vec<Letter>) -> Option<usize> {
        let middle = rest.find("](")?;
        let end = middle + rest[middle..].find(')')?;
        // A bracket that has nothing to do with the link after it.
        if rest[1..middle].contains('[') || rest[1..middle].contains(']') {
            return None;
        }
        let (text, place) = (&rest[1..middle], target(&rest[middle + 2..end]));
        let start = out.len();
        self.inline(text, if base == Style::Plain { Style::Link } else { base }, target, out);
        let said: String = out[start..].iter().map(|(letter, _)| letter).collect();
        if let Some(place) = place.filter(|place| *place != said.trim_matches('`')) {
            out.extend(format!(" ({place})").chars().map(|letter| (letter, Style::Plain)));
        }
        Some(end + 1)
    }

    /// `**bold**` and `*italic*`.
    fn emphasis(self, rest: &str, target: Target<'_>, out: &mut Vec<Letter>) -> Option<usize> {
        let (mark, style) = if rest.starts_with("**") { ("**", Style::Bold) } else { ("*", Style::Italic) };
        let inner = &rest[mark.len()..];
        let end = inner.find(mark).filter(|end| *end > 0)?;
        // A star between blanks is a star.
        if inner.starts_with(' ') || inner[..end].ends_with(' ') {
            return None;
        }
        self.inline(&inner[..end], style, target, out);
        Some(mark.len() * 2 + end)
    }
}

fn escaped(rest: &str, base: Style, out: &mut Vec<Letter>) -> Option<usize> {
    let next = rest[1..].chars().next().filter(char::is_ascii_punctuation)?;
    out.push((next, base));
    Some(2)
}

/// The two tags that the pages use: anchors are for links, a break begins a line of a cell.
fn tag(rest: &str, out: &mut Vec<Letter>) -> Option<usize> {
    let end = rest.find('>')? + 1;
    match &rest[1..end] {
        "br>" => out.push(('\n', Style::Plain)),
        "/a>" => {}
        tag if tag.starts_with("a id=") => {}
        _ => return None,
    }
    Some(end)
}

fn heading(line: &str) -> Option<&str> {
    let title = line.trim_start_matches('#');
    let level = line.len() - title.len();
    (1..=6).contains(&level).then_some(title).and_then(|title| title.strip_prefix(' '))
}

/// The mark of an item of a list, and what stands behind it.
fn item(body: &str) -> Option<(&str, &str)> {
    let (mark, rest) = body.split_once(' ')?;
    let number = mark.strip_suffix('.').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    (matches!(mark, "*" | "-") || number).then_some((mark, rest.trim_start()))
}

/// Whether a line belongs to the paragraph before it.
fn continues(line: &str) -> bool {
    let body = line.trim_start();
    let opens = body.is_empty() || body.starts_with("```") || body.starts_with('|');
    !opens && item(body).is_none() && heading(line).is_none()
}

/// The cells of a row; `\|` is a bar.
fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_start_matches('|');
    let mut out = Vec::new();
    let mut cell = String::new();
    let mut chars = row.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&'|') => cell.extend(chars.next()),
            '|' => out.push(std::mem::take(&mut cell).trim().to_owned()),
            c => cell.push(c),
        }
    }
    // What stands behind the last bar, if it was left out.
    if !cell.trim().is_empty() {
        out.push(cell.trim().to_owned());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(markdown: &str, width: usize, colour: bool) -> String {
        Shown { width, colour }.text(markdown, &|link| (!link.starts_with('#')).then(|| link.replace(".md", "")))
    }

    #[test]
    fn paragraphs_and_items_are_set_to_the_width() {
        let text = "one two three\nfour five six seven\neight\n\n* a `b c` d and some more words\n  that go on\n1. x\n";
        assert_eq!(
            shown(text, 24, false),
            "one two three four five\nsix seven eight\n\n• a `b c` d and some\n  more words that go on\n1. x\n"
        );
    }

    #[test]
    fn code_is_left_alone_and_headings_are_seen_without_colour() {
        let long = "x ".repeat(50);
        let text = format!("## The `why` of it\n\n```sh\n$ {long}\n# no heading\n```\n");
        let code = format!("    $ {}\n    # no heading\n", long.trim_end());
        assert_eq!(shown(&text, 40, false), format!("## The `why` of it\n\n{code}"));
        assert_eq!(shown(&text, 40, true), format!("\u{1b}[1mThe why of it\u{1b}[0m\n\n{code}"));
    }

    #[test]
    fn links_are_followed_by_where_they_lead() {
        assert_eq!(shown("see [it](a/b.md), [here](#x), [a/b](a/b.md)", 80, false), "see it (a/b), here, a/b\n");
        assert_eq!(shown("**bold** [`c`](d.md)", 80, true), "\u{1b}[1mbold\u{1b}[0m \u{1b}[36mc\u{1b}[0m (d)\n");
    }

    #[test]
    fn what_is_no_markup_stays() {
        for text in ["a * b * c", "a[0](", "2 < 3 > 1", "`open", "**open", "[a] (b)", "x[i](y", "\\", "<b>", "*"] {
            assert_eq!(shown(text, 80, false).trim_end(), text);
        }
        assert_eq!(shown("a \\* b", 80, false), "a * b\n");
    }

    #[test]
    fn tables_fit_and_keep_their_bars() {
        let broken = "| a | b |\n|---|---|\n| `x.y`<br>`X_Y` | z |\n";
        assert_eq!(shown(broken, 80, false), "a    b\nx.y  z\nX_Y\n");
        let table =
            "| code | what |\n|---|---|\n| <a id=\"x\"></a>`a\\|b` | words and words and words and words and words |\n";
        for width in [30, 60, 80] {
            let out = shown(table, width, false);
            assert!(out.contains("a|b") && !out.contains("id=") && !out.contains("---"), "{out}");
            assert!(out.lines().all(|line| line.chars().count() <= width), "{width}: {out}");
        }
    }

    #[test]
    fn every_page_is_set_within_the_width_but_for_its_code() {
        for page in crate::pages::ALL {
            let target = |link: &str| crate::pages::target(page, link);
            for width in [40, 60, 80, 300] {
                let out = Shown { width, colour: false }.text(page.text, &target);
                let wide = |line: &&str| {
                    let words = line.trim_start_matches([' ', '•']).contains(' ');
                    !line.starts_with("    ") && words && line.chars().count() > width && !line.starts_with('#')
                };
                assert_eq!(out.lines().find(wide), None, "{} at {width}", page.name);
                assert!(!out.contains("\n\n\n") || page.text.contains("\n\n\n"), "{}", page.name);
            }
        }
    }
}
