//! What the machine itself can do, printed beside every figure.

use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use crate::Figure;

/// fdatasync rate after 4 KiB appends to a growing file, for half a second.
pub(crate) fn disk(report: &mut dyn FnMut(Figure)) -> anyhow::Result<()> {
    let mut file = tempfile::tempfile()?;
    file.seek(SeekFrom::End(0))?;
    let block = [7u8; 4096];
    let begun = Instant::now();
    let mut syncs = 0u32;
    while begun.elapsed() < Duration::from_millis(500) {
        file.write_all(&block)?;
        file.sync_data()?;
        syncs += 1;
    }
    let rate = f64::from(syncs) / begun.elapsed().as_secs_f64();
    report(Figure::high("machine", "fdatasync_per_s", rate, "1/s", None));
    Ok(())
}

/// Resident bytes of a process.
pub(crate) fn resident_bytes(pid: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or("VmRSS: 0 kB");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0.0);
    Ok(kib * 1024.0)
}

/// CPU seconds a process has used.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = text.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}
