//! `tidewheel bench`

use clap::Args;
use serde_json::{Value, json};
use tidewheel_bench::{Figure, NAMES, Options};

use super::Ctx;
use crate::fail::{Exit, Failure, Outcome};
use crate::output::{Col, Kind, Shape};

/// Measure this program on this machine
///
/// Starts a server of its own in a temporary folder, drives it from processes of its own, and prints each figure with
/// the target it is held against. Exit 1 if a run could not be completed; a missed target is shown, not an error.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel bench engine
  tidewheel bench throughput latency --quick -o json
  tidewheel bench memory --tasks 100000000
  tidewheel bench soak --minutes 72 --tasks 86400000")]
pub(crate) struct Bench {
    /// What to measure; all of them with `all`
    #[arg(required_unless_present = "role")]
    names: Vec<String>,
    /// Tasks (or workers, rows, lines) of a run; each benchmark has a size of its own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tasks: Option<u64>,
    /// How long `soak` lasts; 1 if absent
    #[arg(long, value_name = "N", value_parser = minutes)]
    minutes: Option<f64>,
    /// Smaller sizes, to see that it works
    #[arg(long)]
    quick: bool,
    /// Measure the server that `--url` names instead of one started here
    #[arg(long)]
    remote: bool,
    /// A part of a benchmark, started by the benchmark itself
    #[arg(long, hide = true)]
    role: Option<String>,
    /// What the part is told
    #[arg(last = true, hide = true)]
    told: Vec<String>,
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes = text.parse::<f64>().ok().filter(|minutes| minutes.is_finite() && *minutes > 0.0);
    minutes.ok_or_else(|| "write minutes as a number above 0, such as 5 or 0.5".to_owned())
}

const FIGURE: Shape = Shape {
    plural: "figures",
    id: "figure",
    cols: &[
        Col::new("BENCH", "bench", Kind::Text),
        Col::new("FIGURE", "figure", Kind::Text),
        Col::new("VALUE", "value", Kind::Number),
        Col::new("UNIT", "unit", Kind::Text),
        Col::new("TARGET", "target", Kind::Number),
        Col::new("MET", "met", Kind::Text),
        Col::wide("CONFIG", "config", Kind::Names),
    ],
};

impl Bench {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        if let Some(role) = &self.role {
            return tidewheel_bench::run_role(role, &self.told).map_err(|error| failed(role, &error));
        }
        let names = self.wanted()?;
        let mut options = Options { tasks: self.tasks, minutes: self.minutes, quick: self.quick, ..Options::default() };
        if self.remote {
            let connection = ctx.connection()?;
            options.url = Some(connection.url);
            options.token = connection.token.map(|token| token.expose().to_owned());
        }
        let mut feed = ctx.out.feed(&FIGURE);
        for name in names {
            ctx.out.note(&format!("measuring {name}"));
            let mut printed = Ok(());
            let outcome = tidewheel_bench::run(name, &options, &mut |figure| {
                // The first failure to print is enough; the measurement itself goes on.
                if printed.is_ok() {
                    printed = feed.push(&shown(&figure, ctx.out.is_table()));
                }
            });
            outcome.map_err(|error| failed(name, &error))?;
            printed?;
        }
        Ok(())
    }

    fn wanted(&self) -> Outcome<Vec<&str>> {
        let known = || NAMES.iter().map(|(name, _)| *name);
        if self.names.iter().any(|name| name == "all") {
            return Ok(known().collect());
        }
        for name in &self.names {
            if !known().any(|k| k == name) {
                let near = crate::text::did_you_mean(name, known());
                let list: Vec<_> = known().collect();
                let why = format!("there are {}{near}", list.join(", "));
                return Err(Failure::usage(format!("no benchmark '{name}'"), why));
            }
        }
        Ok(self.names.iter().map(String::as_str).collect())
    }
}

/// The figure as it is documented; people also see whether the target is met.
fn shown(figure: &Figure, for_people: bool) -> Value {
    let mut value = serde_json::to_value(figure).unwrap_or_default();
    if let Some(met) = figure.met().filter(|_| for_people) {
        value["met"] = json!(met);
    }
    value
}

fn failed(name: &str, error: &anyhow::Error) -> Failure {
    let failure = Failure::new(Exit::Failed, format!("the benchmark {name} failed"), format!("{error:#}"));
    failure.cause(error.as_ref())
}
