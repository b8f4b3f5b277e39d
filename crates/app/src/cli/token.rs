//! `tidewheel token`: API tokens.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Ctx;
use super::common::{self, ShortArgs, field};
use super::shapes::TOKEN;
use crate::client::segment;
use crate::fail::{Exit, Outcome, While};

/// Manage API tokens
///
/// A token speaks for one tenant in one role: admin, operator, viewer or worker. Its secret is shown once, when it is
/// made; the server keeps a hash.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  tidewheel token create ci --role operator --expires-in 90d
  tidewheel token list")]
pub(crate) struct TokenCommand {
    #[command(subcommand)]
    verb: TokenVerb,
}

#[derive(Subcommand)]
enum TokenVerb {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// Create a token
///
/// Prints the token with its secret, once. With `--to` the secret goes into a file that only you can read, and is not
/// printed.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel token create ci --role operator --expires-in 90d
  tidewheel token create agent-7 --role worker --to agent.token")]
struct Create {
    /// What it is for
    name: String,
    /// What it allows
    #[arg(long, value_parser = ["admin", "operator", "viewer", "worker"])]
    role: String,
    /// How long it is good for; without end if absent
    #[arg(long, value_name = "TIME")]
    expires_in: Option<String>,
    /// May act in any tenant; only a system admin can give it
    #[arg(long)]
    system: bool,
    /// Write the secret to a file with mode 0600
    #[arg(long, value_name = "FILE")]
    to: Option<String>,
}

/// List the tokens of the tenant
///
/// Newest first, without their secrets: name, role, when it was made and when it ends.
#[derive(Args)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:\n  tidewheel token list\n  tidewheel token list --sort name -o csv")]
struct List {
    #[command(flatten)]
    list: ShortArgs,
}

/// Revoke tokens
///
/// They are refused from the moment the command returns; open streams end. Asks first.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel token revoke tok_01jd8z5r7m0000000000000000
  tidewheel token revoke tok_01jd8z5r7m0000000000000000 --yes")]
struct Revoke {
    /// Ids of the tokens
    #[arg(required = true, num_args = 1..)]
    ids: Vec<String>,
}

impl TokenCommand {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        match self.verb {
            TokenVerb::Create(verb) => verb.run(ctx).await,
            TokenVerb::List(verb) => {
                common::short_list(ctx, &TOKEN, &verb.list, || client.get("/tokens").doing("list the tokens")).await
            }
            TokenVerb::Revoke(verb) => {
                let tokens = match verb.ids.len() {
                    1 => "The token".to_owned(),
                    more => format!("{more} tokens"),
                };
                ctx.ask.confirm(&format!("{tokens} will be refused from now on."))?;
                common::each(ctx, &TOKEN, verb.ids, |id| {
                    let request = client.delete(format!("/tokens/{}", segment(&id))).doing(format!("revoke {id}"));
                    async move {
                        request.next("tidewheel token list").value().await?;
                        Ok(json!({"id": id, "revoked": true}))
                    }
                })
                .await
            }
        }
    }
}

impl Create {
    async fn run(self, ctx: &Ctx) -> Outcome {
        let mut body = json!({"name": self.name, "role": self.role});
        if let Some(life) = &self.expires_in {
            body["expires_in"] = json!(life);
        }
        if self.system {
            body["system"] = json!(true);
        }
        let request = ctx.client()?.post("/tokens").doing(format!("create token {}", self.name));
        let mut token = request.json(&body).value().await?;
        if let Some(file) = &self.to {
            let secret = field(&token, "secret").to_owned();
            let written = crate::profile::write_private(std::path::Path::new(file), &format!("{secret}\n"));
            written.doing(Exit::Failed, || format!("cannot write {file}; the token {} exists", field(&token, "id")))?;
            if let Value::Object(map) = &mut token {
                map.remove("secret");
            }
            ctx.out.note(&format!("secret written to {file}"));
        } else {
            ctx.out.note("the secret is shown this once");
        }
        ctx.out.one(&TOKEN, &token)
    }
}
