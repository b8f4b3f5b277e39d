//! Completion of live names: ids of recent tasks, queues, workers, packages, tenants, profiles.
//!
//! A key press waits for it: what the server does not answer within [`PATIENCE`] is not proposed, and no failure is
//! shown.

use std::ffi::OsStr;
use std::time::Duration;

use clap::Command;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, ValueCompleter};
use clap_complete::env::CompleteEnv;
use serde_json::Value;

use super::common::{as_page, field, items};
use crate::client::Client;
use crate::output::at_path;
use crate::pages::{self, Page};
use crate::profile::{Profiles, Wishes, find_dev, resolve};

/// Variable by which a shell's script asks.
pub(super) const VARIABLE: &str = "TIDEWHEEL_COMPLETE";
/// Longest time for an answer.
const PATIENCE: Duration = Duration::from_millis(300);
/// Ids proposed; more would fill the screen.
const RECENT: usize = 30;

/// Answers a shell that asks, and ends the process; does nothing otherwise.
pub(super) fn answer_shell() {
    if std::env::var_os(VARIABLE).is_some() {
        CompleteEnv::with_factory(|| attach(super::command())).var(VARIABLE).complete();
    }
}

/// What can be proposed.
#[derive(Clone, Copy)]
enum Live {
    Tasks,
    Queues,
    Workers,
    Packages,
    Operations,
    Tokens,
    Tenants,
    Types,
    Workflows,
    Runs,
    Profiles,
    Pages,
}

/// Gives the arguments of all verbs their source.
fn attach(command: Command) -> Command {
    let mut names = Vec::new();
    walk(command, &mut names)
}

fn walk(command: Command, path: &mut Vec<String>) -> Command {
    let inner: Vec<_> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    let noun = path.first().cloned().unwrap_or_default();
    let verb = path.last().cloned().unwrap_or_default();
    let mut command = command.mut_args(|arg| match source(&noun, &verb, arg.get_id().as_str()) {
        Some(live) => arg.add(ArgValueCompleter::new(live)),
        None => arg,
    });
    for name in inner {
        path.push(name.clone());
        command = command.mut_subcommand(name, |verb| walk(verb, path));
        path.pop();
    }
    command
}

fn source(noun: &str, verb: &str, argument: &str) -> Option<Live> {
    Some(match (noun, verb, argument) {
        (_, _, "profile") => Live::Profiles,
        ("profile", "use" | "set" | "delete", "name") => Live::Profiles,
        ("task", "submit", "kind") => Live::Types,
        ("task", _, "id" | "ids") | ("artifact", _, "task") => Live::Tasks,
        ("queue", verb, "name" | "names") if verb != "create" => Live::Queues,
        ("task" | "agent", _, "queue") => Live::Queues,
        ("worker", _, "worker" | "workers") => Live::Workers,
        ("package", _, "name") | ("task", "submit", "package") => Live::Packages,
        ("op", _, "id" | "ids") => Live::Operations,
        ("workflow", _, "workflow" | "workflows") | ("run", "start", "workflow") => Live::Workflows,
        ("run", _, "id" | "ids") => Live::Runs,
        ("token", "revoke", "ids") => Live::Tokens,
        ("docs", _, "page") => Live::Pages,
        ("tenant", "get", "name") | (_, _, "tenant") => Live::Tenants,
        _ => return None,
    })
}

impl ValueCompleter for Live {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        let Some(current) = current.to_str() else { return Vec::new() };
        let mut all = match self {
            Live::Profiles => profiles(),
            Live::Pages => pages(current),
            live => ask(*live).unwrap_or_default(),
        };
        all.retain(|(name, _)| name.starts_with(current));
        all.into_iter().map(|(name, note)| CompletionCandidate::new(name).help(Some(note.into()))).collect()
    }
}

fn profiles() -> Vec<(String, String)> {
    let stored = Profiles::load().unwrap_or_default();
    stored.profiles.into_iter().map(|(name, profile)| (name, profile.url)).collect()
}

/// With their folders, or, once a name without one is begun, without.
fn pages(current: &str) -> Vec<(String, String)> {
    let full = current.contains('/') || pages::ALL.iter().any(|page| page.group().starts_with(current));
    let name = |page: &Page| if full { page.name } else { page.short() }.to_owned();
    pages::ALL.iter().map(|page| (name(page), page.title().to_owned())).collect()
}

/// Names with a note each, if the server answers in time.
fn ask(live: Live) -> Option<Vec<(String, String)>> {
    let wishes = Wishes {
        url: std::env::var("TIDEWHEEL_URL").ok(),
        token_file: std::env::var("TIDEWHEEL_TOKEN_FILE").ok(),
        token: std::env::var("TIDEWHEEL_TOKEN").ok(),
        tenant: std::env::var("TIDEWHEEL_TENANT").ok(),
        profile: std::env::var("TIDEWHEEL_PROFILE").ok(),
        ca_file: std::env::var("TIDEWHEEL_CA_FILE").ok(),
        timeout: None,
    };
    let dev = std::env::current_dir().ok().and_then(|folder| find_dev(&folder));
    let client = Client::new(&resolve(&wishes, &Profiles::load().ok()?, dev.as_ref()).ok()?).ok()?;
    let (path, name, note) = match live {
        Live::Tasks => ("/tasks", "id", "type"),
        Live::Queues => ("/queues", "name", "state"),
        Live::Workers => ("/workers", "name", "state"),
        Live::Packages => ("/packages", "name", "version"),
        Live::Operations => ("/operations", "id", "action"),
        Live::Tokens => ("/tokens", "id", "name"),
        Live::Tenants => ("/tenants", "name", ""),
        Live::Types => ("/task-types", "name", "doc"),
        Live::Workflows => ("/workflows", "name", "title"),
        Live::Runs => ("/runs", "id", "workflow"),
        Live::Profiles | Live::Pages => return None,
    };
    let mut request = client.get(path).at_once();
    if matches!(live, Live::Tasks | Live::Runs) {
        request = request.query("limit", RECENT);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, request.value()).await }).ok()?.ok()?;
    let page = as_page(answer);
    let full = |item: &Value| format!("{}/{}", field(item, "namespace"), field(item, "name"));
    let one = |item: &Value| match live {
        Live::Workflows => (full(item), candidate(item, name, note).1),
        _ => candidate(item, name, note),
    };
    let mut out: Vec<_> = items(&page).iter().map(one).collect();
    out.dedup_by(|a, b| a.0 == b.0);
    Some(out)
}

fn candidate(item: &Value, name: &str, note: &str) -> (String, String) {
    let note = at_path(item, note).as_str().unwrap_or_default();
    (field(item, name).to_owned(), crate::text::one_line(note))
}
