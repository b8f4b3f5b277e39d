//! The last resort against orphans: a small shell that holds one end of a pipe and knows the sessions of user code.
//! When the agent dies without a word, the pipe ends and the shell kills what is left: the sessions, their control
//! groups, and whatever carries the agent's mark in its environment, which finds those that left their session. A death
//! signal set on the child (`PR_SET_PDEATHSIG`) reaches only the child; its own children survive it, which is what this
//! is for. It does nothing while the agent lives.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use parking_lot::Mutex;

/// Lines on stdin: `+ <session> <file of cgroup members or ->` and `- <session>`. `$1` = how the mark of this agent begins;
/// one `grep` reads the environments of all processes, `-a` since they hold zeros. What is shorter than a mark would fit others'
/// processes, too: then the script does not even begin.
const SCRIPT: &str = r#"
trap '' HUP INT TERM QUIT PIPE
mark="$1"
[ "${#mark}" -ge 24 ] || exit 1
live=""
while read -r op sid file; do
  case "$op" in
    +) live="$live $sid:$file" ;;
    -) kept=""; for e in $live; do case "$e" in "$sid":*) ;; *) kept="$kept $e" ;; esac; done; live="$kept" ;;
  esac
done
round=0
while [ $round -lt 20 ]; do
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
  for e in $(grep -alsF -- "$mark" /proc/[0-9]*/environ); do
    p="${e#/proc/}"; kill -9 "${p%/environ}" 2>/dev/null && found=1
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
    /// `mark` = how the entry in the environment begins that each process of this agent has, and none of another one.
    pub(crate) fn start(mark: &str) -> Self {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(SCRIPT).arg("sh").arg(mark).env_clear().env("PATH", "/usr/bin:/bin");
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(name: &str, value: &str) -> Child {
        Command::new("sleep").arg("600").env(name, value).spawn().expect("sleep is there")
    }

    #[test]
    fn what_carries_the_mark_is_killed_and_nobody_else() {
        let instance = format!("{:016x}", std::process::id());
        let guard = Guard::start(&format!("TIDEWHEEL_MARK={instance}."));
        // A session makes the script look at the states of all processes before it looks for the mark.
        guard.add(i32::MAX, None);
        let mut ours =
            [sleeper("TIDEWHEEL_MARK", &format!("{instance}.1")), sleeper("TIDEWHEEL_MARK", &format!("{instance}.12"))];
        let mut others = [sleeper("TIDEWHEEL_MARK", "0123456789abcdef.1"), sleeper("OTHER", &instance)];
        drop(guard);
        for child in &mut ours {
            assert!(!child.wait().expect("a child of ours").success());
        }
        for child in &mut others {
            assert!(child.try_wait().expect("a child of ours").is_none(), "it had nothing to do with the agent");
            child.kill().expect("it lives");
            child.wait().expect("a child of ours");
        }
    }

    #[test]
    fn a_guard_without_a_mark_does_not_begin() {
        let guard = Guard::start("T");
        guard.pipe.lock().take();
        let mut child = guard.child.lock().take().expect("it was started");
        assert_eq!(child.wait().expect("a child of ours").code(), Some(1));
    }
}
