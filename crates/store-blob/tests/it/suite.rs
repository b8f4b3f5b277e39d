//! What every place for blobs has to do.

use std::path::Path;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tidewheel_store::Hash;
use tidewheel_store::blob::Blobs;

/// Checks all of it; `folder` is for files to upload.
pub(crate) async fn check(blobs: &dyn Blobs, folder: &Path) {
    // Whole, in parts, beyond the end, and a second time.
    let hash = blobs.put(1, Bytes::from_static(b"hello world")).await.expect("put");
    assert_eq!(hash, Hash::from(Sha256::digest(b"hello world")));
    assert_eq!(blobs.put(1, Bytes::from_static(b"hello world")).await.expect("again"), hash);
    assert_eq!(blobs.size(1, hash).await.expect("size"), Some(11));
    assert_eq!(blobs.read(1, hash, 0, u64::MAX).await.expect("whole"), "hello world");
    assert_eq!(blobs.read(1, hash, 6, 3).await.expect("part"), "wor");
    assert_eq!(blobs.read(1, hash, 11, 3).await.expect("beyond"), "");
    // Nothing at all is content, too.
    let empty = blobs.put(1, Bytes::new()).await.expect("an empty blob");
    assert_eq!(
        (blobs.size(1, empty).await.expect("size"), blobs.read(1, empty, 0, 9).await.expect("read").len()),
        (Some(0), 0)
    );
    // Apart per tenant.
    assert_eq!(blobs.size(2, hash).await.expect("size"), None);
    assert!(blobs.read(2, hash, 0, 10).await.is_err());
    // More than one part of an upload.
    let path = folder.join("large");
    let content: Vec<u8> = (0..20_000_000u32).map(|i| (i % 251) as u8).collect();
    std::fs::write(&path, &content).expect("a file");
    let (large, size) = blobs.put_file(1, &path).await.expect("put a file");
    assert_eq!((large, size), (Hash::from(Sha256::digest(&content)), content.len() as u64));
    assert!(blobs.read(1, large, 0, u64::MAX).await.expect("whole") == content);
    assert_eq!(blobs.put_file(1, &path).await.expect("again"), (large, size));
    // What nothing names may be about to be named.
    let day = std::time::Duration::from_secs(24 * 3600);
    assert!(blobs.old(1, day).await.expect("listed").is_empty());
    assert!(!blobs.remove(1, hash, day).await.expect("asked"));
    assert_eq!(blobs.size(1, hash).await.expect("size"), Some(11));
    // Many at once.
    let puts = (0..20u8).map(|n| blobs.put(3, Bytes::from(vec![n; 1000])));
    let hashes = futures::future::join_all(puts).await;
    for (n, hash) in hashes.into_iter().enumerate() {
        let read = blobs.read(3, hash.expect("put"), 0, 10).await.expect("read");
        assert_eq!(read, vec![n as u8; 10]);
    }
}
