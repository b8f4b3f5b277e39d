//! `agent install-service` and `agent uninstall-service`: the agent as a service of systemd.

use std::path::{Path, PathBuf};

use clap::{ArgAction, ArgMatches, Args};
use serde_json::json;

use super::identity::{self, Identity};
use super::run::Run;
use super::unit::{self, MARK, Unit};
use crate::cli::Ctx;
use crate::fail::{Exit, Failure, Outcome, While};
use crate::output::{Col, Kind, Shape};

/// Name of the service if none is given.
const NAME: &str = "tidewheel-agent";
const SYSTEMCTL: &str = "systemctl";
/// Flags that are not put into the unit as they are: the join token is used now, the others have a place of their own.
const APART: [&str; 3] = ["join", "join_file", "data_dir"];
/// Flags that name a file: the service has another working folder.
const FILES: [&str; 1] = ["python"];

/// Install the agent of this machine as a service
///
/// Writes a unit of systemd with the flags given here, enables and starts it; it comes back after a crash and with the
/// machine. With a join token the agent is enrolled now, so that the unit holds no secret. A system service needs root and
/// runs as a user that systemd makes for it, unless `--service-user` names one; `--user` installs one of your own, without
/// root. The same call again replaces the service. Linux with systemd only.
#[derive(Args)]
#[command(after_help = "Examples:
  sudo tidewheel agent install-service --server https://tidewheel.example --join-file join.token --queue pdf
  tidewheel agent install-service --user --server http://127.0.0.1:8080 --join-file join.token
  tidewheel agent install-service --server https://tidewheel.example --print")]
pub(super) struct InstallService {
    /// A service of this user's own, which needs no root
    #[arg(long, conflicts_with = "service_user")]
    user: bool,
    /// Account that the service runs as; one made by systemd if absent
    #[arg(long, value_name = "ACCOUNT")]
    service_user: Option<String>,
    /// Name of the service
    #[arg(long, value_name = "NAME", default_value = NAME, value_parser = service_name)]
    service_name: String,
    /// Print the unit and change nothing
    #[arg(long, visible_alias = "dry-run")]
    print: bool,
    /// Replace a unit that was not written by this command
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    run: Run,
}

/// Remove the service of the agent
///
/// Stops it, which gives what runs the time of its `--drain-timeout`, and removes the unit. The data folder with packages
/// and the agent's credential stays; `tidewheel token revoke` takes the credential back.
#[derive(Args)]
#[command(after_help = "Examples:
  sudo tidewheel agent uninstall-service
  tidewheel agent uninstall-service --user")]
pub(super) struct UninstallService {
    /// The service of this user
    #[arg(long)]
    user: bool,
    /// Name of the service
    #[arg(long, value_name = "NAME", default_value = NAME, value_parser = service_name)]
    service_name: String,
    /// Remove a unit that was not written by `install-service`
    #[arg(long)]
    force: bool,
}

const SERVICE: Shape = Shape {
    plural: "services",
    id: "name",
    cols: &[
        Col::new("NAME", "name", Kind::Text),
        Col::new("STATE", "state", Kind::Text),
        Col::new("UNIT", "unit", Kind::Text),
        Col::new("AGENT", "agent", Kind::Text),
        Col::new("DATA", "data_dir", Kind::Text),
    ],
};

fn service_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    let name = text.strip_suffix(".service").unwrap_or(text);
    match !name.is_empty() && name.len() <= 100 && name.chars().all(plain) && !name.starts_with(['-', '.']) {
        true => Ok(name.to_owned()),
        false => Err("a name has 1 to 100 letters, digits, '-', '_', '.' and '@'".to_owned()),
    }
}

impl InstallService {
    pub(super) async fn run(self, ctx: &Ctx) -> Outcome {
        let what = "cannot install the service";
        let unit = self.unit(ctx)?;
        if self.print {
            return ctx.out.write_bytes(unit.text().as_bytes());
        }
        let manager = Manager::new(self.user, what)?;
        let file = unit::file(&unit.name, manager.config.as_deref());
        let before = known(&file, self.force, what)?;
        let folder = self.folder();
        let identity = self.credential(ctx, &folder).await?;
        write(&file, &unit.text()).doing(Exit::Failed, || format!("cannot write {}", file.display()))?;
        let started = manager.call(&["daemon-reload"]).and_then(|()| manager.call(&["enable", &unit.name]));
        if let Err(failure) = started.and_then(|()| manager.call(&["restart", &unit.name])) {
            // As it was before. The failure is what counts, whatever becomes of this.
            match &before {
                Some(text) => drop(write(&file, text)),
                None => {
                    let _ = manager.call(&["disable", &unit.name]);
                    let _ = std::fs::remove_file(&file);
                }
            }
            let _ = manager.call(&["daemon-reload"]);
            return Err(failure);
        }
        if self.user {
            ctx.out.note("it ends when you log out, unless you say: loginctl enable-linger");
        }
        let shown = json!({
            "name": unit.name,
            "state": if before.is_some() { "replaced" } else { "installed" },
            "unit": file,
            "agent": identity.map(|identity| identity.agent),
            "data_dir": folder,
        });
        ctx.out.one(&SERVICE, &shown)
    }

