//! Pages of lists that are held in memory: queues, workers, packages, tokens and their like.

use tidewheel_proto::rest;

use super::list_tasks::MAX_LIMIT;
use crate::auth::Principal;
use crate::cursor::List;
use crate::problem::Failure;
use crate::state::Api;

/// Items of a page that asks for no number. These lists are short, so most callers see them whole.
pub(crate) const DEFAULT_LIMIT: usize = MAX_LIMIT;

/// Which part of a short list is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) filter: String,
    pub(crate) cursor: Option<String>,
    pub(crate) limit: usize,
}

/// Which end of a list comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Ascending,
    Descending,
}

/// A page of `items`, in the order of their places. A place is unique within the list and never changes, so that a
/// cursor, which is the place of the last item shown, stays where it was while items come and go around it.
pub(crate) fn page<T>(
    api: &Api,
    caller: &Principal,
    resource: &str,
    (mut items, order): (Vec<T>, Order),
    part: &Part,
    place: impl Fn(&T) -> String,
) -> Result<rest::Page<T>, Failure> {
    let list = List { key: api.runtime.token_key(), resource, tenant: caller.tenant, filter: &part.filter };
    let comes_after = |a: &[u8], b: &[u8]| if order == Order::Ascending { a > b } else { a < b };
    if let Some(cursor) = &part.cursor {
        let last = list.open(cursor)?;
        items.retain(|item| comes_after(place(item).as_bytes(), &last));
    }
    items.sort_by_cached_key(&place);
    if order == Order::Descending {
        items.reverse();
    }
    let limit = part.limit.clamp(1, MAX_LIMIT);
    let is_last = items.len() <= limit;
    items.truncate(limit);
    let next = items.last().filter(|_| !is_last).map(|item| list.seal(place(item).as_bytes()));
    Ok(rest::Page { items, next_cursor: next, as_of: api.runtime.committed_index(), searched_back_to: None })
}
