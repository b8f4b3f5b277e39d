//! The composition root: which store, which blobs, which doors, and how they start and end together.
//!
//! ```text
//!  start:  key file ─► stores ─► runtime ─► router ─► listener ─► first token ─► agent ─► housekeeping
//!  end:    SIGTERM ─► not ready, no intake ─► agent drains, attempts end (drainTimeout) ─► open requests ─► runtime ─► 0
//! ```
//!
//! A disk that did not keep data ends the process at once with a code of its own (74): what its caches hold can no
//! longer be trusted, and the next start reads what is really there. A full disk does not: the node stays up, not
//! ready, and recovers.

mod agent;
pub(crate) mod backup;
mod housekeeping;
mod huge_pages;
mod logging;
mod signals;
mod tls;

pub(crate) use agent::{STATUS_FILE, report_status};
pub(crate) use logging::Logging;
pub(crate) use signals::{Ask, Signals};
pub(crate) use tls::self_signed;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::{agent_config, worker_token};
use tidewheel_engine::partition::WithCompiler;
use tidewheel_engine::view::{Answer, View};
use tidewheel_runtime::Runtime;
use tidewheel_store::blob::Blobs;
use tidewheel_store::log::LogStore;
use tidewheel_store_blob::{ObjectBlobs, S3Settings};
use tidewheel_store_sqlite::{SqliteLogStore, SqliteStore};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::config::Config;
use crate::fail::{Exit, Failure, Outcome, While};
use crate::profile::{Connection, Secret, write_private};

/// The admin token of the first start, readable by the owner of the folder alone.
const TOKEN_FILE: &str = "admin-token";
/// Secret of attempt tokens and cursors; has to survive restarts.
const KEY_FILE: &str = "secret.key";
/// How often a drain looks whether attempts are still running.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// A running server.
pub(crate) struct Node {
    runtime: Runtime,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// How callers reach it.
    pub(crate) url: String,
    /// Its folder.
    pub(crate) data_dir: PathBuf,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), tidewheel_api::ServeError>>,
    housekeeping: housekeeping::Housekeeping,
    agent: Option<agent::Embedded>,
    cancel_grace: Duration,
    /// What clients of this process check its certificate against.
    ca_file: Option<String>,
    shown: tidewheel_api::ShownConfig,
    reloads: tokio::sync::mpsc::Receiver<ReloadAsked>,
}

/// Where the answer to a reload goes that came over the API.
pub(crate) type ReloadAsked = tokio::sync::oneshot::Sender<Result<tidewheel_proto::rest::Reloaded, String>>;

impl Node {
    /// Opens the stores, starts the runtime and listens. Returns when it takes requests.
    pub(crate) async fn start(config: &Config) -> Outcome<Node> {
        all_roles(config)?;
        // What an agent starts has the setting of its process, so one that has an agent in it leaves it alone.
        let spared = if config.flag("agent.enabled") { None } else { huge_pages::turn_off() };
        let data_dir = PathBuf::from(config.text("storage.dataDir"));
        make_folder(&data_dir)?;
        // Bound before the stores are opened: a port that is taken is found without touching the data.
        let (listener, address) = listen(&config.text("server.listen")).await?;
        let tls = tls::server_config(config, &data_dir)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = config.maybe("server.publicUrl").unwrap_or_else(|| format!("{scheme}://{}", reachable(address)));
        let runtime = start_runtime(config, &data_dir).await?;
        if let Some(spared) = spared {
            spared.until_work(&runtime);
        }
        // Before the first request is answered: who finds the server ready finds its token too.
        first_token(&runtime, &data_dir).await?;
        let mut api = api_config(config, &url, &data_dir);
        // One at a time is enough; the others wait for their turn.
        let (reload, reloads) = tokio::sync::mpsc::channel(1);
        api.reload = Some(tidewheel_api::ReloadRequests(reload));
        let shown = api.shown_config.clone();
        api.backup = backup_maker(&runtime, &database(config, &data_dir), &data_dir);
        if api.backup.is_some() {
            let data_dir = data_dir.clone();
            // Beside the start: they may have as many files as there are blobs.
            drop(tokio::task::spawn_blocking(move || backup::remove_abandoned(&data_dir)));
        }
        let (tls, authority) = tls.map_or((None, None), |tls| (Some(tls.listener), Some(tls.authority)));
        api.authority = authority;
        let router = tidewheel_api::router(runtime.clone(), api);
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(tidewheel_api::serve(listener, router, tls, shutdown.clone()));
        let mut node = Node {
            housekeeping: housekeeping::Housekeeping::start(&runtime, config),
            runtime,
            address,
            url,
            data_dir,
            shutdown,
            serving,
            agent: None,
            cancel_grace: config.duration("engine.cancelGrace"),
            ca_file: config.maybe("tls.certFile"),
            shown,
            reloads,
        };
        if config.flag("agent.enabled") {
            node.start_agent(config).await?;
        }
        tracing::info!(url = node.url, data = %node.data_dir.display(), "ready");
        Ok(node)
    }

