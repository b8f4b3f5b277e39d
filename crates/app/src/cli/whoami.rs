//! `tidewheel whoami`

use clap::Args;
use serde_json::json;

use super::Ctx;
use super::shapes::WHO;
use crate::fail::Outcome;

/// Show which server you talk to, and as whom
///
/// Name, role and tenant of the token in use, and where address and token came from.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel whoami\n  tidewheel whoami --profile prod -o json --jq .role")]
pub(crate) struct Whoami {}

impl Whoami {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        let connection = ctx.connection()?;
        let client = crate::client::Client::new(&connection)?;
        let mut who = client.get("/whoami").doing("ask who you are").value().await?;
        who["url"] = json!(connection.url);
        who["profile"] = json!(connection.profile);
        who["url_from"] = json!(connection.url_origin);
        who["token_from"] = json!(connection.token_origin);
        ctx.out.one(&WHO, &who)
    }
}
