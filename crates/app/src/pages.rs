//! The pages of the documentation that the program carries: they say what this version does, without a network.

use crate::text;

/// A page.
#[derive(Debug)]
pub(crate) struct Page {
    /// Folder and name: `guide/retries`.
    pub(crate) name: &'static str,
    /// Markdown.
    pub(crate) text: &'static str,
}

macro_rules! pages {
    ($($name:literal),* $(,)?) => {
        &[$(Page { name: $name, text: include_str!(concat!("../../../docs/", $name, ".md")) }),*]
    };
}

/// Every page, by folder in the order in which one reads them. A test holds the folders against it.
pub(crate) const ALL: &[Page] = pages![
    "guide/first-task",
    "guide/packages",
    "guide/agent",
    "guide/retries",
    "guide/queues-and-limits",
    "guide/queue-items",
    "guide/workflows",
    "guide/python-workflows",
    "guide/testing-workflows",
    "guide/operating",
    "concepts/guarantees",
    "concepts/workflows",
    "concepts/queues",
    "concepts/timers",
    "concepts/workers",
    "concepts/storage",
    "reference/cli",
    "reference/configuration",
    "reference/python",
    "reference/workflow-language",
    "reference/expressions",
    "reference/filter",
    "reference/states",
    "reference/why",
    "reference/errors",
    "reference/metrics",
    "reference/worker-protocol",
    "reference/conformance",
];

/// Names that are proposed for a wrong one, at most.
const NEAR: usize = 3;

/// Why there is no page or section of a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lost<T = String> {
    /// It may be any of these.
    Ambiguous(Vec<T>),
    /// It is none; these are near.
    Unknown(Vec<T>),
}

/// A heading of a page.
pub(crate) struct Heading {
    /// Number of `#`.
    level: usize,
    /// As links name it: `time-limits`.
    pub(crate) anchor: String,
    /// Line, from 0.
    pub(crate) line: usize,
}

impl Page {
    /// The folder: `guide`.
    pub(crate) fn group(&self) -> &'static str {
        self.name.split_once('/').map_or("", |(group, _)| group)
    }

    /// The name without the folder.
    pub(crate) fn short(&self) -> &'static str {
        self.name.split_once('/').map_or(self.name, |(_, short)| short)
    }

    /// The first heading.
    pub(crate) fn title(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches('#').trim()
    }

    /// All headings; what looks like one in a block of code is none.
    pub(crate) fn headings(&self) -> Vec<Heading> {
        let mut fenced = false;
        let mut out = Vec::new();
        for (line, text) in self.text.lines().enumerate() {
            fenced ^= text.trim_start().starts_with("```");
            if !fenced && text.starts_with('#') {
                let title = text.trim_start_matches('#');
                out.push(Heading { level: text.len() - title.len(), anchor: anchor(title), line });
            }
        }
        out
    }

    /// The part below a heading, with it: its anchor, or a beginning that only one has.
    pub(crate) fn section(&self, wanted: &str) -> Result<String, Lost> {
        let wanted = wanted.to_lowercase();
        let headings = self.headings();
        let at = match headings.iter().position(|heading| heading.anchor == wanted) {
            Some(at) => at,
            None => {
                let named = |(at, heading): (usize, &'_ Heading)| (heading.anchor.clone(), at);
                let found = one(&wanted, &headings.iter().enumerate().map(named).collect::<Vec<_>>());
                found.map_err(|lost| lost.map(|at| format!("{}#{}", self.name, headings[at].anchor)))?
            }
        };
        let level = headings[at].level;
        let end = headings[at + 1..].iter().find(|next| next.level <= level).map(|next| next.line);
        let from = headings[at].line;
        let lines = self.text.lines().skip(from).take(end.unwrap_or(usize::MAX) - from);
        let mut out = lines.collect::<Vec<_>>().join("\n").trim_end().to_owned();
        out.push('\n');
        Ok(out)
    }
}