    /// A connection to this very process.
    pub(crate) fn own_connection(&self, token: Secret) -> Connection {
        Connection {
            url: self.local_url(),
            url_origin: "this process".to_owned(),
            token: Some(token),
            token_origin: "the data folder".to_owned(),
            tenant: None,
            ca_file: self.ca_file.clone(),
            profile: None,
            timeout: None,
        }
    }

    /// Writes a new admin token into the folder, where the old one is missing or is another database's.
    pub(crate) async fn renew_admin_token(&self) -> Outcome<Secret> {
        let what = "cannot create a token";
        let path = self.data_dir.join(TOKEN_FILE);
        let keep = |made: &tidewheel_api::Bootstrap| write_private(&path, &format!("{}\n", made.secret));
        let made = tidewheel_api::bootstrap_token(&self.runtime, "admin", false, keep).await;
        let made = made.map_err(|error| Failure::new(Exit::Failed, what, error.to_string()))?;
        // Asked for without a condition, one is always made.
        made.map(|made| Secret::new(made.secret))
            .ok_or_else(|| Failure::new(Exit::Failed, what, "the server made none"))
    }

    /// The admin token, from the folder.
    pub(crate) fn admin_token(&self) -> Option<Secret> {
        crate::profile::read_token(&self.data_dir.join(TOKEN_FILE).display().to_string()).ok()
    }

    /// Starts an agent in this process.
    pub(crate) async fn start_agent(&mut self, config: &Config) -> Outcome {
        let admin = match self.admin_token() {
            Some(admin) if self.accepts(&admin).await => admin,
            _ => self.renew_admin_token().await?,
        };
        let token = worker_token(self, admin).await?;
        self.agent = Some(agent::Embedded::start(agent_config(config, &self.local_url(), token)?).await?);
        Ok(())
    }

    /// Whether a token is good here: a folder may have seen another database.
    pub(crate) async fn accepts(&self, token: &Secret) -> bool {
        match Client::new(&self.own_connection(token.clone())) {
            Ok(client) => client.get("/whoami").at_once().value().await.is_ok(),
            Err(_) => false,
        }
    }

    /// The address for clients in this very process: never through a proxy in front of it.
    pub(crate) fn local_url(&self) -> String {
        let scheme = if self.url.starts_with("https:") { "https" } else { "http" };
        format!("{scheme}://{}", reachable(self.address))
    }

    /// Resolves when the listener has ended by itself, which is a failure.
    pub(crate) async fn ended(&mut self) -> Failure {
        listener_ended(&mut self.serving).await
    }

    /// Refuses wishes to read the configuration again: there is no file behind it.
    pub(crate) fn refuse_reloads(&mut self) {
        self.reloads.close();
    }

    /// Both at once: the end of the listener, and a wish to read the configuration again.
    pub(crate) fn events(&mut self) -> (impl Future<Output = Failure> + '_, impl Future<Output = ReloadAsked> + '_) {
        let asked = async {
            match self.reloads.recv().await {
                Some(asked) => asked,
                // The listener has ended, which is told elsewhere.
                None => std::future::pending().await,
            }
        };
        (listener_ended(&mut self.serving), asked)
    }

    /// Takes over what may change while it runs.
    pub(crate) fn reload(&self, config: &Config) {
        self.housekeeping.reload(config);
        self.shown.set(config.tree());
    }

