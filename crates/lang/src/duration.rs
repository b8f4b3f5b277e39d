//! Lengths of time: an object of days, hours, minutes, seconds and milliseconds, or ISO 8601 text.

use serde_json::Value as Json;

/// The longest length of time: 10 years of 366 days, in milliseconds.
pub const MAX_MILLIS: u64 = 3660 * 86_400_000;

/// Reads a length of time, in milliseconds. The error is a sentence for the author of the value.
pub fn millis(value: &Json) -> Result<u64, String> {
    match value {
        Json::Object(parts) => parts_millis(parts),
        Json::String(text) => iso_millis(text),
        other => Err(format!(
            "a duration is an object of days, hours, minutes, seconds, milliseconds, or ISO 8601 text such as \"PT15M\"; this is {other}"
        )),
    }
}

/// Writes a length of time for people: `3d`, `1m 30s`, `250ms`.
pub fn text(millis: u64) -> String {
    const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
    let (mut rest, mut parts) = (millis, Vec::new());
    for (unit, length) in UNITS {
        if rest >= length {
            parts.push(format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

fn parts_millis(parts: &serde_json::Map<String, Json>) -> Result<u64, String> {
    if parts.is_empty() {
        return Err("a duration needs at least one of days, hours, minutes, seconds, milliseconds".to_owned());
    }
    let mut total = 0.0;
    for (name, value) in parts {
        let unit = match name.as_str() {
            "days" => 86_400_000.0,
            "hours" => 3_600_000.0,
            "minutes" => 60_000.0,
            "seconds" => 1000.0,
            "milliseconds" => 1.0,
            "years" | "months" | "weeks" => return Err(format!("`{name}` cannot be used in a duration; write days")),
            other => {
                return Err(format!("a duration has no `{other}`; it has days, hours, minutes, seconds, milliseconds"));
            }
        };
        match value.as_f64() {
            Some(count) if count >= 0.0 => total += count * unit,
            _ => return Err(format!("`{name}` of a duration is a number of at least 0; this is {value}")),
        }
    }
    bounded(total)
}

fn bounded(millis: f64) -> Result<u64, String> {
    if millis > MAX_MILLIS as f64 {
        return Err("a duration is at most 3660 days".to_owned());
    }
    Ok(millis.round() as u64)
}

fn iso_millis(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("`{text}` is not an ISO 8601 duration; write it like \"P1DT2H30M\", \"PT15M\" or \"PT0.5S\"");
    let rest = text.strip_prefix('P').ok_or_else(wrong)?;
    let (date, time) = match rest.split_once('T') {
        Some((date, time)) if !time.is_empty() => (date, time),
        Some(_) => return Err(wrong()),
        None => (rest, ""),
    };
    if date.is_empty() && time.is_empty() {
        return Err(wrong());
    }
    let mut total = 0.0;
    for (part, units) in [(date, "YMWD"), (time, "HMS")] {
        let mut rest = part;
        let mut last = 0;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let count: f64 = rest[..end].parse().map_err(|_| wrong())?;
            let unit = rest[end..].chars().next().ok_or_else(wrong)?;
            let place = units.find(unit).ok_or_else(wrong)? + 1;
            if place <= last {
                return Err(wrong());
            }
            last = place;
            total += count
                * match (units.len(), unit) {
                    (4, 'Y' | 'M') => {
                        return Err(format!("`{text}`: years and months have no fixed length; write days"));
                    }
                    (4, 'W') => 604_800_000.0,
                    (4, _) => 86_400_000.0,
                    (_, 'H') => 3_600_000.0,
                    (_, 'M') => 60_000.0,
                    _ => 1000.0,
                };
            rest = &rest[end + 1..];
        }
    }
    bounded(total)
}
