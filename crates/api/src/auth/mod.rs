//! Who is asking. A [`Principal`] can only be made here, from a token that was checked; every use case takes one, and
//! every route takes one of the guard types below, so that a handler without an access rule does not compile.

pub(crate) mod bootstrap;
pub(crate) mod guard;
pub(crate) mod promise;
pub(crate) mod token;

use std::sync::Arc;

use tidewheel_engine::id::{Name, TenantId};
use tidewheel_proto::code::Code;

use self::token::StoredEnrolment;
use crate::problem::Failure;
use crate::state::Api;

/// SHA-256 of the certificate that the other end of a connection has shown, which the listener has checked against the
/// server's own authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(crate) [u8; 32]);

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// Sees everything of its tenant.
    Viewer,
    /// Sees and acts on tasks, queues, workers, packages.
    Operator,
    /// Everything in its tenant, tokens too.
    Admin,
    /// Takes and reports work, submits tasks, reads packages and blobs.
    Worker,
    /// Has a join token: may enrol one agent, once, and nothing else.
    Joiner,
}

impl Role {
    pub(crate) const ALL: [Role; 5] = [Role::Viewer, Role::Operator, Role::Admin, Role::Worker, Role::Joiner];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
            Role::Worker => "worker",
            Role::Joiner => "join",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

/// An authenticated caller.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    /// The one tenant it acts in.
    pub(crate) tenant: TenantId,
    /// Its name.
    pub(crate) tenant_name: Name,
    /// What it may do there.
    pub(crate) role: Role,
    /// May name another tenant in `Tidewheel-Tenant`, and manage tenants if it is an admin.
    pub(crate) system: bool,
    /// The caller named a tenant: even a system-wide worker then serves that one alone.
    pub(crate) tenant_named: bool,
    /// `tok_...`
    pub(crate) token_id: Name,
    /// What the token is called.
    pub(crate) name: Name,
    /// Hash of the secret, or fingerprint of the certificate, that was shown.
    pub(crate) key: Name,
    /// What an agent that enrolled itself is bound to.
    pub(crate) enrolment: Option<Arc<StoredEnrolment>>,
    /// Keeps the constructor in this module.
    _proof: Proof,
}

#[derive(Clone, Copy, Debug)]
struct Proof;

impl Principal {
    /// The caller of a request with this `Authorization` and this `Tidewheel-Tenant`, over a connection whose other end
    /// has proved to hold the key of this certificate.
    pub(crate) fn of(
        api: &Api,
        authorization: Option<&[u8]>,
        tenant: Option<&[u8]>,
        certificate: Option<&Fingerprint>,
    ) -> Result<Arc<Principal>, Failure> {
        let (scheme, text) = authorization
            .and_then(|value| std::str::from_utf8(value).ok())
            .and_then(|value| value.split_once(' '))
            .map(|(scheme, text)| (scheme, text.trim()))
            .ok_or_else(|| unauthenticated(api, "No token was sent."))?;
        let principal = if scheme.eq_ignore_ascii_case("bearer") {
            token::check(api, text)?
        } else if scheme.eq_ignore_ascii_case("certificate") {
            token::check_certificate(api, text, certificate)?
        } else {
            return Err(unauthenticated(api, "No token was sent."));
        };
        match tenant {
            None => Ok(principal),
            Some(name) => principal.named(api, name),
        }
    }

    /// Whether the token still stands; asked by streams, which outlive the request that opened them.
    pub(crate) fn is_valid(&self, api: &Api) -> bool {
        token::stands(api, &self.token_id, &self.key)
    }

    fn named(&self, api: &Api, name: &[u8]) -> Result<Arc<Principal>, Failure> {
        let name = std::str::from_utf8(name).unwrap_or_default();
        if name == &*self.tenant_name && !self.system {
            return Ok(Arc::new(self.clone()));
        }
        if !self.system {
            let detail = "The token has no system scope, so the tenant is the token's own; leave out Tidewheel-Tenant.";
            return Err(Failure::new(Code::NotAllowed, detail));
        }
        let tenant = api.runtime.directory().tenant(name).ok_or_else(|| Failure::not_found("tenant", name))?;
        Ok(Arc::new(Principal {
            tenant: tenant.id,
            tenant_name: tenant.name.clone(),
            tenant_named: true,
            ..self.clone()
        }))
    }
}

/// The 401 that says how to get a token.
pub(crate) fn unauthenticated(api: &Api, why: &str) -> Failure {
    Failure::new(
        Code::Unauthenticated,
        format!(
            "{why} Send 'Authorization: Bearer tw_...'. 'tidewheel dev' prints a token; 'tidewheel token create' \
             makes one, as does POST {}/api/v1/tokens with an admin's token.",
            api.config.public_url
        ),
    )
}
