//! `tidewheel sim`

use clap::Args;

use super::Ctx;
use crate::fail::{Exit, Failure, Outcome};

/// Run the engine in a simulated world with faults
///
/// The product's engine with a store, workers and clients that crash, freeze, lose and repeat messages, and with clocks
/// that jump. Every promise is checked after every step. The same seed gives the same run. The last line is the
/// verdict.
#[derive(Args)]
#[command(after_help = "Examples:\n  tidewheel sim --seeds 1000\n  tidewheel sim --seed 4711 --trace")]
pub(crate) struct Sim {
    /// First seed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many seeds; 200, or 1 with --seed
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// Simulated minutes with load and faults per seed
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,
    /// Plant each known bug in turn and show which check catches it
    #[arg(long)]
    planted: bool,
    /// Run with one planted bug
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// Print every event of the seeds on stderr
    #[arg(long)]
    trace: bool,
}

impl Sim {
    pub(crate) fn run(self, _: &Ctx) -> Outcome {
        let mut args = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                args.extend([name.to_owned(), value]);
            }
        };
        add("--seed", self.seed.map(|n| n.to_string()));
        add("--seeds", self.seeds.map(|n| n.to_string()));
        add("--minutes", self.minutes.map(|n| n.to_string()));
        add("--bug", self.bug);
        for (flag, given) in [("--planted", self.planted), ("--trace", self.trace)] {
            if given {
                args.push(flag.to_owned());
            }
        }
        match tidewheel_sim::main_with_args(args) {
            0 => Ok(()),
            2 => {
                Err(Failure::usage("the simulator was not started", "see the message above")
                    .next("tidewheel sim --help"))
            }
            _ => {
                let why = "the verdict above names seed and check";
                Err(Failure::new(Exit::Failed, "a promise was broken in the simulated world", why)
                    .next("tidewheel sim --seed N --trace"))
            }
        }
    }
}
