//! Texts for durations, sizes, rates and times, in every form the requirement documents use. One parser each.

use jiff::Timestamp;
use tidewheel_engine::config::Rate;
use tidewheel_proto::rest::DurationText;

/// Longest duration that is accepted: ten years. Beyond, a typing error is likelier than a wish.
const MAX_DURATION_MS: u64 = 10 * 366 * 86_400_000;

/// `500ms`, `10s`, `1h30m`, `2d`, `1.5h`, ISO 8601 (`PT5M`, `P1DT2H`) or a bare number of milliseconds.
pub fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let upper = trimmed.as_bytes().first().map(u8::to_ascii_uppercase);
    let ms = if trimmed.is_empty() {
        None
    } else if trimmed.bytes().all(|b| b.is_ascii_digit()) {
        trimmed.parse::<u64>().ok()
    } else if upper == Some(b'P') {
        iso_duration(trimmed)
    } else {
        unit_duration(trimmed)
    };
    match ms {
        Some(ms) if ms <= MAX_DURATION_MS => Ok(ms),
        Some(_) => Err(format!("'{}' is longer than ten years", shown(text))),
        None => Err(format!("'{}' is not a duration; write 500ms, 10s, 1h30m, 2d or PT5M", shown(text))),
    }
}

fn unit_duration(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0f64;
    while !rest.is_empty() {
        let (number, after) = leading_number(rest)?;
        let after = after.trim_start();
        let unit_len = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        total += number * unit_ms(unit)?;
        rest = next.trim_start();
    }
    whole_ms(total)
}

fn unit_ms(unit: &str) -> Option<f64> {
    Some(match unit {
        "us" => 0.001,
        "ms" | "milli" | "millis" => 1.0,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000.0,
        "h" | "hr" | "hour" | "hours" => 3_600_000.0,
        "d" | "day" | "days" => 86_400_000.0,
        "w" | "week" | "weeks" => 604_800_000.0,
        _ => return None,
    })
}

/// ISO 8601 without years and months, whose length is not fixed.
fn iso_duration(text: &str) -> Option<u64> {
    let upper = text.to_ascii_uppercase();
    let (date, time) = match upper[1..].split_once('T') {
        Some((date, time)) if !time.is_empty() => (date.to_owned(), time.to_owned()),
        Some(_) => return None,
        None => (upper[1..].to_owned(), String::new()),
    };
    if date.is_empty() && time.is_empty() {
        return None;
    }
    let mut total = 0f64;
    for (part, units) in [(date, [('W', 604_800_000.0), ('D', 86_400_000.0)].as_slice()), (time, ISO_TIME)] {
        let mut rest = part.as_str();
        while !rest.is_empty() {
            let (number, after) = leading_number(rest)?;
            let unit = after.chars().next()?;
            total += number * units.iter().find(|(name, _)| *name == unit)?.1;
            rest = &after[1..];
        }
    }
    whole_ms(total)
}

const ISO_TIME: &[(char, f64)] = &[('H', 3_600_000.0), ('M', 60_000.0), ('S', 1_000.0)];

fn leading_number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() || digits.starts_with('.') || digits.ends_with('.') {
        return None;
    }
    digits.parse().ok().map(|number| (number, rest))
}

fn whole_ms(total: f64) -> Option<u64> {
    // Any finite total fits: the caller bounds it at ten years.
    (total.is_finite() && (0.0..1e18).contains(&total)).then(|| total.round() as u64)
}

/// The duration of a request field, with the words of the error.
pub(crate) fn duration_ms(value: &DurationText) -> Result<u64, String> {
    match value {
        DurationText::Millis(ms) if *ms <= MAX_DURATION_MS => Ok(*ms),
        DurationText::Millis(_) => Err("longer than ten years".to_owned()),
        DurationText::Text(text) => parse_duration_ms(text),
    }
}

