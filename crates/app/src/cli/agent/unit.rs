//! The text of the systemd unit of an agent. Pure: what it depends on is in [`Unit`].

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The first line of a unit that was written here, by which it is known again.
pub(super) const MARK: &str =
    "# Written by `tidewheel agent install-service`; what is changed here is lost when it runs again.";
/// The agent ends itself in time; this is for one that does not.
const STOP_ROOM: Duration = Duration::from_secs(15);

/// A service to be.
#[derive(Debug)]
pub(super) struct Unit {
    /// Name of the service, without `.service`.
    pub(super) name: String,
    /// Of the calling user's manager instead of the system's.
    pub(super) user: bool,
    /// Whom the service runs as; of a system service, one made for it by systemd if absent.
    pub(super) account: Option<String>,
    /// This program.
    pub(super) program: PathBuf,
    /// Behind `agent`, without data folder and credential.
    pub(super) flags: Vec<String>,
    /// The data folder; `None` = systemd's place for it.
    pub(super) data_dir: Option<PathBuf>,
    /// Flags that name a file which the agent reads at its start, such as a lasting token, and the file.
    pub(super) files: Vec<(&'static str, PathBuf)>,
    /// Of the manager of a user, who expects the same programs as in his shell.
    pub(super) path: Option<String>,
    /// Time that running attempts get.
    pub(super) drain: Duration,
}

impl Unit {
    /// The file that holds it.
    pub(super) fn text(&self) -> String {
        let mut lines = vec![MARK.to_owned(), "[Unit]".into(), "Description=Tidewheel agent".into()];
        if !self.user {
            lines.extend(["Wants=network-online.target".into(), "After=network-online.target".into()]);
        }
        // An agent that cannot reach its server tries for ever, and so does whoever starts it.
        lines.extend(["StartLimitIntervalSec=0".into(), String::new(), "[Service]".into(), "Type=exec".into()]);
        lines.push(format!("ExecStart={}", self.command()));
        lines.extend(self.account_lines());
        if let Some(path) = &self.path {
            lines.push(format!("Environment={}", quoted(&format!("PATH={path}"))));
        }
        lines.push("Restart=always".into());
        lines.push("RestartSec=2".into());
        // A wrong call (2) and a refused credential (3) do not get better by repeating.
        lines.push("RestartPreventExitStatus=2 3".into());
        // Its tasks are ended by the agent itself, which gives them the time that they are due.
        lines.push("KillMode=mixed".into());
        lines.push(format!("TimeoutStopSec={}", (self.drain + STOP_ROOM).as_secs()));
        // Limits of tasks are control groups below that of the service.
        lines.push("Delegate=yes".into());
        lines.push("LimitNOFILE=65536".into());
        // One task that is out of memory does not end the others.
        lines.push("OOMPolicy=continue".into());
        let target = if self.user { "default.target" } else { "multi-user.target" };
        lines.extend([String::new(), "[Install]".into(), format!("WantedBy={target}"), String::new()]);
        lines.join("\n")
    }

    fn account_lines(&self) -> Vec<String> {
        if self.user {
            return Vec::new();
        }
        let mut lines = vec![match &self.account {
            Some(account) => format!("User={account}"),
            None => "DynamicUser=yes".into(),
        }];
        if self.data_dir.is_none() {
            lines.push(format!("StateDirectory={}", self.name));
        }
        for (flag, file) in &self.files {
            // Read by systemd, so that the service's own user need not be able to.
            lines.push(format!("LoadCredential={flag}:{}", file.display().to_string().replace('%', "%%")));
        }
        lines.push("ProtectSystem=full".into());
        lines
    }

