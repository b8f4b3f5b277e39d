//! Deployed workflows: which version a name stands for, and its document, compiled.

use std::sync::Arc;

use super::Partition;
use crate::id::{Name, TenantId};
use crate::limit;
use crate::mutation::RecordKind;
use crate::run::eval::Definition;
use crate::version::Version;

/// A deployed version.
#[derive(Clone, Debug)]
pub(crate) struct Deployed {
    version: Name,
    hash: [u8; 32],
}

impl Partition {
    /// The workflow behind a hash, if the tenant has it: one that only another tenant has would be gone with the next start.
    pub(super) fn definition(&mut self, tenant: TenantId, hash: &[u8; 32]) -> Option<Arc<dyn Definition>> {
        if let Some(known) = self.runs.definitions.get(&(tenant, *hash)) {
            return Some(known.clone());
        }
        let record = self.records.get(&(RecordKind::Definition, tenant, hex(hash).into()))?;
        let compiler = self.options.compiler.0.as_ref()?;
        let definition = compiler.compile(record.value.as_bytes()).ok()?;
        while self.runs.compiled.len() >= limit::DEFINITIONS {
            if let Some(old) = self.runs.compiled.pop_front() {
                self.runs.definitions.remove(&old);
            }
        }
        self.runs.definitions.insert((tenant, *hash), definition.clone());
        self.runs.compiled.push_back((tenant, *hash));
        Some(definition)
    }

    /// The hash of a version of a workflow, and its version in full. `latest` = the highest that is no candidate, else the
    /// highest.
    pub(super) fn workflow(
        &self,
        tenant: TenantId,
        namespace: &str,
        name: &str,
        version: &str,
    ) -> Option<([u8; 32], Name)> {
        let versions = self.runs.workflows.get(&(tenant, format!("{namespace}/{name}").into()))?;
        let found = if version == "latest" {
            let released = versions.iter().rev().find(|(version, _)| version.is_release());
            released.or_else(|| versions.iter().next_back()).map(|(_, deployed)| deployed)
        } else {
            versions.get(&Version::read(version)).or_else(|| {
                // Build metadata may be left out: the newest with that version.
                let same = versions.iter().rev().find(|(known, _)| known.is_build_of(version));
                same.map(|(_, deployed)| deployed)
            })
        };
        found.map(|deployed| (deployed.hash, deployed.version.clone()))
    }

    /// A record of a workflow version was put or deleted.
    pub(super) fn adopt_workflow(&mut self, tenant: TenantId, key: &Name, value: Option<&Name>) {
        let Some((name, version)) = key.rsplit_once('/') else { return };
        let version: Name = version.into();
        let versions = self.runs.workflows.entry((tenant, name.into())).or_default();
        match value.and_then(|value| unhex(value.get(..64)?)) {
            Some(hash) => drop(versions.insert(Version::read(&version), Deployed { version, hash })),
            None => drop(versions.remove(&Version::read(&version))),
        }
    }
}

/// 64 hexadecimal digits.
pub(super) fn hex(bytes: &[u8; 32]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    // Writing to a text never fails.
    bytes.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap_or_default());
    text
}

/// The inverse of [`hex`].
pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_was_written() {
        let hash = std::array::from_fn(|at| at as u8 * 7);
        assert_eq!(unhex(&hex(&hash)), Some(hash));
        assert_eq!(unhex("zz"), None);
    }
}
