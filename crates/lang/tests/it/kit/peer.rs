//! The services that scenarios call, answered in the process.

use serde_json::{Value as Json, json};
use tidewheel_engine::run::fault::{Fault, Standard};
use tidewheel_engine::run::plan::{Profile, Protocol, Target};
use tidewheel_lang::testkit::world::{Answer, Ask, Whom};

/// Answers, and remembers what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    /// Calls in order.
    pub(crate) calls: Vec<String>,
}

fn pet(id: &Json) -> Json {
    json!({"id": id, "name": "Milou", "status": "available"})
}

impl tidewheel_lang::testkit::world::Peer for Peer {
    fn answer(&mut self, ask: &Ask<'_>) -> Answer {
        let (Whom::Task(target), args) = (ask.whom, ask.args) else { panic!("nobody runs {ask:?}") };
        let (method, uri) = match target {
            Target::Outbound(Protocol::Http) => (text(&args["method"]).to_uppercase(), text(&args["endpoint"])),
            Target::Outbound(Protocol::OpenApi) => match text(&args["operationId"]).as_str() {
                "findPetsByStatus" => (
                    "GET".into(),
                    format!(
                        "https://petstore.swagger.io/v2/pet/findByStatus?status={}",
                        text(&args["parameters"]["status"])
                    ),
                ),
                "getPetById" => {
                    ("GET".into(), format!("https://petstore.swagger.io/v2/pet/{}", args["parameters"]["petId"]))
                }
                other => panic!("no operation `{other}`"),
            },
            Target::Task(kind) => return self.task(kind, args),
            other => panic!("nobody answers {other:?} {args}"),
        };
        self.calls.push(format!("{method} {uri}"));
        let asked = self.calls.iter().filter(|call| call.ends_with(&uri)).count();
        let Some((status, content)) = answer(&uri, args, asked) else { return Answer::Never };
        if !(200..300).contains(&status) {
            let fault = Fault::new(Standard::Communication, Profile::Next, &format!("{uri} answered {status}"), "");
            let mut error = (*fault.0).clone();
            error["status"] = status.into();
            error["instance"] = Json::Null;
            return Answer::Ends(Err(error), 0);
        }
        let output = match args["output"].as_str() {
            Some("response") => json!({
                "request": {"method": method, "uri": uri, "headers": {}},
                "statusCode": status, "headers": {"content-type": "application/json"}, "content": content,
            }),
            _ => content,
        };
        Answer::Ends(Ok(output), 0)
    }
}

impl Peer {
    /// Tasks of our own scenarios: `echo` gives its input, `fail` fails, `flaky` succeeds at the third time.
    fn task(&mut self, kind: &str, args: &Json) -> Answer {
        self.calls.push(format!("{kind} {args}"));
        let asked = self.calls.iter().filter(|call| call.starts_with("flaky ")).count();
        if kind == "echo" || kind == "flaky" && asked >= 3 {
            return Answer::Ends(Ok(args.clone()), 0);
        }
        let fault = Fault::new(Standard::Communication, Profile::Next, "as it was told", "");
        let mut error = (*fault.0).clone();
        error["status"] = 503.into();
        error["instance"] = Json::Null;
        Answer::Ends(Err(error), 0)
    }
}

fn text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn answer(uri: &str, args: &Json, asked: usize) -> Option<(u16, Json)> {
    let path = uri.split_once("//").map_or(uri, |(_, rest)| rest);
    Some(match path {
        "petstore.swagger.io/v2/pet/findByStatus?status=available" => (200, json!([pet(&json!(1)), pet(&json!(2))])),
        "httpbin.org/basic-auth/serverless-workflow/conformance-test" => {
            let given = &args["authentication"]["basic"];
            let right = given["username"] == "serverless-workflow" && given["password"] == "conformance-test";
            if right { (200, json!({"authenticated": true})) } else { (401, json!({})) }
        }
        "never.example" => return None,
        // Ready at the third time it is asked.
        "flaky.example" if asked < 3 => (503, json!({})),
        "flaky.example" => (200, json!({"asked": asked})),
        path => match path.strip_prefix("petstore.swagger.io/v2/pet/").and_then(|id| id.parse::<u64>().ok()) {
            Some(id) => (200, pet(&json!(id))),
            None => (404, json!({})),
        },
    })
}
