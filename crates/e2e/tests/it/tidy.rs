//! The rules of structure that can be checked by reading: who may import whom, what must never be in a room, and the small
//! promises of the style guide. Each exception stands here with its reason.

mod links;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use source::{Source, below, has_word};
use tidewheel_e2e::root;

/// Who may see whom: room and the rooms it may depend on. A new edge is a decision (docs/adr/0001-rooms-and-edges.md).
const EDGES: &[(&str, &[&str])] = &[
    ("engine", &[]),
    ("proto", &[]),
    ("lang", &["engine"]),
    ("store", &["engine"]),
    ("store-sqlite", &["store", "engine"]),
    // 0003: blobs are tied to no database.
    ("store-blob", &["store", "engine"]),
    ("runtime", &["engine", "store"]),
    // 0013: a deploy compiles.
    ("api", &["runtime", "proto", "engine", "lang"]),
    ("agent", &["proto"]),
    ("sim", &["engine", "store", "lang"]),
    // In-process figures come from binaries of the crate; the rest of it drives the built binary over `proto`.
    ("bench", &["proto", "engine", "store", "store-sqlite", "store-blob", "runtime"]),
    ("e2e", &["proto"]),
];

/// Edges that only tests of a room have: a shell is tested on a real backend, never linked to it.
const TEST_EDGES: &[(&str, &[&str])] =
    &[("runtime", &["store-sqlite", "store-blob"]), ("api", &["store", "store-sqlite", "store-blob"])];

/// Rooms that only the composition root may put together.
const COMPOSES: &str = "tidewheel";

/// What must never be imported by a room, from outside the workspace.
const BANNED_CRATES: &[(&str, &[&str])] = &[
    ("engine", &["tokio", "rand", "getrandom", "tracing", "log", "chrono", "jiff", "parking_lot", "libc"]),
    ("proto", &["tokio", "rusqlite", "axum"]),
    ("store", &["tokio", "rusqlite", "axum", "tonic"]),
    ("store-sqlite", &["axum", "tonic", "tokio"]),
    ("runtime", &["axum", "tonic", "rusqlite"]),
    ("api", &["rusqlite"]),
    ("agent", &["axum", "rusqlite"]),
    ("sim", &["tokio", "axum", "tonic", "reqwest", "rusqlite", "getrandom", "rand"]),
];

/// What must never be named in the engine: every door to the world.
const ENGINE_BANS: &[&str] = &[
    "tokio",
    "std::time",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "std::process",
    "std::io",
    "SystemTime",
    "Instant::now",
    "rand::",
    "getrandom",
    "tracing",
    "println!",
    "eprintln!",
    "async",
    "unsafe",
    // Iterates in an order that differs from run to run; hashbrown's has the same fault and is checked below.
    "std::collections::HashMap",
    "std::collections::HashSet",
];

/// What must never be named in the simulator: it has a clock, a disk and a network of its own.
const SIM_BANS: &[&str] = &["tokio", "std::net", "std::thread", "SystemTime", "rand::"];

/// Longest function of the engine. Longer ones stand in `tidy/long_functions.txt` and may only shrink.
const FUNCTION_LINES: usize = 70;

fn manifests() -> anyhow::Result<Vec<Value>> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()?;
    anyhow::ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    Ok(metadata["packages"].as_array().cloned().unwrap_or_default())
}

/// Dependencies of a package: name and whether only tests have it.
fn dependencies(package: &Value) -> Vec<(String, bool)> {
    let all = package["dependencies"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.iter().map(|d| (text(&d["name"]), d["kind"] == "dev")).collect()
}

fn room(package: &str) -> &str {
    package.strip_prefix("tidewheel-").unwrap_or(package)
}

fn allowed<'a>(table: &'a [(&str, &'a [&'a str])], name: &str) -> &'a [&'a str] {
    table.iter().find(|(room, _)| *room == name).map_or(&[], |(_, rooms)| rooms)
}

/// Fails with a list, if there is anything on it.
fn none(what: &str, found: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
    Ok(())
}

