//! What the interfaces can be told. Every bound has a default that suits a single node.

use std::sync::Arc;
use std::time::Duration;

use tidewheel_proto::code::Code;
use tidewheel_proto::rest::{Backup, Reloaded};

use crate::problem::Failure;

/// Makes a backup of this name and says where; or why not. Blocks on the disk. The files are the business of whoever
/// opened the stores, so this crate only carries the wish.
#[derive(Clone)]
pub struct BackupMaker(pub Arc<MakeBackup>);

/// The name of a backup; where it is and how large, or why there is none.
type MakeBackup = dyn Fn(&str) -> Result<Backup, BackupFailed> + Send + Sync;

/// Why there is no backup: a sentence without its end, for whoever asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupFailed {
    /// The name is taken.
    Taken(String),
    /// The files cannot be read, written or opened.
    Disk(String),
}

impl std::fmt::Debug for BackupMaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BackupMaker")
    }
}

/// The configuration in force, secrets masked. Whoever reloads it replaces it.
#[derive(Clone, Debug, Default)]
pub struct ShownConfig(Arc<parking_lot::RwLock<serde_json::Value>>);

impl ShownConfig {
    /// Shows this from now on.
    pub fn set(&self, tree: serde_json::Value) {
        *self.0.write() = tree;
    }

    /// What is shown now.
    pub fn get(&self) -> serde_json::Value {
        self.0.read().clone()
    }
}

/// Carries the wish to read the configuration again to whoever owns it. The answer says what changed, or which mistake
/// kept everything as it was.
#[derive(Clone, Debug)]
pub struct ReloadRequests(pub tokio::sync::mpsc::Sender<tokio::sync::oneshot::Sender<Result<Reloaded, String>>>);
/// Signs a certificate signing request (PEM) of an agent for the name of its token, and gives the certificate (PEM); or
/// says why not. The authority's key is the business of whoever made the listener.
#[derive(Clone)]
pub struct Authority(pub Arc<Sign>);

/// Signing request and name of the token; the certificate, or why there is none.
type Sign = dyn Fn(&str, &str) -> Result<SignedCertificate, String> + Send + Sync;

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// A certificate as it is handed out and as a connection shows it.
#[derive(Clone, Debug)]
pub struct SignedCertificate {
    /// For the agent.
    pub pem: String,
    /// What its connections will show.
    pub der: Vec<u8>,
    /// Its end, in milliseconds of wall time.
    pub not_after_ms: u64,
}

/// Settings of the interfaces.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Shown in `/system/status` and in the OpenAPI document.
    pub version: String,
    /// How callers reach this server, such as `http://127.0.0.1:8080`; used in the text of errors that show a command
    /// line.
    pub public_url: String,
    /// The configuration in force, secrets already masked; shown at `/system/config`.
    pub shown_config: ShownConfig,
    /// How the configuration is read again; nothing where there is none.
    pub reload: Option<ReloadRequests>,
    /// How long a cancelled attempt may take to end by itself before its worker kills it.
    pub cancel_grace: Duration,
    /// Several tenants share the workers: attempts run isolated or not at all.
    pub require_isolation: bool,
    /// Body of a single call. 4 MiB: an input of that size is a blob already.
    pub body_bytes: usize,
    /// Body of `POST /tasks:batch`.
    pub batch_bytes: usize,
    /// A package archive.
    pub package_bytes: u64,
    /// A blob.
    pub blob_bytes: u64,
    /// Longest `?wait=`; longer ones are cut to it.
    pub max_wait: Duration,
    /// Live streams at once over all tenants; each holds a bounded buffer.
    pub max_streams: usize,
    /// How a backup is made; nothing where the server keeps no files.
    pub backup: Option<BackupMaker>,
    /// Signs agents' certificates; nothing where the listener has no TLS, and agents then get tokens.
    pub authority: Option<Authority>,
    /// Where uploads are kept until they are checked.
    pub temp_dir: std::path::PathBuf,
    /// Things that a workflow in Python has open from which on `why` warns of them.
    pub many_open: usize,
}

/// A bound on what a caller sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    /// Of what, as the subject of a sentence.
    what: &'static str,
    pub(crate) bytes: u64,
    /// What a caller or operator can do about it.
    advice: &'static str,
}

impl Bound {
    pub(crate) const fn new(what: &'static str, bytes: u64, advice: &'static str) -> Bound {
        Bound { what, bytes, advice }
    }

    /// The refusal of something larger.
    pub(crate) fn exceeded(&self) -> Failure {
        let Bound { what, bytes, advice } = self;
        Failure::new(Code::TooLarge, format!("{what} is larger than {bytes} bytes. {advice}"))
    }
}

impl ApiConfig {
    pub(crate) fn body_bound(&self) -> Bound {
        let advice = "Store large inputs with PUT /api/v1/blobs; the setting is server.maxBodySize.";
        Bound::new("The body", self.body_bytes as u64, advice)
    }

    pub(crate) fn batch_bound(&self) -> Bound {
        let advice = "Send smaller batches, or store large inputs with PUT /api/v1/blobs; the setting is \
                      server.maxBatchSize.";
        Bound::new("The body", self.batch_bytes as u64, advice)
    }

    pub(crate) fn package_bound(&self) -> Bound {
        let advice = "The setting is server.maxPackageSize; data belongs into blobs or artefacts, not into packages.";
        Bound::new("The package's archive", self.package_bytes, advice)
    }

    pub(crate) fn blob_bound(&self) -> Bound {
        let advice = "Store it in several parts, or raise the setting server.maxBlobSize.";
        Bound::new("The blob", self.blob_bytes, advice)
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        ApiConfig {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            public_url: "http://127.0.0.1:8080".to_owned(),
            shown_config: ShownConfig::default(),
            reload: None,
            cancel_grace: Duration::from_secs(5),
            require_isolation: false,
            body_bytes: 4 << 20,
            batch_bytes: 16 << 20,
            package_bytes: 512 << 20,
            blob_bytes: 64 << 30,
            max_wait: Duration::from_secs(60),
            max_streams: 1_000,
            backup: None,
            authority: None,
            temp_dir: std::env::temp_dir(),
            many_open: tidewheel_engine::limit::CODE_OPEN_MANY,
        }
    }
}
