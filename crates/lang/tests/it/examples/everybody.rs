//! Whoever the examples of the standard talk to, answered in the process.

use serde_json::{Value as Json, json};
use tidewheel_engine::run::fault::{Fault, Standard};
use tidewheel_engine::run::plan::{Profile, Protocol, Target};
use tidewheel_lang::testkit::world::{Answer, Ask, Peer, Whom};

/// Whoever the examples talk to.
#[derive(Default)]
pub(crate) struct Everybody {
    /// What was asked, in order.
    pub(crate) calls: Vec<String>,
}

impl Peer for Everybody {
    fn answer(&mut self, ask: &Ask<'_>) -> Answer {
        let args = ask.args;
        let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let (call, output) = match ask.whom {
            Whom::Workflow(namespace, name, version) => {
                (format!("workflow {namespace}/{name}:{version} {args}"), json!({"registered": args["customer"]}))
            }
            Whom::Task(Target::Outbound(Protocol::Http)) => {
                let uri = text(args.get("endpoint").map_or(&Json::Null, |at| at.get("uri").unwrap_or(at)));
                let call = format!("{} {uri}", text(&args["method"]).to_uppercase());
                self.calls.push(call.clone());
                let asked = self.calls.iter().filter(|known| **known == call).count();
                return http(&uri, args, asked);
            }
            Whom::Task(target) => (format!("{target:?}"), json!({"answers": format!("{target:?}")})),
        };
        self.calls.push(call);
        Answer::Ends(Ok(output), 0)
    }
}

/// Pet 404 is not there, pet 503 and the external service are at the third time they are asked.
fn http(uri: &str, args: &Json, asked: usize) -> Answer {
    let fails = match uri {
        _ if uri.ends_with("/pet/404") => Some(404),
        _ if (uri.ends_with("/pet/503") || uri.contains("external-service")) && asked < 3 => Some(503),
        _ => None,
    };
    if let Some(status) = fails {
        let fault = Fault::new(Standard::Communication, Profile::Next, &format!("{uri} answered {status}"), "");
        let mut error = (*fault.0).clone();
        (error["status"], error["instance"]) = (status.into(), Json::Null);
        return Answer::Ends(Err(error), 0);
    }
    let content = match uri.rsplit_once("/pet/") {
        Some((_, id)) => json!({"id": id, "name": "Milou"}),
        None if uri.contains("/api/people/") => {
            json!({"name": "Luke", "homeworld": "https://swapi.dev/api/planets/1/"})
        }
        None => json!({"answers": uri}),
    };
    let output = match args["output"].as_str() {
        Some("response") => json!({"statusCode": 200, "headers": {}, "content": content}),
        _ => content,
    };
    Answer::Ends(Ok(output), 0)
}

/// What an example is given.
pub(crate) fn input(name: &str) -> Json {
    let pet = match name {
        _ if name.starts_with("try-catch-retry") => 503,
        _ if name.starts_with("try-catch") => 404,
        _ => 1,
    };
    if ["schedule-event-driven.yaml", "set.yaml", "set-expression.yaml"].contains(&name) {
        // What started it.
        let patient = json!({"id": 7, "name": "Tom", "room": {"number": 3}, "vitals": {"bpm": 38}});
        return json!([{"type": "t", "data": {"patient": patient, "timestamp": "2026-01-01T00:00:00Z"}}]);
    }
    json!({
        "petId": pet, "id": 1, "searchQuery": "Luke", "orderType": "physical", "status": "available",
        "customer": {"age": 21}, "bet": 5, "vet": "Ann", "pets": [{"id": 1}, {"id": 2}], "carId": 4, "roomId": "r1",
        "patient": {"fullName": "Tom"}, "room": {"number": 7}, "user": {"preferredDisplayName": "Ann", "name": "Ann"},
        "processed": [],
    })
}
