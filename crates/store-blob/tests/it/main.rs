//! The promises of a blob store, kept by a local folder and by an S3 server alike.

mod s3;
mod suite;

#[tokio::test]
async fn a_local_folder_keeps_every_promise() {
    let folder = tempfile::tempdir().expect("a folder");
    let blobs = tidewheel_store_blob::ObjectBlobs::local(&folder.path().join("blobs")).expect("blobs");
    suite::check(&blobs, folder.path()).await;
}