impl<T: Copy> Lost<T> {
    fn map(self, name: impl Fn(T) -> String) -> Lost {
        let all = |found: Vec<T>| found.into_iter().map(&name).collect();
        match self {
            Lost::Ambiguous(found) => Lost::Ambiguous(all(found)),
            Lost::Unknown(near) => Lost::Unknown(all(near)),
        }
    }
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The page of a name: whole (`guide/retries`), without its folder, or a beginning that only one has. A link as it stands in a
/// page is a name, too: `../guide/retries.md`.
pub(crate) fn find(wanted: &str) -> Result<&'static Page, Lost> {
    let lower = wanted.to_lowercase();
    let mut name = lower.trim().trim_end_matches(".md");
    while let Some(rest) = ["./", "../", "/", "docs/"].iter().find_map(|start| name.strip_prefix(start)) {
        name = rest;
    }
    if let Some(page) = ALL.iter().find(|page| page.name == name) {
        return Ok(page);
    }
    let short: Vec<(&str, usize)> = ALL.iter().enumerate().map(|(at, page)| (page.short(), at)).collect();
    let full = |at: usize| ALL[at].name.to_owned();
    let same: Vec<usize> = short.iter().filter(|(short, _)| *short == name).map(|(_, at)| *at).collect();
    match same[..] {
        [at] => return Ok(&ALL[at]),
        [] => {}
        _ => return Err(Lost::Ambiguous(same).map(full)),
    }
    let whole: Vec<(&str, usize)> = ALL.iter().enumerate().map(|(at, page)| (page.name, at)).collect();
    let found = one(name, if name.contains('/') { &whole } else { &short });
    found.map(|at| &ALL[at]).map_err(|lost| match lost {
        // Pages whose titles have the word come first.
        Lost::Unknown(near) if !name.is_empty() => {
            let titled = (0..ALL.len()).filter(|at| ALL[*at].title().to_lowercase().contains(name));
            Lost::Unknown(first_of(titled.chain(near).collect())).map(full)
        }
        lost => lost.map(full),
    })
}

/// The one thing whose name begins so.
fn one<N: AsRef<str>, T: Copy + PartialEq>(wanted: &str, all: &[(N, T)]) -> Result<T, Lost<T>> {
    if wanted.is_empty() {
        return Err(Lost::Unknown(Vec::new()));
    }
    let that = |fits: &dyn Fn(&str) -> bool| -> Vec<T> {
        all.iter().filter(|(name, _)| fits(name.as_ref())).map(|(_, one)| *one).collect()
    };
    let found = that(&|name| name.starts_with(wanted));
    match found[..] {
        [one] => Ok(one),
        [] => {
            let mut near = that(&|name| name.contains(wanted));
            let nearest = text::nearest(wanted, all.iter().map(|(name, _)| name.as_ref()));
            near.extend(that(&|name| Some(name) == nearest));
            Err(Lost::Unknown(first_of(near)))
        }
        _ => Err(Lost::Ambiguous(found)),
    }
}

/// The first few, each once.
fn first_of<T: PartialEq>(all: Vec<T>) -> Vec<T> {
    let mut out = Vec::new();
    for one in all {
        if !out.contains(&one) && out.len() < NEAR {
            out.push(one);
        }
    }
    out
}

