//! Which server a verb talks to, and as whom: flag, environment, profile file, then what `tidewheel dev` left in the
//! folder.
//!
//! A token goes only to the server it was given for: overriding the address with `--url` drops a stored token unless
//! the address is the stored one.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fail::{Exit, Failure, Outcome, While};

/// Where a fresh machine's server is.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:8080";
/// What `tidewheel dev` writes for the verbs run beside it.
pub(crate) const DEV_FILE: &str = ".tidewheel/dev.json";

/// A token. It has no `Debug` and no `Display`, so that it cannot reach a log by accident.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub(crate) fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

/// One stored server.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// Address.
    pub(crate) url: String,
    /// API token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<Secret>,
    /// Tenant to act in, for tokens with system scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenant: Option<String>,
    /// Certificate authority the server is checked against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<String>,
}

/// The profile file.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profiles {
    /// The one used when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// By name.
    #[serde(default)]
    pub(crate) profiles: BTreeMap<String, Profile>,
}

/// `$XDG_CONFIG_HOME/tidewheel/config.toml`, by default under `~/.config`.
pub(crate) fn path() -> Outcome<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    base.map(|base| base.join("tidewheel/config.toml")).ok_or_else(|| {
        Failure::usage("cannot find the profile file", "neither HOME nor XDG_CONFIG_HOME is set")
            .next("export HOME=...")
    })
}

impl Profiles {
    /// Reads the file; a missing one is empty.
    pub(crate) fn load() -> Outcome<Profiles> {
        let path = path()?;
        let what = || format!("cannot read the profiles in {}", path.display());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Profiles::default()),
            Err(error) => return Err(error).doing(Exit::Usage, what),
        };
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            Failure::usage(what(), format!("line {line}: {}", error.message()))
        })
    }

    /// Writes the file with mode 0600, by rename, so that a crash leaves the old or the new one.
    pub(crate) fn save(&self) -> Outcome {
        let path = path()?;
        let what = || format!("cannot write the profiles to {}", path.display());
        // Strings in maps always serialise.
        let text = toml::to_string_pretty(self).doing(Exit::Failed, what)?;
        write_private(&path, &text).doing(Exit::Failed, what)
    }

    /// A profile by name.
    pub(crate) fn get(&self, name: &str) -> Outcome<&Profile> {
        self.profiles.get(name).ok_or_else(|| {
            let near = crate::text::did_you_mean(name, self.profiles.keys().map(String::as_str));
            Failure::new(Exit::Missing, format!("no profile '{name}'"), format!("it is not in the profile file{near}"))
                .next("tidewheel profile list")
        })
    }
}

/// The folder that a file is in. Of a bare name that is the current one, of which [`Path::parent`] says nothing.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file that only its owner can read.
pub(crate) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = folder_of(path);
    std::fs::create_dir_all(folder)?;
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    // The mode of `open` applies to new files only.
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&temporary, path)?;
    // The name, too, has to outlive a power cut.
    std::fs::File::open(folder)?.sync_all()
}

/// The server and the principal of one call.
#[derive(Clone)]
pub(crate) struct Connection {
    /// Address.
    pub(crate) url: String,
    /// Where the address came from, for people.
    pub(crate) url_origin: String,
    /// Token.
    pub(crate) token: Option<Secret>,
    /// Where the token came from.
    pub(crate) token_origin: String,
    /// Tenant, when named.
    pub(crate) tenant: Option<String>,
    /// Certificate authority.
    pub(crate) ca_file: Option<String>,
    /// The profile in use.
    pub(crate) profile: Option<String>,
    /// How long an answer may take; the client's own bounds if absent.
    pub(crate) timeout: Option<Duration>,
}

