//! What this machine lets a test inject. Probed once by trying, since a tool that is installed may still be forbidden.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The tools, each with the reason where it cannot be used.
pub struct Tools {
    /// System calls can be traced and made to fail.
    pub strace: Result<(), String>,
    /// Small file systems can be mounted.
    pub mount: Result<(), String>,
    /// Processes can be isolated.
    pub bwrap: Result<(), String>,
    /// A Python interpreter.
    pub python: Result<(), String>,
    /// The Python environment builder.
    pub uv: Result<PathBuf, String>,
}

/// Probes on the first call and prints what was found.
pub fn tools() -> &'static Tools {
    static TOOLS: OnceLock<Tools> = OnceLock::new();
    TOOLS.get_or_init(|| {
        let tools = Tools {
            strace: tries("strace", &["-f", "-o", "/dev/null", "-e", "inject=fsync:error=EIO:when=1", "true"]),
            mount: can_mount(),
            bwrap: tries("bwrap", &["--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "true"]),
            python: tries("python3", &["-c", "import sys; sys.exit(sys.version_info < (3, 9))"]),
            uv: find_uv(),
        };
        let shown = |name: &str, outcome: Option<&String>| match outcome {
            None => format!("{name} yes"),
            Some(why) => format!("{name} no ({why})"),
        };
        crate::say(&format!(
            "tools: {}; {}; {}; {}; {}",
            shown("system call faults (strace)", tools.strace.as_ref().err()),
            shown("small disks (mount)", tools.mount.as_ref().err()),
            shown("isolation (bwrap)", tools.bwrap.as_ref().err()),
            shown("python3", tools.python.as_ref().err()),
            shown("uv", tools.uv.as_ref().err()),
        ));
        tools
    })
}

fn tries(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            let line = text.lines().next().unwrap_or_default();
            Err(format!("{program} is there but failed: {line}"))
        }
        Err(_) => Err(format!("{program} is not installed")),
    }
}

fn can_mount() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root".to_owned());
    }
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    SmallDisk::at(folder.path(), 1 << 20).map(drop).map_err(|e| e.to_string())
}

fn find_uv() -> Result<PathBuf, String> {
    let own = crate::root().join(".tidewheel/tools/bin/uv");
    let given = std::env::var_os("TIDEWHEEL_UV").map(PathBuf::from);
    let works = |path: &PathBuf| tries(&path.to_string_lossy(), &["--version"]).is_ok();
    let candidates = given.into_iter().chain([own, PathBuf::from("uv")]);
    candidates.into_iter().find(works).ok_or_else(|| "uv is not installed; python3 -m venv is used instead".to_owned())
}

/// A file system of a fixed size, gone when dropped.
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `bytes` over a folder.
    pub fn at(folder: &Path, bytes: u64) -> anyhow::Result<SmallDisk> {
        let size = format!("size={bytes}");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tidewheel-e2e"]).arg(folder).output()?;
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        anyhow::ensure!(output.status.success(), "cannot mount a small disk: {why}");
        Ok(SmallDisk { at: folder.to_path_buf() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Uses up all of its space and returns the file that does.
    pub fn fill(&self) -> anyhow::Result<PathBuf> {
        use std::io::Write as _;
        let path = self.at.join("filler");
        let mut file = std::fs::File::create(&path)?;
        for size in [1 << 20, 4096, 1] {
            let block = vec![0u8; size];
            // Ends with the error that is wanted: no space left.
            while file.write_all(&block).is_ok() {}
        }
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy, since a server that is just ending may still hold a file.
        let _ = Command::new("umount").arg("-l").arg(&self.at).stderr(Stdio::null()).status();
    }
}