#[test]
fn rooms_see_only_the_rooms_they_may() -> anyhow::Result<()> {
    let mut found = Vec::new();
    for package in manifests()? {
        let name = package["name"].as_str().unwrap_or_default().to_owned();
        if name == COMPOSES {
            continue;
        }
        if !EDGES.iter().any(|(known, _)| *known == room(&name)) {
            found.push(format!("the room '{name}' is not in the list"));
        }
        for (dependency, for_tests) in dependencies(&package) {
            if !dependency.starts_with("tidewheel") {
                continue;
            }
            let seen = allowed(EDGES, room(&name)).contains(&room(&dependency));
            let in_tests = for_tests && allowed(TEST_EDGES, room(&name)).contains(&room(&dependency));
            if !seen && !in_tests {
                found.push(format!("{name} -> {dependency}"));
            }
        }
    }
    none("edges that are in no decision", &found)
}

#[test]
fn rooms_keep_out_what_is_banned() -> anyhow::Result<()> {
    let mut found = Vec::new();
    for package in manifests()? {
        let name = package["name"].as_str().unwrap_or_default().to_owned();
        for (dependency, for_tests) in dependencies(&package) {
            if !for_tests && allowed(BANNED_CRATES, room(&name)).contains(&dependency.as_str()) {
                found.push(format!("{name} -> {dependency}"));
            }
        }
    }
    none("dependencies that a room must not have", &found)
}

#[test]
fn the_engine_has_no_door_to_the_world() -> anyhow::Result<()> {
    let mut found = banned(&below(&root(), "crates/engine/src"), ENGINE_BANS);
    found.extend(banned(&below(&root(), "crates/sim/src"), SIM_BANS));
    none("what must never be there", &found)
}

fn banned(sources: &[Source], bans: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for ban in bans {
            found.extend(
                source.lines_with(ban).map(|(line, text)| format!("{}:{line}: {ban}: {}", source.path, text.trim())),
            );
        }
    }
    found
}

/// An engine that walks a hash map in its own order gives another result on each run. Walks have to end in a sort, in
/// something that no order changes, or in a comment with the word `order` that says why none does.
#[test]
fn the_engine_walks_no_hash_map_in_its_order() -> anyhow::Result<()> {
    let sources = below(&root(), "crates/engine/src");
    let maps = hash_maps(&sources);
    let walks = [".iter()", ".iter_mut()", ".values()", ".values_mut()", ".keys()", ".drain()", ".into_values()"];
    let harmless = ["sort", ".count()", ".sum", ".any(", ".all(", ".max", ".min", ".clear()", "BTree", ".len()"];
    let mut found = Vec::new();
    for source in &sources {
        let raw: Vec<&str> = source.text.lines().collect();
        for (i, line) in source.product.lines().enumerate() {
            let walked = maps.iter().find(|map| {
                let by_call = walks.iter().any(|walk| has_word(line, &format!("{map}{walk}")));
                let by_loop = line.trim_start().starts_with("for ") && line.trim_end().ends_with(&format!(".{map} {{"));
                by_call || by_loop
            });
            let around = &raw[i.saturating_sub(3)..raw.len().min(i + 4)];
            let explained = around.iter().any(|l| l.contains("//") && l.contains("order"));
            let after = &raw[i..raw.len().min(i + 6)];
            let settled = after.iter().any(|l| harmless.iter().any(|word| l.contains(word)));
            if let (Some(map), false, false) = (walked, explained, settled) {
                found.push(format!("{}:{}: {map}: {}", source.path, i + 1, line.trim()));
            }
        }
    }
    none("walks over hash maps without a word about their order", &found)
}

/// Names of fields that are hash maps, and never anything else: a name with two meanings cannot be judged by reading.
fn hash_maps(sources: &[Source]) -> BTreeSet<String> {
    let (mut maps, mut others) = (BTreeSet::new(), BTreeSet::new());
    for line in sources.iter().flat_map(|source| source.product.lines()) {
        if let Some((name, kind)) = line.trim().split_once(": ")
            && line.trim_end().ends_with(',')
        {
            let name = name.rsplit(' ').next().unwrap_or(name).to_owned();
            match kind {
                _ if kind.starts_with("HashMap<") || kind.starts_with("HashSet<") => maps.insert(name),
                _ if ["Vec", "Box", "&", "BTree", "Option", "VecDeque"].iter().any(|k| kind.starts_with(k)) => {
                    others.insert(name)
                }
                _ => false,
            };
        }
    }
    &maps - &others
}

