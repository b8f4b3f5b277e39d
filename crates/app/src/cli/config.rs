//! `tidewheel config`: check and show a server's configuration.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Ctx;
use crate::config::{Config, schema};
use crate::fail::Outcome;
use crate::output::{Col, Kind, Shape};

/// Check and show a server's configuration
///
/// A server reads a file in YAML or TOML, then variables such as TIDEWHEEL__SERVER__LISTEN, then flags; later ones win.
/// Unknown settings are mistakes.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  tidewheel config check tidewheel.yaml
  tidewheel config show --config tidewheel.yaml")]
pub(crate) struct ConfigCommand {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Subcommand)]
enum ConfigVerb {
    Check(Check),
    Show(Show),
    Schema(Schema),
}

/// Check a file without starting a server
///
/// Reports every mistake with its line and the nearest name that is known. The environment's settings are checked too,
/// because a server would read them.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel config check tidewheel.yaml
  tidewheel config check /etc/tidewheel/server.toml -o json")]
struct Check {
    /// File in YAML or TOML
    file: PathBuf,
}

/// Show every setting with its value and where it came from
///
/// What a server started now, with the same file and environment, would use. Secrets are masked.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel config show --config tidewheel.yaml
  tidewheel config show --changed -o yaml")]
struct Show {
    /// File in YAML or TOML
    #[arg(long, value_name = "FILE", env = "TIDEWHEEL_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Only settings that are not at their default
    #[arg(long)]
    changed: bool,
}

/// Print the JSON Schema of the configuration file
///
/// For editors that complete and check YAML, and for checks elsewhere.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel config schema > tidewheel.schema.json
  tidewheel config schema --jq '.properties | keys'")]
struct Schema {}

const SETTING: Shape = Shape {
    plural: "settings",
    id: "setting",
    cols: &[
        Col::new("SETTING", "setting", Kind::Text),
        Col::new("VALUE", "value", Kind::Names),
        Col::new("ORIGIN", "origin", Kind::Text),
        Col::wide("RELOAD", "reload", Kind::Text),
    ],
};

impl ConfigCommand {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        match self.verb {
            ConfigVerb::Check(verb) => {
                let config = Config::load(Some(&verb.file), Vec::new())?;
                let set = config.rows().iter().filter(|row| row["origin"] != "default").count();
                ctx.out.note(&format!("{} is good: {set} settings", verb.file.display()));
                ctx.out.value(&json!({"file": verb.file, "ok": true, "settings": set}))
            }
            ConfigVerb::Show(verb) => {
                let mut rows = Config::load(verb.config.as_deref(), Vec::new())?.rows();
                rows.retain(|row| !verb.changed || row["origin"] != "default");
                ctx.out.list(&SETTING, &json!({ "items": rows }))
            }
            ConfigVerb::Schema(Schema {}) => ctx.out.value(&schema::schema()),
        }
    }
}
