//! Pages of a program's history: turns that are over leave the run, so that its ten-thousandth turn costs what its tenth did.
//!
//! A page is a value beside the journal, stored in the commit of the turn that makes it: `{"before", "first", "turns"}`, where
//! `before` is the reference of the page with the turns before these, or null. It is written once and never again. The run
//! names the newest one, an activation brings that name along, and whoever has to replay the program reads from there to the first turn.
//!
//! What left when is on the tape, so that a fold makes no page and does not depend on how large one may be.

use super::act::{Act, Outcome};
use super::data::{BlobHash, Data};
use super::eval::Json;
use super::history::{CodeTurn, Told, turn_written};
use super::journal::{Taped, ValueId};
use super::machine::{Machine, Mode};
use crate::limit::{CODE_INLINE, CODE_NEWS};
use crate::planted::Bug;

/// A value smaller than this takes no less as a blob.
const SMALL: usize = 256;

/// How much of the news is told at once.
pub(super) fn at_once(news: &[Told]) -> usize {
    let mut bytes = 0;
    let fits = news.iter().take_while(|told| {
        bytes += told.bytes();
        bytes <= CODE_NEWS
    });
    fits.count().max(1).min(news.len())
}

impl Machine<'_> {
    /// Lets turns leave that are over, if there are too many. The last of them stays: what follows from it may take it back.
    pub(super) fn turn_page(&mut self, id: u32) {
        let Some((page, first)) = (match self.mode {
            Mode::Live => self.new_page(id),
            Mode::Replay { .. } => self.played_page(),
        }) else {
            return;
        };
        let name = self.value(&page);
        self.tape.push(Taped::Page { page: name, first });
        let short = u64::from(self.def.planted().has(Bug::ShortPage));
        let Some(state) = self.code_mut(id) else { return };
        state.turns.retain(|turn| turn.no >= first + short);
        state.before = Some(page);
        let turns: usize = state.turns.iter().map(|turn| turn.bytes()).sum();
        state.bytes = turns + state.news.iter().map(Told::bytes).sum::<usize>();
    }

    /// The page of what is to leave, and the first turn that stays.
    fn new_page(&mut self, id: u32) -> Option<(Data, u64)> {
        let tail = self.bounds.tail;
        let state = self.code(id).filter(|state| state.bytes > tail)?;
        let (last, over) = state.turns.split_last()?;
        let bytes: usize = state.turns.iter().map(|turn| turn.bytes()).sum();
        if over.is_empty() || bytes <= tail {
            return None;
        }
        let turns: Vec<Json> = over.iter().map(|turn: &std::sync::Arc<CodeTurn>| turn_written(turn)).collect();
        let before = state.before.as_ref().map(Data::written);
        let (from, first) = (over[0].no, last.no);
        let text = serde_json::to_vec(&serde_json::json!({"before": before, "first": from, "turns": turns}));
        let text = bytes::Bytes::from(text.unwrap_or_default());
        let hash = BlobHash(<sha2::Sha256 as sha2::Digest>::digest(&text).into());
        let size = text.len() as u64;
        if !self.def.planted().has(Bug::LostPage) {
            self.blobs_made.push(Act::PutBlob { hash, bytes: text });
        }
        Some((Data::Ref { hash, size, value: None }, first))
    }

    fn played_page(&mut self) -> Option<(Data, u64)> {
        let Mode::Replay { segment, at, .. } = &mut self.mode else { return None };
        let Some(Taped::Page { page, first }) = segment.tape.get(*at) else { return None };
        let page: ValueId = *page;
        // One whose value is missing leaves a tape that is too short, which the fold reports.
        let data = segment.value(page)?.clone();
        *at += 1;
        Some((data, *first))
    }

    /// Whether a program has too much open; when played again, whether it had.
    pub(super) fn taped_full(&mut self, full: bool) -> bool {
        let full = match &mut self.mode {
            Mode::Live => full,
            Mode::Replay { segment, at, .. } => {
                let full = segment.tape.get(*at) == Some(&Taped::Full);
                *at += usize::from(full);
                full
            }
        };
        if full {
            self.tape.push(Taped::Full);
        }
        full
    }

    /// An end as a program is told of it: its value is a blob where the run carries much of the history already, or where it looks like
    /// the name of one.
    pub(super) fn told(&mut self, id: u32, how: Outcome) -> Outcome {
        let data = match &how {
            Outcome::Ok(data @ Data::Inline { .. }) if self.revision() >= 5 => data,
            // It is not needed here.
            Outcome::Ok(Data::Ref { hash, size, .. }) => {
                return Outcome::Ok(Data::Ref { hash: *hash, size: *size, value: None });
            }
            _ => return how,
        };
        let much =
            data.stored() > SMALL && self.code(id).is_some_and(|state| state.bytes + data.stored() > CODE_INLINE);
        if much || looks_like_a_name(data) { Outcome::Ok(self.as_blob(data)) } else { how }
    }
}

/// Whether a value that is carried along would be taken for the name of one that is not.
fn looks_like_a_name(data: &Data) -> bool {
    let map = data.json().and_then(Json::as_object);
    map.is_some_and(|map| map.len() == 2 && map.contains_key("$ref") && map.contains_key("size"))
}