/// Files of the product: crates that ship in the binary.
fn product() -> Vec<Source> {
    let rooms = EDGES.iter().map(|(room, _)| *room).filter(|room| !matches!(*room, "e2e" | "sim" | "bench"));
    rooms.chain(["app"]).flat_map(|room| below(&root(), &format!("crates/{room}/src"))).collect()
}

/// Files that are test code although they are no `#[cfg(test)]` module of their own file.
fn is_test_file(source: &Source) -> bool {
    let named = source.path.ends_with("/tests.rs") || source.path.contains("/tests/");
    // The suite that every backend has to pass: exported as code, called by tests alone.
    named || source.path.contains("/conformance")
}

#[test]
fn nothing_unfinished_and_no_unwrap_in_product_code() -> anyhow::Result<()> {
    let mut found = Vec::new();
    for source in product() {
        for word in ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX"] {
            let lines = source.product.lines().enumerate().filter(|(_, line)| line.contains(word));
            found.extend(lines.map(|(i, _)| format!("{}:{}: {word}", source.path, i + 1)));
        }
        if is_test_file(&source) {
            continue;
        }
        let unwraps = source.product.lines().enumerate().filter(|(_, line)| line.contains(".unwrap()"));
        found.extend(unwraps.map(|(i, line)| format!("{}:{}: {}", source.path, i + 1, line.trim())));
    }
    none("unfinished code, or an unwrap that names no invariant", &found)
}

#[test]
fn every_limit_has_its_reason() -> anyhow::Result<()> {
    let mut found = Vec::new();
    let source = Source::read(&root(), &root().join("crates/engine/src/limit.rs"));
    let lines: Vec<&str> = source.text.lines().collect();
    let mut limits = 0;
    for (i, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("pub const ")) {
        limits += 1;
        if i == 0 || !lines[i - 1].trim_start().starts_with("///") {
            found.push(format!("{}:{}: {line}", source.path, i + 1));
        }
    }
    anyhow::ensure!(limits > 0, "there are no limits in {}", source.path);
    none("limits without a reason", &found)
}

#[test]
fn every_invariant_is_checked_by_the_simulator() -> anyhow::Result<()> {
    let engine = below(&root(), "crates/engine/src");
    let list = engine.iter().find(|s| s.path.ends_with("src/invariant.rs"));
    let list = list.map(|s| s.product.clone()).unwrap_or_default();
    let names = |folder: &str| -> Vec<String> {
        let files = below(&root(), folder);
        let stem =
            |s: &Source| Path::new(&s.path).file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        files.iter().map(stem).filter(|name| is_invariant(name)).collect()
    };
    let invariants = names("crates/engine/src/invariant");
    anyhow::ensure!(!invariants.is_empty(), "there are no invariants");
    let mut found = Vec::new();
    for name in &invariants {
        if !list.contains(&format!("{name}::")) {
            found.push(format!("{name} is not in the list of crates/engine/src/invariant.rs"));
        }
    }
    let sim = below(&root(), "crates/sim/src");
    let used = |word: &str| sim.iter().any(|s| s.product.lines().any(|line| has_word(line, word)));
    if !used("invariant") {
        found.push("crates/sim never uses the engine's invariants".to_owned());
    }
    for name in names("crates/sim/src/checker") {
        if !sim.iter().any(|s| s.product.contains(&format!("{name}::"))) {
            found.push(format!("the checker {name} is never used by crates/sim"));
        }
    }
    none("invariants that nothing checks", &found)
}

/// `s9_key_order`: the number of a promise and its name.
fn is_invariant(name: &str) -> bool {
    name.split_once('_').is_some_and(|(number, _)| {
        number.strip_prefix('s').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    })
}

#[test]
fn every_source_file_belongs_to_a_module() -> anyhow::Result<()> {
    let mut found = Vec::new();
    for package in std::fs::read_dir(root().join("crates"))?.flatten() {
        let folder = format!("crates/{}", package.file_name().to_string_lossy());
        for tree in ["src", "tests/it"] {
            let sources = below(&root(), &format!("{folder}/{tree}"));
            let top = format!("{folder}/{tree}/");
            found.extend(sources.iter().filter(|s| !is_module(s, &sources, &top)).map(|s| s.path.clone()));
        }
    }
    none("files that no module names", &found)
}

