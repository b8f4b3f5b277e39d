//! Progress of long work, on stderr and only where a person looks at it.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Printer;

/// Redraws per second: enough to look alive, too few to flicker.
const REDRAWS: u8 = 10;

fn target(printer: &Printer) -> ProgressDrawTarget {
    let wanted = !printer.quiet && std::io::stderr().is_terminal();
    if wanted { ProgressDrawTarget::stderr_with_hz(REDRAWS) } else { ProgressDrawTarget::hidden() }
}

/// A bar over a known number of things, with rate and remaining time.
pub(crate) fn bar(printer: &Printer, length: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), target(printer)).with_message(what.to_owned());
    style(&bar, "{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}");
    bar
}

/// A bar over bytes.
pub(crate) fn bytes(printer: &Printer, length: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), target(printer)).with_message(what.to_owned());
    style(&bar, "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}");
    bar
}

/// Something that takes an unknown time.
pub(crate) fn spinner(printer: &Printer, what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, target(printer)).with_message(what.to_owned());
    style(&bar, "{spinner} {msg} {elapsed}");
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn style(bar: &ProgressBar, template: &str) {
    // A template is a constant; one that does not parse would show in the first use of the verb and leaves the default
    // look.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}
