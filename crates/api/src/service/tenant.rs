//! Tenants: made and limited under the system scope; every tenant may see itself.

use std::sync::Arc;

use tidewheel_engine::Command;
use tidewheel_engine::config::{Tenant, TenantConfig};
use tidewheel_engine::effect::Reply;
use tidewheel_engine::id::Name;
use tidewheel_proto::rest;

use super::queue::{Write, expected_version};
use super::queue_settings::{apply_tenant, shown_tenant};
use crate::auth::Principal;
use crate::problem::{Failure, from_refusal};
use crate::state::Api;
use crate::text::check_name;

pub(crate) fn shown(tenant: &Tenant) -> rest::Tenant {
    rest::Tenant { name: tenant.name.to_string(), settings: shown_tenant(&tenant.config), version: tenant.version }
}

/// The tenants that the caller may see.
pub(crate) fn list(api: &Api, caller: &Principal) -> Vec<rest::Tenant> {
    let mut tenants = api.runtime.directory().tenants();
    // Number 0 is the system's own and holds no tasks.
    tenants.retain(|t| t.id.0 != 0 && (caller.system || t.id == caller.tenant));
    tenants.sort_by(|a, b| a.name.cmp(&b.name));
    tenants.iter().map(|t| shown(t)).collect()
}

pub(crate) fn find(api: &Api, caller: &Principal, name: &str) -> Result<Arc<Tenant>, Failure> {
    let found = api.runtime.directory().tenant(name);
    found.filter(|t| t.id.0 != 0 && (caller.system || t.id == caller.tenant)).ok_or_else(|| {
        let seen = list(api, caller);
        Failure::not_found_near("tenant", name, seen.iter().map(|t| t.name.as_str()))
    })
}

/// Creates or changes a tenant; true = it is new. A new one gets its queue `default`, so that a first submit works.
pub(crate) async fn put(
    api: &Api,
    caller: &Principal,
    name: &str,
    given: &rest::PutTenant,
    write: Write,
    if_match: Option<&str>,
) -> Result<(Arc<Tenant>, bool), Failure> {
    check_name("tenant", "name", name)?;
    let existing = api.runtime.directory().tenant(name);
    if write == Write::Patch {
        find(api, caller, name)?;
    }
    let mut config = match (&existing, write) {
        (Some(tenant), Write::Patch) => tenant.config.clone(),
        _ => TenantConfig::default(),
    };
    apply_tenant(&mut config, given)?;
    let key: Name = name.into();
    let version = existing.as_ref().map(|tenant| tenant.version);
    let expected = expected_version("tenant", if_match, version)?;
    // A patch without If-Match is still a read-modify-write: it must not undo a change made in between.
    let expected = expected.or(if write == Write::Patch { version } else { None });
    let reply = api.runtime.call(move |request| Command::PutTenant { request, name: key, config, expected }).await?;
    let tenant = match reply {
        Reply::Tenant(tenant) => tenant,
        Reply::Refused(refusal) => return Err(from_refusal(refusal)),
        _ => return Err(Failure::internal("a tenant was answered with something else")),
    };
    let is_new = existing.is_none();
    if is_new {
        let id = tenant.id;
        let reply = api
            .runtime
            .call(move |request| Command::PutQueue {
                request,
                tenant: id,
                name: "default".into(),
                config: Some(Box::default()),
                state: None,
                expected: None,
            })
            .await?;
        if let Reply::Refused(refusal) = reply {
            return Err(from_refusal(refusal));
        }
    }
    Ok((tenant, is_new))
}