    /// Takes no new work, lets what runs end within the time, closes everything.
    pub(crate) async fn stop(self, drain: Duration) {
        let end = Instant::now() + drain;
        self.runtime.drain();
        self.housekeeping.stop();
        if let Some(agent) = self.agent {
            agent.stop(drain + self.cancel_grace).await;
        }
        loop {
            let left = running(&self.runtime).await;
            if left == 0 {
                break;
            }
            if Instant::now() >= end {
                // Their leases live on: workers that come back within them keep their attempts.
                tracing::warn!(running = left, "the drain time is over; attempts go on at their workers");
                break;
            }
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        // Streams would hold the listener up.
        self.runtime.close_sessions();
        self.shutdown.cancel();
        if let Ok(Err(error)) = self.serving.await {
            tracing::warn!(%error, "the listener did not end cleanly");
        }
        let runtime = self.runtime;
        // Blocks until the last commit is on disk.
        let _ = tokio::task::spawn_blocking(move || runtime.stop()).await;
        tracing::info!("stopped");
    }
}

async fn listener_ended(serving: &mut JoinHandle<Result<(), tidewheel_api::ServeError>>) -> Failure {
    let why = match serving.await {
        Ok(Ok(())) => "the listener stopped".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    Failure::new(Exit::Failed, "the server ended by itself", why)
}

/// Writes the token of the very first start into the folder. It is in no log and on no terminal.
async fn first_token(runtime: &Runtime, data_dir: &Path) -> Outcome {
    let path = data_dir.join(TOKEN_FILE);
    let keep = |made: &tidewheel_api::Bootstrap| write_private(&path, &format!("{}\n", made.secret));
    let made = tidewheel_api::bootstrap_token(runtime, "admin", true, keep).await;
    let made = made.map_err(|error| Failure::new(Exit::Failed, "cannot create the first token", error.to_string()))?;
    if let Some(made) = made {
        tracing::info!(file = %path.display(), token = made.token_id, "the admin token of this server was written");
    }
    Ok(())
}

async fn running(runtime: &Runtime) -> usize {
    match runtime.read(View::Partition).await {
        Ok(Answer::Partition(figures)) => figures.running,
        // A runtime that no longer answers runs nothing that could be waited for.
        _ => 0,
    }
}

/// The roles are those of a cluster; alone, a node has them all.
fn all_roles(config: &Config) -> Outcome {
    let roles = config.list("server.roles");
    let missing: Vec<_> = ["api", "scheduler", "executor", "agents", "notifier"]
        .into_iter()
        .filter(|r| !roles.iter().any(|g| g == r))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!("a single node has all roles; {} would be missing", missing.join(", "));
    Err(Failure::usage("cannot start with these roles", why).next("leave --roles out"))
}

fn make_folder(path: &Path) -> Outcome {
    use std::os::unix::fs::DirBuilderExt;
    // Database and keys are nobody else's business.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.doing(Exit::Failed, || format!("cannot make the data folder {}", path.display()))
}

async fn listen(text: &str) -> Outcome<(TcpListener, SocketAddr)> {
    let what = || format!("cannot listen on {text}");
    let listener = TcpListener::bind(text).await.map_err(|error| {
        let failure = Failure::new(Exit::Failed, what(), error.to_string()).cause(&error);
        match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                failure.next("another program has the port: choose one with --listen or --port")
            }
            _ => failure,
        }
    })?;
    let address = listener.local_addr().doing(Exit::Failed, what)?;
    Ok((listener, address))
}

/// An address that can be connected to: a wildcard stands for this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        let loopback = match address.ip() {
            std::net::IpAddr::V4(_) => std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            std::net::IpAddr::V6(_) => std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        };
        address.set_ip(loopback);
    }
    address
}

/// Opens the stores and starts the partition. Blocks on the disk, so it runs beside the async threads.
async fn start_runtime(config: &Config, data_dir: &Path) -> Outcome<Runtime> {
    let (config, data_dir) = (config.clone(), data_dir.to_owned());
    let started = tokio::task::spawn_blocking(move || {
        let (store, logs, blobs) = open_stores(&config, &data_dir)?;
        let runtime_config = runtime_config(&config, &data_dir)?;
        Runtime::start(runtime_config, store, logs, blobs, Box::new(fatal)).map_err(|error| match error {
            tidewheel_runtime::Error::Store(error) => store_failure("cannot open the store", &error),
            error => Failure::new(Exit::Failed, "cannot start the runtime", error.to_string()),
        })
    });
    started.await.doing(Exit::Failed, || "cannot start the runtime".to_owned())?
}

