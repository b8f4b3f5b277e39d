//! The server's configuration: a file in YAML or TOML, the environment, flags; later ones win, and each value remembers
//! where it came from. What can be set is one table ([`setting::ALL`]), from which checks, schema and reference are
//! made.

pub(crate) mod file;
pub(crate) mod schema;
pub(crate) mod setting;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::fail::{Exit, Failure, Outcome, While};
use crate::profile::Secret;
use setting::{ALL, Kind, Setting};

/// Prefix of the environment's settings.
const ENV_PREFIX: &str = "TIDEWHEEL__";
/// Largest configuration file.
const MAX_FILE: u64 = 1 << 20;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Built in.
    Default,
    /// A line of the file.
    File(String, usize),
    /// A variable.
    Env(String),
    /// A flag.
    Flag(String),
    /// A file that holds a secret.
    SecretFile(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{path}:{line}"),
            Origin::Env(name) => write!(f, "env {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
            Origin::SecretFile(path) => write!(f, "file {path}"),
        }
    }
}

/// One wrong place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Where.
    pub(crate) origin: Origin,
    /// What, and what to write instead.
    pub(crate) what: String,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.origin, self.what)
    }
}

/// Every setting with its value in force.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    values: BTreeMap<&'static str, (Value, Origin)>,
    /// The file it was read from, for a reload.
    pub(crate) path: Option<PathBuf>,
    flags: Vec<(String, String, Value)>,
}

/// A value given by a flag: the flag's name, the setting's path, the value.
pub(crate) type FlagValue = (String, String, Value);

impl Config {
    /// Reads file, environment and flags. Every wrong place is reported, not just the first.
    pub(crate) fn load(path: Option<&Path>, flags: Vec<FlagValue>) -> Outcome<Config> {
        Config::from_parts(path, std::env::vars().collect(), flags)
    }

    /// The same with a given environment.
    pub(crate) fn from_parts(
        path: Option<&Path>,
        env: Vec<(String, String)>,
        flags: Vec<FlagValue>,
    ) -> Outcome<Config> {
        let mut wrong = Vec::new();
        let mut config = Config {
            values: ALL.iter().map(|s| (s.path, ((s.default)(), Origin::Default))).collect(),
            path: path.map(Path::to_owned),
            flags,
        };
        if let Some(path) = path {
            let what = || format!("cannot read the configuration in {}", path.display());
            let size = std::fs::metadata(path).doing(Exit::Usage, what)?.len();
            if size > MAX_FILE {
                return Err(Failure::usage(what(), format!("it is larger than {MAX_FILE} bytes")));
            }
            let text = std::fs::read_to_string(path).doing(Exit::Usage, what)?;
            config.take_file(path, &text, &mut wrong);
        }
        config.take_env(env, &mut wrong);
        for (flag, setting, value) in config.flags.clone() {
            config.take(&setting, value, Origin::Flag(flag), &mut wrong);
        }
        config.take_secrets(&mut wrong);
        config.check_together(&mut wrong);
        if wrong.is_empty() {
            return Ok(config);
        }
        let what = match wrong.len() {
            1 => "the configuration has a mistake".to_owned(),
            n => format!("the configuration has {n} mistakes"),
        };
        let lines: Vec<_> = wrong.iter().map(ToString::to_string).collect();
        Err(Failure::usage(what, lines.join("; ")).next("tidewheel config schema"))
    }

    /// Reads everything anew, as it was read first.
    pub(crate) fn reload(&self) -> Outcome<Config> {
        Config::load(self.path.as_deref(), self.flags.clone())
    }

    fn take_file(&mut self, path: &Path, text: &str, wrong: &mut Vec<Wrong>) {
        let name = path.display().to_string();
        match file::parse(path, text) {
            Ok(tree) => self.take_tree("", tree, &name, wrong),
            Err((line, what)) => wrong.push(Wrong { origin: Origin::File(name, line), what }),
        }
    }

    /// Walks sections down to the settings. A map stops at its setting: what is below are its entries.
    fn take_tree(&mut self, prefix: &str, tree: Vec<file::Entry>, name: &str, wrong: &mut Vec<Wrong>) {
        for entry in tree {
            let path = if prefix.is_empty() { entry.key.clone() } else { format!("{prefix}.{}", entry.key) };
            let origin = Origin::File(name.to_owned(), entry.line);
            match entry.node {
                file::Node::Table(inner) if find(&path).is_none() => {
                    if ALL.iter().any(|s| s.path.strip_prefix(&path).is_some_and(|rest| rest.starts_with('.'))) {
                        self.take_tree(&path, inner, name, wrong);
                    } else {
                        wrong.push(Wrong { origin, what: unknown(&path) });
                    }
                }
                node => self.take(&path, node.into_value(), origin, wrong),
            }
        }
    }