/// The shortest exact text: `1h30m`, `2s500ms`, `0s`.
pub(crate) fn duration_text(mut ms: u64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if ms >= size {
            out.push_str(&format!("{}{unit}", ms / size));
            ms %= size;
        }
    }
    out
}

/// Bytes from `512MB`, `4Gi`, `2g`, `1024`. Decimal units (`MB`) count 1,000, binary ones (`Mi`, `MiB`) and the bare
/// letters of container runtimes (`m`, `g`) 1,024.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let bad = || format!("'{}' is not a size; write 512MB, 4Gi or a number of bytes", shown(text));
    let (number, unit) = leading_number(trimmed).ok_or_else(bad)?;
    let factor: u64 = match unit.trim() {
        "" | "b" | "B" => 1,
        "k" | "K" | "Ki" | "KiB" => 1 << 10,
        "m" | "M" | "Mi" | "MiB" => 1 << 20,
        "g" | "G" | "Gi" | "GiB" => 1 << 30,
        "t" | "T" | "Ti" | "TiB" => 1 << 40,
        "kb" | "kB" | "KB" => 1_000,
        "mb" | "MB" => 1_000_000,
        "gb" | "GB" => 1_000_000_000,
        "tb" | "TB" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    let bytes = number * factor as f64;
    if bytes > (1u64 << 60) as f64 {
        return Err(format!("'{}' is more than an exbibyte", shown(text)));
    }
    Ok(bytes.round() as u64)
}

/// Bytes from a JSON value: a number or a text.
pub(crate) fn size_of(value: &serde_json::Value) -> Result<u64, String> {
    match value {
        serde_json::Value::Number(number) => {
            number.as_u64().ok_or_else(|| "a size is a whole number of bytes".to_owned())
        }
        serde_json::Value::String(text) => parse_size(text),
        _ => Err("a size is a text such as 512MB or a number of bytes".to_owned()),
    }
}

/// `100/s`, `30/m`, `5/h`, `1000/d`; also `100/10s`. `None` for the empty text, which means no limit.
pub fn parse_rate(text: &str, burst: u32) -> Result<Option<Rate>, String> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Ok(None);
    }
    let bad = || format!("'{}' is not a rate; write 100/s, 30/m or 5/h", shown(text));
    let (count, per) = trimmed.split_once('/').ok_or_else(bad)?;
    let count: f64 = count.trim().parse().map_err(|_| bad())?;
    let per = per.trim();
    let per_ms = if per.starts_with(|c: char| c.is_ascii_digit()) {
        parse_duration_ms(per).map_err(|_| bad())? as f64
    } else {
        unit_ms(per).ok_or_else(bad)?
    };
    if !(count.is_finite() && count > 0.0 && per_ms > 0.0) {
        return Err(bad());
    }
    let interval_us = (per_ms * 1_000.0 / count).round();
    if !(1.0..=86_400_000_000.0 * 366.0).contains(&interval_us) {
        return Err(format!("'{}' is out of bounds: at most 1,000,000/s, at least one a year", shown(text)));
    }
    Ok(Some(Rate { interval_us: interval_us as u64, burst: burst.max(1) }))
}

/// A rate as text.
pub(crate) fn rate_text(rate: Rate) -> String {
    for (unit, us) in [("s", 1_000_000u64), ("m", 60_000_000), ("h", 3_600_000_000), ("d", 86_400_000_000)] {
        // Intervals such as a third of a second do not divide evenly: accept what rounds back to the same interval.
        let count = (us as f64 / rate.interval_us as f64).round() as u64;
        if count > 0 && (us as f64 / count as f64).round() as u64 == rate.interval_us {
            return format!("{count}/{unit}");
        }
    }
    format!("1/{}", duration_text(rate.interval_us / 1_000))
}

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn time_text(ms: u64) -> String {
    let mut out = String::with_capacity(24);
    push_time(&mut out, ms);
    out
}

