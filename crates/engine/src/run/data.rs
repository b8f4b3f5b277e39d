//! Values of a run. Small ones are carried along, large ones are named by their hash and stored beside the journal.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::eval::Json;
use crate::limit::INLINE_VALUE;

/// SHA-256 of the JSON text of a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobHash(pub [u8; 32]);

impl std::fmt::Display for BlobHash {
    /// `sha256:` and 64 hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for BlobHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// A value. Cloning costs a counter.
#[derive(Clone, Debug)]
pub enum Data {
    /// Carried along.
    Inline {
        /// The value.
        value: Arc<Json>,
        /// Bytes of its JSON text, about.
        size: u32,
    },
    /// Stored as a blob.
    Ref {
        /// Of its JSON text.
        hash: BlobHash,
        /// Bytes of its JSON text.
        size: u64,
        /// The value, where it is at hand; never stored with the run.
        value: Option<Arc<Json>>,
    },
}

impl PartialEq for Data {
    fn eq(&self, other: &Data) -> bool {
        match (self, other) {
            (Data::Inline { value: a, .. }, Data::Inline { value: b, .. }) => Arc::ptr_eq(a, b) || a == b,
            (Data::Ref { hash: a, .. }, Data::Ref { hash: b, .. }) => a == b,
            _ => false,
        }
    }
}

impl Data {
    /// `null`.
    pub fn null() -> Data {
        Data::Inline { value: Arc::new(Json::Null), size: 4 }
    }

    /// A value, and the bytes that have to be stored first if it is above [`INLINE_VALUE`].
    pub fn of(value: Json) -> (Data, Option<Bytes>) {
        let size = measure(&value);
        if size <= INLINE_VALUE {
            return (Data::Inline { value: Arc::new(value), size: size as u32 }, None);
        }
        let text = Bytes::from(serde_json::to_vec(&value).unwrap_or_default());
        let hash = BlobHash(Sha256::digest(&text).into());
        (Data::Ref { hash, size: text.len() as u64, value: Some(Arc::new(value)) }, Some(text))
    }

    /// A small value that the engine makes itself: never a reference.
    pub(super) fn small(value: Json) -> Data {
        let size = measure(&value) as u32;
        Data::Inline { value: Arc::new(value), size }
    }

    /// The value, where it is at hand.
    pub fn json(&self) -> Option<&Json> {
        match self {
            Data::Inline { value, .. } => Some(value),
            Data::Ref { value, .. } => value.as_deref(),
        }
    }

    /// Whether it is this value; needs none that is not at hand.
    pub fn is(&self, json: &Json) -> bool {
        match self {
            Data::Inline { value, .. } => **value == *json,
            Data::Ref { hash, .. } => hash.0 == *Sha256::digest(serde_json::to_vec(json).unwrap_or_default()),
        }
    }

    /// As it is written: the value, or `{"$ref": "sha256:..", "size": n}`.
    pub fn written(&self) -> Json {
        match self {
            Data::Inline { value, .. } => (**value).clone(),
            Data::Ref { hash, size, .. } => serde_json::json!({"$ref": hash.to_string(), "size": size}),
        }
    }

    /// Bytes it takes in a stored run.
    pub fn stored(&self) -> usize {
        match self {
            Data::Inline { size, .. } => *size as usize,
            Data::Ref { .. } => 48,
        }
    }

    /// Whether both are one value in memory.
    pub(super) fn same(&self, other: &Data) -> bool {
        match (self, other) {
            (Data::Inline { value: a, .. }, Data::Inline { value: b, .. }) => Arc::ptr_eq(a, b),
            (Data::Ref { hash: a, .. }, Data::Ref { hash: b, .. }) => a == b,
            _ => false,
        }
    }
}

/// Blobs that the shell has read. A turn that meets another one ends with [`super::turn::Halt::Blobs`].
pub trait Blobs {
    /// The value of a blob.
    fn get(&self, hash: &BlobHash) -> Option<&Arc<Json>>;
}

/// None at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBlobs;

impl Blobs for NoBlobs {
    fn get(&self, _: &BlobHash) -> Option<&Arc<Json>> {
        None
    }
}

impl Blobs for std::collections::BTreeMap<BlobHash, Arc<Json>> {
    fn get(&self, hash: &BlobHash) -> Option<&Arc<Json>> {
        std::collections::BTreeMap::get(self, hash)
    }
}

/// Bytes of the JSON text of a value, about (escapes are not counted).
pub(super) fn measure(value: &Json) -> usize {
    match value {
        Json::Null | Json::Bool(_) => 4,
        Json::Number(n) => n.as_i64().map_or(12, |n| n.unsigned_abs().checked_ilog10().map_or(1, |d| d as usize + 1)),
        Json::String(text) => text.len() + 2,
        Json::Array(items) => 2 + items.iter().map(|item| measure(item) + 1).sum::<usize>(),
        Json::Object(map) => 2 + map.iter().map(|(key, value)| key.len() + 4 + measure(value)).sum::<usize>(),
    }
}
