//! What a server can do. A document that needs more is refused when it is deployed, by name.

use tidewheel_engine::run::plan::{Process, Protocol};

/// Something that a statement needs of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Feature {
    /// `call: http`.
    Http,
    /// `call: grpc`.
    Grpc,
    /// `call: openapi`.
    OpenApi,
    /// `call: asyncapi`.
    AsyncApi,
    /// `call: a2a`.
    A2a,
    /// `call: mcp`.
    Mcp,
    /// `emit`.
    Emit,
    /// `listen`.
    Listen,
    /// `schedule`.
    Schedule,
    /// `run.script` in Python.
    PythonScript,
    /// `run.script` in JavaScript.
    JavaScript,
    /// `run.shell`.
    Shell,
    /// `run.container`.
    Container,
    /// `run.workflow`.
    Workflow,
    /// `python:1.0.0@default`.
    Python,
    /// `map:1.0.0@default`.
    Map,
    /// `$secrets` and `$authorization`.
    Secrets,
    /// `saga:1.0.0@default`.
    Saga,
}

impl Feature {
    /// All of them.
    pub const ALL: [Feature; 18] = [
        Feature::Http,
        Feature::Grpc,
        Feature::OpenApi,
        Feature::AsyncApi,
        Feature::A2a,
        Feature::Mcp,
        Feature::Emit,
        Feature::Listen,
        Feature::Schedule,
        Feature::PythonScript,
        Feature::JavaScript,
        Feature::Shell,
        Feature::Container,
        Feature::Workflow,
        Feature::Python,
        Feature::Map,
        Feature::Secrets,
        Feature::Saga,
    ];

    /// As a document writes it.
    pub fn name(self) -> &'static str {
        match self {
            Feature::Http => "call: http",
            Feature::Grpc => "call: grpc",
            Feature::OpenApi => "call: openapi",
            Feature::AsyncApi => "call: asyncapi",
            Feature::A2a => "call: a2a",
            Feature::Mcp => "call: mcp",
            Feature::Emit => "emit",
            Feature::Listen => "listen",
            Feature::Schedule => "schedule",
            Feature::PythonScript => "run.script in Python",
            Feature::JavaScript => "run.script in JavaScript",
            Feature::Shell => "run.shell",
            Feature::Container => "run.container",
            Feature::Workflow => "run.workflow",
            Feature::Python => "call: python:1.0.0@default",
            Feature::Map => "call: map:1.0.0@default",
            Feature::Secrets => "$secrets",
            Feature::Saga => "call: saga:1.0.0@default",
        }
    }

    /// What to do where the server cannot do it.
    pub(crate) fn instead(self) -> &'static str {
        match self {
            Feature::Grpc | Feature::OpenApi | Feature::A2a | Feature::Mcp => {
                "use a Python function through `call: python:1.0.0@default`, or `call: http` where the server has it"
            }
            Feature::AsyncApi | Feature::Http | Feature::Secrets => {
                "use a Python function through `call: python:1.0.0@default`"
            }
            Feature::Emit | Feature::Listen => "start a child run with `run.workflow`, or wait with `wait`",
            Feature::Schedule => "drop `schedule` and start runs through the API or from a scheduler of your own",
            Feature::JavaScript => "write the script in Python, or run `node` through `run.shell`",
            Feature::Container => "use `run.shell` with a container tool that the agent has",
            _ => "ask the operator of the server to turn it on",
        }
    }

    pub(crate) fn of_protocol(protocol: Protocol) -> Feature {
        match protocol {
            Protocol::Http => Feature::Http,
            Protocol::Grpc => Feature::Grpc,
            Protocol::OpenApi => Feature::OpenApi,
            Protocol::AsyncApi => Feature::AsyncApi,
            Protocol::A2a => Feature::A2a,
            Protocol::Mcp => Feature::Mcp,
        }
    }

    pub(crate) fn of_process(process: Process) -> Feature {
        match process {
            Process::Python => Feature::PythonScript,
            Process::JavaScript => Feature::JavaScript,
            Process::Shell => Feature::Shell,
            Process::Container => Feature::Container,
        }
    }
}

/// A set of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(u32);

impl Features {
    /// These.
    pub fn of(features: &[Feature]) -> Features {
        Features(features.iter().fold(0, |set, feature| set | 1 << *feature as u8))
    }

    /// All.
    pub fn all() -> Features {
        Features::of(&Feature::ALL)
    }

    /// These and one more.
    pub fn with(self, feature: Feature) -> Features {
        Features(self.0 | 1 << feature as u8)
    }

    /// Whether one is there.
    pub fn has(self, feature: Feature) -> bool {
        self.0 & 1 << feature as u8 != 0
    }
}
