//! What an agent that enrolled itself is: its own credential, in its folder, for its owner alone. A join token is used
//! once; a start with the same command line finds what the first one got.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tidewheel_agent::{Credential, Reread};
use tidewheel_proto::{rest, token};

use crate::client::{Client, is_loopback};
use crate::fail::{Exit, Failure, Outcome, While};
use crate::profile::{Connection, Secret, folder_of, write_private};

/// The file, and where a new one lies until the server has said yes to it.
const FILE: &str = "identity.json";
const NEXT: &str = "identity.next.json";
/// Who changes a key holds it.
const LOCK: &str = "identity.lock";

/// Who an agent is to one server.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) server: String,
    /// `tok_...`
    pub(super) id: String,
    /// Name it enrolled under.
    pub(super) agent: String,
    #[serde(default)]
    pub(super) tenant: String,
    #[serde(default)]
    pub(super) group: Option<String>,
    #[serde(default)]
    pub(super) queues: Vec<String>,
    /// 52 characters; what the token ends with, and what makes a repeated call known.
    secret: String,
    /// Private key of the certificate, PEM.
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    certificate: Option<String>,
    /// Its end, as the server said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<Timestamp>,
    /// When it is renewed: after two thirds of its life, by this machine's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) renew_at: Option<Timestamp>,
}

impl Identity {
    /// The one in a folder.
    pub(super) fn read(folder: &Path) -> Option<Identity> {
        read(&folder.join(FILE))
    }

    /// `token` or `certificate`
    pub(super) fn kind(&self) -> &'static str {
        if self.certificate.is_some() { "certificate" } else { "token" }
    }

    /// When its certificate is to be renewed; nothing where it has none. One of which the server did not say when it ends is
    /// renewed at once, to hear it.
    pub(super) fn renewal(&self) -> Option<Timestamp> {
        self.certificate.as_ref().map(|_| self.renew_at.unwrap_or(Timestamp::MIN))
    }

    pub(super) fn credential(&self) -> Credential {
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Credential::Certificate {
                id: self.id.clone(),
                certificate: certificate.clone(),
                key: tidewheel_agent::Secret::new(key.clone()),
            },
            _ => Credential::Token(tidewheel_agent::Secret::new(self.token().unwrap_or_default())),
        }
    }

    fn token(&self) -> Option<String> {
        token::decode(&self.secret).map(|secret| token::text(&self.id, &secret))
    }

    /// A client that speaks as this agent.
    fn client(&self, connection: &Connection) -> Outcome<Client> {
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                Client::with_certificate(connection, &self.id, &format!("{certificate}\n{key}"))
            }
            _ => Client::new(&Connection { token: self.token().map(Secret::new), ..connection.clone() }),
        }
    }

    /// Whether the server takes it. An answer other than yes and no is a failure.
    async fn stands(&self, connection: &Connection) -> Outcome<bool> {
        match self.client(connection)?.get("/whoami").doing("ask who this agent is").value().await {
            Ok(_) => Ok(true),
            Err(failure) if failure.exit() == Exit::Denied => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    fn keep(&self, path: &Path) -> Outcome {
        let what = || format!("cannot write {}", path.display());
        let text = serde_json::to_string_pretty(self).doing(Exit::Failed, what)?;
        write_private(path, &format!("{text}\n")).and_then(|()| hand_over(path)).doing(Exit::Failed, what)
    }
}

/// Gives a file to the owner of its folder, where root wrote it: the agent may be a service with an account of its own.
fn hand_over(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    // SAFETY: it reads a number.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(());
    }
    let folder = std::fs::metadata(folder_of(path))?;
    std::os::unix::fs::chown(path, Some(folder.uid()), Some(folder.gid()))
}

fn read(path: &Path) -> Option<Identity> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

fn same_server(a: &str, b: &str) -> bool {
    a.trim_end_matches('/').eq_ignore_ascii_case(b.trim_end_matches('/'))
}

/// Where the agent looks when its credential is refused.
pub(super) fn reread(folder: PathBuf) -> Reread {
    Reread(Arc::new(move || Identity::read(&folder).map(|identity| identity.credential())))
}

/// The identity for a server: the one that is kept, or a new one for the join token.
pub(super) async fn obtain(
    folder: &Path,
    connection: &Connection,
    join: Option<&str>,
    name: Option<&str>,
    note: &dyn Fn(&str),
) -> Outcome<Option<Identity>> {
    settle(folder, connection).await?;
    let kept = Identity::read(folder).filter(|kept| same_server(&kept.server, &connection.url));
    let Some(join) = join else { return Ok(kept) };
    if let Some(kept) = kept {
        if kept.stands(connection).await? {
            note(&format!("enrolled as {} already; the join token is not used", kept.agent));
            return Ok(Some(kept));
        }
        note("the server no longer takes this agent's own credential; enrolling anew");
    }
    enrol(folder, connection, join, name).await.map(Some)
}

/// A call whose answer was lost: its outcome is asked for, and kept or forgotten.
async fn settle(folder: &Path, connection: &Connection) -> Outcome {
    let next = folder.join(NEXT);
    let Some(asked) = read(&next).filter(|asked| same_server(&asked.server, &connection.url)) else { return Ok(()) };
    // Of a certificate nothing came back; the join token or the old certificate asks again, with the same secret.
    let knows = asked.kind() == "certificate" || asked.key.is_none();
    if knows && !asked.id.is_empty() && asked.stands(connection).await? {
        let what = || format!("cannot write in {}", folder.display());
        return std::fs::rename(&next, folder.join(FILE)).doing(Exit::Failed, what);
    }
    Ok(())
}

