//! Access rules as types. A route's handler has to begin with one of them; the rule is then in the handler's
//! signature, in the OpenAPI document and in the test that walks all routes with all roles.

use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, header};
use tidewheel_proto::code::Code;

use super::{Principal, Role};
use crate::problem::Failure;
use crate::state::Api;

/// Who may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// Any of these.
    pub(crate) roles: &'static [Role],
    /// With system scope only.
    pub(crate) system: bool,
    /// Or whoever holds a token of what the path names, with which it stands in the path.
    pub(crate) holder: bool,
}

impl Access {
    pub(crate) fn allows(&self, role: Role, system: bool) -> bool {
        self.roles.contains(&role) && (system || !self.system)
    }
}

/// An extractor that proves an access rule.
pub(crate) trait Guard: FromRequestParts<Api, Rejection = Failure> {
    const ACCESS: Access;
}

/// Name of the header by which a caller with system scope chooses its tenant.
pub(crate) const TENANT_HEADER: &str = "tidewheel-tenant";

/// The caller of a request with this head, if the rule admits it.
pub(crate) fn admit(
    api: &Api,
    headers: &HeaderMap,
    extensions: &Extensions,
    access: Access,
) -> Result<Arc<Principal>, Failure> {
    let authorization = headers.get(header::AUTHORIZATION).map(|v| v.as_bytes());
    let tenant = headers.get(TENANT_HEADER).map(|v| v.as_bytes());
    let principal = Principal::of(api, authorization, tenant, extensions.get())?;
    check(&principal, access)?;
    Ok(principal)
}

/// Refuses a principal that the rule does not name.
pub(crate) fn check(principal: &Principal, access: Access) -> Result<(), Failure> {
    if access.allows(principal.role, principal.system) {
        return Ok(());
    }
    let names: Vec<_> = access.roles.iter().map(|r| r.as_str()).collect();
    let scope = if access.system { " with system scope" } else { "" };
    let detail =
        format!("This needs the role {}{scope}; the token's role is {}.", names.join(" or "), principal.role.as_str());
    Err(Failure::new(Code::NotAllowed, detail))
}

macro_rules! guards {
    ($($(#[$doc:meta])* $name:ident = [$($role:ident),+] $(, $system:ident)?;)*) => { $(
        $(#[$doc])*
        pub(crate) struct $name(Arc<Principal>);

        impl Guard for $name {
            const ACCESS: Access = Access { roles: &[$(Role::$role),+], system: guards!(@system $($system)?), holder: false };
        }

        impl FromRequestParts<Api> for $name {
            type Rejection = Failure;
            async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
                admit(api, &parts.headers, &parts.extensions, Self::ACCESS).map($name)
            }
        }

        impl Deref for $name {
            type Target = Principal;
            fn deref(&self) -> &Principal {
                &self.0
            }
        }
    )* };
    (@system) => { false };
    (@system system) => { true };
}

guards! {
    /// Every valid token.
    Anyone = [Viewer, Operator, Admin, Worker];
    /// May look.
    Viewer = [Viewer, Operator, Admin];
    /// May submit tasks and store blobs.
    Submitter = [Operator, Admin, Worker];
    /// May act.
    Operator = [Operator, Admin];
    /// May give rights within the tenant.
    Admin = [Admin];
    /// Holds a join token.
    Joiner = [Joiner];
    /// Is a worker.
    Worker = [Worker];
    /// May manage tenants.
    SystemAdmin = [Admin], system;
}

/// The rule of the worker protocol. An admin passes, so that `tidewheel dev` needs one token only.
pub(crate) const WORKER_ACCESS: Access = Access { roles: &[Role::Worker, Role::Admin], system: false, holder: false };

/// Tuples of extractors that begin with a guard: what a route's handler has to look like.
pub(crate) trait Guarded {
    const ACCESS: Access;
}

macro_rules! guarded {
    ($($name:ident),*) => {
        impl<M, G: Guard, $($name),*> Guarded for (M, G, $($name,)*) {
            const ACCESS: Access = G::ACCESS;
        }
    };
}

guarded!();
guarded!(A);
guarded!(A, B);
guarded!(A, B, C);
guarded!(A, B, C, D);
guarded!(A, B, C, D, E);
