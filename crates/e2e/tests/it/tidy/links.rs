//! Links between the documents: each leads to a file that is there, and to a heading of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use super::{files, none};
use tidewheel_e2e::root;

/// The lines that are read as prose: no blocks of code, and code within a line blanked.
fn prose(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut out = Vec::new();
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        if !fence && !fenced {
            // Every other part stands between two backticks.
            out.push(line.split('`').enumerate().map(|(i, part)| if i % 2 == 0 { part } else { "code" }).collect());
        }
        fenced ^= fence;
    }
    out
}

/// Where the links of a line lead: what stands in parentheses behind brackets.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The headings of a document, as links name them; the text of code in a heading counts.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let headings = text.lines().filter(|line| {
        fenced ^= line.trim_start().starts_with("```");
        !fenced && line.starts_with('#')
    });
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// The path of a link, from the root: `..` taken out.
fn resolved(from: &str, link: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in Path::new(from).parent().unwrap_or(Path::new("")).join(link).components() {
        match part {
            Component::ParentDir => drop(parts.pop()),
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    parts.join("/")
}

#[test]
fn every_link_of_the_documents_leads_somewhere() -> anyhow::Result<()> {
    let documents: BTreeMap<String, String> = files()?
        .into_iter()
        .filter(|name| name.ends_with(".md"))
        .filter_map(|name| std::fs::read_to_string(root().join(&name)).ok().map(|text| (name, text)))
        .collect();
    let mut found = Vec::new();
    for (name, text) in &documents {
        for line in prose(text) {
            for link in targets(&line).filter(|link| !link.contains("://")) {
                let (path, heading) = link.split_once('#').unwrap_or((link, ""));
                let to = if path.is_empty() { name.clone() } else { resolved(name, path) };
                let known = |text: &String| anchors(text).contains(heading);
                let lost = !heading.is_empty() && !documents.get(&to).is_some_and(known);
                if lost || !root().join(&to).exists() {
                    found.push(format!("{name}: {link}"));
                }
            }
        }
    }
    none("links that lead nowhere", &found)
}

#[test]
fn links_and_headings_are_read_as_they_are_shown() {
    let text = "# The `why` of it, in 2 parts\n[a](b.md#c) `[no](x)` [d](e)\n```\n[no](y)\n# no\n```\n";
    let lines = prose(text);
    assert_eq!(lines.iter().flat_map(|line| targets(line)).collect::<Vec<_>>(), ["b.md#c", "e"]);
    assert_eq!(anchors(text), BTreeSet::from(["the-why-of-it-in-2-parts".to_owned()]));
    assert_eq!(resolved("docs/guide/a.md", "../../python/README.md"), "python/README.md");
}
