//! Isolation with bubblewrap: namespaces for users, processes, network, IPC and host name; a root file system that
//! shows system libraries, Python, the environment and the package read-only; a private /tmp; no environment of the
//! host; a filter of system calls. It only builds the command line; `process` starts it behind the same limits as any other child.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::config::Isolation;
use crate::error::Fault;

/// Where bubblewrap was found and whether it works here.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    program: Option<PathBuf>,
    setting: Isolation,
    network: bool,
    /// The filter of system calls, as bubblewrap reads it.
    filter: Option<PathBuf>,
}

/// The descriptor under which bubblewrap is given the filter.
const FILTER_FD: &str = "9";

/// Below the certificates that every process sees.
const PRIVATE_KEYS: &str = "/etc/ssl/private";

/// What a process may see of the host beside system libraries.
pub(crate) struct View<'a> {
    pub(crate) readable: &'a [PathBuf],
    /// The first one is where it begins.
    pub(crate) writable: &'a [&'a Path],
    pub(crate) network: bool,
}

impl Sandbox {
    /// Tries bubblewrap once: a kernel that forbids namespaces shows only when it is run.
    pub(crate) async fn detect(setting: Isolation, network: bool, data_dir: &Path) -> Self {
        let none = Self { program: None, setting, network, filter: None };
        let given = std::env::var_os("TIDEWHEEL_BWRAP").map(PathBuf::from);
        let Some(program) = given.or_else(|| crate::capacity::find("bwrap")) else { return none };
        if setting == Isolation::Off {
            return none;
        }
        let probe = tokio::process::Command::new(&program)
            .args(["--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--proc", "/proc", "true"])
            .stdin(std::process::Stdio::null())
            .output()
            .await;
        match probe {
            Ok(output) if output.status.success() => {
                let filter = Self::filter(&program, data_dir).await;
                Self { program: Some(program), filter, ..none }
            }
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                tracing::warn!(%why, "bubblewrap is present but cannot make namespaces here");
                none
            }
            Err(_) => none,
        }
    }

    /// Lays the filter down and tries it: a kernel without filters shows only when one is used.
    async fn filter(program: &Path, data_dir: &Path) -> Option<PathBuf> {
        let path = data_dir.join("seccomp.bpf");
        if let Err(error) = std::fs::write(&path, crate::seccomp::program()?) {
            tracing::warn!(%error, "the filter of system calls cannot be written");
            return None;
        }
        let mut args: Vec<OsString> = filter_args(&path, program);
        args.extend(["--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "true"].map(OsString::from));
        let probe =
            tokio::process::Command::new("/bin/sh").args(args).stdin(std::process::Stdio::null()).output().await;
        match probe {
            Ok(output) if output.status.success() => Some(path),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                tracing::warn!(%why, "system calls cannot be filtered here");
                None
            }
            Err(_) => None,
        }
    }

    /// Whether isolated processes run behind a filter of system calls.
    pub(crate) fn describe_filter(&self) -> &'static str {
        match (&self.filter, self.setting) {
            (Some(_), Isolation::On) => "refuses dangerous calls",
            (Some(_), _) => "refuses dangerous calls (when isolated)",
            (None, _) => "none",
        }
    }

    pub(crate) fn describe(&self) -> &'static str {
        match (&self.program, self.setting) {
            (Some(_), Isolation::On) => "bubblewrap",
            (Some(_), _) => "bubblewrap (when asked for)",
            (None, _) => "none",
        }
    }

    /// Whether attempts are to be isolated; an error where they have to be and cannot.
    pub(crate) fn decide(&self, server_requires: bool) -> Result<bool, Fault> {
        let wanted = server_requires || self.setting == Isolation::On;
        if !wanted {
            return Ok(false);
        }
        if self.program.is_some() && self.filter.is_some() {
            return Ok(true);
        }
        let why = if self.program.is_some() {
            "isolation is required, and system calls of tasks cannot be filtered on this machine: it needs a kernel with \
             CONFIG_SECCOMP_FILTER, and bubblewrap 0.1.5 or later"
        } else if self.setting == Isolation::Off {
            "isolation is switched off on this agent, and the server requires it"
        } else {
            "isolation is required, and bubblewrap is missing or cannot make namespaces on this machine"
        };
        // Another agent may have what this one lacks.
        Err(Fault::new("isolation-unavailable", why, true))
    }

    /// Whether tasks have the network inside of it.
    pub(crate) fn network(&self) -> bool {
        self.network
    }

    /// The command line in front of `program`.
    pub(crate) fn wrap(&self, view: &View<'_>, program: &Path, args: Vec<OsString>) -> (PathBuf, Vec<OsString>) {
        let bwrap = self.program.clone().expect("decide() said that there is a sandbox");
        let mut out: Vec<OsString> = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
            .iter()
            .map(OsString::from)
            .collect();
        if view.network {
            out.push("--share-net".into());
        }
        out.extend(
            ["--hostname", "tidewheel", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"].map(OsString::from),
        );
        for dir in ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"] {
            system_dir(&mut out, Path::new(dir));
        }
        for file in [
            "/etc/ld.so.cache",
            "/etc/ssl",
            "/etc/pki/tls/certs",
            "/etc/pki/ca-trust",
            "/etc/alternatives",
            "/etc/localtime",
            "/etc/mime.types",
        ] {
            bind(&mut out, "--ro-bind-try", Path::new(file));
        }
        // Keys of the machine's own services lie there; an agent of root could read them.
        if Path::new(PRIVATE_KEYS).is_dir() {
            out.extend(["--tmpfs", PRIVATE_KEYS].map(OsString::from));
        }
        if view.network {
            bind(&mut out, "--ro-bind-try", Path::new("/etc/resolv.conf"));
            bind(&mut out, "--ro-bind-try", Path::new("/etc/hosts"));
        }
        view.readable.iter().for_each(|path| bind(&mut out, "--ro-bind", path));
        view.writable.iter().for_each(|path| bind(&mut out, "--bind", path));
        let begin = view.writable.first().copied().unwrap_or(Path::new("/tmp"));
        out.extend(["--chdir".into(), begin.into(), "--".into(), program.into()]);
        out.extend(args);
        match &self.filter {
            Some(filter) => {
                let mut all = filter_args(filter, &bwrap);
                all.extend(out);
                ("/bin/sh".into(), all)
            }
            None => (bwrap, out),
        }
    }
}

/// Arguments of a shell that opens the filter and becomes bubblewrap.
fn filter_args(filter: &Path, bwrap: &Path) -> Vec<OsString> {
    let script = format!("exec \"$@\" {FILTER_FD}<\"$0\"");
    let out: [OsString; 6] =
        ["-c".into(), script.into(), filter.into(), bwrap.into(), "--seccomp".into(), FILTER_FD.into()];
    out.into()
}

/// Merged systems have /bin as a link into /usr; a link is made again as a link.
fn system_dir(out: &mut Vec<OsString>, dir: &Path) {
    match std::fs::read_link(dir) {
        Ok(target) => out.extend(["--symlink".into(), target.into(), dir.into()]),
        Err(_) if dir.is_dir() => bind(out, "--ro-bind", dir),
        Err(_) => {}
    }
}

fn bind(out: &mut Vec<OsString>, how: &str, path: &Path) {
    out.extend([how.into(), path.into(), path.into()]);
}
