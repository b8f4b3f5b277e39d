//! What an agent is told at its start. Plain data: it reads no environment, no file and no command line, which is the
//! work of whoever starts it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::serve::Serves;

/// A token. It has no `Debug` and no `Display`, so that it cannot reach a log by accident.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

/// How an agent proves who it is.
#[derive(Clone)]
pub enum Credential {
    /// By a token.
    Token(Secret),
    /// By a client certificate of the server's own authority.
    Certificate {
        /// `tok_...`: the record that the certificate belongs to.
        id: String,
        /// Certificate, PEM.
        certificate: String,
        /// Its private key, PEM.
        key: Secret,
    },
}

impl Credential {
    /// The header that goes with every call.
    pub(crate) fn authorization(&self) -> String {
        match self {
            Credential::Token(token) => format!("Bearer {}", token.expose()),
            Credential::Certificate { id, .. } => format!("Certificate {id}"),
        }
    }

    /// Certificate and key, if that is the proof.
    pub(crate) fn identity(&self) -> Option<(&str, &str)> {
        match self {
            Credential::Token(_) => None,
            Credential::Certificate { certificate, key, .. } => Some((certificate, key.expose())),
        }
    }

    /// Whether it proves the same in the same way.
    pub(crate) fn is(&self, other: &Credential) -> bool {
        self.authorization() == other.authorization() && self.identity() == other.identity()
    }
}

/// Gives the credential as it is kept now; asked when the server refuses the one in use, because it was changed.
#[derive(Clone)]
pub struct Reread(pub std::sync::Arc<dyn Fn() -> Option<Credential> + Send + Sync>);

/// Whether attempts run behind namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Only where the server asks for it (it serves several tenants).
    #[default]
    Auto,
    /// Always; attempts are refused where it is not possible.
    On,
    /// Never; attempts are refused when the server asks for it.
    Off,
}

/// Bounds of one process of user code, where a task names none of its own. Zero means no bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    pub memory_bytes: u64,
    pub cpu_millis: u32,
    /// A share that it is to have when others want it too, and no bound: what the class `default` stands for.
    pub share: Share,
    /// Its reads and writes go before those of others.
    pub fast_io: bool,
    /// Processes and threads together; a fork bomb ends here.
    pub processes: u32,
    pub open_files: u64,
    /// The largest file that may be written.
    pub file_bytes: u64,
    /// Captured output of one attempt; what comes after is dropped.
    pub output_bytes: u64,
}

/// What a process is to have when the machine is short of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    pub memory_bytes: u64,
    pub cpu_millis: u32,
}

impl Default for Share {
    /// One core and 256 MiB, what a task gets that asks for nothing.
    fn default() -> Self {
        Self { memory_bytes: 256 << 20, cpu_millis: 1_000 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let share = Share::default();
        let fast_io = false;
        Self {
            memory_bytes: 0,
            cpu_millis: 0,
            share,
            fast_io,
            processes: 512,
            open_files: 4096,
            file_bytes: 0,
            output_bytes: 64 << 20,
        }
    }
}

/// Bounds of the build of one environment, with all that the packages in it run for it. Zero means no bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildLimits {
    /// From its start to its end, fetching included. A build needs one.
    pub time: Duration,
    /// Memory of all its processes together.
    pub memory_bytes: u64,
    /// What it may write: the environment, what is fetched for it, and all that it makes on the way.
    pub disk_bytes: u64,
    /// Processes and threads together.
    pub processes: u32,
}

impl Default for BuildLimits {
    /// Half an hour, 4 GiB of memory, 20 GiB of disk, 1,024 processes: enough to compile a large library.
    fn default() -> Self {
        Self { time: Duration::from_secs(30 * 60), memory_bytes: 4 << 30, disk_bytes: 20 << 30, processes: 1_024 }
    }
}

/// Everything an agent has to know.
#[derive(Clone)]
pub struct AgentConfig {
    /// `http://host:port` or `https://host:port`.
    pub server: String,
    pub credential: Credential,
    /// Where a changed credential comes from; without, the first one is the only one.
    pub reread: Option<Reread>,
    /// Shown to people; the host name if absent.
    pub name: Option<String>,
    pub queues: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// Commands whose first line of output becomes the value of a label, by the label's name. Run by `sh -c` at the start,
    /// each for at most five seconds; one that fails gives no label. Labels given by hand win.
    pub probes: BTreeMap<String, String>,
    /// Task types served; empty = all.
    pub types: Vec<String>,
    /// Bounds on the tasks that it is given; none unless set.
    pub serves: Serves,
    /// Names of data it holds: tasks that work on it come here before its equals.
    pub data: Vec<String>,
    /// Attempts that run at once.
    pub permits: u32,
    /// The most grants held ready beside those that run. What is asked for follows the pace of the tasks: two per
    /// permit while they are long, up to this many while they are short.
    pub buffer: u32,
    pub data_dir: PathBuf,
    pub isolation: Isolation,
    /// Network inside the sandbox.
    pub isolated_network: bool,
    pub limits: Limits,
    /// Bounds of what builds environments.
    pub build: BuildLimits,
    /// Control groups where the machine allows them. Without, memory and processes are watched, which takes up to half a
    /// second to notice, and CPU is not limited. On unless set.
    pub control_groups: bool,
    /// Certificate authority (PEM) the server's certificate is checked against, instead of the machine's.
    pub ca: Option<PathBuf>,
    /// User and group id of the children; only root can change them.
    pub run_as: Option<(u32, u32)>,
    /// The Python to use where an environment does not bring one; found on PATH if absent.
    pub python: Option<PathBuf>,
    /// An idle process of user code ends after so long.
    pub idle: Duration,
    /// What runs may go on for so long after a shutdown was asked for.
    pub drain: Duration,
    /// Bytes of packages, environments and downloads kept between uses; the least recently used go first, and nothing that
    /// is in use. 20 GiB unless set.
    pub cache_bytes: u64,
    /// What was not used for so long goes although there is room; zero keeps it. 30 days unless set.
    pub cache_age: Duration,
    /// Kinds of the worker shown to people.
    pub kind: String,
}

impl AgentConfig {
    /// The defaults for a server, a token and a folder.
    pub fn new(server: impl Into<String>, token: Secret, data_dir: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, |n| n.get() as u32);
        Self {
            server: server.into(),
            credential: Credential::Token(token),
            reread: None,
            name: None,
            queues: vec!["*".into()],
            labels: BTreeMap::new(),
            probes: BTreeMap::new(),
            types: Vec::new(),
            serves: Serves::default(),
            data: Vec::new(),
            // A task that waits for the network uses no core: one permit would make a small machine look dead.
            permits: cores.max(2),
            buffer: 1024,
            data_dir: data_dir.into(),
            isolation: Isolation::Auto,
            isolated_network: false,
            limits: Limits::default(),
            build: BuildLimits::default(),
            control_groups: true,
            ca: None,
            run_as: None,
            python: None,
            idle: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            cache_bytes: 20 << 30,
            cache_age: Duration::from_secs(30 * 24 * 60 * 60),
            kind: "agent".into(),
        }
    }
}
