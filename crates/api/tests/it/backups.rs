//! Backups: what a caller is told when there is none.

use std::sync::Arc;

use tidewheel_api::{ApiConfig, BackupFailed, BackupMaker};

use crate::node::Node;

#[tokio::test]
async fn a_backup_that_the_disk_refuses_is_no_conflict_and_names_its_cause() {
    let make = |name: &str| match name {
        "taken" => Err(BackupFailed::Taken("/data/backups/taken exists".to_owned())),
        _ => Err(BackupFailed::Disk("/data/backups/new: Permission denied (os error 13)".to_owned())),
    };
    let backup = Some(BackupMaker(Arc::new(make)));
    let node = Node::with(ApiConfig { backup, ..ApiConfig::default() }).await;
    for (name, status, code, cause) in [
        ("taken", 409, "conflict", "/data/backups/taken exists"),
        ("new", 503, "unavailable", "/data/backups/new: Permission denied (os error 13)"),
    ] {
        let got = node.post("/api/v1/backups", format!(r#"{{"name":"{name}"}}"#)).await.is(status);
        assert_eq!(got.code(), code);
        assert_eq!(got.json()["detail"], format!("The backup was not made: {cause}."));
    }
}
