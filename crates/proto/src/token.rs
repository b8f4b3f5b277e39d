//! The text of tokens: `tw_<id>_<secret>`, and `twj_<id>_<secret>` for join tokens. Base32 in the alphabet of public ids,
//! lower case, no padding.

/// Characters of an id and of a secret.
const ID_CHARS: usize = 26;
const SECRET_CHARS: usize = 52;
/// The alphabet of public ids.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TOKEN: &str = "tw_";
const JOIN: &str = "twj_";

/// The text of a token. `id` is `tok_...`.
pub fn text(id: &str, secret: &[u8; 32]) -> String {
    format!("{TOKEN}{}_{}", id.trim_start_matches("tok_"), encode(secret))
}

/// The text of a join token.
pub fn join_text(id: &str, secret: &[u8; 32]) -> String {
    format!("{JOIN}{}_{}", id.trim_start_matches("tok_"), encode(secret))
}

/// Whether a text has the form of a join token.
pub fn is_join(text: &str) -> bool {
    text.starts_with(JOIN) && split(text).is_some()
}

/// Id (`tok_...`) and secret of either kind.
pub fn split(text: &str) -> Option<(String, [u8; 32])> {
    let rest = text.strip_prefix(TOKEN).or_else(|| text.strip_prefix(JOIN))?;
    let (id, secret) = rest.split_once('_')?;
    is_id(id).then(|| Some((format!("tok_{id}"), decode(secret)?)))?
}

/// Whether this can stand behind `tok_`.
pub fn is_id(text: &str) -> bool {
    text.len() == ID_CHARS && text.bytes().all(|b| ALPHABET.contains(&b))
}

/// 32 bytes as 52 characters: 260 bits, of which the first four are zero.
pub fn encode(bytes: &[u8; 32]) -> String {
    let mut out = String::with_capacity(SECRET_CHARS);
    for i in 0..SECRET_CHARS {
        let mut digit = 0usize;
        for bit in 0..5 {
            let position = i * 5 + bit;
            let value = if position < 4 { 0 } else { (bytes[(position - 4) / 8] >> (7 - (position - 4) % 8)) & 1 };
            digit = (digit << 1) | usize::from(value);
        }
        out.push(ALPHABET[digit] as char);
    }
    out
}

/// The bytes of 52 characters.
pub fn decode(text: &str) -> Option<[u8; 32]> {
    if text.len() != SECRET_CHARS {
        return None;
    }
    let mut out = [0u8; 32];
    for (i, byte) in text.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|c| *c == byte)?;
        for bit in 0..5 {
            let position = i * 5 + bit;
            let value = u8::try_from((digit >> (4 - bit)) & 1).ok()?;
            if position < 4 {
                if value != 0 {
                    return None;
                }
            } else {
                out[(position - 4) / 8] |= value << (7 - (position - 4) % 8);
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "tok_01jd8z5r7m0000000000000000";

    #[test]
    fn every_secret_round_trips() {
        for secret in [[0u8; 32], [255; 32], core::array::from_fn(|i| i as u8 * 7)] {
            assert_eq!(decode(&encode(&secret)), Some(secret));
            assert_eq!(split(&text(ID, &secret)), Some((ID.to_owned(), secret)));
            assert!(is_join(&join_text(ID, &secret)) && !is_join(&text(ID, &secret)));
        }
    }

    #[test]
    fn broken_texts_are_no_tokens() {
        let good = text(ID, &[7; 32]);
        for text in
            ["", "tw_", "tw__", "twj_", &good[1..], &good[..good.len() - 1], &good.to_uppercase(), &format!("{good}0")]
        {
            assert!(split(text).is_none(), "{text}");
        }
    }
}
