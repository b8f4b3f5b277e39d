//! Attempt tokens on the wire: task id (16 bytes), epoch (4), grant (8) and a keyed MAC (8) over them and the tenant
//! that the session serves. A worker can neither make nor change one, and one of another tenant does not open.

use bytes::{Bytes, BytesMut};
use tidewheel_engine::id::{TaskId, TenantId, Token};

/// Bytes of a token.
pub(crate) const TOKEN_BYTES: usize = 36;
const BODY: usize = 28;

/// Makes and opens the tokens of one session.
#[derive(Clone)]
pub(crate) struct Sealer {
    key: [u8; 32],
    /// Number of the tenant that the session serves; 0 = every tenant.
    scope: u32,
}

impl Sealer {
    pub(crate) fn new(secret: &[u8; 32], scope: Option<TenantId>) -> Sealer {
        let key = blake3::derive_key("tidewheel 2026 attempt token v1", secret);
        Sealer { key, scope: scope.map_or(0, |t| t.0) }
    }

    /// Appends a token to a buffer that the tokens of a batch share, and splits it off.
    pub(crate) fn seal(&self, out: &mut BytesMut, task: TaskId, token: Token) -> Bytes {
        let mut body = [0u8; BODY];
        body[..16].copy_from_slice(&task.to_bytes());
        body[16..20].copy_from_slice(&token.epoch.to_be_bytes());
        body[20..].copy_from_slice(&token.grant.to_be_bytes());
        let mac = self.mac(&body);
        out.extend_from_slice(&body);
        out.extend_from_slice(&mac);
        out.split().freeze()
    }

    /// The attempt of a token that this server made for this scope.
    pub(crate) fn open(&self, bytes: &[u8]) -> Option<(TaskId, Token)> {
        let bytes: &[u8; TOKEN_BYTES] = bytes.try_into().ok()?;
        let mut body = [0u8; BODY];
        body.copy_from_slice(&bytes[..BODY]);
        let mac = self.mac(&body);
        // Every byte is compared, so that the time does not tell how many were right.
        let difference = mac.iter().zip(&bytes[BODY..]).fold(0u8, |sum, (a, b)| sum | (a ^ b));
        if difference != 0 {
            return None;
        }
        let mut task = [0; 16];
        task.copy_from_slice(&body[..16]);
        let mut epoch = [0; 4];
        epoch.copy_from_slice(&body[16..20]);
        let mut grant = [0; 8];
        grant.copy_from_slice(&body[20..]);
        let token = Token { epoch: u32::from_be_bytes(epoch), grant: u64::from_be_bytes(grant) };
        Some((TaskId::from_bytes(task), token))
    }

    fn mac(&self, body: &[u8; BODY]) -> [u8; 8] {
        let mut message = [0u8; BODY + 4];
        message[..BODY].copy_from_slice(body);
        message[BODY..].copy_from_slice(&self.scope.to_be_bytes());
        let mut out = [0; 8];
        out.copy_from_slice(&blake3::keyed_hash(&self.key, &message).as_bytes()[..8]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: TaskId = TaskId(0x0123_4567_89AB_CDEF_0011_2233_4455_6677);
    const TOKEN: Token = Token { epoch: 3, grant: 99 };

    fn sealed(sealer: &Sealer) -> Bytes {
        sealer.seal(&mut BytesMut::new(), TASK, TOKEN)
    }

    #[test]
    fn a_token_opens_only_unchanged_and_in_its_scope() {
        let sealer = Sealer::new(&[1; 32], Some(TenantId(5)));
        let token = sealed(&sealer);
        assert_eq!(token.len(), TOKEN_BYTES);
        assert_eq!(token[..16], TASK.to_bytes());
        assert_eq!(sealer.open(&token), Some((TASK, TOKEN)));
        for i in 0..TOKEN_BYTES {
            let mut changed = token.to_vec();
            changed[i] ^= 1;
            assert_eq!(sealer.open(&changed), None, "byte {i}");
        }
        assert_eq!(sealer.open(&token[1..]), None);
        assert_eq!(sealer.open(b""), None);
        assert_eq!(Sealer::new(&[1; 32], Some(TenantId(6))).open(&token), None);
        assert_eq!(Sealer::new(&[1; 32], None).open(&token), None);
        assert_eq!(Sealer::new(&[2; 32], Some(TenantId(5))).open(&token), None);
    }
}