fn is_module(source: &Source, all: &[Source], top: &str) -> bool {
    let inner = source.path.strip_prefix(top).unwrap_or(&source.path);
    if matches!(inner, "lib.rs" | "main.rs") || inner.starts_with("bin/") {
        return true;
    }
    let path = inner.trim_end_matches(".rs").trim_end_matches("/mod");
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let owners = if parent.is_empty() {
        vec![format!("{top}lib.rs"), format!("{top}main.rs")]
    } else {
        vec![format!("{top}{parent}.rs"), format!("{top}{parent}/mod.rs")]
    };
    let declares = |s: &&Source| s.code.lines().any(|line| line.trim().ends_with(&format!("mod {name};")));
    let by_owner = all.iter().filter(|s| owners.contains(&s.path)).any(|s| declares(&s));
    // A binary beside the library may have modules of its own.
    by_owner || all.iter().filter(|s| s.path.starts_with(&format!("{top}bin/"))).any(|s| declares(&s))
}

#[test]
fn functions_of_the_engine_stay_short() -> anyhow::Result<()> {
    let ratchet: BTreeMap<String, usize> = include_str!("tidy/long_functions.txt")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .filter_map(|line| line.rsplit_once(' ').and_then(|(name, lines)| Some((name.to_owned(), lines.parse().ok()?))))
        .collect();
    let mut found = Vec::new();
    let mut long = BTreeSet::new();
    for source in below(&root(), "crates/engine/src") {
        for function in source.functions().into_iter().filter(|f| f.lines > FUNCTION_LINES) {
            let name = format!("{} {}", source.path, function.name);
            let bound = ratchet.get(&name).copied().unwrap_or(FUNCTION_LINES);
            if function.lines > bound {
                found.push(format!("{name} (line {}) has {} lines, at most {bound}", function.line, function.lines));
            }
            long.insert(name);
        }
    }
    let gone = ratchet.keys().filter(|name| !long.contains(*name));
    found.extend(gone.map(|name| format!("{name} is short now: take it off tidy/long_functions.txt")));
    none("functions that are too long", &found)
}

/// Every file of the repository: tracked, or new and not ignored.
fn files() -> anyhow::Result<Vec<String>> {
    let output = Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).current_dir(root()).output()?;
    anyhow::ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Hosts that a lock file may fetch from: the public registries of the languages, and nothing that only one site can reach.
const LOCK_HOSTS: &[&str] = &["github.com/rust-lang/crates.io-index", "pypi.org/", "files.pythonhosted.org/"];

#[test]
fn no_file_names_a_machine_or_a_private_registry() -> anyhow::Result<()> {
    // Put together here, so that this file does not find itself.
    let paths = ["root", "work", "Users", "build", "workspace"].map(|top| format!("/{top}/"));
    let settings = ["index", "extra-index", "default-index"].map(|name| format!("{name}-url"));
    let mut found = Vec::new();
    for name in files()? {
        let Ok(text) = std::fs::read_to_string(root().join(&name)) else { continue };
        let is_lock = name.ends_with(".lock") || name.ends_with("requirements.txt");
        for (i, line) in text.lines().enumerate() {
            let machine = paths.iter().any(|path| names_path(line, path)) || names_home(line);
            let private = settings.iter().any(|s| line.contains(s.as_str()));
            let foreign = is_lock && line.contains("://") && !LOCK_HOSTS.iter().any(|host| line.contains(host));
            if machine || private || foreign {
                found.push(format!("{name}:{}: {}", i + 1, line.trim().chars().take(120).collect::<String>()));
            }
        }
    }
    none("paths or registries of one machine", &found)
}

/// An absolute path: what stands before it is no part of a longer path or address.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        // Secrets of root are a target that tests of isolation name on purpose.
        let secrets = line[at + path.len()..].starts_with('.');
        !secrets && before.is_none_or(|c| matches!(c, ' ' | '"' | '\'' | '=' | '(' | '`' | ':'))
    })
}

/// A home folder with somebody's name in it.
fn names_home(line: &str) -> bool {
    line.match_indices("/home/").any(|(at, text)| {
        let name: String = line[at + text.len()..].chars().take_while(|c| c.is_alphanumeric()).collect();
        !matches!(name.as_str(), "" | "tidewheel" | "user")
    })
}