/// What flags and environment say. Empty texts count as absent, as shells make them easily.
#[derive(Clone, Default)]
pub(crate) struct Wishes {
    /// `--url`, `TIDEWHEEL_URL`
    pub(crate) url: Option<String>,
    /// `--token-file`
    pub(crate) token_file: Option<String>,
    /// `TIDEWHEEL_TOKEN`
    pub(crate) token: Option<String>,
    /// `--tenant`, `TIDEWHEEL_TENANT`
    pub(crate) tenant: Option<String>,
    /// `--profile`, `TIDEWHEEL_PROFILE`
    pub(crate) profile: Option<String>,
    /// `--ca-file`, `TIDEWHEEL_CA_FILE`
    pub(crate) ca_file: Option<String>,
    /// `--server-timeout`, `TIDEWHEEL_SERVER_TIMEOUT`
    pub(crate) timeout: Option<String>,
}

/// What `tidewheel dev` leaves.
#[derive(Serialize, Deserialize)]
pub(crate) struct DevFile {
    /// Address.
    pub(crate) url: String,
    /// Token.
    pub(crate) token: Secret,
    /// Certificate authority, with `--tls-self-signed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<String>,
    /// Process that serves it.
    #[serde(default)]
    pub(crate) pid: u32,
}

/// Puts flags, environment, file and defaults together.
pub(crate) fn resolve(wishes: &Wishes, profiles: &Profiles, dev: Option<&DevFile>) -> Outcome<Connection> {
    let wanted = present(&wishes.profile);
    let name = wanted.clone().or_else(|| profiles.current.clone());
    let profile = match &name {
        Some(name) => Some(profiles.get(name)?),
        None => None,
    };
    let asked = present(&wishes.url);
    let (stored, origin) = match (profile, dev, &name) {
        (Some(profile), _, Some(name)) => (profile.clone(), format!("profile '{name}'")),
        (_, Some(dev), _) => {
            let Secret(token) = &dev.token;
            let token = Some(Secret::new(token.clone()));
            (Profile { url: dev.url.clone(), token, tenant: None, ca_file: dev.ca_file.clone() }, DEV_FILE.to_owned())
        }
        _ => (Profile { url: DEFAULT_URL.to_owned(), ..Profile::default() }, "the default".to_owned()),
    };
    let (url, url_origin) = match &asked {
        Some(url) => (url.clone(), "--url or TIDEWHEEL_URL".to_owned()),
        None => (stored.url.clone(), origin.clone()),
    };
    // A token must not travel to a server it was not given for, unless its profile was named in the same breath.
    let same = same_address(&url, &stored.url) || wanted.is_some();
    let (token, token_origin) = if let Some(file) = present(&wishes.token_file) {
        (Some(read_token(&file)?), format!("the file {file}"))
    } else if let Some(token) = present(&wishes.token) {
        (Some(Secret::new(token.trim())), "TIDEWHEEL_TOKEN".to_owned())
    } else if same && stored.token.is_some() {
        (stored.token.clone(), origin)
    } else {
        (None, "nowhere".to_owned())
    };
    Ok(Connection {
        url,
        url_origin,
        token,
        token_origin,
        tenant: present(&wishes.tenant).or(if same { stored.tenant } else { None }),
        ca_file: present(&wishes.ca_file).or(if same { stored.ca_file } else { None }),
        profile: name,
        timeout: wishes.timeout()?,
    })
}

impl Wishes {
    /// How long an answer may take.
    pub(crate) fn timeout(&self) -> Outcome<Option<Duration>> {
        let Some(text) = present(&self.timeout) else { return Ok(None) };
        let bad = |why: String| Failure::usage("cannot read --server-timeout", why).next("write 30s or 2m");
        match crate::text::parse_wait(&text).map_err(bad)? {
            Duration::ZERO => Err(bad("it is no time at all".to_owned())),
            time => Ok(Some(time)),
        }
    }
}

fn present(value: &Option<String>) -> Option<String> {
    value.clone().filter(|v| !v.trim().is_empty())
}

fn same_address(a: &str, b: &str) -> bool {
    a.trim_end_matches('/').eq_ignore_ascii_case(b.trim_end_matches('/'))
}