    fn take_env(&mut self, env: Vec<(String, String)>, wrong: &mut Vec<Wrong>) {
        let mut given: Vec<_> = env.into_iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
        given.sort();
        for (name, text) in given {
            let wanted = folded(&name[ENV_PREFIX.len()..].replace("__", "."));
            let origin = Origin::Env(name);
            let (wanted, of_file) = match wanted.strip_suffix("file") {
                Some(rest) if find_folded(&wanted).is_none() => (rest.to_owned(), true),
                _ => (wanted, false),
            };
            match find_folded(&wanted) {
                Some(setting) if of_file && setting.kind == Kind::Secret => {
                    self.take_secret_file(setting, &text, wrong);
                }
                Some(setting) => self.put(setting, from_text(setting, &text), origin, wrong),
                None => {
                    let known: Vec<_> = ALL.iter().map(|s| env_name(s.path)).collect();
                    let Origin::Env(name) = &origin else { continue };
                    let near = crate::text::did_you_mean(name, known.iter().map(String::as_str));
                    let what = format!("there is no such setting{near}");
                    wrong.push(Wrong { origin, what });
                }
            }
        }
    }

    fn take(&mut self, path: &str, value: Value, origin: Origin, wrong: &mut Vec<Wrong>) {
        match find(path) {
            Some(setting) if setting.kind == Kind::Secret && !matches!(origin, Origin::Env(_)) => {
                let what = format!(
                    "{path} is a secret: write {path}File with the name of a file that holds it, or set {}",
                    env_name(path)
                );
                wrong.push(Wrong { origin, what });
            }
            Some(setting) => self.put(setting, value, origin, wrong),
            None => match path.strip_suffix("File").and_then(find).filter(|s| s.kind == Kind::Secret) {
                Some(setting) => match value.as_str() {
                    Some(file) => self.take_secret_file(setting, file, wrong),
                    None => wrong.push(Wrong { origin, what: format!("{path} is the name of a file") }),
                },
                None => wrong.push(Wrong { origin, what: unknown(path) }),
            },
        }
    }

    fn put(&mut self, setting: &'static Setting, value: Value, origin: Origin, wrong: &mut Vec<Wrong>) {
        match setting.kind.check(&value) {
            Ok(value) => {
                self.values.insert(setting.path, (value, origin));
            }
            Err(why) => wrong.push(Wrong { origin, what: format!("{}: {why}", setting.path) }),
        }
    }

    fn take_secret_file(&mut self, setting: &'static Setting, file: &str, wrong: &mut Vec<Wrong>) {
        let origin = Origin::SecretFile(file.to_owned());
        match std::fs::read_to_string(file) {
            Ok(text) => {
                self.values.insert(setting.path, (Value::String(text.trim().to_owned()), origin));
            }
            Err(error) => wrong.push(Wrong { origin, what: format!("{}: {error}", setting.path) }),
        }
    }

    /// systemd hands credentials over as files in a folder of the service's own.
    fn take_secrets(&mut self, wrong: &mut Vec<Wrong>) {
        let Some(folder) = std::env::var_os("CREDENTIALS_DIRECTORY") else { return };
        for setting in ALL.iter().filter(|s| s.kind == Kind::Secret) {
            let path = Path::new(&folder).join(format!("tidewheel.{}", setting.path));
            if path.exists() && self.values.get(setting.path).is_none_or(|(_, origin)| *origin == Origin::Default) {
                self.take_secret_file(setting, &path.display().to_string(), wrong);
            }
        }
    }

    /// Settings that only make sense together.
    fn check_together(&self, wrong: &mut Vec<Wrong>) {
        let mut complain = |path: &str, what: &str| {
            wrong.push(Wrong { origin: self.origin(path).clone(), what: format!("{path}: {what}") });
        };
        if self.text("tls.certFile").is_empty() != self.text("tls.keyFile").is_empty() {
            complain("tls.certFile", "certificate and key go together: set tls.certFile and tls.keyFile, or neither");
        }
        if self.text("blobs.backend") == "s3" && self.text("blobs.s3.bucket").is_empty() {
            complain("blobs.s3.bucket", "blobs.backend is s3, which needs a bucket");
        }
        if self.duration("engine.heartbeat") * 2 > self.duration("engine.lease") {
            complain("engine.heartbeat", "at least two heartbeats have to fit into engine.lease");
        }
        let known = ["api", "scheduler", "executor", "agents", "notifier"];
        for role in self.list("server.roles") {
            if !known.contains(&role.as_str()) {
                let near = crate::text::did_you_mean(&role, known);
                complain("server.roles", &format!("there is no role '{role}'{near}; roles are {}", known.join(", ")));
            }
        }
    }

    /// Where a setting's value came from.
    pub(crate) fn origin(&self, path: &str) -> &Origin {
        self.values.get(path).map_or(&Origin::Default, |(_, origin)| origin)
    }

    fn value(&self, path: &str) -> &Value {
        debug_assert!(find(path).is_some(), "the program asks for a setting that is in the table: {path}");
        self.values.get(path).map_or(&Value::Null, |(value, _)| value)
    }

    /// A text.
    pub(crate) fn text(&self, path: &str) -> String {
        self.value(path).as_str().unwrap_or_default().to_owned()
    }

    /// A text that may be absent.
    pub(crate) fn maybe(&self, path: &str) -> Option<String> {
        Some(self.text(path)).filter(|text| !text.is_empty())
    }

