//! The text of tokens of promises: `twp_` and base32 of what they say, in the alphabet of public ids, so that they can stand in an
//! address, a mail or a form as they are.
//!
//! One says for which promise it is, and proves it: the number of a tenant, a run, a keyed hash, the key of the promise's entry. The
//! server gives each run the beginning and the key of the hash; its program makes the texts.

/// What the texts begin with; no promise has a name that does.
pub const PREFIX: &str = "twp_";
/// Bytes of the hash.
pub const MAC_BYTES: usize = 16;
/// Bytes that are the same in all tokens of a run: version, tenant, run.
pub const HEAD_BYTES: usize = 21;
/// Longest key of an entry.
const KEY_BYTES: usize = 512;
const VERSION: u8 = 1;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// What a token says. Whether it is true is not known here.
#[derive(Clone, PartialEq, Eq)]
pub struct PromiseToken {
    /// Number of the tenant.
    pub tenant: u32,
    /// The run.
    pub run: u128,
    /// The proof: a hash over head and key, under a key of the run.
    pub mac: [u8; MAC_BYTES],
    /// Key of the promise's entry, such as `/promise:answer#0`.
    pub key: String,
}

/// What stands before the hash in the tokens of a run.
pub fn head(tenant: u32, run: u128) -> [u8; HEAD_BYTES] {
    let mut out = [VERSION; HEAD_BYTES];
    out[1..5].copy_from_slice(&tenant.to_be_bytes());
    out[5..].copy_from_slice(&run.to_be_bytes());
    out
}

impl PromiseToken {
    /// The text.
    pub fn text(&self) -> String {
        let parts = [&head(self.tenant, self.run)[..], &self.mac, self.key.as_bytes()];
        format!("{PREFIX}{}", encode(&parts.concat()))
    }

    /// Reads a text; `None` = it is none.
    pub fn read(text: &str) -> Option<PromiseToken> {
        let digits = text.strip_prefix(PREFIX)?;
        if digits.len() > ((HEAD_BYTES + MAC_BYTES + KEY_BYTES) * 8).div_ceil(5) {
            return None;
        }
        let bytes = decode(digits)?;
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let (mac, key) = rest.split_at_checked(MAC_BYTES)?;
        if head[0] != VERSION || key.is_empty() {
            return None;
        }
        Some(PromiseToken {
            tenant: u32::from_be_bytes(head[1..5].try_into().ok()?),
            run: u128::from_be_bytes(head[5..].try_into().ok()?),
            mac: mac.try_into().ok()?,
            key: std::str::from_utf8(key).ok()?.to_owned(),
        })
    }
}

/// Five bits to a character; the last one is filled up with zeros.
fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity((bytes.len() * 8).div_ceil(5));
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in bytes {
        (bits, held) = ((bits << 8 | u32::from(*byte)) & 0xFFF, held + 8);
        while held >= 5 {
            held -= 5;
            out.push(ALPHABET[(bits >> held) as usize & 31] as char);
        }
    }
    if held > 0 {
        out.push(ALPHABET[(bits << (5 - held)) as usize & 31] as char);
    }
    out
}

/// The bytes of a text that [`encode`] gave, and of no other.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 5 / 8);
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in text.bytes() {
        let digit = ALPHABET.iter().position(|c| *c == byte)? as u32;
        (bits, held) = ((bits << 5 | digit) & 0xFFF, held + 5);
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    (held < 5 && bits & ((1 << held) - 1) == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(key: &str) -> PromiseToken {
        PromiseToken { tenant: 7, run: 0x0123_4567_89AB_CDEF_0011_2233_4455_6677, mac: [0xA5; 16], key: key.to_owned() }
    }

    #[test]
    fn every_token_round_trips() {
        for length in 1..=40 {
            let token = token(&"k".repeat(length));
            let text = token.text();
            assert!(PromiseToken::read(&text) == Some(token), "{text}");
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        }
        let long = token(&"k".repeat(KEY_BYTES));
        assert!(PromiseToken::read(&long.text()) == Some(long));
    }

    #[test]
    fn broken_texts_are_no_tokens() {
        let good = token("/promise:answer#0").text();
        let other = |end: &str| format!("{}{end}", &good[..good.len() - 1]);
        let longer = token(&"k".repeat(KEY_BYTES + 1)).text();
        let upper = good.to_uppercase();
        for text in ["", "twp_", "tw_0", &good[1..], &good[..40], &upper, &other("u"), &longer] {
            assert!(PromiseToken::read(text).is_none(), "{text}");
        }
        let count =
            ALPHABET.iter().filter(|c| PromiseToken::read(&other(&(**c as char).to_string())).is_some()).count();
        assert!(count <= 8, "filling bits other than zero are refused, {count} of 32 last characters were read");
    }
}
