//! Renews the client certificate of a running agent, long before it ends.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::identity::{self, Identity};
use crate::profile::Connection;

/// The clock is looked at so often: a machine may have slept.
const LOOK: Duration = Duration::from_secs(60 * 60);
/// Pauses after a renewal that failed: the first, and the longest.
const AGAIN: Duration = Duration::from_secs(30);
const AGAIN_MOST: Duration = Duration::from_secs(60 * 60);

/// Renews it whenever two thirds of its life are over, until the agent ends. The agent takes the new one over when the server
/// refuses the old one, and what runs goes on. Returns at once for an agent without a certificate, and when the server does
/// not say when one ends: it is of an earlier version.
pub(super) async fn keep_fresh(folder: PathBuf, connection: Connection) {
    let mut pause = AGAIN;
    while let Some(due) = Identity::read(&folder).and_then(|identity| identity.renewal()) {
        let left = Timestamp::now().duration_until(due);
        if left.is_positive() {
            tokio::time::sleep(left.unsigned_abs().min(LOOK)).await;
            continue;
        }
        match identity::rotate(&folder, &connection).await {
            Ok(now) => {
                pause = AGAIN;
                let Some(end) = now.expires_at else { return };
                tracing::info!(%end, "the certificate was renewed");
            }
            Err(failure) => {
                tracing::warn!(reason = %failure.text(false), "the certificate could not be renewed; it is tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(AGAIN_MOST);
            }
        }
    }
}
