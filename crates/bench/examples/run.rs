//! One benchmark by name without the command line program around it: `cargo run --release -p tidewheel-bench --example run engine`.
#![allow(clippy::print_stdout, reason = "an example prints its figures")]

fn main() -> anyhow::Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "engine".to_owned());
    let options = tidewheel_bench::Options::default();
    tidewheel_bench::run(&name, &options, &mut |figure| {
        println!("{}", serde_json::to_string(&figure).unwrap_or_default())
    })
}
