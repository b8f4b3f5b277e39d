//! `/enrolments`: join tokens and the agents that used them; `/groups`: workers by their label.

use axum::extract::State;
use axum::http::{Method, header};
use tidewheel_proto::rest;

use super::params::{CURSOR, FIELDS, Params, Path, SHORT_LIMIT};
use super::reply::{JsonBody, Reply, json, no_content, page, with_header};
use super::route::{Param, Route};
use crate::auth::guard::{Admin, Joiner, Viewer, Worker};
use crate::body;
use crate::service::enrolment;
use crate::service::short_list::{self, Order};
use crate::state::Api;

const LIST: &[Param] = &[CURSOR, SHORT_LIMIT, FIELDS];

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(
            Method::POST,
            "/enrolments",
            "createEnrolment",
            "Makes a join token, with which one agent enrols itself; it is shown once.",
            create,
        )
        .takes::<rest::CreateEnrolment>()
        .answers::<rest::Enrolment>(201, "Made."),
        Route::new(
            Method::GET,
            "/enrolments",
            "listEnrolments",
            "Lists join tokens and the agents that used them, newest first.",
            list,
        )
        .query(LIST)
        .answers_page::<rest::Enrolment>("A page, newest first."),
        Route::new(Method::GET, "/enrolments/{id}", "getEnrolment", "Shows an enrolment.", get)
            .answers::<rest::Enrolment>(200, "The enrolment."),
        Route::new(
            Method::DELETE,
            "/enrolments/{id}",
            "revokeEnrolment",
            "Takes a join token back, or cuts off the agent that used it.",
            revoke,
        )
        .answers_plain(204, "Revoked.", ""),
        Route::new(
            Method::POST,
            "/enrolments:redeem",
            "redeemEnrolment",
            "Exchanges a join token for a credential of the agent's own, once.",
            redeem,
        )
        .takes::<rest::Redeem>()
        .answers::<rest::Enrolled>(200, "Enrolled."),
        Route::new(
            Method::POST,
            "/enrolments:rotate",
            "rotateEnrolment",
            "Gives the calling agent a new key; its old one is refused from then on.",
            rotate,
        )
        .takes::<rest::Redeem>()
        .answers::<rest::Enrolled>(200, "Changed."),
        Route::new(
            Method::GET,
            "/groups",
            "listGroups",
            "Lists the groups of workers, by their label 'group'.",
            groups,
        )
        .query(LIST)
        .answers_page::<rest::Group>("A page, by name."),
    ]
}

async fn create(caller: Admin, State(api): State<Api>, JsonBody(bytes): JsonBody) -> Reply {
    let wanted: rest::CreateEnrolment = body::parse(&bytes)?;
    let made = enrolment::create(&api, &caller, &wanted).await?;
    let location = format!("/api/v1/enrolments/{}", made.id);
    Ok(with_header(json(201, &made)?, header::LOCATION, &location))
}

async fn list(caller: Admin, State(api): State<Api>, params: Params) -> Reply {
    // Ids begin with the time of their making.
    let all = (enrolment::list(&api, &caller), Order::Descending);
    let found = short_list::page(&api, &caller, "enrolments", all, &params.short()?, |e| e.id.clone())?;
    page("/api/v1/enrolments", &params, &found)
}

async fn get(caller: Admin, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    json(200, &enrolment::get(&api, &caller, &id)?)
}

async fn revoke(caller: Admin, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    enrolment::revoke(&api, &caller, &id).await?;
    Ok(no_content())
}

async fn redeem(caller: Joiner, State(api): State<Api>, JsonBody(bytes): JsonBody) -> Reply {
    let wanted: rest::Redeem = body::parse(&bytes)?;
    json(200, &enrolment::redeem(&api, &caller, &wanted).await?)
}

async fn rotate(caller: Worker, State(api): State<Api>, JsonBody(bytes): JsonBody) -> Reply {
    let wanted: rest::Redeem = body::parse(&bytes)?;
    json(200, &enrolment::rotate(&api, &caller, &wanted).await?)
}

async fn groups(caller: Viewer, State(api): State<Api>, params: Params) -> Reply {
    let all = (enrolment::groups(&api, &caller).await?, Order::Ascending);
    let found = short_list::page(&api, &caller, "groups", all, &params.short()?, |g| g.name.clone())?;
    page("/api/v1/groups", &params, &found)
}
