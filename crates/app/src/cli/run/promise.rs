//! `run promise`

use std::io::Read;

use clap::Args;
use serde_json::Value;
use tidewheel_proto::promise::{PREFIX, PromiseToken};

use crate::cli::Ctx;
use crate::cli::common::json_input;
use crate::cli::shapes::RUN;
use crate::fail::{Exit, Failure, Outcome, While};

/// Complete a promise of a run
///
/// With the token of a promise this one is completed, and no API token is needed: the program gave the token to whoever is to
/// answer. With a run and a name it is the next promise that waits under the name. The first completion counts; the same again is
/// accepted, anything else is refused.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel run promise twp_0400... --value '{\"approved\": true}'
  tidewheel run promise - --error 'the customer said no'
  tidewheel run promise run_01jd8z5r7m0000000000000000 answer --value 42")]
pub(crate) struct Promise {
    /// Token of the promise, `-` to read it from standard input, or the id of a run
    #[arg(value_name = "TOKEN|RUN")]
    of: String,
    /// Name of the promise, behind the id of a run
    name: Option<String>,
    /// Its value: JSON, `@FILE`, or `-` for standard input; `null` if absent
    #[arg(long, value_name = "JSON", allow_hyphen_values = true, conflicts_with = "error")]
    value: Option<String>,
    /// An error in place of a value: a text, or a JSON object with title, detail, type and status
    #[arg(long, value_name = "TEXT|JSON", allow_hyphen_values = true)]
    error: Option<String>,
}

/// Longest text that is read as a token.
const MOST: u64 = 4_096;

impl Promise {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let mut body = serde_json::json!({});
        if let Some(value) = self.value.as_deref().map(json_input).transpose()? {
            body["value"] =
                serde_json::from_str::<Value>(&value).doing(Exit::Usage, || "cannot read the value".to_owned())?;
        }
        if let Some(error) = &self.error {
            let object = serde_json::from_str::<Value>(error).ok().filter(Value::is_object);
            body["error"] = object.unwrap_or_else(|| error.as_str().into());
        }
        match self.name {
            Some(name) => {
                let client = ctx.client()?;
                let path = format!("{}/promises/{}", super::path(&self.of), crate::client::segment(&name));
                let request =
                    client.post(path).doing(format!("complete the promise '{name}' of {}", self.of)).json(&body);
                ctx.out.brief(&RUN, &request.next(format!("tidewheel run get {}", self.of)).value().await?)
            }
            None => {
                let text = token(&self.of)?;
                let token = PromiseToken::read(&text).ok_or_else(|| not_whole(&self.of))?;
                let run = tidewheel_proto::id::format("run", token.run);
                // Who holds a token needs nothing else, and a proxy on the way learns nothing else.
                let client = ctx.client()?.anonymous();
                let request = client.post(format!("/runs/{run}/promises/{text}")).doing("complete the promise");
                request.json(&body).send().await?;
                let done = serde_json::json!({"run": run, "promise": token.key});
                ctx.out.text_or(|| format!("completed {} of {run}", token.key), &done)
            }
        }
    }
}

fn token(given: &str) -> Outcome<String> {
    if given != "-" {
        return Ok(given.to_owned());
    }
    let mut text = String::new();
    let read = std::io::stdin().lock().take(MOST).read_to_string(&mut text);
    read.doing(Exit::Usage, || "cannot read the token".to_owned())?;
    Ok(text.trim().to_owned())
}

fn not_whole(given: &str) -> Failure {
    // Not shown: what is cut off of a token is a secret still.
    let why = match given == "-" || given.starts_with(PREFIX) {
        true => "the token is not whole".to_owned(),
        false => format!("'{given}' is no token of a promise; with the id of a run, its name follows"),
    };
    Failure::usage("cannot complete the promise", why).next("tidewheel run promise --help")
}
