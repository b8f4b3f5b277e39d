//! `/tenants`, `/tokens`, `/whoami`.

use axum::extract::State;
use axum::http::{Method, header};
use tidewheel_proto::rest;

use super::params::{CURSOR, FIELDS, Params, Path, SHORT_LIMIT};
use super::reply::{IfMatch, JsonBody, Reply, hashed, json, no_content, page, versioned, with_header, written};
use super::route::{Param, Route};
use crate::auth::Principal;
use crate::auth::guard::{Admin, Anyone, SystemAdmin, Viewer};
use crate::body;
use crate::service::queue::Write;
use crate::service::short_list::{self, Order};
use crate::service::{tenant, token};
use crate::state::Api;

const LIST: &[Param] = &[CURSOR, SHORT_LIMIT, FIELDS];
const ONE: &[Param] = &[FIELDS];

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/whoami", "whoAmI", "Says who the token is.", who_am_i)
            .answers::<rest::WhoAmI>(200, "You."),
        Route::new(Method::GET, "/tenants", "listTenants", "Lists the tenants that the caller may see.", tenants)
            .query(LIST)
            .answers_page::<rest::Tenant>("A page, by name."),
        Route::new(Method::GET, "/tenants/{name}", "getTenant", "Shows a tenant.", get_tenant)
            .query(ONE)
            .answers::<rest::Tenant>(200, "The tenant."),
        Route::new(Method::PUT, "/tenants/{name}", "putTenant", "Creates a tenant or replaces its limits.", put_tenant)
            .may_take::<rest::PutTenant>()
            .answers::<rest::Tenant>(200, "Changed.")
            .answers::<rest::Tenant>(201, "Created."),
        Route::new(Method::PATCH, "/tenants/{name}", "patchTenant", "Changes some limits of a tenant.", patch_tenant)
            .takes::<rest::PutTenant>()
            .answers::<rest::Tenant>(200, "Changed."),
        Route::new(Method::POST, "/tokens", "createToken", "Creates an API token; its secret is shown once.", create)
            .takes::<rest::CreateToken>()
            .answers::<rest::Token>(201, "Created."),
        Route::new(Method::GET, "/tokens", "listTokens", "Lists the tokens of the tenant.", tokens)
            .query(LIST)
            .answers_page::<rest::Token>("A page, newest first."),
        Route::new(Method::GET, "/tokens/{id}", "getToken", "Shows a token, without its secret.", get_token)
            .query(ONE)
            .answers::<rest::Token>(200, "The token."),
        Route::new(Method::DELETE, "/tokens/{id}", "revokeToken", "Revokes a token at once.", revoke)
            .answers_plain(204, "Revoked.", ""),
    ]
}

async fn who_am_i(caller: Anyone) -> Reply {
    json(
        200,
        &rest::WhoAmI {
            token: caller.token_id.to_string(),
            name: caller.name.to_string(),
            role: caller.role.as_str().to_owned(),
            tenant: caller.tenant_name.to_string(),
            system: caller.system,
        },
    )
}

async fn tenants(caller: Viewer, State(api): State<Api>, params: Params) -> Reply {
    let all = (tenant::list(&api, &caller), Order::Ascending);
    let found = short_list::page(&api, &caller, "tenants", all, &params.short()?, |t| t.name.clone())?;
    page("/api/v1/tenants", &params, &found)
}

async fn get_tenant(caller: Viewer, State(api): State<Api>, Path(name): Path<String>, params: Params) -> Reply {
    let found = tenant::find(&api, &caller, &name)?;
    versioned(&params, &format!("\"{}\"", found.version), &tenant::shown(&found))
}

async fn put_tenant(
    caller: SystemAdmin,
    State(api): State<Api>,
    Path(name): Path<String>,
    IfMatch(seen): IfMatch,
    JsonBody(bytes): JsonBody,
) -> Reply {
    write(&api, &caller, &name, (&bytes, seen.as_deref()), Write::Put).await
}

async fn patch_tenant(
    caller: SystemAdmin,
    State(api): State<Api>,
    Path(name): Path<String>,
    IfMatch(seen): IfMatch,
    JsonBody(bytes): JsonBody,
) -> Reply {
    write(&api, &caller, &name, (&bytes, seen.as_deref()), Write::Patch).await
}

async fn write(api: &Api, caller: &Principal, name: &str, (bytes, seen): (&[u8], Option<&str>), write: Write) -> Reply {
    let settings: rest::PutTenant = body::parse_or_default(bytes)?;
    let (tenant, is_new) = tenant::put(api, caller, name, &settings, write, seen).await?;
    let place = is_new.then(|| format!("/api/v1/tenants/{name}"));
    written(place.as_deref(), &format!("\"{}\"", tenant.version), &tenant::shown(&tenant))
}

async fn create(caller: Admin, State(api): State<Api>, JsonBody(bytes): JsonBody) -> Reply {
    let wanted: rest::CreateToken = body::parse(&bytes)?;
    let token = token::create(&api, &caller, &wanted).await?;
    let location = format!("/api/v1/tokens/{}", token.id);
    Ok(with_header(json(201, &token)?, header::LOCATION, &location))
}

async fn tokens(caller: Admin, State(api): State<Api>, params: Params) -> Reply {
    // Ids begin with the time of their making.
    let all = (token::list(&api, &caller), Order::Descending);
    let found = short_list::page(&api, &caller, "tokens", all, &params.short()?, |t| t.id.clone())?;
    page("/api/v1/tokens", &params, &found)
}

async fn get_token(caller: Admin, State(api): State<Api>, Path(id): Path<String>, params: Params) -> Reply {
    hashed(&params, &token::get(&api, &caller, &id)?)
}

async fn revoke(caller: Admin, State(api): State<Api>, Path(id): Path<String>) -> Reply {
    token::revoke(&api, &caller, &id).await?;
    Ok(no_content())
}
