//! The page `docs/reference/cli.md`, made from the command definitions; a test fails when it is stale.

use clap::Command;

use crate::cli::GROUPS;

/// The page `docs/reference/configuration.md`.
pub fn configuration_markdown() -> String {
    let mut out = String::from(
        "# Configuration\n\nMade from the table of settings by a test of `crates/app`; do not edit it by hand.\n\n\
         A server reads a file in YAML or TOML (`tidewheel server --config FILE`), then the environment, then \
         flags; later ones win. Unknown settings are mistakes, named with their line and the nearest name. \
         `tidewheel config show` prints each value with its origin, `tidewheel config check FILE` checks a \
         file, `tidewheel config schema` prints a JSON Schema. SIGHUP, or `POST /api/v1/system/config:reload`, \
         reads everything again; settings without *restart* then hold at once.\n\n\
         Durations are `500ms`, `10s`, `1h30m`, `2d`, or a number of milliseconds; sizes are `512MB`, `4Gi`, \
         or a number of bytes. A secret stands in a file that the setting with `File` at its end names, in a \
         variable, in a file that the variable with `_FILE` at its end names, or in a systemd credential \
         `tidewheel.<setting>`; never in the configuration \
         file or on the command line.\n",
    );
    let mut section = "";
    for setting in crate::config::setting::ALL {
        let this = setting.path.split('.').next().unwrap_or_default();
        if this != section {
            section = this;
            out.push_str(&format!("\n## {section}\n\n| setting | default | meaning |\n|---|---|---|\n"));
        }
        let default = match (setting.default)() {
            serde_json::Value::String(text) if text.is_empty() => String::new(),
            value => format!("`{}`", crate::config::setting::plain(&value)),
        };
        let kind = match setting.kind {
            crate::config::setting::Kind::Secret => " Secret.",
            _ if !setting.reload => " *restart*",
            _ => "",
        };
        let doc = setting.doc.replace('|', "\\|");
        out.push_str(&format!(
            "| `{}`<br>`{}` | {default} | {doc}{kind} |\n",
            setting.path,
            crate::config::env_name(setting.path)
        ));
    }
    out
}

/// The reference page.
pub fn markdown() -> String {
    let mut root = crate::cli::command();
    root.build();
    let mut out = String::from(
        "# Command line\n\nMade from the command definitions by a test of `crates/app`; do not edit it by hand.\n\n\
         Data goes to standard output; progress, counts and hints go to standard error.\n\n\
         | exit code | meaning |\n|---|---|\n| 0 | it worked |\n| 1 | the work failed |\n| 2 | the call was wrong |\n\
         | 3 | authentication or permission |\n| 4 | not found, or in conflict with the current state |\n\
         | 5 | unreachable or overloaded, or a wait ran out |\n| 74 | server: the disk did not keep data |\n\
         | 130 | interrupted |\n\n## Options of every verb\n\n",
    );
    options(&mut out, &root, true);
    for (title, names) in GROUPS {
        out.push_str(&format!("## {title}\n\n"));
        for name in *names {
            if let Some(verb) = root.find_subcommand(name) {
                section(&mut out, verb, &format!("tidewheel {name}"), 3);
            }
        }
    }
    out
}

fn section(out: &mut String, verb: &Command, path: &str, level: usize) {
    out.push_str(&format!("{} `{path}`\n\n", "#".repeat(level.min(5))));
    let about = verb.get_long_about().or_else(|| verb.get_about()).map(ToString::to_string).unwrap_or_default();
    out.push_str(&format!("{}\n\n", about.trim()));
    let aliases: Vec<_> = verb.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    if !aliases.is_empty() {
        out.push_str(&format!("Also: {}.\n\n", aliases.join(", ")));
    }
    if verb.get_subcommands().next().is_none() {
        let usage = verb.clone().render_usage().to_string();
        out.push_str(&format!("```\n{}\n```\n\n", usage.trim_start_matches("Usage: ").trim()));
    }
    options(out, verb, false);
    if let Some(help) = verb.get_after_help() {
        let text = help.to_string();
        let lines: Vec<_> = text.lines().filter(|l| l.starts_with("  ")).map(str::trim).collect();
        out.push_str(&format!("```sh\n{}\n```\n\n", lines.join("\n")));
    }
    for inner in verb.get_subcommands() {
        section(out, inner, &format!("{path} {}", inner.get_name()), level + 1);
    }
}

/// A table of arguments and options: those of every verb, or the verb's own.
fn options(out: &mut String, verb: &Command, global: bool) {
    let wanted = verb.get_arguments().filter(|arg| {
        arg.is_global_set() == global && !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version")
    });
    let mut rows = String::new();
    for arg in wanted {
        let value =
            arg.get_value_names().map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        let takes = arg.get_action().takes_values();
        let value = if takes { value.unwrap_or_default() } else { String::new() };
        let mut name = match (arg.get_short(), arg.get_long()) {
            (Some(short), Some(long)) => format!("-{short}, --{long}"),
            (None, Some(long)) => format!("--{long}"),
            (Some(short), None) => format!("-{short}"),
            (None, None) => String::new(),
        };
        if takes && !value.is_empty() {
            let gap = if name.is_empty() { "" } else { " " };
            name.push_str(&format!("{gap}{value}"));
        }
        let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let choices: Vec<_> = match takes {
            true => arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect(),
            false => Vec::new(),
        };
        if !choices.is_empty() && choices != ["true", "false"] {
            help.push_str(&format!(" ({})", choices.join(", ")));
        }
        if let Some(env) = arg.get_env() {
            help.push_str(&format!(" [`{}`]", env.to_string_lossy()));
        }
        rows.push_str(&format!("| `{}` | {} |\n", name.replace('|', "\\|"), help.replace('|', "\\|")));
    }
    if !rows.is_empty() {
        out.push_str(&format!("| option | meaning |\n|---|---|\n{rows}\n"));
    }
}