    fn command(&self) -> String {
        let mut words = vec![quoted(&self.program.display().to_string()), "agent".into()];
        words.extend(self.flags.iter().map(|flag| quoted(flag)));
        match &self.data_dir {
            Some(folder) => words.push(quoted(&format!("--data-dir={}", folder.display()))),
            None if self.user => {}
            None => words.push("--data-dir=%S/".to_owned() + &self.name),
        }
        words.extend(self.files.iter().map(|(flag, file)| match self.user {
            true => quoted(&format!("--{flag}={}", file.display())),
            false => format!("--{flag}=%d/{flag}"),
        }));
        words.join(" ")
    }
}

/// Where the unit of a name lies.
pub(super) fn file(name: &str, user: Option<&Path>) -> PathBuf {
    let folder = match user {
        Some(config) => config.join("systemd/user"),
        None => PathBuf::from("/etc/systemd/system"),
    };
    folder.join(format!("{name}.service"))
}

/// A word of a command line as systemd reads it: `%` and `$` stand for themselves when they are doubled.
fn quoted(word: &str) -> String {
    let mut out = String::with_capacity(word.len() + 2);
    for c in word.chars() {
        match c {
            '%' => out.push_str("%%"),
            '$' => out.push_str("$$"),
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    let plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&b));
    if plain && !word.is_empty() { out } else { format!("\"{out}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Unit {
        Unit {
            name: "tidewheel-agent".into(),
            user: false,
            account: None,
            program: "/usr/local/bin/tidewheel".into(),
            flags: vec!["--server=https://t.example".into(), "--probe=site=echo \"$X\" 5%".into()],
            data_dir: None,
            files: Vec::new(),
            path: None,
            drain: Duration::from_secs(30),
        }
    }

    #[test]
    fn the_system_service_has_a_user_and_a_folder_of_its_own() {
        let text = unit().text();
        for line in [
            MARK,
            "ExecStart=/usr/local/bin/tidewheel agent --server=https://t.example \
             \"--probe=site=echo \\\"$$X\\\" 5%%\" --data-dir=%S/tidewheel-agent",
            "DynamicUser=yes",
            "StateDirectory=tidewheel-agent",
            "Restart=always",
            "TimeoutStopSec=45",
            "Delegate=yes",
            "WantedBy=multi-user.target",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing:\n{text}");
        }
        assert!(!text.contains("LoadCredential") && !text.contains("Environment="));
    }

    #[test]
    fn a_token_is_handed_over_by_systemd_and_an_account_is_named() {
        let text = Unit {
            account: Some("svc".into()),
            files: vec![("token-file", "/etc/t 100%".into()), ("ca-file", "/etc/ca.pem".into())],
            data_dir: Some("/srv/agent".into()),
            ..unit()
        };
        let text = text.text();
        for line in ["User=svc", "LoadCredential=token-file:/etc/t 100%%", "LoadCredential=ca-file:/etc/ca.pem"] {
            assert!(text.lines().any(|found| found == line), "{line} is missing:\n{text}");
        }
        let end = " --data-dir=/srv/agent --token-file=%d/token-file --ca-file=%d/ca-file\n";
        assert!(text.contains(end) && !text.contains("StateDirectory"), "{text}");
    }

    #[test]
    fn the_service_of_a_user_has_his_path_and_nothing_of_the_system() {
        let text = Unit { user: true, path: Some("/home/user/bin:/usr/bin".into()), ..unit() }.text();
        assert!(
            text.contains("Environment=PATH=/home/user/bin:/usr/bin\n") && text.contains("WantedBy=default.target")
        );
        for absent in ["User=", "StateDirectory", "network-online", "ProtectSystem", "--data-dir"] {
            assert!(!text.contains(absent), "{absent}:\n{text}");
        }
        assert_eq!(
            file("x", Some(Path::new("/home/user/.config"))),
            Path::new("/home/user/.config/systemd/user/x.service")
        );
        assert_eq!(file("x", None), Path::new("/etc/systemd/system/x.service"));
    }

    #[test]
    fn a_line_break_in_a_flag_starts_no_new_line_of_the_unit() {
        let text = Unit { flags: vec!["--name=a\nExecStartPre=/bin/evil".into()], ..unit() }.text();
        assert!(!text.lines().any(|line| line.starts_with("ExecStartPre")), "{text}");
    }
}