/// Reads a token from a file; one line.
pub(crate) fn read_token(path: &str) -> Outcome<Secret> {
    let text = std::fs::read_to_string(path).doing(Exit::Usage, || format!("cannot read the token in {path}"))?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(Failure::usage(
            format!("cannot use the token in {path}"),
            "it has to hold one token and nothing else",
        ));
    }
    Ok(Secret::new(token))
}

/// The nearest `.tidewheel/dev.json` at or above a folder. One that others could have written is ignored: it decides
/// where requests go.
pub(crate) fn find_dev(from: &Path) -> Option<DevFile> {
    from.ancestors().find_map(|folder| {
        let path = folder.join(DEV_FILE);
        let meta = std::fs::metadata(&path).ok()?;
        let mine = folder_owner()? == meta.uid() && meta.mode() & 0o077 == 0;
        if !mine {
            return None;
        }
        serde_json::from_str(&std::fs::read_to_string(&path).ok()?).ok()
    })
}

fn folder_owner() -> Option<u32> {
    // The process's own folder in /proc belongs to its user; elsewhere the home folder does.
    let own =
        std::fs::metadata("/proc/self").or_else(|_| std::fs::metadata(std::env::var_os("HOME").unwrap_or_default()));
    own.ok().map(|meta| meta.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiles() -> Profiles {
        let stored = Profile {
            url: "https://prod.example".into(),
            token: Some(Secret::new("tw_prod")),
            tenant: Some("acme".into()),
            ca_file: None,
        };
        Profiles { current: Some("prod".into()), profiles: BTreeMap::from([("prod".into(), stored)]) }
    }

    fn token_of(connection: &Connection) -> Option<&str> {
        connection.token.as_ref().map(Secret::expose)
    }

    #[test]
    fn flag_comes_before_file_before_dev_folder_before_default() {
        let dev = DevFile { url: "http://127.0.0.1:9".into(), token: Secret::new("tw_dev"), ca_file: None, pid: 1 };
        let none = Profiles::default();
        let plain = Wishes::default();
        assert_eq!(resolve(&plain, &none, None).unwrap().url, DEFAULT_URL);
        let of_dev = resolve(&plain, &none, Some(&dev)).unwrap();
        assert_eq!((of_dev.url.as_str(), token_of(&of_dev)), ("http://127.0.0.1:9", Some("tw_dev")));
        let of_file = resolve(&plain, &profiles(), Some(&dev)).unwrap();
        assert_eq!((of_file.url.as_str(), token_of(&of_file)), ("https://prod.example", Some("tw_prod")));
        assert_eq!(of_file.tenant.as_deref(), Some("acme"));
        let flag = Wishes { url: Some("http://other".into()), token: Some("tw_env".into()), ..plain };
        let of_flag = resolve(&flag, &profiles(), Some(&dev)).unwrap();
        assert_eq!((of_flag.url.as_str(), token_of(&of_flag)), ("http://other", Some("tw_env")));
    }

    #[test]
    fn a_stored_token_does_not_follow_another_address() {
        let flag = Wishes { url: Some("http://elsewhere".into()), ..Wishes::default() };
        let got = resolve(&flag, &profiles(), None).unwrap();
        assert_eq!((token_of(&got), got.tenant.as_deref()), (None, None));
        let same = Wishes { url: Some("https://prod.example/".into()), ..Wishes::default() };
        assert_eq!(token_of(&resolve(&same, &profiles(), None).unwrap()), Some("tw_prod"));
    }

    #[test]
    fn an_unknown_profile_proposes_the_nearest() {
        let wish = Wishes { profile: Some("prd".into()), ..Wishes::default() };
        let failure = resolve(&wish, &profiles(), None).err().unwrap();
        assert_eq!(failure.exit(), Exit::Missing);
        assert!(failure.text(false).contains("did you mean 'prod'?"), "{}", failure.text(false));
    }
}
