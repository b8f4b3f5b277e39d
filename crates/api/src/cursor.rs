//! Opaque cursors of keyset pages: a position, bound by a keyed hash to the list it belongs to (resource, tenant,
//! filter), so that one from another list, tenant or server is refused and never read as a position.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tidewheel_engine::id::TenantId;

use crate::problem::Failure;

/// Raised when the bytes change; an older cursor is then refused, and a client starts its list again.
const VERSION: u8 = 1;
/// Bytes of the keyed hash that are kept: forging one is of no use, since the tenant never comes from a cursor.
const SEAL: usize = 8;

/// The list a cursor belongs to.
pub(crate) struct List<'a> {
    pub(crate) key: &'a [u8; 32],
    pub(crate) resource: &'a str,
    pub(crate) tenant: TenantId,
    pub(crate) filter: &'a str,
}

impl List<'_> {
    /// The text for a position.
    pub(crate) fn seal(&self, position: &[u8]) -> String {
        let mut bytes = Vec::with_capacity(1 + SEAL + position.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.hash(position));
        bytes.extend_from_slice(position);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The position in a text that was made for this list.
    pub(crate) fn open(&self, text: &str) -> Result<Vec<u8>, Failure> {
        let refused = || Failure::query("cursor", "the cursor is not one of this list; start again without it");
        // No position is longer than a task type of 200 characters, in the four bytes that a character may take.
        if text.len() > 1_536 {
            return Err(refused());
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused())?;
        if bytes.len() < 1 + SEAL || bytes[0] != VERSION {
            return Err(refused());
        }
        let position = &bytes[1 + SEAL..];
        if self.hash(position) != bytes[1..1 + SEAL] {
            return Err(refused());
        }
        Ok(position.to_vec())
    }

    /// A position that is a task id.
    pub(crate) fn open_id(&self, text: &str) -> Result<u128, Failure> {
        let position = self.open(text)?;
        let bytes: [u8; 16] = position
            .try_into()
            .map_err(|_| Failure::query("cursor", "the cursor is not one of this list; start again without it"))?;
        Ok(u128::from_be_bytes(bytes))
    }

    fn hash(&self, position: &[u8]) -> [u8; SEAL] {
        let mut hasher = blake3::Hasher::new_keyed(self.key);
        hasher.update(self.resource.as_bytes());
        hasher.update(&[0]);
        hasher.update(&self.tenant.0.to_be_bytes());
        hasher.update(&(self.filter.len() as u64).to_be_bytes());
        hasher.update(self.filter.as_bytes());
        hasher.update(position);
        let mut out = [0; SEAL];
        out.copy_from_slice(&hasher.finalize().as_bytes()[..SEAL]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn list(resource: &'static str, tenant: u32, filter: &'static str) -> List<'static> {
        List { key: &KEY, resource, tenant: TenantId(tenant), filter }
    }

    #[test]
    fn a_cursor_opens_in_its_own_list_only() {
        let text = list("tasks", 1, "state:failed").seal(&77u128.to_be_bytes());
        assert_eq!(list("tasks", 1, "state:failed").open_id(&text).unwrap(), 77);
        for other in [list("tasks", 2, "state:failed"), list("tasks", 1, ""), list("logs", 1, "state:failed")] {
            assert!(other.open_id(&text).is_err());
        }
    }

    #[test]
    fn broken_cursors_are_refused() {
        let good = list("tasks", 1, "").seal(&77u128.to_be_bytes());
        let mut flipped = good.clone().into_bytes();
        flipped[20] ^= 1;
        for text in
            ["", "x", "AAAA", "../../etc", "%00", &good[1..], &String::from_utf8_lossy(&flipped), &"A".repeat(5_000)]
        {
            assert!(list("tasks", 1, "").open_id(text).is_err(), "{text}");
        }
    }
}