    /// A flag.
    pub(crate) fn flag(&self, path: &str) -> bool {
        self.value(path).as_bool().unwrap_or(false)
    }

    /// A whole number.
    pub(crate) fn count(&self, path: &str) -> u64 {
        self.value(path).as_u64().unwrap_or(0)
    }

    /// A number.
    pub(crate) fn number(&self, path: &str) -> f64 {
        self.value(path).as_f64().unwrap_or(0.0)
    }

    /// A duration. The table's check has read it before, so that it always reads.
    pub(crate) fn duration(&self, path: &str) -> Duration {
        Duration::from_millis(setting::duration_ms(self.value(path)).unwrap_or(0))
    }

    /// A number of bytes.
    pub(crate) fn size(&self, path: &str) -> u64 {
        setting::size_bytes(self.value(path)).unwrap_or(0)
    }

    /// A list of texts.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let items = self.value(path).as_array().map_or(&[][..], Vec::as_slice);
        items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// A map of texts.
    pub(crate) fn map(&self, path: &str) -> BTreeMap<String, String> {
        let empty = Map::new();
        let map = self.value(path).as_object().unwrap_or(&empty);
        map.iter().map(|(k, v)| (k.clone(), setting::plain(v))).collect()
    }

    /// A secret.
    pub(crate) fn secret(&self, path: &str) -> Option<Secret> {
        self.maybe(path).map(Secret::new)
    }

    /// Every setting with origin, secrets masked: what `config show` prints.
    pub(crate) fn rows(&self) -> Vec<Value> {
        let row = |s: &Setting| {
            let (value, origin) = &self.values[s.path];
            let value = if s.kind == Kind::Secret && value != "" { Value::from("********") } else { value.clone() };
            serde_json::json!({
                "setting": s.path, "value": value, "origin": origin.to_string(), "reload": s.reload,
            })
        };
        ALL.iter().map(row).collect()
    }

    /// The values as one tree, secrets masked: what `/system/config` shows.
    pub(crate) fn tree(&self) -> Value {
        let mut root = Value::Object(Map::new());
        for row in self.rows() {
            let path = row["setting"].as_str().unwrap_or_default().to_owned();
            let mut at = &mut root;
            for part in path.split('.') {
                if at.get(part).is_none() {
                    at[part] = Value::Object(Map::new());
                }
                at = &mut at[part];
            }
            *at = serde_json::json!({ "value": row["value"], "origin": row["origin"] });
        }
        root
    }

    /// Settings whose value differs: those that hold at once, and those that need a restart.
    pub(crate) fn changed(&self, other: &Config) -> (Vec<&'static str>, Vec<&'static str>) {
        let differs = |s: &&Setting| self.values[s.path].0 != other.values[s.path].0;
        let (now, later): (Vec<_>, Vec<_>) = ALL.iter().filter(differs).partition(|s| s.reload);
        let paths = |list: Vec<&'static Setting>| list.into_iter().map(|s| s.path).collect();
        (paths(now), paths(later))
    }
}

/// The setting at a path.
pub(crate) fn find(path: &str) -> Option<&'static Setting> {
    ALL.iter().find(|s| s.path == path)
}

fn find_folded(wanted: &str) -> Option<&'static Setting> {
    ALL.iter().find(|s| folded(s.path) == wanted)
}

/// Case and underscores do not count in the environment: DRAIN_TIMEOUT and DRAINTIMEOUT are drainTimeout.
fn folded(text: &str) -> String {
    text.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect()
}

/// `TIDEWHEEL__SERVER__DRAIN_TIMEOUT` of `server.drainTimeout`.
pub(crate) fn env_name(path: &str) -> String {
    let mut out = String::from(ENV_PREFIX);
    for c in path.chars() {
        match c {
            '.' => out.push_str("__"),
            c if c.is_uppercase() => {
                out.push('_');
                out.push(c);
            }
            c => out.extend(c.to_uppercase()),
        }
    }
    out
}

fn unknown(path: &str) -> String {
    // Both the settings and their sections are names that may have been meant.
    let mut known: Vec<&str> = ALL.iter().map(|s| s.path).collect();
    for setting in ALL {
        known.extend(setting.path.match_indices('.').map(|(at, _)| &setting.path[..at]));
    }
    format!("there is no setting '{path}'{}", crate::text::did_you_mean(path, known))
}

/// A value from a text, as environment and `--set` give it: lists by commas, maps as `a=1,b=2`.
pub(crate) fn from_text(setting: &Setting, text: &str) -> Value {
    match setting.kind {
        Kind::List => {
            text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(|t| Value::String(t.to_owned())).collect()
        }
        Kind::Map => {
            let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
            Value::Object(pairs.map(|(k, v)| (k.trim().to_owned(), Value::String(v.trim().to_owned()))).collect())
        }
        Kind::Flag | Kind::Count { .. } | Kind::Number => {
            serde_json::from_str(text.trim()).unwrap_or_else(|_| Value::String(text.to_owned()))
        }
        _ => Value::String(text.to_owned()),
    }
}