    /// Where the agent keeps what it has. The same place that the unit names.
    fn folder(&self) -> PathBuf {
        match (self.run.data_dir(), self.user) {
            (Some(folder), _) => std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()),
            (None, true) => super::default_dir(),
            (None, false) => Path::new("/var/lib").join(&self.service_name),
        }
    }

    fn unit(&self, ctx: &Ctx) -> Outcome<Unit> {
        let what = || "cannot find this program".to_owned();
        let program = std::env::current_exe().doing(Exit::Failed, what)?;
        let absolute = |path: &str| std::path::absolute(path).unwrap_or_else(|_| path.into());
        let wishes = ctx.wishes();
        let mut flags = Vec::new();
        for (flag, value) in [("url", &wishes.url), ("tenant", &wishes.tenant)] {
            flags.extend(value.as_ref().map(|value| format!("--{flag}={value}")));
        }
        // Without an address it would be looked for in the profiles of whoever runs the service.
        if wishes.url.is_none() && self.run.server().is_none() {
            flags.push(format!("--server={}", ctx.connection()?.url));
        }
        flags.extend(given(&matches()?));
        let files = [("token-file", &wishes.token_file), ("ca-file", &wishes.ca_file)];
        let files = files.into_iter().filter_map(|(flag, file)| Some((flag, absolute(file.as_deref()?)))).collect();
        Ok(Unit {
            name: self.service_name.clone(),
            user: self.user,
            account: self.service_user.clone(),
            program,
            flags,
            data_dir: self
                .run
                .data_dir()
                .map(|folder| std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())),
            files,
            path: self.user.then(|| std::env::var("PATH").ok()).flatten(),
            drain: self.run.drain()?,
        })
    }

    /// What the service will prove itself with: the join token is used now, else the folder or a file has it.
    async fn credential(&self, ctx: &Ctx, folder: &Path) -> Outcome<Option<Identity>> {
        let connection = ctx.connection_to(self.run.server())?;
        let join = self.run.join_token()?;
        if join.is_none() && ctx.wishes().token_file.is_some() {
            return Ok(None);
        }
        std::fs::create_dir_all(folder).doing(Exit::Failed, || format!("cannot make {}", folder.display()))?;
        let note = |text: &str| ctx.out.note(text);
        let found = identity::obtain(folder, &connection, join.as_deref(), self.run.name(), &note).await?;
        if let (Some(account), false) = (&self.service_user, self.user) {
            hand_over(folder, account)?;
        }
        if found.is_some() {
            return Ok(found);
        }
        // Nothing is left of a folder that was made for nothing.
        let _ = std::fs::remove_dir(folder);
        let why = format!(
            "it would have no credential: {} holds none, and tokens of profiles and of TIDEWHEEL_TOKEN are not put into a unit",
            folder.display()
        );
        let failure = Failure::new(Exit::Denied, "cannot install the service", why);
        Err(failure
            .next("tidewheel agent enroll-token NAME --to join.token, then --join-file join.token; or --token-file"))
    }
}

impl UninstallService {
    pub(super) fn run(self, ctx: &Ctx) -> Outcome {
        let what = "cannot remove the service";
        let manager = Manager::new(self.user, what)?;
        let file = unit::file(&self.service_name, manager.config.as_deref());
        if known(&file, self.force, what)?.is_none() {
            let failure = Failure::new(Exit::Missing, what, format!("there is no {}", file.display()));
            return Err(failure.next("--user or --service-name, if it was installed with one"));
        }
        manager.call(&["disable", "--now", &self.service_name])?;
        std::fs::remove_file(&file).doing(Exit::Failed, || format!("cannot remove {}", file.display()))?;
        manager.call(&["daemon-reload"])?;
        ctx.out.note(
            "its data folder and its credential are still there; 'tidewheel token revoke ID' takes the credential back",
        );
        ctx.out.one(&SERVICE, &json!({ "name": self.service_name, "state": "removed", "unit": file }))
    }
}

/// systemd, of the system or of a user.
struct Manager {
    /// The user's folder of settings.
    config: Option<PathBuf>,
}

impl Manager {
    fn new(user: bool, what: &str) -> Outcome<Manager> {
        if !cfg!(target_os = "linux") {
            let why = "services are installed on Linux with systemd only";
            return Err(Failure::new(Exit::Failed, what, why));
        }
        if user {
            let named = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
            let config = named("XDG_CONFIG_HOME").or_else(|| Some(named("HOME")?.join(".config")));
            let why = "neither HOME nor XDG_CONFIG_HOME says where the units of this user are";
            return Ok(Manager { config: Some(config.ok_or_else(|| Failure::usage(what, why))?) });
        }
        // SAFETY: it reads a number.
        if unsafe { libc::geteuid() } != 0 {
            let failure = Failure::new(Exit::Denied, what, "a service of the system needs root");
            return Err(failure.next("the same with sudo, or --user for a service of your own; --print shows the unit"));
        }
        Ok(Manager { config: None })
    }

