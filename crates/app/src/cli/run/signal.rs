//! `run signal`

use clap::Args;
use serde_json::Value;

use crate::cli::Ctx;
use crate::cli::common::json_input;
use crate::cli::shapes::RUN;
use crate::fail::{Exit, Outcome, While};

/// Give a run a signal
///
/// It reaches the run as an event of this type, which a `listen` takes. A signal that nothing waits for yet is kept.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run signal run_01jd8z5r7m0000000000000000 order.paid --data '{\"amount\": 5}'
  tidewheel run signal run_01jd8z5r7m0000000000000000 order.paid --id payment-77")]
pub(crate) struct Signal {
    /// Id of the run
    id: String,
    /// Type of the signal
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Its data: JSON, `@FILE`, or `-` for standard input
    #[arg(long, short, value_name = "JSON", allow_hyphen_values = true)]
    data: Option<String>,
    /// De-duplicates: the run takes one signal of an id
    #[arg(long = "id", id = "signal", value_name = "ID")]
    signal: Option<String>,
}

impl Signal {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let mut body = serde_json::json!({});
        if let Some(data) = self.data.as_deref().map(json_input).transpose()? {
            body["data"] =
                serde_json::from_str::<Value>(&data).doing(Exit::Usage, || "cannot read the data".to_owned())?;
        }
        if let Some(id) = &self.signal {
            body["id"] = id.as_str().into();
        }
        let client = ctx.client()?;
        let path = format!("{}/signals/{}", super::path(&self.id), crate::client::segment(&self.kind));
        let request = client.post(path).doing(format!("signal {}", self.id)).json(&body);
        ctx.out.brief(&RUN, &request.next(format!("tidewheel run get {}", self.id)).value().await?)
    }
}
