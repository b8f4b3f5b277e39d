//! Command lines: started when a permit is free, listened to, forgotten. Part of the runner's one task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tidewheel_proto::builtin;

use super::{Event, Runner, Shell, child_env, limits_of, remove_later};
use crate::attempt::{AttemptId, Phase};
use crate::shell::{self, ShellSaid};

impl Runner {
    pub(super) fn free_permits(&self) -> usize {
        (self.tools.config.permits as usize).saturating_sub(self.pool.busy() + self.shells.len())
    }

    pub(super) fn start_shells(&mut self, now: Instant) {
        self.shell_served = now;
        while self.free_permits() > 0
            && let Some(id) = self.shell_queue.pop_front()
        {
            let Some(attempt) = self.attempts.get_mut(id) else { continue };
            let command = match parsed(&attempt.grant.r#type, &attempt.grant.input) {
                Ok(command) => command,
                Err(fault) => {
                    self.settle(id, Err(fault));
                    continue;
                }
            };
            let isolated = match self.tools.sandbox.decide(self.require_isolation) {
                Ok(isolated) => isolated,
                Err(fault) => {
                    self.settle(id, Err(fault));
                    continue;
                }
            };
            attempt.phase = Phase::Shell;
            attempt.began = Some(now);
            self.outgoing.started.push(attempt.grant.token.clone());
            let limits = limits_of(&attempt.grant, &self.tools.config.limits);
            let work = match self.tools.make_work(&format!("s{id}")) {
                Ok(work) => work,
                Err(fault) => {
                    self.settle(id, Err(fault));
                    continue;
                }
            };
            let muted = Arc::new(AtomicBool::new(false));
            let place = shell::Place {
                spawner: self.tools.spawner.clone(),
                sandbox: isolated.then(|| self.tools.sandbox.clone()),
                limits,
                work: work.clone(),
                env: child_env(&work, isolated),
                muted: muted.clone(),
            };
            self.shells.insert(id, Shell { tree: None, muted, work });
            tokio::spawn(shell::run(command, place, self.events.clone(), move |said| Event::Shell(id, said)));
        }
    }

    pub(super) fn shell_said(&mut self, id: AttemptId, said: ShellSaid) {
        match said {
            ShellSaid::Began(tree) => {
                if let Some(shell) = self.shells.get_mut(&id) {
                    shell.tree = Some(tree);
                }
            }
            ShellSaid::Lines(lines) => {
                for (stream, text) in lines {
                    if self.log(id, stream.as_str(), "info", text, 0)
                        && let Some(shell) = self.shells.get(&id)
                    {
                        shell.muted.store(true, Ordering::Relaxed);
                    }
                }
            }
            ShellSaid::Done(outcome) => {
                if let Some(shell) = self.shells.remove(&id) {
                    remove_later(shell.work);
                }
                self.settle(id, outcome);
            }
        }
    }
}

/// The command line of a task.
fn parsed(kind: &str, input: &[u8]) -> Result<shell::Command, crate::error::Fault> {
    if kind == builtin::SHELL { shell::parse(input) } else { crate::script::parse(kind, input) }
}
