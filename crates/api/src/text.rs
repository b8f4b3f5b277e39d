//! Small rules about names and texts: which names are allowed, which known name was probably meant, how ids are read.

use tidewheel_engine::id::{RunId, TaskId};
use tidewheel_proto::id;

use crate::problem::Failure;

/// Longest name of a queue, tenant, package, worker or token, in characters.
pub(crate) const NAME_CHARS: usize = 200;

/// Whether a text may name a thing that stands in paths: letters, digits, `.`, `_`, `-`, and no leading dot.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= NAME_CHARS
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Refuses a text that may not name a thing, with the rule. `place`: where the name stands, as a pointer into the body or as the
/// name of the parameter of the path.
pub(crate) fn check_name(what: &str, place: &str, text: &str) -> Result<(), Failure> {
    if is_name(text) {
        return Ok(());
    }
    let rule = format!("1 to {NAME_CHARS} letters, digits, '.', '_' or '-', and not start with '.'");
    Err(Failure::named(place, format!("The {what} name has to be {rule}.")))
}

/// The known name nearest to what was written, if it is near enough to have been meant.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may be wrong; more than that is another word.
    let bound = (written.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|name| (distance(written, name), name))
        .filter(|(d, _)| *d <= bound)
        .min_by_key(|(d, _)| *d)
        .map(|(_, name)| name)
}

/// Optimal string alignment distance: inserts, deletes, replacements and swaps of neighbours cost one each.
fn distance(a: &str, b: &str) -> usize {
    // Long texts are no typing errors; the bound keeps the table small.
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// The task id in a path. A broken one is answered like an unknown one, so that nothing is learned from the difference.
pub(crate) fn task_id(text: &str) -> Result<TaskId, Failure> {
    id::parse("task", text).map(TaskId).ok_or_else(|| Failure::not_found("task", text))
}

/// The public text of a task id.
pub(crate) fn task_text(task: TaskId) -> String {
    id::format("task", task.0)
}

/// The run id in a path; see [`task_id`].
pub(crate) fn run_id(text: &str) -> Result<RunId, Failure> {
    id::parse("run", text).map(RunId).ok_or_else(|| Failure::not_found("run", text))
}

/// The public text of a run id.
pub(crate) fn run_text(run: RunId) -> String {
    id::format("run", run.0)
}

/// A fresh id: a UUIDv7 of this moment with random bits. For operations, tokens and requests; task ids come from the
/// engine.
pub(crate) fn fresh_id(now_ms: u64) -> u128 {
    let mut random = [0u8; 16];
    // Without entropy the process cannot make secrets either: nothing sensible can go on.
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    let tail = u128::from_be_bytes(random);
    let time = u128::from(now_ms & 0xFFFF_FFFF_FFFF) << 80;
    let a = (tail >> 64) & 0x0FFF;
    let b = tail & 0x3FFF_FFFF_FFFF_FFFF;
    time | (7 << 76) | (a << 64) | (2 << 62) | b
}

/// `sha256:<64 hex>` or the bare hex, as bytes.
pub(crate) fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let hex_text = text.strip_prefix("sha256:").unwrap_or(text);
    let mut hash = [0u8; 32];
    // Upper case is refused, so that one content has one address.
    if hex_text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    hex::decode_to_slice(hex_text, &mut hash).ok()?;
    Some(hash)
}

/// `sha256:<64 hex>`.
pub(crate) fn hash_text(hash: &[u8; 32]) -> String {
    let mut out = String::with_capacity(71);
    out.push_str("sha256:");
    out.push_str(&hex::encode(hash));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_proposed_only_when_it_is_near() {
        let names = ["priority", "queue", "labels", "retry"];
        assert_eq!(nearest("prioritiy", names), Some("priority"));
        assert_eq!(nearest("lables", names), Some("labels"));
        assert_eq!(nearest("queu", names), Some("queue"));
        assert_eq!(nearest("payload", names), None);
        assert_eq!(nearest("", names), None);
    }

    #[test]
    fn names_that_could_leave_their_place_are_refused() {
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "a%2fb", "a:b", "ä", "a\n"] {
            assert!(!is_name(bad), "{bad:?}");
        }
        for good in ["a", "pdf-2", "Invoices.2026_q1"] {
            assert!(is_name(good), "{good:?}");
        }
    }

    #[test]
    fn a_content_has_one_address() {
        let hash = [0xABu8; 32];
        assert_eq!(parse_hash(&hash_text(&hash)), Some(hash));
        assert_eq!(parse_hash(&hash_text(&hash).to_uppercase()), None);
        assert_eq!(parse_hash("sha256:../../etc/passwd"), None);
        assert_eq!(parse_hash("sha256:ab"), None);
    }
}
