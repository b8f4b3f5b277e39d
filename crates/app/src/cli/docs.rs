//! `tidewheel docs`: the pages of the documentation, from the program itself.

use clap::Args;
use serde_json::{Value, json};

use super::Ctx;
use crate::fail::{Exit, Failure, Outcome};
use crate::output::{Col, Kind, Shape, markdown};
use crate::pages::{self, Lost, Page};
use crate::text;

/// Read the documentation of this version
///
/// Guides, concepts and references are part of the program: they fit the version that runs, and need neither a server nor a network.
/// Without a page it lists them. A page is given by its name or the beginning of it, and with `#` one section of it. On a
/// terminal it is set to the terminal's width; elsewhere it is Markdown.
#[derive(Args)]
#[command(after_help = "Examples:
  tidewheel docs
  tidewheel docs retries
  tidewheel docs guide/retries#time-limits
  tidewheel docs --search 'dead letter'
  tidewheel docs workflow-language > language.md
  tidewheel docs cli --color always | less -R")]
pub(crate) struct Docs {
    /// Page, and a section of it: `retries`, `guide/retries`, `retries#time-limits`
    page: Option<String>,
    /// Lists the lines in which all these words stand, on this page or on all
    #[arg(long, value_name = "WORDS")]
    search: Option<String>,
}

const PAGE: Shape = Shape {
    plural: "pages",
    id: "page",
    cols: &[
        Col::new("PAGE", "page", Kind::Text),
        Col::new("TITLE", "title", Kind::Text),
        Col::wide("LINES", "lines", Kind::Count),
    ],
};

const LINE: Shape = Shape {
    plural: "lines with these words",
    id: "page",
    cols: &[
        Col::new("PAGE", "page", Kind::Text),
        Col::wide("SECTION", "section", Kind::Text),
        Col::wide("LINE", "line", Kind::Count),
        Col::new("TEXT", "text", Kind::Text),
    ],
};

/// Letters shown before the first word that was searched for, so that it is seen in a line that is cut.
const BEFORE: usize = 12;

impl Docs {
    pub(crate) fn run(self, ctx: &Ctx) -> Outcome {
        let (name, section) = match self.page.as_deref().map(|page| page.split_once('#').unwrap_or((page, ""))) {
            Some((name, section)) => (Some(name), section),
            None => (None, ""),
        };
        let page = name.map(pages::find).transpose().map_err(|lost| no_page(name.unwrap_or_default(), lost))?;
        match (page, &self.search) {
            (Some(_), Some(_)) if !section.is_empty() => {
                let why = "--search looks through whole pages: leave out what stands behind '#'";
                Err(Failure::usage("cannot search in a section", why))
            }
            (page, Some(words)) => search(ctx, page, words),
            (Some(page), None) => show(ctx, page, section),
            (None, None) => {
                let items: Vec<Value> = pages::ALL.iter().map(listed).collect();
                ctx.out.list(&PAGE, &json!({ "items": items }))
            }
        }
    }
}

fn listed(page: &Page) -> Value {
    json!({ "page": page.name, "group": page.group(), "title": page.title(), "lines": page.text.lines().count() })
}

fn show(ctx: &Ctx, page: &Page, section: &str) -> Outcome {
    let text = match section {
        "" => page.text.to_owned(),
        section => page.section(section).map_err(|lost| no_page(&format!("{}#{section}", page.name), lost))?,
    };
    // The text is what is asked for, as it is with a graph: data only where a form of data is wished.
    if !ctx.out.is_text() || ctx.out.columns.is_some() {
        let mut value = listed(page);
        value["markdown"] = text.into();
        return ctx.out.one(&PAGE, &value);
    }
    if ctx.out.terminal || ctx.out.colour {
        let shown = markdown::Shown { width: ctx.out.width.into(), colour: ctx.out.colour };
        return ctx.out.write(&shown.text(&text, &|link| pages::target(page, link)));
    }
    ctx.out.write(&text)
}

fn search(ctx: &Ctx, page: Option<&'static Page>, words: &str) -> Outcome {
    let words: Vec<String> = words.split_whitespace().map(str::to_lowercase).collect();
    if words.is_empty() {
        return Err(Failure::usage("cannot search", "--search needs a word").next("tidewheel docs"));
    }
    let pages = pages::ALL.iter().filter(|one| page.is_none_or(|page| page.name == one.name));
    let items: Vec<Value> = pages.flat_map(|page| lines(page, &words, ctx.out.is_for_people())).collect();
    ctx.out.list(&LINE, &json!({ "items": items }))
}

/// The lines of a page that have all the words, each with the section that it stands in.
fn lines(page: &Page, words: &[String], cut: bool) -> Vec<Value> {
    let headings = page.headings();
    let mut out = Vec::new();
    for (number, text) in page.text.lines().enumerate() {
        let lower = text.to_lowercase();
        if !words.iter().all(|word| lower.contains(word.as_str())) {
            continue;
        }
        let section = headings.iter().take_while(|heading| heading.line <= number).last();
        let first = words.iter().filter_map(|word| lower.find(word.as_str())).min().unwrap_or(0);
        let text = text.trim();
        out.push(json!({
            "page": page.name,
            "section": section.map_or("", |heading| &*heading.anchor),
            "line": number + 1,
            "text": if cut { around(text, lower[..first].chars().count()) } else { text.to_owned() },
        }));
    }
    out
}

/// A line from shortly before a place on.
fn around(text: &str, place: usize) -> String {
    match place.checked_sub(BEFORE) {
        None | Some(0) => text.to_owned(),
        Some(skipped) => std::iter::once('…').chain(text.chars().skip(skipped)).collect(),
    }
}

fn no_page(wanted: &str, lost: Lost) -> Failure {
    let shown: String = text::one_line(wanted).chars().take(60).collect();
    let thing = if wanted.contains('#') { "section" } else { "page" };
    match lost {
        Lost::Ambiguous(names) => {
            let next = names.first().map(|name| format!("tidewheel docs {name}")).unwrap_or_default();
            let why = format!("several {thing}s begin so: {}", names.join(", "));
            Failure::usage(format!("'{shown}' is no {thing} alone"), why).next(next)
        }
        Lost::Unknown(near) => {
            let why = match near.is_empty() {
                true => format!("no {thing} has this name"),
                false => format!("the nearest: {}", near.join(", ")),
            };
            let next = near.first().map_or("tidewheel docs".to_owned(), |name| format!("tidewheel docs {name}"));
            Failure::new(Exit::Missing, format!("there is no {thing} '{shown}'"), why).next(next)
        }
    }
}
