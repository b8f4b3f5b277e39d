//! Events: attributes, filters, strategies, iteration.

use tidewheel_engine::run::plan::Read;

use super::Checker;
use super::fields::Fields;
use super::format;
use crate::model::{Filter, Iterator, Strategy, Text, Until};
use crate::text::At;

impl Checker<'_> {
    pub(super) fn read(&mut self, at: At) -> Option<Read> {
        Some(match self.word(at, &["data", "envelope", "raw"])? {
            "envelope" => Read::Envelope,
            "raw" => Read::Raw,
            _ => Read::Data,
        })
    }

    /// Attributes of an event; any others may stand beside the known ones.
    fn attributes(&mut self, fields: &mut Fields) {
        for name in ["id", "type", "subject", "datacontenttype"] {
            self.opt(fields, name, Self::text);
        }
        self.opt(fields, "source", Self::uri_or_expression);
        self.opt(fields, "time", |this, at| this.formed(at, format::date_time, "a date and time of RFC 3339"));
        self.opt(fields, "dataschema", Self::uri_or_expression);
        self.opt(fields, "data", Self::any);
    }

    /// An event to send.
    pub(super) fn event(&mut self, at: At) -> Option<Option<At>> {
        let mut fields = self.fields(at, "an event")?;
        let with = self.opt(&mut fields, "with", |this, at| {
            let mut fields = this.fields(at, "an event")?;
            this.attributes(&mut fields);
            for name in if this.next() { &["type"][..] } else { &["source", "type"] } {
                if this.tree.get(at, name).is_none() {
                    this.missing(&fields, name);
                }
            }
            this.open(fields);
            Some(at)
        });
        self.open(fields);
        Some(with)
    }

    fn filter(&mut self, at: At) -> Option<Filter> {
        let mut fields = self.fields(at, "an event filter")?;
        let with = self.need(&mut fields, "with", |this, at| {
            let mut fields = this.fields(at, "an event filter's `with`")?;
            this.attributes(&mut fields);
            this.open(fields);
            if this.tree.entries(at).is_empty() {
                this.error(at, "missing-field", "an event filter needs at least one attribute").hint =
                    Some("`any: []` waits for every event".to_string());
            }
            Some(at)
        });
        let correlate = self.opt(&mut fields, "correlate", |this, at| {
            this.named(at, |this, at| {
                let mut fields = this.fields(at, "a correlation")?;
                let from = this.need(&mut fields, "from", Self::text);
                let expect = this.opt(&mut fields, "expect", Self::text);
                this.open(fields);
                Some((from?, expect))
            })
        });
        self.close(fields);
        let correlate = correlate.unwrap_or_default().into_iter();
        Some(Filter {
            at,
            with: with?,
            correlate: correlate.map(|(name, (from, expect))| (name, from, expect)).collect(),
        })
    }

    pub(super) fn strategy(&mut self, at: At) -> Option<Strategy> {
        self.strategy_with(at, true)
    }

    fn strategy_with(&mut self, at: At, until_allowed: bool) -> Option<Strategy> {
        let mut fields = self.fields(at, "an event strategy")?;
        let chosen = self.choice(&mut fields, &["one", "any", "all"]);
        let strategy = match chosen {
            Some("one") => self.need(&mut fields, "one", Self::filter).map(Strategy::One),
            Some("all") => self.need(&mut fields, "all", |this, at| this.list(at, Self::filter)).map(Strategy::All),
            Some(_) => {
                let filters = self.need(&mut fields, "any", |this, at| this.list(at, Self::filter));
                let until = if until_allowed { self.opt(&mut fields, "until", Self::until) } else { None };
                filters.map(|filters| Strategy::Any(filters, until))
            }
            None => None,
        };
        let reason =
            if until_allowed { "only `any` has an `until`" } else { "an `until` inside an `until` has no meaning" };
        self.close_for(fields, &[("until", reason)]);
        strategy
    }

    fn until(&mut self, at: At) -> Option<Until> {
        if self.tree.text(at).is_some() {
            return self.text(at).map(Until::Condition);
        }
        self.strategy_with(at, false).map(|strategy| Until::Events(Box::new(strategy)))
    }

    pub(super) fn iterator(&mut self, at: At) -> Option<Iterator> {
        let mut fields = self.fields(at, "a `foreach`")?;
        let item: Option<Text> = self.opt(&mut fields, "item", Self::text);
        let index = self.opt(&mut fields, "at", Self::text);
        let body = self.opt(&mut fields, "do", Self::statements);
        let output = self.opt(&mut fields, "output", Self::output).unwrap_or_default();
        let export = self.opt(&mut fields, "export", Self::export).unwrap_or_default();
        self.close(fields);
        Some(Iterator { at, item, index, body, output, export })
    }
}