/// What the runtime calls when the disk did not keep data. There is nothing to clean up: anything written now would be
/// built on what the disk may have lost.
fn fatal(message: &str) {
    tracing::error!("{message}");
    crate::output::say(&format!(
        "error: the disk did not keep what it was told to keep (fsync)\n  why: {message}\n  \
         next: check the disk (dmesg), then start the server again: nothing that was acknowledged is lost"
    ));
    std::process::exit(Exit::Fsync as i32);
}

fn store_failure(what: &str, error: &tidewheel_store::Error) -> Failure {
    let exit = if matches!(error, tidewheel_store::Error::Fsync(_)) { Exit::Fsync } else { Exit::Failed };
    let failure = Failure::new(exit, what, error.to_string());
    match error {
        tidewheel_store::Error::TooNew(_) => failure.next("start the newer version of tidewheel"),
        tidewheel_store::Error::Corrupt(_) => failure.next("restore a backup"),
        tidewheel_store::Error::Full(_) => failure.next("make room on the disk"),
        _ => failure.next("name another folder with --data-dir, or stop the server that has this one"),
    }
}

type Stores = (Arc<SqliteStore>, Arc<dyn LogStore>, Arc<dyn Blobs>);

/// Opens a database of its own, for verbs that work on the files of a stopped server.
pub(crate) fn open_database(path: &Path) -> Result<Arc<SqliteStore>, tidewheel_store::Error> {
    SqliteStore::open(path, tidewheel_store_sqlite::Options::default())
}

/// Where the database of a configuration is.
fn database(config: &Config, data_dir: &Path) -> PathBuf {
    config.maybe("storage.database").map_or_else(|| data_dir.join("tidewheel.db"), PathBuf::from)
}

fn open_stores(config: &Config, data_dir: &Path) -> Outcome<Stores> {
    let options = tidewheel_store_sqlite::Options {
        cache_kib: u32::try_from(config.size("storage.cacheSize") >> 10).unwrap_or(u32::MAX),
        ..tidewheel_store_sqlite::Options::default()
    };
    let path = database(config, data_dir);
    make_private(&path);
    let store = SqliteStore::open(&path, options)
        .map_err(|error| store_failure(&format!("cannot open the database {}", path.display()), &error))?;
    let lines = if path == Path::new(":memory:") { path } else { data_dir.join("logs.db") };
    make_private(&lines);
    let logs = SqliteLogStore::open(&lines)
        .map_err(|error| store_failure(&format!("cannot open the log store {}", lines.display()), &error))?;
    Ok((store, logs, open_blobs(config, data_dir)?))
}

fn open_blobs(config: &Config, data_dir: &Path) -> Outcome<Arc<dyn Blobs>> {
    let what = "cannot open the blob store";
    let opened = if config.text("blobs.backend") == "s3" {
        let secret = |path: &str| config.secret(path).map(|s| s.expose().to_owned()).unwrap_or_default();
        ObjectBlobs::s3(&S3Settings {
            bucket: config.text("blobs.s3.bucket"),
            region: config.text("blobs.s3.region"),
            endpoint: config.text("blobs.s3.endpoint"),
            access_key_id: secret("blobs.s3.accessKey"),
            secret_access_key: secret("blobs.s3.secretKey"),
            prefix: config.text("blobs.s3.prefix"),
            allow_http: config.flag("blobs.s3.allowHttp"),
        })
    } else {
        let folder = config.maybe("blobs.dir").map_or_else(|| data_dir.join("blobs"), PathBuf::from);
        make_folder(&folder)?;
        ObjectBlobs::local(&folder)
    };
    let blobs = opened.map_err(|error| store_failure(what, &error))?;
    Ok(Arc::new(blobs))
}

/// A database that its owner alone can read, also in a folder that others can enter; the log beside it takes its mode.
fn make_private(path: &Path) {
    use std::os::unix::fs::OpenOptionsExt;
    if path != Path::new(":memory:") {
        // An existing file keeps its mode, and a folder that is missing is the store's to complain about.
        let _ = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    }
}

