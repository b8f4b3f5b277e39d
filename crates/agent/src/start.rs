//! Puts an agent together and takes it apart: the only module that knows all others. It makes no decision about tasks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tidewheel_proto::builtin;
use tidewheel_proto::v1::Hello;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::blobs::Blobs;
use crate::builds::Builds;
use crate::cache::Hold;
use crate::capacity::{self, Gauge};
use crate::client::Client;
use crate::config::AgentConfig;
use crate::environment::Environments;
use crate::error::Error;
use crate::inputs::Inputs;
use crate::lease::Lease;
use crate::link::{Link, LinkState};
use crate::log_ship::LogBuffer;
use crate::outbox::Outbox;
use crate::package::Packages;
use crate::process::Spawner;
use crate::python::{self, Python};
use crate::rest::Rest;
use crate::runner::{Event, Runner, Tools, Wiring};
use crate::sandbox::Sandbox;
use crate::tally::Tally;

/// Events that wait for the runner. Pumps and the link stop reading when it is full.
const EVENTS: usize = 1024;
/// After the last attempt ended: time for the server to acknowledge the results.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// An agent that is ready to run.
pub struct Agent {
    tools: Arc<Tools>,
    client: Client,
    hello: Hello,
    events: mpsc::Sender<Event>,
    queue: mpsc::Receiver<Event>,
    state: Arc<LinkState>,
    gauge: Gauge,
}

/// A way to talk to a running agent. Cheap to clone.
#[derive(Clone)]
pub struct AgentHandle {
    tools: Arc<Tools>,
    events: mpsc::Sender<Event>,
    state: Arc<LinkState>,
    gauge: Gauge,
    name: String,
}

/// What an agent is and does, for people.
#[derive(Clone, Debug, Serialize)]
pub struct AgentStatus {
    pub name: String,
    pub worker_id: String,
    pub connected: bool,
    pub running: u32,
    pub buffered: u32,
    pub cpu_ratio: f32,
    pub memory_used_bytes: u64,
    pub disk_free_bytes: u64,
    pub tight: bool,
}

/// What an agent would say of this machine.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    pub labels: BTreeMap<String, String>,
    pub enforced: BTreeMap<String, String>,
    pub cpu_millis: u32,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub packages: Vec<String>,
}

/// Runs an agent until `shutdown` is cancelled and what runs has ended.
pub async fn run(config: AgentConfig, shutdown: CancellationToken) -> Result<(), Error> {
    Agent::new(config).await?.run(shutdown).await
}

/// Looks at this machine as an agent would, without a connection.
pub async fn inspect(config: AgentConfig) -> Result<Inspection, Error> {
    let agent = Agent::new(config).await?;
    let resources = agent.hello.resources.unwrap_or_default();
    Ok(Inspection {
        labels: agent.hello.labels.clone().into_iter().collect(),
        enforced: agent.hello.enforced.clone().into_iter().collect(),
        cpu_millis: resources.cpu_millis,
        memory_bytes: resources.memory_bytes,
        disk_bytes: resources.disk_bytes,
        packages: agent.tools.packages.cached(),
    })
}

impl Agent {
    /// Discovers the machine and prepares the folders. Needs a tokio runtime.
    pub async fn new(config: AgentConfig) -> Result<Self, Error> {
        if config.permits == 0 {
            return Err(Error::Config("an agent needs at least one permit".into()));
        }
        let mut config = config;
        if !config.probes.is_empty() {
            let mut found = capacity::probe(&config.probes).await;
            found.append(&mut config.labels);
            config.labels = found;
        }
        std::fs::create_dir_all(&config.data_dir).map_err(Error::file("make", &config.data_dir))?;
        // Children have other working folders: a relative path would lead elsewhere for them.
        config.data_dir = std::fs::canonicalize(&config.data_dir).map_err(Error::file("open", &config.data_dir))?;
        let mut random = [0u8; 8];
        getrandom::fill(&mut random).map_err(|e| Error::Config(format!("no random numbers: {e}")))?;
        let instance = hex::encode(random);
        let client = Client::new(&config)?;
        let blobs = Blobs::new(client.clone());
        let spawner = Spawner::start(&instance, config.run_as, config.control_groups)
            .map_err(Error::io("cannot start a thread"))?;
        let sandbox = Sandbox::detect(config.isolation, config.isolated_network, &config.data_dir).await;
        let state = Arc::<LinkState>::default();
        let builds = Builds::behind_walls(spawner.clone(), sandbox.clone(), config.build.clone());
        let (environments, no_python, library) = find_python(&config, builds, state.tally.clone()).await?;
        let work = config.data_dir.join("work").join(&instance);
        sweep_work(&config.data_dir.join("work"));
        std::fs::create_dir_all(&work).map_err(Error::file("make", &work))?;
        std::fs::write(work.join(OWNER), std::process::id().to_string()).map_err(Error::file("write in", &work))?;
        let packages = Arc::new(Packages::open(&config.data_dir, blobs.clone(), state.tally.clone())?);
        let inputs = Inputs::open(&config.data_dir, blobs.clone(), config.cache_bytes)?;
        let rest = Rest::new(&config)?;
        let library_hold = hold_library(&library, &config.data_dir);
        let tools = Arc::new(Tools {
            config,
            instance,
            spawner,
            sandbox,
            packages,
            inputs,
            environments,
            no_python,
            library,
            library_hold,
            work,
            blobs,
            rest,
        });
        let (events, queue) = mpsc::channel(EVENTS);
        let hello = make_hello(&tools);
        Ok(Self { tools, client, hello, events, queue, state, gauge: Gauge::default() })
    }

