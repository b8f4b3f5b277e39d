//! Forms of texts: expressions, versions, addresses, dates.

/// Whether a text is one expression in `${ }`, as the standard's pattern has it: on one line.
pub(crate) fn is_expression(text: &str) -> bool {
    let inner = text.trim_matches(is_space);
    inner
        .strip_prefix("${")
        .and_then(|rest| rest.strip_suffix('}'))
        .is_some_and(|code| !code.is_empty() && !code.contains(['\n', '\r', '\u{2028}', '\u{2029}']))
}

/// White space as patterns of JSON Schema know it.
fn is_space(char: char) -> bool {
    char.is_whitespace() || char == '\u{feff}'
}

/// The numbers of a semantic version.
pub(crate) fn semver(text: &str) -> Option<(u64, u64, u64)> {
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let numeric = |part: &str| part == "0" || (part.bytes().all(|b| b.is_ascii_digit()) && !part.starts_with('0'));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let sound = build.is_none_or(|build| build.split('.').all(word))
        && pre.is_none_or(|pre| pre.split('.').all(|part| word(part) && (!digits(part) || numeric(part))));
    let mut parts =
        core.split('.').map(|part| if !part.is_empty() && numeric(part) { part.parse().ok() } else { None });
    let version = (parts.next()??, parts.next()??, parts.next()??);
    (sound && parts.next().is_none()).then_some(version)
}

/// A label of 63 letters, digits and inner hyphens.
pub(super) fn label(text: &str) -> bool {
    host(text) && !text.contains('.')
}

/// As [`label`], with dots.
pub(super) fn host(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63 && text.bytes().all(inner) && outer(text.bytes().next()) && outer(text.bytes().last())
}

/// A URI or a template of one. In the edition after 1.0.3 relative ones too.
pub(super) fn uri(text: &str, relative: bool) -> bool {
    let shape = if relative {
        relative_shape(text)
    } else {
        let scheme = text.split("://").next().unwrap_or("");
        text.contains("://")
            && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    shape && template(text)
}

/// The pattern of the edition after 1.0.3: no expression, and white space nowhere but in what stands before a colon.
fn relative_shape(text: &str) -> bool {
    if text.starts_with(is_space) || text.is_empty() || text.trim_start_matches(is_space).starts_with("${") {
        return false;
    }
    if !text.contains(is_space) {
        return true;
    }
    text.split_once(':').is_some_and(|(scheme, rest)| !scheme.contains(['/', '?', '#']) && !rest.contains(is_space))
}

/// Characters and braces that RFC 6570 allows.
pub(super) fn template(text: &str) -> bool {
    let mut inside = false;
    let mut empty = true;
    for char in text.chars() {
        match char {
            '{' if inside => return false,
            '{' => (inside, empty) = (true, true),
            '}' if !inside || empty => return false,
            '}' => inside = false,
            _ if char.is_control() || char.is_whitespace() || "\"'<>\\^`|".contains(char) => return false,
            _ => empty = false,
        }
    }
    !inside
}

/// A JSON pointer.
pub(super) fn pointer(text: &str) -> bool {
    let escapes = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    (text.is_empty() || text.starts_with('/')) && escapes
}

/// A date and time of RFC 3339.
pub(super) fn date_time(text: &str) -> bool {
    let shape = text.len() >= 20 && text.is_ascii() && matches!(text.as_bytes()[10], b'T' | b't');
    let zone = text.ends_with(['Z', 'z'])
        || text.as_bytes().get(text.len().saturating_sub(6)).is_some_and(|b| b"+-".contains(b));
    shape && zone && text.parse::<jiff::Timestamp>().is_ok()
}

/// A length of time as ISO 8601 writes it.
pub(super) fn iso_duration(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('P').filter(|rest| !rest.is_empty()) else { return false };
    let (date, time) = rest.split_once('T').map_or((rest, None), |(date, time)| (date, Some(time)));
    parts(date, "YMWD") && time.is_none_or(|time| time.starts_with(|c: char| c.is_ascii_digit()) && parts(time, "HMS"))
}

/// Numbers each followed by a letter, the letters in this order.
fn parts(text: &str, letters: &str) -> bool {
    let mut rest = text;
    let mut letters = letters.chars();
    while !rest.is_empty() {
        let Some(at) = rest.find(|char: char| !char.is_ascii_digit() && char != '.') else { return false };
        let (number, unit) = (&rest[..at], rest[at..].chars().next().unwrap_or(' '));
        let (whole, fraction) = number.split_once('.').map_or((number, None), |(whole, part)| (whole, Some(part)));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !fraction.is_none_or(digits) || !letters.any(|letter| letter == unit) {
            return false;
        }
        rest = &rest[at + unit.len_utf8()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_those_of_the_standard() {
        assert!(
            is_expression(" ${ .a } \n")
                && !is_expression("${}")
                && !is_expression("${ .a\n}")
                && !is_expression("a ${ .b }")
        );
        assert_eq!(semver("1.0.3-alpha.1+x"), Some((1, 0, 3)));
        assert!(semver("01.0.3").is_none() && semver("1.0").is_none() && semver("1.0.0-").is_none());
        assert!(label("a-b") && !label("-a") && !label("") && !label("a.b") && !label(&"a".repeat(64)));
        assert!(uri("https://x/{id}", false) && !uri("x/y", false) && uri("x/y", true) && !uri("https://x/ y", false));
        assert!(
            iso_duration("PT15M")
                && iso_duration("P1DT2.5S")
                && !iso_duration("P")
                && !iso_duration("PT")
                && !iso_duration("15m")
        );
        assert!(pointer("/a/~0b") && pointer("") && !pointer("a") && !pointer("/~2"));
        assert!(date_time("2026-01-01T00:00:00Z") && !date_time("2026-01-01"));
    }
}
