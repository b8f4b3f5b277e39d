//! Files of a package that are fetched when a task asks for them, and the rest, which is there before one starts.
//!
//! `[tool.tidewheel] on-demand = ["data/**"]` names them; the patterns are in the package's manifest. The archive holds
//! every file all the same: an agent leaves out the parts of it that only such files lie in. Code is never left out,
//! whatever a pattern says, since an import does not ask.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path};

use serde::Deserialize;

use crate::error::Error;
use crate::project::MANIFEST;

/// Patterns of one package, and bytes of one.
const MAX_PATTERNS: usize = 100;
const MAX_PATTERN: usize = 200;
/// A manifest that is larger names nothing; the server's own bound is below.
const MAX_MANIFEST: u64 = 64 << 20;
/// Endings of what is loaded without being asked for.
const CODE: &[&str] = &[".py", ".pyi", ".pyc", ".pyd", ".so", ".dylib", ".pth"];

/// Which files are fetched on demand.
#[derive(Clone, Debug, Default)]
pub(crate) struct OnDemand {
    patterns: Vec<Vec<String>>,
}

impl OnDemand {
    /// Reads patterns: paths from the project's root with `/`, where `*` and `?` stand for what is in one name and `**` for
    /// any number of folders. A folder stands for everything in it. The error names the pattern.
    pub(crate) fn parse(patterns: &[String]) -> Result<Self, String> {
        if patterns.len() > MAX_PATTERNS {
            return Err(format!("on-demand has at most {MAX_PATTERNS} patterns"));
        }
        let one = |pattern: &String| {
            let parts: Vec<String> = pattern.trim_end_matches('/').split('/').map(str::to_owned).collect();
            let odd = |part: &String| part.is_empty() || part == "." || part == "..";
            if pattern.len() > MAX_PATTERN || pattern.contains('\\') || parts.iter().any(odd) {
                return Err(format!(
                    "the on-demand pattern {pattern:?} is not usable: it is a path from the project's root, such as \
                     \"data/**\", of at most {MAX_PATTERN} bytes"
                ));
            }
            Ok(parts)
        };
        Ok(Self { patterns: patterns.iter().map(one).collect::<Result<_, _>>()? })
    }

    /// Of an archive that holds its manifest; of others, nothing. What cannot be read is left to whoever unpacks it.
    pub(crate) fn of_archive(file: File) -> Self {
        zip::ZipArchive::new(file).ok().and_then(|mut archive| of_manifest(&mut archive)).unwrap_or_default()
    }

    /// Whether a file is fetched on demand, by its path from the project's root.
    pub(crate) fn covers(&self, name: &str) -> bool {
        if self.patterns.is_empty() || is_code(name) {
            return false;
        }
        let parts: Vec<&str> = name.split('/').collect();
        self.patterns.iter().any(|pattern| (1..=parts.len()).any(|upto| matches(pattern, &parts[..upto])))
    }
}

fn is_code(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    name == MANIFEST
        || name == "pyproject.toml"
        || name.split('/').any(|part| part.ends_with(".dist-info"))
        || CODE.iter().any(|end| lower.ends_with(end))
        // `libx.so.1`
        || lower.contains(".so.")
}

fn of_manifest(archive: &mut zip::ZipArchive<File>) -> Option<OnDemand> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default)]
        on_demand: Vec<String>,
    }
    let member = archive.by_name(MANIFEST).ok()?;
    let named: Named = serde_json::from_reader(std::io::BufReader::new(member.take(MAX_MANIFEST))).ok()?;
    OnDemand::parse(&named.on_demand).ok()
}

/// Whether a list of names is what a pattern says; `**` stands for any number of them.
fn matches(pattern: &[String], parts: &[&str]) -> bool {
    wild(
        pattern.len(),
        parts.len(),
        |p| pattern[p] == "**",
        |p, t| {
            let (pattern, text): (Vec<char>, Vec<char>) = (pattern[p].chars().collect(), parts[t].chars().collect());
            wild(pattern.len(), text.len(), |p| pattern[p] == '*', |p, t| pattern[p] == '?' || pattern[p] == text[t])
        },
    )
}

/// Matches a pattern in which some elements stand for any number of others. Going back to the last of those is enough, so
/// that it costs the product of the lengths at most.
fn wild(pattern: usize, text: usize, any: impl Fn(usize) -> bool, same: impl Fn(usize, usize) -> bool) -> bool {
    let (mut p, mut t, mut back) = (0, 0, None);
    while t < text {
        if p < pattern && any(p) {
            back = Some((p + 1, t));
            p += 1;
        } else if p < pattern && same(p, t) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((after, from)) = back {
            back = Some((after, from + 1));
            (p, t) = (after, from + 1);
        } else {
            return false;
        }
    }
    (p..pattern).all(any)
}

/// Where members lie in a zip archive of which only the end may be there: each from its head to the next one's.
pub(crate) struct Places {
    members: Vec<(String, Range<u64>)>,
}

/// Bytes of the record that ends a zip archive, of an entry of its directory, and how they begin.
pub(crate) const END: u64 = 22;
const ENTRY: usize = 46;
const END_MARK: u32 = 0x0605_4b50;
const ENTRY_MARK: u32 = 0x0201_4b50;
/// The largest directory that is read: 100,000 members with long names.
const MAX_DIRECTORY: u64 = 64 << 20;

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?)))
}

fn short(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)))
}

/// Where the directory of an archive of `size` bytes lies, by its last [`END`] bytes; `None` where they do not say it plainly.
pub(crate) fn directory(file: &File, size: u64) -> Option<Range<u64>> {
    let mut last = [0u8; END as usize];
    file.read_exact_at(&mut last, size.checked_sub(END)?).ok()?;
    let (mark, length, from) = (number(&last, 0)?, number(&last, 12)?, number(&last, 16)?);
    let plain = mark == u64::from(END_MARK) && length <= MAX_DIRECTORY && from + length + END == size;
    plain.then_some(from..from + length)
}

