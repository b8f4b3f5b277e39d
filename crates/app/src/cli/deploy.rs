//! `tidewheel deploy`

mod replay;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::Ctx;
use super::common::{as_page, field, items};
use super::package;
use super::shapes::{ENTRY, PACKAGE};
use crate::client::segment;
use crate::fail::Outcome;

/// Build a package and put it into use
///
/// Builds the folder, uploads it and registers its tasks: the next task of one of its types runs the new version. With
/// `--dry-run` it shows what would change. Runs that have begun keep the code that they began with, unless their workflow has a
/// `version_policy`: then those that fit move, in the background. `--replay` goes through the histories of all open runs with the
/// new code first, and refuses the deploy if one does not fit.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  tidewheel deploy\n  tidewheel deploy reports --dry-run\n  tidewheel deploy --replay"
)]
pub(crate) struct Deploy {
    /// Folder with `pyproject.toml`, a wheel or an sdist
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Build and compare, upload nothing
    #[arg(long)]
    dry_run: bool,
    /// Replay the open runs of its workflows on the new code first; deploy nothing if one does not fit
    #[arg(long)]
    replay: bool,
    /// Leave the dependencies unlocked
    #[arg(long)]
    no_lock: bool,
}

impl Deploy {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let folder = package::scratch()?;
        let built = package::build(ctx, &self.dir, folder.path(), !self.no_lock).await?;
        if self.replay {
            replay::check(ctx, &client, &self.dir, &built, folder.path()).await?;
        }
        if self.dry_run {
            let path = format!("/packages/{}", segment(&built.name));
            let known = match client.get(path).doing("compare with the server").value().await {
                Ok(versions) => as_page(versions),
                Err(failure) if failure.code() == Some(tidewheel_proto::code::Code::NotFound) => json!({ "items": [] }),
                Err(failure) => return Err(failure),
            };
            let mut shown = package::shown(&built);
            shown["change"] = json!(change(items(&known), &built.version, &built.hash));
            ctx.out.note(&format!("{} {}: {}", built.name, built.version, field(&shown, "change")));
            return ctx.out.brief(&PACKAGE, &shown);
        }
        let stored = package::push(ctx, &client, &built, None).await?;
        ctx.out.brief(&PACKAGE, &stored)?;
        for operation in stored.get("moving").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        {
            ctx.out.note(&format!("runs of earlier versions move to it: tidewheel op watch {operation}"));
        }
        if ctx.out.is_for_people() {
            let entries = json!({ "items": stored["entries"] });
            ctx.out.list(&ENTRY, &entries)?;
            if let Some(first) = items(&entries).first() {
                ctx.out.note(&format!("try it: {}", trial(first)));
            }
        }
        Ok(())
    }
}

/// What a deploy would do, in a sentence.
fn change(versions: &[Value], version: &str, hash: &str) -> String {
    let same = versions.iter().find(|known| field(known, "version") == version);
    match same {
        Some(known) if field(known, "hash") == hash => "nothing changes: the server has this very content".to_owned(),
        Some(_) => format!("would be refused: {version} exists with other content; raise the version"),
        None if versions.is_empty() => "a new package".to_owned(),
        None => format!("a new version beside {}", versions.len()),
    }
}

/// The command that runs a task or a workflow of a package once, with something in each field that its input needs.
fn trial(entry: &Value) -> String {
    let name = field(entry, "name");
    let verb = match field(entry, "kind") {
        "workflow" => format!("workflow run {}/{name}", field(entry, "namespace")),
        _ => format!("task submit {name}"),
    };
    let schema = &entry["schema_in"];
    let mut input = serde_json::Map::new();
    for needed in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let sample = match field(&schema["properties"][needed], "type") {
            "integer" | "number" => json!(1),
            "boolean" => json!(true),
            "array" => json!([]),
            "object" => json!({}),
            _ => json!("..."),
        };
        input.insert(needed.to_owned(), sample);
    }
    let input = match input.is_empty() {
        true => String::new(),
        false => format!(" --input '{}'", Value::Object(input).to_string().replace('\'', r"'\''")),
    };
    format!("tidewheel {verb}{input} --wait")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deployed_is_tried_with_the_input_that_it_needs() {
        let plain = json!({"name": "split", "kind": "task", "schema_in": {"type": "object", "properties": {}}});
        assert_eq!(trial(&plain), "tidewheel task submit split --wait");
        let schema = json!({"properties": {"name": {"type": "string"}, "times": {"type": "integer"}, "it's": {}, "more": {}},
            "required": ["name", "times", "it's"]});
        let needy = json!({"name": "greet", "kind": "task", "schema_in": schema});
        assert_eq!(
            trial(&needy),
            r#"tidewheel task submit greet --input '{"name":"...","times":1,"it'\''s":"..."}' --wait"#
        );
        let flow =
            json!({"name": "settle", "namespace": "finance", "kind": "workflow", "schema_in": {"required": ["n"]}});
        assert_eq!(trial(&flow), r#"tidewheel workflow run finance/settle --input '{"n":"..."}' --wait"#);
    }
}
