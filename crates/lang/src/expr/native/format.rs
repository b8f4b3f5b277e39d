//! Formats: `@csv`, `@base64` and the others.

use super::super::ops;
use super::super::tank::Fault;
use super::super::value::{Kind, Val};
use super::{Args, Host, Row, Run, refuse};

pub(super) const TABLE: &[Row] = &[
    ("@text", 0, |host, dot, _| make(host, &dot, "text")),
    ("@json", 0, |host, dot, _| make(host, &dot, "json")),
    ("@html", 0, |host, dot, _| make(host, &dot, "html")),
    ("@uri", 0, |host, dot, _| make(host, &dot, "uri")),
    ("@urid", 0, |host, dot, _| make(host, &dot, "urid")),
    ("@csv", 0, |host, dot, _| make(host, &dot, "csv")),
    ("@tsv", 0, |host, dot, _| make(host, &dot, "tsv")),
    ("@sh", 0, |host, dot, _| make(host, &dot, "sh")),
    ("@base64", 0, |host, dot, _| make(host, &dot, "base64")),
    ("@base64d", 0, |host, dot, _| make(host, &dot, "base64d")),
    ("format", 1, by_name),
];

fn by_name<'a>(host: &mut Host, dot: Val<'a>, [name, ..]: Args<'a>) -> Run<'a, Val<'a>> {
    match name.as_str() {
        Some(known) if super::format(known).is_some() => make(host, &dot, known),
        Some(_) => refuse(&name, "is not a valid format"),
        None => refuse(&name, "is not a valid format"),
    }
}

fn make<'a>(host: &mut Host, dot: &Val<'a>, format: &str) -> Run<'a, Val<'a>> {
    if format == "text" && dot.kind() == Kind::String {
        return Ok(dot.clone());
    }
    let mut text = String::new();
    into(format, dot, &mut text, host)?;
    Val::text(&text, &mut host.tank)
}

/// Writes a value in a format.
pub(in super::super) fn into<'a>(format: &str, value: &Val<'a>, text: &mut String, host: &mut Host) -> Run<'a, ()> {
    match format {
        "csv" => return row(value, text, host, ',', "csv"),
        "tsv" => return row(value, text, host, '\t', "tsv"),
        "sh" => return shell(value, text, host),
        "json" => return ops::write(value, text, &mut host.tank),
        _ => {}
    }
    let mut written = String::new();
    let plain = match value.as_str() {
        Some(plain) => plain,
        None => {
            ops::write(value, &mut written, &mut host.tank)?;
            &written
        }
    };
    host.tank.work(plain.len() / 8)?;
    host.tank.alloc(plain.len())?;
    match format {
        "html" => {
            for character in plain.chars() {
                let escaped = match character {
                    '<' => "&lt;",
                    '>' => "&gt;",
                    '&' => "&amp;",
                    '\'' => "&apos;",
                    '"' => "&quot;",
                    other => {
                        text.push(other);
                        continue;
                    }
                };
                host.tank.alloc(escaped.len())?;
                text.push_str(escaped);
            }
        }
        "uri" => {
            host.tank.alloc(plain.len() * 2)?;
            super::super::template::encode(plain, text);
        }
        "urid" => decode_uri(value, plain, text)?,
        "base64" => {
            host.tank.alloc(plain.len() / 2)?;
            encode_base64(plain.as_bytes(), text);
        }
        "base64d" => decode_base64(value, plain, text)?,
        _ => text.push_str(plain),
    }
    Ok(())
}

fn row<'a>(value: &Val<'a>, text: &mut String, host: &mut Host, between: char, name: &str) -> Run<'a, ()> {
    if value.kind() != Kind::Array {
        return refuse(value, &format!("cannot be {name}-formatted, only an array can be"));
    }
    for at in 0..value.len() {
        host.tank.step(1)?;
        host.tank.alloc(2)?;
        if at > 0 {
            text.push(between);
        }
        let item = value.item(at).unwrap_or(Val::Null);
        match (&item, item.kind()) {
            (Val::Null, _) => {}
            (_, Kind::Bool | Kind::Number) => ops::write(&item, text, &mut host.tank)?,
            (Val::Str(field), _) => {
                host.tank.alloc(field.len() * 2)?;
                if between == ',' {
                    text.push('"');
                    text.push_str(&field.replace('"', "\"\""));
                    text.push('"');
                } else {
                    for character in field.chars() {
                        match character {
                            '\t' => text.push_str("\\t"),
                            '\r' => text.push_str("\\r"),
                            '\n' => text.push_str("\\n"),
                            '\\' => text.push_str("\\\\"),
                            other => text.push(other),
                        }
                    }
                }
            }
            _ => return refuse(&item, &format!("is not valid in a {name} row")),
        }
    }
    Ok(())
}

fn shell<'a>(value: &Val<'a>, text: &mut String, host: &mut Host) -> Run<'a, ()> {
    if value.kind() != Kind::Array {
        return shell_word(value, text, host);
    }
    for at in 0..value.len() {
        host.tank.step(1)?;
        host.tank.alloc(1)?;
        if at > 0 {
            text.push(' ');
        }
        shell_word(&value.item(at).unwrap_or(Val::Null), text, host)?;
    }
    Ok(())
}

fn shell_word<'a>(value: &Val<'a>, text: &mut String, host: &mut Host) -> Run<'a, ()> {
    match (value, value.kind()) {
        (Val::Str(word), _) => {
            host.tank.alloc(word.len() * 4)?;
            text.push('\'');
            text.push_str(&word.replace('\'', "'\\''"));
            text.push('\'');
            Ok(())
        }
        (_, Kind::Array | Kind::Object) => refuse(value, "can not be escaped for shell"),
        _ => ops::write(value, text, &mut host.tank),
    }
}

fn decode_uri<'a>(value: &Val<'a>, plain: &str, text: &mut String) -> Run<'a, ()> {
    let bytes = plain.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            decoded.push(bytes[at]);
            at += 1;
            continue;
        }
        let digits = plain.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => decoded.push(byte),
            None => return refuse(value, "is not a valid uri encoding"),
        }
        at += 3;
    }
    match String::from_utf8(decoded) {
        Ok(decoded) => text.push_str(&decoded),
        Err(_) => return refuse(value, "is not a valid uri encoding"),
    }
    Ok(())
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode_base64(bytes: &[u8], text: &mut String) {
    for chunk in bytes.chunks(3) {
        let word = (0..3).fold(0u32, |word, at| (word << 8) | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            match at <= chunk.len() {
                true => text.push(DIGITS[(word >> (18 - 6 * at)) as usize & 63] as char),
                false => text.push('='),
            }
        }
    }
}

fn decode_base64<'a>(value: &Val<'a>, plain: &str, text: &mut String) -> Run<'a, ()> {
    let digits = plain.trim_end_matches('=').as_bytes();
    let mut decoded = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut word, mut bits) = (0u32, 0);
    for byte in digits {
        let Some(digit) = DIGITS.iter().position(|digit| digit == byte) else {
            return refuse(value, "is not valid base64 data");
        };
        word = (word << 6) | digit as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            decoded.push((word >> bits) as u8);
        }
    }
    if digits.len() % 4 == 1 {
        let why =
            if digits.len() == 1 { "is not valid base64 data" } else { "trailing input cannot be decoded as base64" };
        return Err(Fault::raise(format!("{} {why}", ops::describe(value))));
    }
    text.push_str(&String::from_utf8_lossy(&decoded));
    Ok(())
}
