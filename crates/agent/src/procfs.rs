//! The table of processes as the kernel shows it under /proc, and the question which of them descend from one of ours.
//! It only reads; signals are sent by `process`.

use std::collections::{HashMap, HashSet};

/// One process.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    pub(crate) zombie: bool,
    pub(crate) threads: u32,
    pub(crate) resident_bytes: u64,
}

/// Every process that can be read. Processes that end meanwhile are left out.
pub(crate) fn table() -> Vec<Entry> {
    let Ok(dir) = std::fs::read_dir("/proc") else { return Vec::new() };
    let page = rustix::param::page_size() as u64;
    dir.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| parse(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, page))
        .collect()
}

fn parse(pid: i32, stat: &str, page: u64) -> Option<Entry> {
    // The command name stands in parentheses and may hold any character, also `)`: the last one ends it.
    let rest = stat.get(stat.rfind(')')? + 2..)?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |i: usize| fields.get(i)?.parse::<i64>().ok();
    Some(Entry {
        pid,
        zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: number(1)? as i32,
        group: number(2)? as i32,
        session: number(3)? as i32,
        threads: number(17)? as u32,
        resident_bytes: number(21)?.max(0) as u64 * page,
    })
}

/// The processes that belong to `root`: itself, its session and group, what descends from those, and orphans that
/// carry `marker` in their environment. An orphan that left the session and emptied its environment is only found
/// through a cgroup or ended by a process namespace.
pub(crate) fn family<'a>(table: &'a [Entry], root: i32, marker: &str) -> Vec<&'a Entry> {
    let own = std::process::id() as i32;
    let mut members: HashSet<i32> =
        table.iter().filter(|e| e.pid == root || e.session == root || e.group == root).map(|e| e.pid).collect();
    // Descendants whose parent died became children of this process, which is a subreaper.
    for entry in table.iter().filter(|e| e.parent == own && !e.zombie) {
        if !members.contains(&entry.pid) && carries(entry.pid, marker) {
            members.insert(entry.pid);
        }
    }
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in table {
        children.entry(entry.parent).or_default().push(entry.pid);
    }
    let mut open: Vec<i32> = members.iter().copied().collect();
    while let Some(pid) = open.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if members.insert(*child) {
                open.push(*child);
            }
        }
    }
    members.remove(&own);
    table.iter().filter(|e| members.contains(&e.pid)).collect()
}

fn carries(pid: i32, marker: &str) -> bool {
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|env| env.split(|b| *b == 0).any(|entry| entry == marker.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_and_blanks_are_read() {
        let stat = "42 (a) b) S 7 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 3 0 100 1000 25 1";
        let entry = parse(42, stat, 4096).expect("it parses");
        assert_eq!((entry.parent, entry.session, entry.threads, entry.resident_bytes), (7, 42, 3, 25 * 4096));
    }

    #[test]
    fn this_process_is_in_the_table() {
        let own = std::process::id() as i32;
        assert!(table().iter().any(|e| e.pid == own && !e.zombie));
    }
}
