//! `/queues/{name}/items`: work for whoever takes it, as transactions.

use axum::extract::State;
use axum::http::Method;
use tidewheel_proto::rest;

use super::params::{CURSOR, FIELDS, FILTER, LIMIT, Params, Path, SORT};
use super::reply::{Items, JsonBody, Reply, json, page, written};
use super::route::{Param, Route};
use super::tasks::{SubmitHeaders, created, waited};
use crate::auth::guard::{Submitter, Viewer};
use crate::body;
use crate::service::item::{self, ITEM_TYPE, Wanted};
use crate::service::{convert, get_task, list_tasks, queue};
use crate::state::Api;

const LIST: &[Param] = &[FILTER, CURSOR, LIMIT, FIELDS, SORT];

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/queues/{name}/items", "addItem", "Puts an item into a queue.", add)
            .may_take::<rest::AddItem>()
            .answers::<rest::Task>(201, "Stored.")
            .answers::<rest::Task>(200, "The idempotency key was known: the earlier item."),
        Route::new(Method::GET, "/queues/{name}/items", "listItems", "Lists the items of a queue, newest first.", list)
            .query(LIST)
            .answers_page::<rest::Task>("A page."),
        Route::new(
            Method::POST,
            "/queues/{name}/items:take",
            "takeItems",
            "Takes the next items under a lease; an empty list when there is none.",
            take,
        )
        .may_take::<rest::TakeItems>()
        .answers_list::<rest::TakenItem>("The items, which are the caller's until their leases end."),
        Route::new(
            Method::POST,
            "/queues/{name}/items/{id}:done",
            "finishItem",
            "Ends a taken item with a result.",
            done,
        )
        .takes::<rest::ItemDone>()
        .answers::<rest::Task>(200, "The item as it is now."),
        Route::new(
            Method::POST,
            "/queues/{name}/items/{id}:fail",
            "failItem",
            "Says that a taken item could not be done: for good (business) or for now (system).",
            fail,
        )
        .takes::<rest::ItemFailed>()
        .answers::<rest::Task>(200, "The item as it is now."),
        Route::new(
            Method::POST,
            "/queues/{name}/items/{id}:postpone",
            "postponeItem",
            "Gives a taken item back for later; the attempt is not held against it.",
            postpone,
        )
        .takes::<rest::ItemPostponed>()
        .answers::<rest::Task>(200, "The item as it is now."),
        Route::new(
            Method::POST,
            "/queues/{name}/items/{id}:renew",
            "renewItem",
            "Begins the lease of a taken item anew.",
            renew,
        )
        .takes::<rest::ItemRenewed>()
        .answers::<rest::ItemLease>(200, "Until when it is the caller's now."),
    ]
}

async fn add(
    caller: Submitter,
    State(api): State<Api>,
    Path(name): Path<String>,
    headers: SubmitHeaders,
    JsonBody(bytes): JsonBody,
) -> Reply {
    let accepted = item::add(&api, &caller, &name, &bytes, headers.around()?).await?;
    if accepted.replayed {
        let task = get_task::record(&api, &caller, accepted.id).await?;
        return waited(&api, &caller, &task, true).await;
    }
    Ok(created(&api, &accepted))
}

async fn list(caller: Viewer, State(api): State<Api>, Path(name): Path<String>, params: Params) -> Reply {
    let queue = queue::find(&api, &caller, &name)?;
    let mut request = params.list()?;
    request.filter = format!("queue:{} type:{ITEM_TYPE} {}", queue.name, request.filter);
    let found = list_tasks::list(&api, &caller, &request).await?;
    page(&format!("/api/v1/queues/{name}/items"), &params, &found)
}

async fn take(caller: Submitter, State(api): State<Api>, Path(name): Path<String>, JsonBody(bytes): JsonBody) -> Reply {
    let wanted: rest::TakeItems = body::parse_or_default(&bytes)?;
    json(200, &Items { items: item::take(&api, &caller, &name, &wanted).await? })
}

type Place = Path<(String, String)>;

fn of<'a>(place: &'a Place, token: &'a str) -> Wanted<'a> {
    Wanted { queue: &place.0.0, id: &place.0.1, token }
}

fn settled(api: &Api, task: &tidewheel_engine::task::Task) -> Reply {
    written(None, &convert::task_etag(task), &convert::task(&api.runtime.directory(), task, true))
}

async fn done(caller: Submitter, State(api): State<Api>, place: Place, JsonBody(bytes): JsonBody) -> Reply {
    let given: rest::ItemDone = body::parse(&bytes)?;
    let task = item::done(&api, &caller, of(&place, &given.token), given.result).await?;
    settled(&api, &task)
}

async fn fail(caller: Submitter, State(api): State<Api>, place: Place, JsonBody(bytes): JsonBody) -> Reply {
    let given: rest::ItemFailed = body::parse(&bytes)?;
    let task = item::fail(&api, &caller, of(&place, &given.token), &given).await?;
    settled(&api, &task)
}

async fn postpone(caller: Submitter, State(api): State<Api>, place: Place, JsonBody(bytes): JsonBody) -> Reply {
    let given: rest::ItemPostponed = body::parse(&bytes)?;
    let task = item::postpone(&api, &caller, of(&place, &given.token), &given).await?;
    settled(&api, &task)
}

async fn renew(caller: Submitter, State(api): State<Api>, place: Place, JsonBody(bytes): JsonBody) -> Reply {
    let given: rest::ItemRenewed = body::parse(&bytes)?;
    json(200, &item::renew(&api, &caller, of(&place, &given.token)).await?)
}