/// Appends the text of [`time_text`] without going through a calendar library: this is on the way of every submit.
pub(crate) fn push_time(out: &mut String, ms: u64) {
    let days = (ms / 86_400_000) as i64;
    let rest = ms % 86_400_000;
    // Days to civil date, proleptic Gregorian (the usual era arithmetic; tested against jiff below).
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    push_two(out, year as u64 / 100);
    push_two(out, year as u64 % 100);
    out.push('-');
    push_two(out, month as u64);
    out.push('-');
    push_two(out, day as u64);
    out.push('T');
    push_two(out, rest / 3_600_000);
    out.push(':');
    push_two(out, rest / 60_000 % 60);
    out.push(':');
    push_two(out, rest / 1_000 % 60);
    out.push('.');
    out.push((b'0' + (rest % 1_000 / 100) as u8) as char);
    push_two(out, rest % 100);
    out.push('Z');
}

fn push_two(out: &mut String, value: u64) {
    out.push((b'0' + (value / 10 % 10) as u8) as char);
    out.push((b'0' + (value % 10) as u8) as char);
}

/// Milliseconds since 1970 of an RFC 3339 time with a zone.
pub(crate) fn parse_time(text: &str) -> Result<u64, String> {
    let time: Timestamp =
        text.parse().map_err(|_| format!("'{}' is not a time; write 2026-11-21T07:30:00Z", shown(text)))?;
    u64::try_from(time.as_millisecond()).map_err(|_| "the time is before 1970".to_owned())
}

/// What was written, short enough for an error text.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_every_form() {
        for (text, ms) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("2d", 172_800_000),
            ("1w", 604_800_000),
            ("250", 250),
            ("PT5M", 300_000),
            ("P1DT2H", 93_600_000),
            ("PT0.5S", 500),
            ("5 minutes", 300_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
        }
        for text in ["", "abc", "-5s", "5x", "1h30", "P", "PT", "P1Y", "PT5", "1..5s", ".5s", "100000d", "NaNs", "1e9s"]
        {
            assert!(parse_duration_ms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_text_reads_back() {
        for ms in [0, 1, 999, 1_000, 61_500, 5_400_000, 90_061_001] {
            assert_eq!(parse_duration_ms(&duration_text(ms)), Ok(ms));
        }
    }

    #[test]
    fn sizes_in_every_form() {
        for (text, bytes) in [
            ("512MB", 512_000_000),
            ("4Gi", 4 << 30),
            ("2g", 2 << 30),
            ("1024", 1024),
            ("1.5GiB", 3 << 29),
            ("64 KiB", 65_536),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MB", "-1", "4Zi", "1e30", "99999999999999Ti"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_read_and_print() {
        for text in ["100/s", "30/m", "5/h", "3/s", "1000/d"] {
            let rate = parse_rate(text, 1).unwrap().unwrap();
            let back = parse_rate(&rate_text(rate), 1).unwrap().unwrap();
            assert_eq!(rate, back, "{text} -> {}", rate_text(rate));
        }
        assert_eq!(parse_rate("", 1), Ok(None));
        assert_eq!(parse_rate("10/s", 5).unwrap().unwrap().burst, 5);
        for text in ["10", "/s", "0/s", "-1/s", "5/x", "10000000/s", "1/0s"] {
            assert!(parse_rate(text, 1).is_err(), "{text}");
        }
    }

    #[test]
    fn times_print_as_the_calendar_library_prints_them() {
        for ms in [0, 1, 951_782_399_999, 951_782_400_000, 1_700_000_000_123, 1_709_164_800_000, 4_102_444_800_000] {
            let text = time_text(ms);
            assert_eq!(parse_time(&text), Ok(ms), "{text}");
            assert_eq!(text.len(), 24);
        }
        assert_eq!(time_text(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(parse_time("2026-03-01T10:00:00+02:00"), Ok(1_772_352_000_000));
        assert!(parse_time("yesterday").is_err());
        assert!(parse_time("2026-03-01T10:00:00").is_err());
    }
}
