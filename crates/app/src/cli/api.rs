//! `tidewheel api`: any call of the REST interface.

use clap::Args;
use serde_json::Value;

use super::Ctx;
use super::common::{json_input, pair};
use crate::fail::{Failure, Outcome};

/// Call the REST interface directly
///
/// Sends one request with the address and token in use, repeats it as every verb does when the server is overloaded,
/// and prints the answer. For what has no verb of its own, and for trying things out.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel api GET /tasks/counts
  tidewheel api PATCH /queues/pdf --input '{\"concurrency\": 5}'
  tidewheel api GET /tasks --query filter=state:failed --query limit=5")]
pub(crate) struct Api {
    /// GET, POST, PUT, PATCH or DELETE
    #[arg(ignore_case = true, value_parser = ["GET", "POST", "PUT", "PATCH", "DELETE"])]
    method: String,
    /// Path, with or without /api/v1 before it; /health/ready, /metrics and /openapi.json are taken as they are
    path: String,
    /// Body: JSON, `@FILE`, or `-` for standard input
    #[arg(long, short, value_name = "JSON")]
    input: Option<String>,
    /// Query parameter; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    query: Vec<(String, String)>,
}

impl Api {
    pub(crate) async fn run(self, ctx: &Ctx) -> Outcome {
        let client = ctx.client()?;
        let path = self.path.strip_prefix("/api/v1").or_else(|| self.path.strip_prefix("/api/")).unwrap_or(&self.path);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let outside = ["/health", "/metrics", "/openapi.json", "/docs"].iter().any(|p| path.starts_with(p));
        let mut request = match self.method.to_ascii_uppercase().as_str() {
            "GET" if outside => client.system(&path),
            "GET" => client.get(&path),
            "POST" => client.post(&path),
            "PUT" => client.put(&path),
            "PATCH" => client.patch(&path),
            "DELETE" => client.delete(&path),
            other => return Err(Failure::usage("cannot send this", format!("there is no method {other}"))),
        };
        request = request.doing(format!("{} {path}", self.method));
        for (name, value) in self.query {
            request = request.query(&name, value);
        }
        if let Some(input) = &self.input {
            request = request.raw_json(json_input(input)?);
        }
        let bytes = request.bytes().await?;
        match serde_json::from_slice::<Value>(&bytes) {
            Ok(value) => ctx.out.value(&value),
            // Metrics and documentation are text.
            Err(_) => ctx.out.write_bytes(&bytes),
        }
    }
}