/// What a link of a page leads to, as a person goes there: another page or its section, an address, a file of the source. `None`
/// for a place on the same page.
pub(crate) fn target(page: &Page, link: &str) -> Option<String> {
    if link.starts_with('#') {
        return None;
    }
    if link.contains("://") {
        return Some(link.to_owned());
    }
    let (path, section) = link.split_once('#').map_or((link, ""), |(path, section)| (path, section));
    let mut parts = vec!["docs", page.group()];
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    let file = parts.join("/");
    let name = file.strip_prefix("docs/").and_then(|rest| rest.strip_suffix(".md"));
    let known = name.filter(|name| ALL.iter().any(|page| page.name == *name));
    let place = known.unwrap_or(&file);
    Some(if section.is_empty() { place.to_owned() } else { format!("{place}#{section}") })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_program_carries_every_page_of_the_folders() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let mut there = BTreeSet::new();
        for group in ["guide", "concepts", "reference"] {
            for entry in std::fs::read_dir(docs.join(group)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                there.extend(name.strip_suffix(".md").map(|name| format!("{group}/{name}")));
            }
        }
        let carried: BTreeSet<String> = ALL.iter().map(|page| page.name.to_owned()).collect();
        assert_eq!(carried, there);
        assert_eq!(carried.len(), ALL.len(), "a page stands twice in the list");
        for page in ALL {
            assert!(page.text.starts_with("# ") && !page.title().is_empty(), "{}", page.name);
        }
    }

    #[test]
    fn a_page_is_found_by_its_name_its_beginning_and_as_a_link_names_it() {
        for (wanted, name) in [
            ("guide/retries", "guide/retries"),
            ("retries", "guide/retries"),
            ("RETR", "guide/retries"),
            ("guide/ret", "guide/retries"),
            ("../guide/retries.md", "guide/retries"),
            ("docs/reference/cli.md", "reference/cli"),
            // The whole name of one page, and the beginning of another.
            ("queues", "concepts/queues"),
        ] {
            assert_eq!(find(wanted).map(|page| page.name), Ok(name), "{wanted}");
        }
        let ambiguous = |wanted| match find(wanted) {
            Err(Lost::Ambiguous(names)) => names.join(" "),
            other => panic!("{wanted}: {other:?}"),
        };
        assert_eq!(ambiguous("workflows"), "guide/workflows concepts/workflows");
        assert_eq!(ambiguous("worke"), "concepts/workers reference/worker-protocol");
        assert_eq!(ambiguous("workflow"), "guide/workflows concepts/workflows reference/workflow-language");
        let near = |wanted| match find(wanted) {
            Err(Lost::Unknown(names)) => names.join(" "),
            other => panic!("{wanted}: {other:?}"),
        };
        assert_eq!(near("retreis"), "guide/retries");
        assert_eq!(near("limits"), "guide/queues-and-limits");
        assert_eq!(near("dead letters"), "guide/retries");
        for hostile in ["", " ", "../../../etc/passwd", "zzz", "\u{1b}[2J", ".md", "//", &"x/".repeat(100_000)] {
            assert!(matches!(find(hostile), Err(Lost::Unknown(_))), "{hostile:?}");
        }
    }

    #[test]
    fn a_section_ends_before_the_next_heading_of_its_level() {
        let page =
            Page { name: "guide/x", text: "# X\n\n## One two\n\na\n\n### Deep\n\n```\n# no\n```\n\n## Three\nb\n" };
        assert_eq!(page.section("one-two"), Ok("## One two\n\na\n\n### Deep\n\n```\n# no\n```\n".to_owned()));
        assert_eq!(page.section("One"), page.section("one-two"));
        assert_eq!(page.section("three"), Ok("## Three\nb\n".to_owned()));
        assert_eq!(page.section("thre e"), Err(Lost::Unknown(vec!["guide/x#three".to_owned()])));
    }

    #[test]
    fn links_say_how_to_get_there() {
        let page = find("guide/retries").unwrap();
        assert_eq!(target(page, "queue-items.md#lease").as_deref(), Some("guide/queue-items#lease"));
        assert_eq!(target(page, "../concepts/queues.md").as_deref(), Some("concepts/queues"));
        assert_eq!(target(page, "../../CHANGELOG.md").as_deref(), Some("CHANGELOG.md"));
        assert_eq!(target(page, "../../../../x").as_deref(), Some("x"));
        assert_eq!(target(page, "#time-limits"), None);
        assert_eq!(target(page, "https://example.org/a").as_deref(), Some("https://example.org/a"));
    }
}
