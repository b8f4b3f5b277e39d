//! Durable runs written in Python: activations and tasks through one agent and its processes.

use anyhow::bail;
use serde_json::json;

use crate::agent::{Agent, deploy};
use crate::figure::percentile;
use crate::server::Server;
use crate::workflow::{completed, output};
use crate::{Figure, Options};

pub(crate) fn run(options: &Options, report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let server = Server::start(options)?;
    let folder = tempfile::tempdir()?;
    deploy(&server, options, folder.path(), "0.1.0", &[])?;
    let _agent = Agent::start(&server, options, "bench", folder.path())?;
    let with = json!({
        "items": "${ [range(.n)] }", "workflow": {"namespace": "default", "name": "three", "version": "1.0.0"},
        "with": {"n": "${ $item }"}, "concurrency": 500,
    });
    let document = json!({
        "document": {"dsl": "1.0.3", "namespace": "bench", "name": "programs", "version": "1.0.0"},
        "do": [{"all": {"call": "map:1.0.0@default", "with": with}}, {"end": {"set": {"done": true}}}],
    });
    server.http()?.call("PUT", "/api/v1/workflows/bench/programs/1.0.0", "", &document.to_string())?;
    // The first run pays for environment and processes.
    completed(&server, "default/three", json!({}))?;
    let runs = options.size(5_000, 200);
    let seconds = completed(&server, "bench/programs", json!({"n": runs}))?;
    let config = json!({"runs": runs, "tasks_each": 3, "activations_each": 4, "at_a_time": 500, "agents": 1});
    let per_s = runs as f64 / seconds;
    report(Figure::high("workflow-python", "runs_per_s", per_s, "runs/s", options.target(1_000.0)).with(config));
    let count = options.size(300, 30);
    let times: Result<Vec<f64>, _> = (0..count).map(|_| completed(&server, "default/three", json!({}))).collect();
    let mut times = times?;
    times.sort_by(f64::total_cmp);
    let config = json!({"runs": count, "tasks_each": 3, "from": "request", "until": "answer with the result"});
    for (name, part) in [("run_p50_ms", 0.5), ("run_p99_ms", 0.99)] {
        let ms = percentile(&times, part) * 1000.0;
        report(Figure::low("workflow-python", name, ms, "ms", None).with(config.clone()));
    }
    let steps = options.size(5_000, 600);
    let (_, took) = output(&server, "default/long", json!({"steps": steps}))?;
    let (Some(early), Some(late)) = (took["early_ms"].as_f64(), took["late_ms"].as_f64()) else {
        bail!("the run gave {took}");
    };
    let config =
        json!({"steps": steps, "early": "steps 10 to 209", "late": "the last 200", "early_ms": early, "late_ms": late});
    report(
        Figure::low("workflow-python", "late_step_of_tenth", late / early, "ratio", options.target(1.2)).with(config),
    );
    Ok(())
}
