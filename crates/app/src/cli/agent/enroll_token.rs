//! `agent enroll-token`.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Ctx;
use crate::cli::common::{field, pair};
use crate::cli::shapes::ENROLMENT;
use crate::fail::{Exit, Outcome, While};

/// Make a join token, with which one agent enrols itself
///
/// It can be used once, for an hour unless `--expires-in` says otherwise, and is shown once; the server keeps a hash. The
/// agent that uses it gets a credential of its own and is held to the queues, labels and group given here. Needs the role
/// admin. `tidewheel token revoke ID` takes it back, and later cuts off the agent that used it.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel agent enroll-token berlin-1 --group berlin --queue pdf
  tidewheel agent enroll-token gpu-7 --label gpu-pool=a100 --expires-in 15m --to join.token")]
pub(super) struct EnrollToken {
    /// What it is for
    name: String,
    /// How long it can be used, at most 30 days
    #[arg(long, value_name = "TIME", default_value = "1h")]
    expires_in: String,
    /// The only queue the agent may serve; all if absent; may be given several times
    #[arg(long, value_delimiter = ',')]
    queue: Vec<String>,
    /// Label the agent gets, whatever it says itself; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// Group the agent belongs to: its label `group`
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// The agent serves every tenant; only a system admin can give it
    #[arg(long)]
    system: bool,
    /// Write the token to a file with mode 0600
    #[arg(long, value_name = "FILE")]
    to: Option<String>,
}

impl EnrollToken {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let mut body = json!({ "name": self.name, "expires_in": self.expires_in });
        if !self.queue.is_empty() {
            body["queues"] = json!(self.queue);
        }
        if !self.label.is_empty() {
            let labels: serde_json::Map<_, _> = self.label.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
            body["labels"] = Value::Object(labels);
        }
        if let Some(group) = &self.group {
            body["group"] = json!(group);
        }
        if self.system {
            body["system"] = json!(true);
        }
        let request = client.post("/enrolments").doing(format!("make a join token for {}", self.name));
        let mut made = request.json(&body).value().await?;
        let secret = field(&made, "secret").to_owned();
        let shown = match &self.to {
            Some(file) => {
                let written = crate::profile::write_private(std::path::Path::new(file), &format!("{secret}\n"));
                written.doing(Exit::Failed, || format!("cannot write {file}; {} exists", field(&made, "id")))?;
                if let Value::Object(map) = &mut made {
                    map.remove("secret");
                }
                format!("--join-file {file}")
            }
            None => format!("--join {secret}"),
        };
        ctx.out.one(&ENROLMENT, &made)?;
        ctx.out.note(&format!("on the agent's machine: tidewheel agent --server {} {shown}", client.base()));
        Ok(())
    }
}
