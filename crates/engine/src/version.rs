//! Semantic versions in their order.

use crate::id::Name;

/// A version in the order of Semantic Versioning: numbers, then candidates before their release, the parts of a candidate by
/// number or text. What differs in build metadata alone is ordered by its text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    numbers: [u64; 3],
    release: bool,
    candidate: Vec<Part>,
    text: Name,
}

/// Numbers are below texts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Text(Name),
}

impl Version {
    /// Reads a text; what is no number in it counts as 0.
    pub fn read(text: &str) -> Version {
        let plain = text.split('+').next().unwrap_or_default();
        let (numbers, candidate) = plain.split_once('-').map_or((plain, None), |(n, c)| (n, Some(c)));
        let mut parts = numbers.split('.').map(|part| part.parse().unwrap_or(0));
        let numbers = std::array::from_fn(|_| parts.next().unwrap_or(0));
        let part = |part: &str| part.parse().map_or_else(|_| Part::Text(part.into()), Part::Number);
        let release = candidate.is_none();
        let candidate = candidate.map(|c| c.split('.').map(part).collect()).unwrap_or_default();
        Version { numbers, release, candidate, text: text.into() }
    }

    /// Whether it is this version with build metadata.
    pub fn is_build_of(&self, version: &str) -> bool {
        self.text.split_once('+').is_some_and(|(plain, _)| plain == version)
    }

    /// Whether it is no candidate.
    pub fn is_release(&self) -> bool {
        self.release
    }
}

/// What `latest` stands for: the highest that is no candidate, else the highest.
pub fn latest<'a>(versions: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let rank = |text: &&str| {
        let version = Version::read(text);
        (version.is_release(), version)
    };
    versions.max_by_key(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_semantic_versions_are() {
        let mut all = ["1.10.0", "1.9.0", "2.0.0-rc.10", "2.0.0-rc.2", "2.0.0", "2.0.0-alpha"];
        all.sort_by_key(|text| Version::read(text));
        assert_eq!(all, ["1.9.0", "1.10.0", "2.0.0-alpha", "2.0.0-rc.2", "2.0.0-rc.10", "2.0.0"]);
    }

    #[test]
    fn the_latest_is_no_candidate_if_there_is_a_release() {
        assert_eq!(latest(["1.0.0", "2.0.0-rc.1"].into_iter()), Some("1.0.0"));
        assert_eq!(latest(["2.0.0-rc.1", "2.0.0-rc.2"].into_iter()), Some("2.0.0-rc.2"));
        assert_eq!(latest(std::iter::empty()), None);
    }
}
