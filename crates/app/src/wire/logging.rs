//! The program's own log: structured, on stderr, one event one line, its level changeable while it runs.

use std::io::IsTerminal;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::fail::{Failure, Outcome};

/// The handle by which a reload changes the level.
pub(crate) struct Logging(reload::Handle<EnvFilter, Registry>);

impl Logging {
    /// Starts the log. `format` is auto, pretty or json.
    pub(crate) fn start(level: &str, format: &str) -> Outcome<Logging> {
        let (filter, handle) = reload::Layer::new(parse(level)?);
        let registry = tracing_subscriber::registry().with(filter);
        let terminal = std::io::stderr().is_terminal();
        let started = if format == "json" || (format == "auto" && !terminal) {
            registry
                .with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))
                .try_init()
        } else {
            let pretty = tracing_subscriber::fmt::layer().with_ansi(terminal).with_target(false);
            registry.with(pretty.with_writer(std::io::stderr)).try_init()
        };
        started.map_err(|error| Failure::usage("cannot start the log", error.to_string()))?;
        Ok(Logging(handle))
    }

    /// Changes the level.
    pub(crate) fn set(&self, level: &str) -> Outcome {
        let filter = parse(level)?;
        self.0.reload(filter).map_err(|error| Failure::usage("cannot change the log level", error.to_string()))
    }
}

/// Libraries that say at `info` what only their authors want to know.
const CHATTY: &str = "refinery_core=warn,h2=warn,hyper=warn,rustls=warn,tower=warn";

fn parse(level: &str) -> Outcome<EnvFilter> {
    // What is asked for comes last, so that it wins.
    EnvFilter::try_new(format!("{CHATTY},{level}")).map_err(|error| {
        Failure::usage("cannot use this log level", format!("'{level}': {error}"))
            .next("write info, or info,tidewheel_api=debug")
    })
}