fn runtime_config(config: &Config, data_dir: &Path) -> Outcome<tidewheel_runtime::Config> {
    let mut out = tidewheel_runtime::Config {
        mailbox_items: usize::try_from(config.count("engine.mailboxItems")).unwrap_or(usize::MAX),
        readers: usize::try_from(config.count("engine.readers")).unwrap_or(1),
        token_key: token_key(data_dir)?,
        metric_types: usize::try_from(config.count("metrics.taskTypes")).unwrap_or(usize::MAX),
        ..tidewheel_runtime::Config::default()
    };
    out.options.lease_ms = millis(config.duration("engine.lease"));
    out.options.cancel_grace_ms = millis(config.duration("engine.cancelGrace"));
    out.options.max_live = config.count("engine.maxLiveTasks");
    out.options.run_cache =
        usize::try_from(config.size("engine.runCacheSize")).unwrap_or(usize::MAX).min(usize::MAX >> 4);
    out.options.run_room = 2 * out.options.run_cache;
    out.options.programs.open = usize::try_from(config.count("engine.maxOpenEntries")).unwrap_or(usize::MAX);
    out.options.compiler = WithCompiler(Some(Arc::new(tidewheel_lang::compile::Language)));
    Ok(out)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The secret of the folder; drawn at the first start.
fn token_key(data_dir: &Path) -> Outcome<[u8; 32]> {
    let path = data_dir.join(KEY_FILE);
    let what = || format!("cannot use the key in {}", path.display());
    let mut key = [0u8; 32];
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            hex::decode_to_slice(text.trim(), &mut key).doing(Exit::Failed, what)?;
            Ok(key)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            getrandom::fill(&mut key).map_err(|error| Failure::new(Exit::Failed, what(), error.to_string()))?;
            write_private(&path, &format!("{}\n", hex::encode(key))).doing(Exit::Failed, what)?;
            Ok(key)
        }
        Err(error) => Err(error).doing(Exit::Failed, what),
    }
}

fn api_config(config: &Config, url: &str, data_dir: &Path) -> tidewheel_api::ApiConfig {
    let shown_config = tidewheel_api::ShownConfig::default();
    shown_config.set(config.tree());
    let size = |path: &str| usize::try_from(config.size(path)).unwrap_or(usize::MAX);
    tidewheel_api::ApiConfig {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        public_url: url.to_owned(),
        shown_config,
        reload: None,
        cancel_grace: config.duration("engine.cancelGrace"),
        require_isolation: config.flag("tenancy.multiTenant"),
        body_bytes: size("server.maxBodySize"),
        batch_bytes: size("server.maxBatchSize"),
        package_bytes: config.size("server.maxPackageSize"),
        blob_bytes: config.size("server.maxBlobSize"),
        max_wait: config.duration("server.maxWait"),
        max_streams: usize::try_from(config.count("server.maxStreams")).unwrap_or(usize::MAX),
        backup: None,
        authority: None,
        // On the data's own disk: an upload is renamed from there, and a small /tmp is no bound.
        temp_dir: upload_folder(data_dir),
        many_open: usize::try_from(config.count("engine.manyOpenEntries")).unwrap_or(usize::MAX),
    }
}

/// Nothing for a database in memory: there is nothing to come back to.
fn backup_maker(runtime: &Runtime, database: &Path, data_dir: &Path) -> Option<tidewheel_api::BackupMaker> {
    if database == Path::new(":memory:") {
        return None;
    }
    let (runtime, database, data_dir) = (runtime.clone(), database.to_owned(), data_dir.to_owned());
    let make = move |name: &str| {
        // Asked first: what fails after the name was given is no conflict.
        let is_taken = data_dir.join(backup::FOLDER).join(name).exists();
        let made = backup::of_running(&runtime, &data_dir, &database, name);
        made.map_err(|why| {
            if is_taken { tidewheel_api::BackupFailed::Taken(why) } else { tidewheel_api::BackupFailed::Disk(why) }
        })
    };
    Some(tidewheel_api::BackupMaker(Arc::new(make)))
}

fn upload_folder(data_dir: &Path) -> PathBuf {
    let folder = data_dir.join("uploads");
    // What an earlier process left half-way is of no use.
    let _ = std::fs::remove_dir_all(&folder);
    if std::fs::create_dir_all(&folder).is_ok() { folder } else { std::env::temp_dir() }
}

/// As many open files as the machine allows: each connection is one, and the usual soft limit is 1,024.
pub(crate) fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct lives across both calls. Failure leaves the limit as it was.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max.min(1 << 20);
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
