//! Public text form of ids: a prefix and 26 characters of base32 that keep the order of the 128 bits below them.

/// Crockford's alphabet in lower case: no `i`, `l`, `o`, `u`, and in ASCII order, so that text sorts like the number.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// `task_01h...` for a prefix such as `task` and the 128 bits of an id.
pub fn format(prefix: &str, id: u128) -> String {
    let mut out = String::with_capacity(prefix.len() + 27);
    out.push_str(prefix);
    out.push('_');
    for i in (0..26).rev() {
        out.push(ALPHABET[((id >> (i * 5)) & 31) as usize] as char);
    }
    out
}

/// Reads `prefix_<26 base32>` or a plain UUID in its 36-character form. `None` for anything else.
pub fn parse(prefix: &str, text: &str) -> Option<u128> {
    if let Some(rest) = text.strip_prefix(prefix).and_then(|r| r.strip_prefix('_')) {
        return parse_base32(rest);
    }
    parse_uuid(text)
}

fn parse_base32(text: &str) -> Option<u128> {
    // 26 characters carry 130 bits: the first may only be 0..=7.
    let bytes = text.as_bytes();
    if bytes.len() != 26 || !(b'0'..=b'7').contains(&bytes[0]) {
        return None;
    }
    bytes.iter().try_fold(0u128, |value, byte| {
        let digit = ALPHABET.iter().position(|c| c == byte)?;
        Some((value << 5) | digit as u128)
    })
}

fn parse_uuid(text: &str) -> Option<u128> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 {
        return None;
    }
    let mut value = 0u128;
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 8 | 13 | 18 | 23) {
            if *byte != b'-' {
                return None;
            }
            continue;
        }
        value = (value << 4) | (*byte as char).to_digit(16)? as u128;
    }
    Some(value)
}

/// The UUID text form of an id.
pub fn uuid(id: u128) -> String {
    let h = format!("{id:032x}");
    format!("{}-{}-{}-{}-{}", &h[0..8], &h[8..12], &h[12..16], &h[16..20], &h[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_keeps_order() {
        let ids = [0, 1, 31, 32, u128::from(u64::MAX), u128::MAX - 1, u128::MAX];
        let texts: Vec<_> = ids.iter().map(|id| format("task", *id)).collect();
        for (id, text) in ids.iter().zip(&texts) {
            assert_eq!(parse("task", text), Some(*id));
            assert_eq!(parse("task", &uuid(*id)), Some(*id));
        }
        assert!(texts.windows(2).all(|w| w[0] < w[1]));
    }

    #[test]
    fn foreign_and_broken_texts_are_refused() {
        for text in [
            "",
            "task_",
            "run_00000000000000000000000000",
            "task_8zzzzzzzzzzzzzzzzzzzzzzzzz",
            "task_0000000000000000000000000u",
            "../../etc/passwd",
        ] {
            assert_eq!(parse("task", text), None, "{text}");
        }
    }
}