    fn call(&self, args: &[&str]) -> Outcome {
        let mut command = std::process::Command::new(SYSTEMCTL);
        command.args(self.config.iter().map(|_| "--user")).args(args);
        let shown = format!("{SYSTEMCTL} {}{}", if self.config.is_some() { "--user " } else { "" }, args.join(" "));
        let ended = command.output().map_err(|error| {
            let why = format!("{SYSTEMCTL} cannot be run: {error}");
            Failure::new(Exit::Failed, "this machine has no systemd", why)
                .next("add --print, for a manager of your own")
        })?;
        if ended.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
        Err(Failure::new(Exit::Failed, format!("'{shown}' failed"), said)
            .next("add --print, for a manager of your own"))
    }
}

/// The unit that is there. One that somebody else wrote is left alone.
fn known(file: &Path, force: bool, what: &str) -> Outcome<Option<String>> {
    match std::fs::read_to_string(file) {
        Ok(text) if force || text.starts_with(MARK) => Ok(Some(text)),
        Ok(_) => {
            let why = format!("{} was not written by 'tidewheel agent install-service'", file.display());
            Err(Failure::new(Exit::Missing, what, why).next("--force, or another --service-name"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(Exit::Failed, format!("cannot read {}", file.display()), error.to_string())),
    }
}

fn write(file: &Path, text: &str) -> std::io::Result<()> {
    let folder = crate::profile::folder_of(file);
    std::fs::create_dir_all(folder)?;
    let partial = file.with_extension("service.partial");
    std::fs::write(&partial, text)?;
    std::fs::rename(&partial, file)
}

/// Gives what enrolling wrote as root to the account of the service. An account made by systemd gets its folder from it.
fn hand_over(folder: &Path, account: &str) -> Outcome {
    let given = std::process::Command::new("chown").args(["-R", "--", account]).arg(folder).output();
    let what = || format!("cannot give {} to '{account}'", folder.display());
    let given = given.doing(Exit::Failed, what)?;
    if given.status.success() {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, what(), String::from_utf8_lossy(&given.stderr).trim().to_owned()))
}

/// The flags behind `install-service`, as they were read.
fn matches() -> Outcome<ArgMatches> {
    let all = crate::cli::command().try_get_matches_from(std::env::args_os());
    let all = all.map_err(|error| Failure::usage("cannot read the command line", error.to_string()))?;
    let found = all.subcommand_matches("agent").and_then(|agent| agent.subcommand_matches("install-service"));
    found.cloned().ok_or_else(|| Failure::new(Exit::Failed, "cannot read the command line", ""))
}

/// Settings of an agent that were given, on the command line or by the environment, as flags.
fn given(matches: &ArgMatches) -> Vec<String> {
    use clap::parser::ValueSource::{CommandLine, EnvVariable};
    let command = Run::augment_args(clap::Command::new("agent"));
    let mut flags = Vec::new();
    for arg in command.get_arguments() {
        let (id, Some(long)) = (arg.get_id().as_str(), arg.get_long()) else { continue };
        let said = matches!(matches.value_source(id), Some(CommandLine | EnvVariable));
        if APART.contains(&id) || !said {
            continue;
        }
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            flags.extend(matches.get_flag(id).then(|| format!("--{long}")));
            continue;
        }
        for value in matches.get_raw(id).into_iter().flatten() {
            let value = match FILES.contains(&id) {
                true => std::path::absolute(value).unwrap_or_else(|_| value.into()).display().to_string(),
                false => value.to_string_lossy().into_owned(),
            };
            flags.push(format!("--{long}={value}"));
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_put_into_the_unit_as_they_were_given_and_secrets_are_not() {
        let command = Run::augment_args(clap::Command::new("x"));
        let line = [
            "x",
            "--server",
            "https://t",
            "--join",
            "twj_secret",
            "--queue",
            "a,b",
            "--label",
            "k=v w",
            "--isolated",
            "--data-dir",
            "/d",
            "--python",
            "/usr/bin/python3",
            "--capacity",
            "4",
        ];
        let flags = given(&command.try_get_matches_from(line).expect("it is read"));
        for flag in ["--server=https://t", "--queue=a", "--queue=b", "--label=k=v w", "--isolated", "--capacity=4"] {
            assert!(flags.iter().any(|found| found == flag), "{flag}: {flags:?}");
        }
        assert!(flags.contains(&"--python=/usr/bin/python3".to_owned()));
        assert!(!flags.iter().any(|flag| flag.contains("secret") || flag.contains("data-dir")), "{flags:?}");
        assert!(!flags.iter().any(|flag| flag.starts_with("--log") || flag.starts_with("--cache")), "{flags:?}");
    }

    #[test]
    fn names_of_services_lead_nowhere_else() {
        assert_eq!(service_name("a-1.service").as_deref(), Ok("a-1"));
        for name in ["", "../x", "a b", "-x", ".x", "a/b"] {
            assert!(service_name(name).is_err(), "{name}");
        }
    }
}
