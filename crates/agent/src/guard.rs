//! The last resort against orphans: a small shell that holds one end of a pipe and knows the sessions of user code.
//! When the agent dies without a word, the pipe ends and the shell kills what is left. A death signal set on the
//! child (`PR_SET_PDEATHSIG`) reaches only the child; its own children survive it, which is what this is for. It does
//! nothing while the agent lives.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use parking_lot::Mutex;

/// Lines on stdin: `+ <session> <file of cgroup members or ->` and `- <session>`.
const SCRIPT: &str = r#"
trap '' HUP INT TERM QUIT PIPE
live=""
while read -r op sid file; do
  case "$op" in
    +) live="$live $sid:$file" ;;
    -) kept=""; for e in $live; do case "$e" in "$sid":*) ;; *) kept="$kept $e" ;; esac; done; live="$kept" ;;
  esac
done
round=0
while [ $round -lt 20 ] && [ -n "$live" ]; do
  found=0
  for e in $live; do
    sid="${e%%:*}"; file="${e#*:}"
    kill -9 -- "-$sid" 2>/dev/null && found=1
    if [ -r "$file" ]; then while read -r p; do kill -9 "$p" 2>/dev/null && found=1; done < "$file"; fi
  done
  for s in /proc/[0-9]*/stat; do
    read -r line < "$s" 2>/dev/null || continue
    set -- ${line##*) }
    case "$live" in *" $4:"*) [ "$1" = Z ] || { p="${s#/proc/}"; kill -9 "${p%/stat}" 2>/dev/null && found=1; } ;; esac
  done
  [ $found = 0 ] && break
  round=$((round + 1)); sleep 0.1
done
"#;

/// The running shell; dropping it closes the pipe, which ends it.
pub(crate) struct Guard {
    pipe: Mutex<Option<ChildStdin>>,
    child: Mutex<Option<Child>>,
}

impl Guard {
    pub(crate) fn start() -> Self {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(SCRIPT).env_clear().env("PATH", "/usr/bin:/bin");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        // A session of its own: a Ctrl-C in the terminal or a kill of the agent's group must not end the guard first.
        // SAFETY: setsid is async-signal-safe and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                Ok(())
            });
        }
        match command.spawn() {
            Ok(mut child) => Self { pipe: Mutex::new(child.stdin.take()), child: Mutex::new(Some(child)) },
            Err(error) => {
                tracing::warn!(%error, "no guard against orphaned processes: /bin/sh could not be started");
                Self { pipe: Mutex::new(None), child: Mutex::new(None) }
            }
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.pipe.lock().is_some()
    }

    pub(crate) fn add(&self, session: i32, members: Option<&std::path::Path>) {
        let file = members.map_or("-".into(), |p| p.display().to_string());
        self.tell(&format!("+ {session} {file}\n"));
    }

    pub(crate) fn remove(&self, session: i32) {
        self.tell(&format!("- {session}\n"));
    }

    fn tell(&self, line: &str) {
        let mut pipe = self.pipe.lock();
        if let Some(stdin) = pipe.as_mut()
            && stdin.write_all(line.as_bytes()).is_err()
        {
            *pipe = None;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.pipe.lock().take();
        if let Some(mut child) = self.child.lock().take() {
            let _ = child.wait();
        }
    }
}