    /// To be taken before `run`.
    pub fn handle(&self) -> AgentHandle {
        AgentHandle {
            tools: self.tools.clone(),
            events: self.events.clone(),
            state: self.state.clone(),
            gauge: self.gauge.clone(),
            name: self.hello.name.clone(),
        }
    }

    /// Runs until `shutdown` is cancelled and what runs has ended or was killed after the drain time.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Agent { tools, client, hello, events, queue, state, gauge } = self;
        gauge.start(&tools.config.data_dir);
        let lease = Arc::new(Lease::new(Instant::now()));
        let (out, commands) = mpsc::unbounded_channel();
        let finish = CancellationToken::new();
        let link = Link {
            client,
            elsewhere: None,
            commands,
            events: events.clone(),
            wrap: Event::Link,
            gauge: gauge.clone(),
            lease: lease.clone(),
            shared: state.clone(),
            finish: finish.clone(),
            outbox: Outbox::default(),
            begun: Vec::new(),
            logs: LogBuffer::default(),
        };
        let wiring = Wiring { events, queue, link: out, state, lease, gauge, hello };
        let runner = Runner::new(tools, wiring);
        let stop = shutdown.child_token();
        let mut link = tokio::spawn(link.run());
        let mut runner = tokio::spawn(runner.run(stop.clone()));
        let panicked = |_| Error::Config("the agent stopped because of a bug; its log has the place".into());
        tokio::select! {
            ended = &mut link => {
                stop.cancel();
                let _ = runner.await;
                ended.map_err(panicked)?
            }
            ended = &mut runner => {
                finish.cancel();
                let said = tokio::time::timeout(LAST_WORDS, &mut link).await;
                if said.is_err() {
                    tracing::warn!("the server did not acknowledge the last results");
                    link.abort();
                }
                ended.map_err(panicked)
            }
        }
    }
}

impl AgentHandle {
    /// Runs code straight from a folder: tasks granted with the package this returns (`local:...`) run what is there. Call
    /// it again when a file changed: processes with the old code finish what they have and are replaced.
    pub async fn local_folder(&self, dir: &Path) -> Result<String, Error> {
        let name = self.tools.packages.add_folder(dir)?;
        let _ = self.events.send(Event::FolderChanged(name.clone())).await;
        Ok(name)
    }

    pub fn status(&self) -> AgentStatus {
        let usage = self.gauge.usage();
        AgentStatus {
            name: self.name.clone(),
            worker_id: self.state.worker_id.lock().clone(),
            connected: self.state.connected.load(std::sync::atomic::Ordering::Relaxed),
            running: usage.running,
            buffered: usage.buffered,
            cpu_ratio: usage.cpu_ratio,
            memory_used_bytes: usage.memory_used_bytes,
            disk_free_bytes: usage.disk_free_bytes,
            tight: usage.tight,
        }
    }
}

/// Keeps the embedded package's folder from being pruned, by this agent or by a newer one on the same data folder.
fn hold_library(library: &Path, data_dir: &Path) -> Option<Hold> {
    library.starts_with(data_dir).then(|| Hold::take(library).ok()).flatten()
}

async fn find_python(
    config: &AgentConfig,
    builds: Builds,
    tally: Arc<Tally>,
) -> Result<(Option<Environments>, Option<String>, std::path::PathBuf), Error> {
    match Python::find(config.python.as_deref()).await {
        Ok(python) => {
            let library = python::lay_down(&config.data_dir, &python).await?;
            Ok((Some(Environments::open(&config.data_dir, python, builds, tally).await?), None, library))
        }
        Err(error) => {
            tracing::warn!(%error, "Python tasks are refused");
            Ok((None, Some(error.to_string()), std::path::PathBuf::new()))
        }
    }
}

fn make_hello(tools: &Tools) -> Hello {
    let config = &tools.config;
    let python = tools.environments.as_ref().map(|e| e.python.version.as_str());
    let mut enforced: BTreeMap<String, String> = tools.spawner.enforced().into_iter().collect();
    enforced.insert("sandbox".into(), tools.sandbox.describe().into());
    enforced.insert("seccomp".into(), tools.sandbox.describe_filter().into());
    enforced.insert("environments".into(), tools.environments.as_ref().map_or("none", Environments::builder).into());
    enforced.insert("builds".into(), tools.environments.as_ref().map_or("none".into(), Environments::walls));
    let memory_note =
        if config.limits.memory_bytes > 0 { config.limits.memory_bytes.to_string() } else { "per task".into() };
    enforced.insert("memory-limit".into(), memory_note);
    Hello {
        name: config.name.clone().unwrap_or_else(capacity::host_name),
        version: env!("CARGO_PKG_VERSION").into(),
        queues: config.queues.clone(),
        labels: capacity::labels(&config.labels, python).into_iter().collect(),
        resources: Some(capacity::resources(&config.data_dir)),
        permits: config.permits,
        buffer: config.buffer,
        types: config.types.clone(),
        serves: config.serves.message(),
        data: config.data.clone(),
        runs_packages: true,
        own_types: builtin::own_types(),
        enforced: enforced.into_iter().collect(),
        instance: tools.instance.clone(),
        kind: config.kind.clone(),
        ..Hello::default()
    }
}

/// Working folders of agents that were killed: each holds a file with the id of its process.
fn sweep_work(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let owner = std::fs::read_to_string(entry.path().join(OWNER)).ok();
        let alive = owner.is_some_and(|pid| Path::new("/proc").join(pid.trim()).exists());
        if !alive {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Names the process a working folder belongs to.
const OWNER: &str = ".owner";
