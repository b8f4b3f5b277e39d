//! `tidewheel-sim`: see the crate.

fn main() {
    std::process::exit(tidewheel_sim::main_with_args(std::env::args().skip(1).collect()));
}
