//! The command line: seeds in, a verdict out.

use std::collections::BTreeMap;
use std::time::Instant;

use tidewheel_engine::planted::Bug;

use crate::plan::SECOND;
use crate::planted;
use crate::run::{Outcome, Shown, run};

const HELP: &str = "\
Runs the engine in a simulated world with faults, and checks what it promises.

usage: tidewheel sim [--seed N] [--seeds N] [--minutes M] [--planted] [--trace] [--run ID]

  --seed N      first seed (default 0)
  --seeds N     how many seeds (default 200; 1 with --seed)
  --minutes M   simulated minutes with load and faults per seed (default 6), before the quiet end
  --planted     plant each known bug in turn and show which checker catches it
  --bug NAME    run with one planted bug
  --trace       print every event of the seeds on stderr
  --run ID      print every turn of this run on stderr, as it is stored

examples:
  tidewheel sim --seeds 1000
  tidewheel sim --seed 4711 --trace
  tidewheel sim --seed 4711 --run 018bcfe5-907d-7238-8000-010000000085";

/// Every so many seeds one is run twice.
const TWICE: u64 = 100;

struct Options {
    seed: u64,
    seeds: u64,
    minutes: f64,
    planted: bool,
    bug: Option<Bug>,
    shown: Shown,
}

/// Runs the command; returns the exit code.
pub fn main_with_args(args: Vec<String>) -> i32 {
    let options = match parse(&args) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{HELP}");
            return 0;
        }
        Err(text) => {
            eprintln!("error: {text}\n\n{HELP}");
            return 2;
        }
    };
    if options.planted { hunt_all(&options) } else { run_seeds(&options) }
}

fn parse(args: &[String]) -> Result<Option<Options>, String> {
    let mut options = Options { seed: 0, seeds: 200, minutes: 6.0, planted: false, bug: None, shown: Shown::default() };
    let mut counted = false;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (name, mut inline) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let mut value = || inline.take().or_else(|| args.next().cloned()).ok_or(format!("{name} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{name}: {text} is not a number"));
        match name {
            "--seed" => {
                options.seed = number(value()?)?;
                if !counted {
                    options.seeds = 1;
                }
            }
            "--seeds" => {
                options.seeds = number(value()?)?;
                counted = true;
            }
            "--minutes" => {
                let text = value()?;
                options.minutes = text.parse().map_err(|_| format!("--minutes: {text} is not a number"))?;
            }
            "--bug" => {
                let text = value()?;
                let known = Bug::ALL.iter().find(|bug| bug.name() == text);
                options.bug = Some(*known.ok_or(format!("--bug: no bug is called {text}"))?);
            }
            "--planted" => options.planted = true,
            "--trace" => options.shown.events = true,
            "--run" => options.shown.run = Some(value()?),
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(Some(options))
}

#[derive(Default)]
struct Totals {
    seeds: u64,
    simulated: u64,
    events: u64,
    commits: u64,
    tasks: u64,
    twins: u64,
    twice: u64,
    faults: BTreeMap<&'static str, u64>,
    failed: Vec<u64>,
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated += outcome.simulated;
        self.events += outcome.events;
        self.commits += outcome.commits;
        self.tasks += outcome.tasks;
        self.twins += outcome.twins;
        outcome.faults.iter().for_each(|(kind, n)| *self.faults.entry(kind).or_default() += n);
        if !outcome.violations.is_empty() {
            self.failed.push(outcome.seed);
        }
    }

    fn hours(&self) -> f64 {
        self.simulated as f64 / SECOND as f64 / 3_600.0
    }
}

fn run_seeds(options: &Options) -> i32 {
    let begun = Instant::now();
    let mut totals = Totals::default();
    let mut shown = Instant::now();
    for seed in options.seed..options.seed.saturating_add(options.seeds) {
        let mut outcome = run(seed, options.minutes, options.bug, options.shown.clone());
        if seed % TWICE == 0 && options.seeds > 1 {
            totals.twice += 1;
            let again = run(seed, options.minutes, options.bug, Shown::default());
            if again.trace != outcome.trace || again.events != outcome.events {
                outcome.violations.push(("determinism".to_owned(), "two runs of the seed differ".to_owned()));
            }
        }
        totals.add(&outcome);
        report(&outcome, options);
        if shown.elapsed().as_secs() >= 5 {
            shown = Instant::now();
            let (seeds, failed) = (totals.seeds, totals.failed.len());
            eprintln!("{seeds} of {} seeds, {:.1} simulated hours, {failed} failed", options.seeds, totals.hours());
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{}", verdict(&totals, seconds));
    i32::from(!totals.failed.is_empty())
}

fn report(outcome: &Outcome, options: &Options) {
    for (id, text) in outcome.violations.iter().take(5) {
        println!("seed {}: {id}: {text}", outcome.seed);
    }
    if !outcome.violations.is_empty() {
        let bug = options.bug.map_or_else(String::new, |bug| format!(" --bug {}", bug.name()));
        println!("  again: tidewheel sim --seed {} --minutes {}{bug}", outcome.seed, options.minutes);
    }
}

fn verdict(totals: &Totals, seconds: f64) -> String {
    let faults: Vec<String> = totals.faults.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
    let number: u64 = totals.faults.values().sum();
    format!(
        "{}: {} seeds, {:.1} simulated hours in {seconds:.0} s ({:.1} per minute), {} tasks, {} workflows compared with their \
         programs, {} commits, {} events, {} seeds \
         run twice, {number} faults ({}), {} seeds with violations{}",
        if totals.failed.is_empty() { "passed" } else { "FAILED" },
        totals.seeds,
        totals.hours(),
        totals.hours() * 60.0 / seconds.max(0.001),
        totals.tasks,
        totals.twins,
        totals.commits,
        totals.events,
        totals.twice,
        faults.join(", "),
        totals.failed.len(),
        if totals.failed.is_empty() { String::new() } else { format!(": {:?}", totals.failed) },
    )
}

fn hunt_all(options: &Options) -> i32 {
    let begun = Instant::now();
    let mut survived = 0;
    println!("| planted bug | caught by | seed | what it said |");
    println!("|---|---|---|---|");
    let wanted = Bug::ALL.iter().filter(|bug| options.bug.is_none_or(|only| only == **bug));
    let minutes = options.minutes.min(planted::MINUTES);
    let mut hunted = 0;
    for bug in wanted {
        hunted += 1;
        match planted::hunt(*bug, minutes).by {
            Some((id, seed, text)) => {
                let text: String = text.chars().take(160).collect();
                println!("| {} | {id} | {seed} | {text} |", bug.name());
            }
            None => {
                survived += 1;
                println!("| {} | SURVIVED {} seeds | | |", bug.name(), planted::SEEDS);
            }
        }
    }
    let seconds = begun.elapsed().as_secs();
    let word = if survived == 0 { "passed" } else { "FAILED" };
    println!("{word}: {hunted} planted bugs, {} caught, {survived} survived, in {seconds} s", hunted - survived);
    i32::from(survived > 0)
}
