//! Small texts: names that are close, durations, sizes, times as people read them, and text that is safe on a terminal.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

/// The name nearest to `wanted`, if one is near enough to be a slip of the hand.
pub(crate) fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let mut best: Option<(f64, &str)> = None;
    for name in known {
        let score = strsim::jaro_winkler(&wanted, &name.to_lowercase());
        if score > 0.8 && best.is_none_or(|(top, _)| score > top) {
            best = Some((score, name));
        }
    }
    best.map(|(_, name)| name)
}

/// "; did you mean 'x'?" or nothing.
pub(crate) fn did_you_mean<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(wanted, known).map_or_else(String::new, |name| format!("; did you mean '{name}'?"))
}

/// `500ms`, `10s`, `1h30m`, `2d`; a bare number is seconds here, because that is what people type after `--wait`.
pub(crate) fn parse_wait(text: &str) -> Result<Duration, String> {
    let trimmed = text.trim();
    if let Ok(seconds) = trimmed.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    parse_duration(trimmed)
}

/// The same with a unit required.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    crate::units::parse_duration_ms(text).map(Duration::from_millis)
}

/// How a time is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TimeStyle {
    /// `3m ago`
    Relative,
    /// RFC 3339 in UTC, as the server sends it.
    Iso,
    /// The local zone.
    Local,
}

/// A server's time in the wished style; what is no time stays as it is.
pub(crate) fn show_time(text: &str, style: TimeStyle, now: Timestamp) -> String {
    let Ok(at) = text.parse::<Timestamp>() else { return text.to_owned() };
    match style {
        TimeStyle::Iso => text.to_owned(),
        TimeStyle::Local => at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        TimeStyle::Relative => {
            let passed = now.duration_since(at);
            if passed.is_negative() { format!("in {}", rough(passed.abs())) } else { format!("{} ago", rough(passed)) }
        }
    }
}

/// The two largest units at most: `45s`, `3m`, `2h10m`, `5d`.
pub(crate) fn rough(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..=59 => format!("{seconds}s"),
        60..=599 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        600..=3_599 => format!("{}m", seconds / 60),
        3_600..=86_399 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Bytes in binary units.
pub(crate) fn bytes(count: f64) -> String {
    let mut value = count;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{value:.0} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A count with thousands marked: `1,204,000`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// So many tasks: `1 task`, `12,000 tasks`.
pub(crate) fn tasks(number: u64) -> String {
    many(number, "task")
}

/// `1 run`, `3 runs`.
pub(crate) fn many(number: u64, what: &str) -> String {
    format!("{} {what}{}", count(number), if number == 1 { "" } else { "s" })
}

/// The same as the subject of a sentence about the past: `1 task was`, `3 tasks were`.
pub(crate) fn tasks_were(number: u64) -> String {
    format!("{} {}", tasks(number), if number == 1 { "was" } else { "were" })
}

/// One line without control characters: what came from elsewhere must not move the cursor or change the window title.
pub(crate) fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if is_unsafe(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A log line for a terminal: colours (`ESC [ ... m`) stay, every other control sequence is made visible.
pub(crate) fn log_line(text: &str, colour: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(length) = colour_sequence(rest) {
            if colour {
                out.push_str(&rest[..length]);
            }
            rest = &rest[length..];
            continue;
        }
        match c {
            '\t' => out.push('\t'),
            c if is_unsafe(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    if colour && out.contains('\u{1b}') {
        out.push_str("\u{1b}[0m");
    }
    out
}

/// Length of the colour sequence at the start of the text.
fn colour_sequence(text: &str) -> Option<usize> {
    let body = text.strip_prefix("\u{1b}[")?;
    let end = body.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    (body.as_bytes()[end] == b'm').then_some(2 + end + 1)
}

/// Control characters, and those that turn the direction of the text.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// Splits a command line as a shell does, for quotes and backslashes; used on examples and on `--exec` texts.
pub fn shell_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some('"'), '\\') | (None, '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not() {
        assert_eq!(nearest("qeue", ["task", "queue"]), Some("queue"));
        assert_eq!(nearest("zzz", ["task", "queue"]), None);
    }

    #[test]
    fn hostile_text_cannot_steer_the_terminal() {
        assert_eq!(one_line("a\u{1b}]0;owned\u{7}\nb"), "a\u{fffd}]0;owned\u{fffd} b");
        assert_eq!(log_line("\u{1b}[31mred\u{1b}[2Jx", true), "\u{1b}[31mred\u{fffd}[2Jx\u{1b}[0m");
        assert_eq!(log_line("\u{1b}[31mred", false), "red");
    }

    #[test]
    fn counts_and_durations_are_short() {
        assert_eq!(count(1_204_000), "1,204,000");
        assert_eq!(count(12), "12");
        assert_eq!(rough(SignedDuration::from_secs(7_800)), "2h10m");
        assert_eq!(bytes(1536.0), "1.5 KiB");
    }

    #[test]
    fn words_are_split_like_a_shell_does() {
        assert_eq!(shell_words(r#"a --x '{"b": 1}' "c d" e\ f"#), ["a", "--x", r#"{"b": 1}"#, "c d", "e f"]);
    }
}
