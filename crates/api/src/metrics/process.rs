//! Figures of this process and of the disk it writes to, from `/proc`. Where there is no `/proc`, they are left at zero.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// See the module. Read at scrape time.
#[derive(Default)]
pub(super) struct ProcessMetrics {
    cpu_seconds: Counter<f64, AtomicU64>,
    resident_bytes: Gauge,
    open_fds: Gauge,
    start_seconds: Gauge<f64, AtomicU64>,
    disk_free: Gauge,
    disk_io: Family<[(&'static str, &'static str); 1], Counter>,
    network: Family<[(&'static str, &'static str); 1], Counter>,
}

impl ProcessMetrics {
    /// The standard names of process figures beside ours: dashboards made for other servers find them.
    pub(super) fn register(&self, r: &mut Registry) {
        let help = "CPU time of this process, user and system";
        for name in ["tidewheel_process_cpu_seconds", "process_cpu_seconds"] {
            r.register(name, help, self.cpu_seconds.clone());
        }
        for name in ["tidewheel_process_resident_bytes", "process_resident_memory_bytes"] {
            r.register(name, "Memory of this process that is in RAM", self.resident_bytes.clone());
        }
        for name in ["tidewheel_process_open_fds", "process_open_fds"] {
            r.register(name, "Open file descriptors of this process", self.open_fds.clone());
        }
        for name in ["tidewheel_process_start_time_seconds", "process_start_time_seconds"] {
            r.register(name, "Start of this process, in seconds since 1970", self.start_seconds.clone());
        }
        let help = "Bytes that may still be written to the disk of the data folder";
        r.register("tidewheel_disk_free_bytes", help, self.disk_free.clone());
        let help = "Bytes that this process caused to be read from or written to disks";
        r.register("tidewheel_disk_io_bytes", help, self.disk_io.clone());
        let help = "Bytes over the network interfaces that this process sees, the loopback left out";
        r.register("tidewheel_network_bytes", help, self.network.clone());
    }

    /// Looks. `dir` stands on the disk whose room counts. Blocks for a few system calls.
    pub(super) fn fill(&self, dir: &Path) {
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        if let Ok(disk) = rustix::fs::statvfs(dir) {
            self.disk_free.set(count(disk.f_bavail.saturating_mul(disk.f_frsize)));
        }
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        if let Some(stat) = Stat::parse(&read("stat")) {
            let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
            // A counter of seconds keeps the bits of its number.
            self.cpu_seconds.inner().store((stat.cpu_ticks as f64 / ticks).to_bits(), Ordering::Relaxed);
            self.resident_bytes.set(count(stat.resident_pages * rustix::param::page_size() as u64));
            let all = std::fs::read_to_string("/proc/stat").unwrap_or_default();
            let boot = all.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
            self.start_seconds.set(boot.unwrap_or(0.0) + stat.start_ticks as f64 / ticks);
        }
        // The folder that is being read is open itself.
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
        self.open_fds.set(count(open as u64));
        for (direction, bytes) in ["received", "sent"].into_iter().zip(network_bytes(&read("net/dev"))) {
            self.network.get_or_create(&[("direction", direction)]).inner().store(bytes, Ordering::Relaxed);
        }
        let io = read("io");
        for (field, direction) in [("read_bytes:", "read"), ("write_bytes:", "write")] {
            let bytes = io.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok());
            let counter = self.disk_io.get_or_create(&[("direction", direction)]).clone();
            counter.inner().store(bytes.unwrap_or(0), Ordering::Relaxed);
        }
    }
}

/// Bytes received and sent, from the text of `/proc/net/dev`: a name, a colon, and 16 numbers, the first and the ninth of
/// which count.
fn network_bytes(text: &str) -> [u64; 2] {
    let interfaces = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    interfaces.fold([0, 0], |[received, sent], (_, numbers)| {
        let numbers: Vec<u64> = numbers.split_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
        let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
        [received + at(0), sent + at(8)]
    })
}

/// What `/proc/self/stat` says.
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The program's name, second in the line, may contain anything; what follows its last parenthesis does not.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Stat { cpu_ticks: number(11)? + number(12)?, start_ticks: number(19)?, resident_pages: number(21)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_time_and_memory() {
        let metrics = ProcessMetrics::default();
        metrics.fill(&std::env::temp_dir());
        assert!(metrics.resident_bytes.get() > 0 && metrics.open_fds.get() > 2 && metrics.disk_free.get() > 0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - metrics.start_seconds.get();
        assert!((-2.0..86_400.0).contains(&age), "started {age} s ago");
    }

    #[test]
    fn network_counts_every_interface_but_the_loopback() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 7 0 0 0 0 0 0 0 7 0\n  eth0: 100 1 0 0 0 0 0 0 30 1\n wlan0:5 1 0 0 0 0 0 0 2 1\n";
        assert_eq!(network_bytes(text), [105, 32]);
    }

    #[test]
    fn a_name_with_parentheses_and_blanks_shifts_nothing() {
        let fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        let stat = Stat::parse(&format!("7 (a ) b) {}", fields.join(" "))).unwrap();
        assert_eq!((stat.cpu_ticks, stat.start_ticks, stat.resident_pages), (14 + 15, 22, 24));
    }
}