impl Places {
    /// Reads the directory of an archive, which has to be there; `None` where it is not of the plain kind.
    pub(crate) fn read(file: &File, directory: Range<u64>) -> Option<Self> {
        let mut bytes = vec![0; (directory.end - directory.start) as usize];
        file.read_exact_at(&mut bytes, directory.start).ok()?;
        let (mut members, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let entry = &bytes[at..];
            let (name, extra, comment) = (short(entry, 28)?, short(entry, 30)?, short(entry, 32)?);
            let start = number(entry, 42).filter(|start| *start < directory.start)?;
            if number(entry, 0)? != u64::from(ENTRY_MARK) {
                return None;
            }
            let text = std::str::from_utf8(entry.get(ENTRY..ENTRY + name)?).ok()?;
            members.push((text.to_owned(), start..start));
            at += ENTRY + name + extra + comment;
        }
        members.sort_by_key(|(_, place)| place.start);
        let mut end = directory.start;
        for (_, place) in members.iter_mut().rev() {
            place.end = end;
            end = place.start;
        }
        Some(Self { members })
    }

    pub(crate) fn of(&self, name: &str) -> Option<Range<u64>> {
        self.members.iter().find(|(member, _)| member == name).map(|(_, place)| place.clone())
    }

    /// Where nothing lies but files that are fetched on demand, in rising order.
    pub(crate) fn left_out(&self, files: &OnDemand) -> Vec<Range<u64>> {
        let mut out: Vec<Range<u64>> = Vec::new();
        for (_, place) in self.members.iter().filter(|(name, _)| files.covers(name)) {
            match out.last_mut().filter(|last| last.end == place.start) {
                Some(last) => last.end = place.end,
                None => out.push(place.clone()),
            }
        }
        out
    }
}

/// The name of a file as a task may say it: a path from the project's root, and nothing that leads elsewhere.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || name.len() > 1024 || name.contains(['\\', '\0']) || !plain {
        let why =
            format!("{name:?} names no file of a package: use its path from the project's root, such as 'data/a.bin'");
        return Err(Error::Package(why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn on_demand(patterns: &[&str]) -> OnDemand {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        OnDemand::parse(&patterns).expect("patterns")
    }

    #[test]
    fn patterns_cover_what_they_say_and_never_code() {
        let files = on_demand(&["data/**", "models", "*.bin", "a/**/z?.txt"]);
        for name in ["data/x", "data/a/b/c.csv", "models/deep/one", "top.bin", "a/z1.txt", "a/b/c/z2.txt"] {
            assert!(files.covers(name), "{name}");
        }
        for name in ["database/x", "sub/top.bin", "a/z.txt", "a/z12.txt", "b/a/z1.txt"] {
            assert!(!files.covers(name), "{name}");
        }
        for name in ["data/x.py", "data/x.SO", "data/libx.so.1", "models/x.dist-info/RECORD", MANIFEST] {
            assert!(!files.covers(name), "{name} is code");
        }
        assert!(!on_demand(&["**"]).covers("pyproject.toml") && on_demand(&["**"]).covers("README.md"));
    }

    #[test]
    fn a_pattern_with_many_stars_takes_no_time() {
        let files = on_demand(&[&format!("{}x", "*a".repeat(90)), &format!("{}/x", vec!["**/a"; 35].join("/"))]);
        assert!(!files.covers(&"a".repeat(1000)) && !files.covers(&vec!["a"; 500].join("/")));
    }

    #[test]
    fn patterns_that_lead_out_and_names_that_do_are_refused() {
        for pattern in ["../x", "/etc", "a//b", "", ".", "a\\b"] {
            let error = OnDemand::parse(&[pattern.to_owned()]).expect_err("refused");
            assert!(error.contains("on-demand pattern"), "{error}");
        }
        for name in ["", "../x", "/etc/passwd", "a/../../x", "a\\b", "a\0b", "."] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name("data/a b.bin").is_ok());
    }

    #[test]
    fn members_are_found_in_an_archive_of_which_only_the_directory_is_there() {
        let mut file = tempfile::tempfile().expect("a file");
        let mut zip = zip::ZipWriter::new(file.try_clone().expect("it opens"));
        for (name, size) in [("a.py", 10), ("data/b", 3000), ("data/c", 5000), ("d.py", 20)] {
            let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
            zip.start_file(name, options).expect("a member");
            zip.write_all(&vec![7; size]).expect("content");
        }
        zip.finish().expect("an archive");
        let size = file.metadata().expect("it is there").len();
        let directory = directory(&file, size).expect("its end says where");
        let holes = vec![0; directory.start as usize];
        file.write_all_at(&holes, 0).expect("written");
        let places = Places::read(&file, directory.clone()).expect("readable");
        let (b, c) = (places.of("data/b").expect("there"), places.of("data/c").expect("there"));
        assert!(b.end == c.start && b.end - b.start >= 3000 && places.of("e").is_none());
        assert_eq!(places.left_out(&on_demand(&["data"])), std::slice::from_ref(&(b.start..c.end)));
        assert_eq!(places.of("d.py").expect("there").end, directory.start);
        // Half a directory, or none, is no reason to believe anything.
        file.write_all_at(&holes[..40], directory.start).expect("written");
        assert!(Places::read(&file, directory).is_none());
        file.flush().expect("flushed");
        file.set_len(size - 1).expect("cut");
        assert!(super::directory(&file, size - 1).is_none() && super::directory(&file, 3).is_none());
    }
}
