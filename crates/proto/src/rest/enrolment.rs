use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `POST /enrolments`: a join token, with which one agent enrols itself once.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateEnrolment {
    /// What it is for; shown in lists and used as the agent's name where it gives none.
    pub name: String,
    /// How long it may be used, such as `15m`; at most 30 days. Default 1 hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<super::DurationText>,
    /// The only queues the agent may serve; absent or empty = every queue of the tenant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queues: Vec<String>,
    /// Labels the agent gets, whatever it says itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Group the agent belongs to: its label `group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The agent serves every tenant (only a system admin may give it).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
}

/// A join token, or the agent that used it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Enrolment {
    /// `tok_...`: the id of the join token, and after its use that of the agent's own token.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `open` (can be used), `expired` (was not used in time) or `enrolled`
    pub state: String,
    /// The tenant the agent works for.
    pub tenant: String,
    /// Serves every tenant.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system: bool,
    /// The only queues it may serve; empty = every queue.
    pub queues: Vec<String>,
    /// Labels it gets.
    pub labels: BTreeMap<String, String>,
    /// Its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Name of the token that made it.
    pub created_by: String,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339; until when it can be used, and absent once it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// RFC 3339; when it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolled_at: Option<String>,
    /// Name of the agent that used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// How the agent proves who it is: `token` or `certificate`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// RFC 3339; when its key was last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_at: Option<String>,
    /// The join token, in the answer to its creation alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// `POST /enrolments:redeem` with a join token, `POST /enrolments:rotate` with the agent's own credential.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Redeem {
    /// The agent's secret, drawn by itself: 52 characters ([`crate::token::encode`] of 32 random bytes). Drawn before the
    /// call, so that a call whose answer was lost can be repeated.
    pub secret: String,
    /// Name of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Certificate signing request (PEM). Where the server's listener has TLS, the agent gets a client certificate of
    /// the server's own authority instead of a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csr: Option<String>,
}

/// Answer to both: what the agent is from now on.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Enrolled {
    /// `tok_...`
    pub id: String,
    /// Name of the agent: what it said, or that of the enrolment.
    pub name: String,
    /// The tenant it works for.
    pub tenant: String,
    /// The only queues it may serve; empty = every queue.
    pub queues: Vec<String>,
    /// Labels it gets.
    pub labels: BTreeMap<String, String>,
    /// Its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// `token` (`tw_<id>_<secret>`) or `certificate`
    pub credential: String,
    /// The certificate (PEM), with `credential` = `certificate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// RFC 3339; its end. It is to be renewed before, with `POST /enrolments:rotate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires_at: Option<String>,
}

/// Workers with the same label `group`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// Value of the label.
    pub name: String,
    /// Workers that are or just were connected.
    pub workers: u32,
    /// Those of them that take work.
    pub online: u32,
    /// Attempts at once, of those online.
    pub permits: u64,
    /// Attempts out.
    pub used: u64,
    /// Cores, of those online.
    pub cpu: f64,
    /// Bytes, of those online.
    pub memory_bytes: u64,
    /// Queues that one of them serves; `*` = one serves every queue.
    pub queues: Vec<String>,
    /// Labels that all of them share.
    pub labels: BTreeMap<String, String>,
}
