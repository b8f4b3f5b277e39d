//! Which runs: the conditions that `run list` and the verbs over many runs have in common.

use clap::Args;

/// The phases of runs.
pub(crate) const PHASES: [&str; 7] =
    ["pending", "running", "waiting", "suspended", "cancelled", "faulted", "completed"];

// Without a doc comment: it would become the help of the verbs.
#[derive(Args, Clone, Default)]
pub(crate) struct Selection {
    /// Which runs, in the filter grammar: `phase:faulted workflow:shop/order after:2h`
    #[arg(long, short, value_name = "FILTER")]
    filter: Option<String>,
    /// Only runs in this phase: pending, running, waiting, suspended, cancelled, faulted, completed; may be several
    #[arg(long, visible_alias = "state", value_delimiter = ',', value_parser = PHASES)]
    phase: Vec<String>,
    /// Only runs of this workflow: NAMESPACE/NAME, or a name
    #[arg(long, value_name = "WORKFLOW")]
    workflow: Option<String>,
    /// Only runs of this version
    #[arg(long, value_name = "VERSION")]
    of_version: Option<String>,
    /// Only runs with this search attribute; may be several
    #[arg(long, value_name = "NAME=VALUE", value_parser = crate::cli::common::pair)]
    attribute: Vec<(String, String)>,
    /// Only runs that this run started
    #[arg(long, value_name = "ID")]
    parent: Option<String>,
    /// Only runs with this correlation id
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Only runs started at or after this time: RFC 3339, a date, or so long ago (`2h`)
    #[arg(long, value_name = "TIME")]
    started_from: Option<String>,
    /// Only runs started before this time: RFC 3339, a date, or so long ago (`2h`)
    #[arg(long, value_name = "TIME")]
    started_until: Option<String>,
}

impl Selection {
    /// All conditions as one filter; empty = none.
    pub(crate) fn filter(&self) -> String {
        let mut terms: Vec<String> = self.filter.iter().cloned().collect();
        if !self.phase.is_empty() {
            terms.push(format!("phase:{}", self.phase.join(",")));
        }
        let single = [
            ("workflow", &self.workflow),
            ("version", &self.of_version),
            ("parent", &self.parent),
            ("correlation", &self.correlation_id),
            ("after", &self.started_from),
            ("before", &self.started_until),
        ];
        let single = single.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.as_deref()?)));
        let attributes = self.attribute.iter().map(|(name, value)| (format!("attribute.{name}"), value.as_str()));
        terms.extend(single.chain(attributes).map(|(name, value)| format!("{name}:{}", quoted(value))));
        terms.join(" ").trim().to_owned()
    }
}

/// A value that means itself, whatever is in it.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_become_one_filter() {
        let selection = Selection {
            filter: Some("error:*".to_owned()),
            phase: vec!["faulted".to_owned(), "waiting".to_owned()],
            workflow: Some("shop/order".to_owned()),
            attribute: vec![("customer".to_owned(), "a \"b\" *".to_owned())],
            started_from: Some("2h".to_owned()),
            ..Selection::default()
        };
        let wanted = r#"error:* phase:faulted,waiting workflow:"shop/order" after:"2h" attribute.customer:"a \"b\" *""#;
        assert_eq!(selection.filter(), wanted);
        assert_eq!(Selection::default().filter(), "");
    }
}