/// Exchanges a join token.
async fn enrol(folder: &Path, connection: &Connection, join: &str, name: Option<&str>) -> Outcome<Identity> {
    let what = "cannot enrol this agent";
    let (id, _) = token::split(join).filter(|_| token::is_join(join)).ok_or_else(|| {
        Failure::usage(what, "that is no join token; one begins with twj_")
            .next("tidewheel agent enroll-token NAME   (on a machine of an admin)")
    })?;
    let url = reqwest::Url::parse(&connection.url).doing(Exit::Usage, || what.to_owned())?;
    if url.scheme() == "http" && !is_loopback(&url) {
        let why = format!("{} is neither TLS nor this machine, and a join token must not be read on the way", url);
        return Err(Failure::usage(what, why).next("use the server's https:// address"));
    }
    // The secret of an earlier call of this token: the server knows it again.
    let secret = match read(&folder.join(NEXT)).filter(|asked| asked.id == id) {
        Some(asked) => asked.secret,
        None => draw()?,
    };
    let identity = Identity {
        server: connection.url.clone(),
        id,
        agent: name.unwrap_or_default().to_owned(),
        tenant: String::new(),
        group: None,
        queues: Vec::new(),
        secret,
        key: None,
        certificate: None,
        expires_at: None,
        renew_at: None,
    };
    let client = Client::new(&Connection { token: Some(Secret::new(join)), ..connection.clone() })?;
    exchange(folder, identity, &client, "/enrolments:redeem", url.scheme() == "https").await
}

/// Gives the agent of a folder a new key, and uses it once, so that the server takes no other any more. One at a time for each
/// folder.
pub(super) async fn rotate(folder: &Path, connection: &Connection) -> Outcome<Identity> {
    let _alone = lock(folder).await?;
    settle(folder, connection).await?;
    let kept = Identity::read(folder).filter(|kept| same_server(&kept.server, &connection.url)).ok_or_else(|| {
        let why = format!("no agent that enrolled itself at {} has its folder in {}", connection.url, folder.display());
        Failure::new(Exit::Missing, "cannot rotate the key", why).next("tidewheel agent --server URL --join TOKEN")
    })?;
    let client = kept.client(connection)?;
    let tls = connection.url.starts_with("https:");
    let next = Identity { secret: draw()?, key: None, certificate: None, expires_at: None, renew_at: None, ..kept };
    let now = exchange(folder, next, &client, "/enrolments:rotate", tls).await?;
    // A failure is no loss: the agent's next connection does the same.
    if let Err(failure) = now.stands(connection).await {
        tracing::warn!(reason = %failure.text(false), "the new key was not used yet; the server takes the old one until it is");
    }
    Ok(now)
}

async fn lock(folder: &Path) -> Outcome<std::fs::File> {
    let path = folder.join(LOCK);
    let what = format!("cannot lock {}", path.display());
    let locked = tokio::task::spawn_blocking(move || {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
        hand_over(&path)?;
        file.lock()?;
        Ok::<_, std::io::Error>(file)
    });
    locked.await.doing(Exit::Failed, || what.clone())?.doing(Exit::Failed, || what)
}

/// One call: the new secret is on disk before it leaves, the answer before it is used.
async fn exchange(folder: &Path, mut identity: Identity, client: &Client, path: &str, tls: bool) -> Outcome<Identity> {
    let what = || "cannot make a key".to_owned();
    let mut body = json!({ "secret": identity.secret });
    if !identity.agent.is_empty() {
        body["name"] = json!(identity.agent);
    }
    if tls {
        let key = rcgen::KeyPair::generate().doing(Exit::Failed, what)?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&key).and_then(|request| request.pem()).doing(Exit::Failed, what)?;
        body["csr"] = json!(request);
        identity.key = Some(key.serialize_pem());
    }
    identity.keep(&folder.join(NEXT))?;
    let doing = if path.ends_with("rotate") { "rotate the key of this agent" } else { "enrol this agent" };
    let answer = client.post(path).doing(doing).json(&body).value().await?;
    let answer: rest::Enrolled = serde_json::from_value(answer).doing(Exit::Failed, || format!("cannot {doing}"))?;
    identity.id = answer.id;
    identity.agent = answer.name;
    identity.tenant = answer.tenant;
    identity.group = answer.group;
    identity.queues = answer.queues;
    identity.certificate = answer.certificate;
    let now = Timestamp::now();
    identity.expires_at = answer.certificate_expires_at.and_then(|text| text.parse().ok());
    identity.renew_at = identity.expires_at.map(|end| renew_at(now, end));
    if identity.certificate.is_none() {
        identity.key = None;
    }
    identity.keep(&folder.join(FILE))?;
    let _ = std::fs::remove_file(folder.join(NEXT));
    Ok(identity)
}

/// After two thirds of what is left.
fn renew_at(now: Timestamp, end: Timestamp) -> Timestamp {
    let left = u64::try_from(end.as_second() - now.as_second()).unwrap_or(0);
    now.checked_add(std::time::Duration::from_secs(left / 3 * 2)).unwrap_or(now)
}

fn draw() -> Outcome<String> {
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret)
        .map_err(|error| Failure::new(Exit::Failed, "cannot draw a secret", error.to_string()))?;
    Ok(token::encode(&secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let now = at("2026-01-01T00:00:00Z");
        assert_eq!(renew_at(now, at("2026-04-01T00:00:00Z")), at("2026-03-02T00:00:00Z"));
        assert_eq!(renew_at(now, at("2025-04-01T00:00:00Z")), now, "one that is over is renewed at once");
    }
}
