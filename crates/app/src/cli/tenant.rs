//! `tidewheel tenant`: who shares the server.

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::Ctx;
use super::common::{self, ShortArgs, put};
use super::shapes::TENANT;
use crate::client::segment;
use crate::fail::Outcome;

/// Manage tenants and their shares
///
/// A tenant is the unit of isolation and fairness: nothing of one is seen by another, and a busy one cannot starve the
/// rest. Creating tenants needs a token with system scope.
#[derive(Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Examples:
  tidewheel tenant create acme --weight 200 --concurrency 50
  tidewheel tenant list")]
pub(crate) struct TenantCommand {
    #[command(subcommand)]
    verb: TenantVerb,
}

#[derive(Subcommand)]
enum TenantVerb {
    Create(Create),
    List(List),
    Get(Get),
}

/// Create a tenant, or set its limits
///
/// A new tenant gets a queue `default`. On one that exists, limits that are not given take their default.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel tenant create acme --weight 200 --concurrency 50
  tidewheel tenant create trial --rate 100/m --max-queued 10000")]
struct Create {
    /// Name of the tenant
    name: String,
    /// Share of workers against other tenants; default 100
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    /// Attempts that run at once; 0 = no limit
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Grants per time: `100/s`
    #[arg(long)]
    rate: Option<String>,
    /// Tasks that may wait; 0 = no bound
    #[arg(long, value_name = "N")]
    max_queued: Option<u64>,
}

/// List tenants
///
/// All of them with a token of system scope, else your own.
#[derive(Args)]
#[command(visible_alias = "ls")]
#[command(after_help = "Examples:\n  tidewheel tenant list\n  tidewheel tenant list -o name")]
struct List {
    #[command(flatten)]
    list: ShortArgs,
}

/// Show a tenant and its limits
///
/// The limits in force; absent ones are not bounded.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel tenant get acme\n  tidewheel tenant get acme -o yaml")]
struct Get {
    /// Name of the tenant
    name: String,
}

impl TenantCommand {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let path = |name: &str| format!("/tenants/{}", segment(name));
        match self.verb {
            TenantVerb::Create(verb) => {
                let mut body = Map::new();
                put(&mut body, "weight", &verb.weight);
                put(&mut body, "concurrency", &verb.concurrency);
                put(&mut body, "rate", &verb.rate);
                put(&mut body, "max_queued", &verb.max_queued);
                let request = client.put(path(&verb.name)).doing(format!("create tenant {}", verb.name));
                ctx.out.brief(&TENANT, &request.json(&Value::Object(body)).value().await?)
            }
            TenantVerb::List(verb) => {
                common::short_list(ctx, &TENANT, &verb.list, || client.get("/tenants").doing("list the tenants")).await
            }
            TenantVerb::Get(verb) => {
                let request = client.get(path(&verb.name)).doing(format!("read tenant {}", verb.name));
                ctx.out.one(&TENANT, &request.next("tidewheel tenant list").value().await?)
            }
        }
    }
}
