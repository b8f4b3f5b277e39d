//! What an operation acts on, and how: tasks, or runs of workflows. Ids are texts here, as the record of an operation keeps them.

use futures::future::join_all;
use tidewheel_engine::command::RunAction;
use tidewheel_engine::id::{RunId, TaskId, TenantId};
use tidewheel_engine::run::act::Event;
use tidewheel_engine::run::head::Phase;
use tidewheel_proto::code::Code;
use tidewheel_proto::{id, rest};

use super::Stored;
use crate::auth::Principal;
use crate::problem::Failure;
use crate::service::filter::{Filter, Resource};
use crate::service::list_tasks::{plan_for, refused};
use crate::service::moving::{self, How, Moved};
use crate::service::task_action::{self, Action};
use crate::service::task_query::{self, Asker};
use crate::service::{run, run_query};
use crate::state::Api;
use crate::text::{run_text, task_text};

/// Tasks changed between two writes of the cursor; as many commands reach the engine together.
const TASKS: usize = 256;
/// Things of any kind in a page, at most.
pub(super) const PAGE: usize = TASKS;
/// Runs changed between two writes of the cursor: each is read first, takes a turn, and may have much open.
const RUNS: usize = 64;
/// Turns of a run that are looked through for an action that an earlier try may have done.
const TURNS: u64 = 64;
/// Tasks of one run that are changed together.
const TOGETHER: usize = 256;

/// What is done, and to what.
pub(super) enum Subject {
    /// To tasks.
    Tasks(Action),
    /// To runs.
    Runs(Verb),
}

/// What is done to a run.
pub(super) enum Verb {
    /// An action of the run itself.
    Act(RunAction),
    /// Another priority for the tasks that it waits for.
    Reprioritise(Action),
    /// Another version of its workflow, and who says so.
    Move(String, How, String),
}

/// What was done to one.
pub(super) enum Acted {
    /// What was asked for.
    Done,
    /// Nothing, as it should be: why.
    Skipped(&'static str),
}

/// What a filter found.
pub(super) struct Page {
    /// Each with whether the action would change it, as far as its row tells.
    pub(super) ids: Vec<(String, bool)>,
    /// There may be more behind this one.
    pub(super) next: Option<String>,
}

/// Checks what an operation is asked for, before it is kept.
pub(super) fn check(api: &Api, caller: &Principal, stored: &Stored) -> Result<(), Failure> {
    match Subject::of(stored)? {
        Subject::Tasks(_) => plan_for(api, caller, &stored.filter).map(drop),
        Subject::Runs(_) => run_query::Plan::of(caller.tenant, &stored.filter, stored.created).map(drop),
    }
}

impl Subject {
    pub(super) fn of(stored: &Stored) -> Result<Subject, Failure> {
        let reason = stored.reason.as_deref();
        let (of_runs, action) = (stored.of_runs, stored.action.as_str());
        Ok(match (of_runs, action) {
            (false, "cancel") => Subject::Tasks(Action::cancel(reason)?),
            (false, "reprioritise") => Subject::Tasks(Action::reprioritise(stored.priority.as_ref())?),
            (false, _) => Subject::Tasks(Action::Retry),
            (true, "reprioritise") => {
                Subject::Runs(Verb::Reprioritise(Action::reprioritise(stored.priority.as_ref())?))
            }
            (true, "move") => {
                let to = stored.to.clone().filter(|to| !to.is_empty()).ok_or_else(|| {
                    Failure::field("/to", "name the version that the runs are to follow, such as 1.2.0 or latest")
                })?;
                let how = match (stored.by_policy, stored.check) {
                    (true, _) => How::ByPolicy,
                    (false, true) => How::Checked,
                    (false, false) => How::Now,
                };
                Subject::Runs(Verb::Move(to, how, stored.by.clone()))
            }
            (true, "accept") => Subject::Runs(Verb::Act(RunAction::Accept(stored.by.as_str().into()))),
            (true, _) => Subject::Runs(Verb::Act(run::action(action, reason)?.ok_or_else(|| {
                let detail =
                    "an action on runs is cancel, terminate, suspend, resume, retry, reprioritise, move or accept";
                Failure::field("/action", detail)
            })?)),
        })
    }

    /// Things changed between two writes of the cursor.
    fn page(&self) -> usize {
        match self {
            Subject::Tasks(_) => TASKS,
            Subject::Runs(_) => RUNS,
        }
    }

    /// An outcome of one thing.
    pub(super) fn item(&self, id: String, outcome: &str, detail: Option<String>) -> rest::OperationItem {
        let (task, run) = self.named(id);
        rest::OperationItem { task, run, outcome: outcome.to_owned(), detail }
    }

    /// One that could not be changed.
    pub(super) fn failure(&self, id: String, detail: String) -> rest::OperationFailure {
        let (task, run) = self.named(id);
        rest::OperationFailure { task, run, detail }
    }

    fn named(&self, id: String) -> (Option<String>, Option<String>) {
        match self {
            Subject::Tasks(_) => (Some(id), None),
            Subject::Runs(_) => (None, Some(id)),
        }
    }

    /// The next page behind the operation's cursor, at most `left`.
    pub(super) async fn find(&self, api: &Api, tenant: TenantId, stored: &Stored, left: u64) -> Result<Page, Failure> {
        let limit = self.page().min(usize::try_from(left).unwrap_or(usize::MAX));
        match self {
            Subject::Tasks(action) => {
                let filter = Filter::parse(Resource::Tasks, &stored.filter).map_err(refused)?;
                // Times that were given as "so long ago" are meant from the start of the operation.
                let asker = Asker { tenant, me: &stored.by, now: stored.created };
                let plan = task_query::plan(&api.runtime.directory(), &asker, &filter).map_err(refused)?;
                let before = stored.cursor.as_deref().and_then(|text| id::parse("task", text));
                let found = task_query::find(api, &plan, before, limit).await?;
                let ids = found.rows.iter().map(|task| (task_text(task.id), action.applies_to(task.state)));
                Ok(Page { ids: ids.collect(), next: found.next.map(|next| task_text(TaskId(next))) })
            }
            Subject::Runs(verb) => {
                let plan = run_query::Plan::of(tenant, &stored.filter, stored.created)?;
                let before = stored.cursor.as_deref().and_then(|text| id::parse("run", text));
                let found = run_query::find(api, &plan, before, limit).await?;
                let ids = found.rows.iter().map(|row| (run_text(row.identity.run), verb.applies_to(row.phase)));
                Ok(Page { ids: ids.collect(), next: found.next.map(|next| run_text(RunId(next))) })
            }
        }
    }

    /// Does it to one. `since`: an earlier try of this operation, which began then, may have done it already; that counts as done.
    pub(super) async fn act(
        &self,
        api: &Api,
        tenant: TenantId,
        id: &str,
        since: Option<u64>,
    ) -> Result<Acted, Failure> {
        match self {
            Subject::Tasks(action) => {
                let task = id::parse("task", id).map(TaskId).ok_or_else(|| Failure::not_found("task", id))?;
                let done = task_action::act(api, tenant, task, action, None).await;
                match (done, since) {
                    (Err(failure), Some(since))
                        if !failure.0.retryable && is_changed(api, tenant, task, action, since).await? =>
                    {
                        Ok(Acted::Done)
                    }
                    (done, _) => done.map(|_| Acted::Done),
                }
            }
            Subject::Runs(verb) => {
                let run = id::parse("run", id).map(RunId).ok_or_else(|| Failure::not_found("run", id))?;
                verb.act(api, tenant, run, since).await
            }
        }
    }
}

/// Whether a task that cannot be changed so any more has been, since the operation began: the work of an earlier try.
async fn is_changed(api: &Api, tenant: TenantId, task: TaskId, action: &Action, since: u64) -> Result<bool, Failure> {
    let found = api.read_store(move |store| store.task(tenant, task)).await?;
    Ok(found.is_some_and(|task| task.changed >= since && !action.applies_to(task.state)))
}

impl Verb {
    /// Whether a run in this phase can be changed so; the engine decides the same way.
    fn applies_to(&self, phase: Phase) -> bool {
        match self {
            Verb::Act(RunAction::Resume | RunAction::Accept(_)) => phase == Phase::Suspended,
            Verb::Act(RunAction::Retry) => phase == Phase::Faulted,
            Verb::Act(RunAction::Suspend(_)) => !phase.ended() && phase != Phase::Suspended,
            _ => !phase.ended(),
        }
    }

    async fn act(&self, api: &Api, tenant: TenantId, run: RunId, since: Option<u64>) -> Result<Acted, Failure> {
        match self {
            Verb::Act(action) => {
                if let Some(since) = since
                    && was_done(api, tenant, run, action, since).await?
                {
                    return Ok(Acted::Done);
                }
                run::act_on(api, tenant, run, action.clone()).await.map(|_| Acted::Done)
            }
            Verb::Reprioritise(action) => reprioritise(api, tenant, run, action).await.map(|()| Acted::Done),
            // One that follows the version already is done.
            Verb::Move(to, how, by) => match moving::one(api, tenant, run, to, *how, by).await? {
                Moved::Done(_) => Ok(Acted::Done),
                Moved::Stays(why) => Ok(Acted::Skipped(why)),
            },
        }
    }
}

/// Whether the journal of a run says that this was done to it since a time.
async fn was_done(api: &Api, tenant: TenantId, run: RunId, action: &RunAction, since: u64) -> Result<bool, Failure> {
    let turns = run::head_of(api, tenant, run).await?.turns;
    let read =
        move |store: &dyn crate::store::Store| store.turns(tenant, run, turns.saturating_sub(TURNS), TURNS as usize);
    let is_it = |event: &Event| {
        matches!(
            (action, event),
            (RunAction::Cancel(_), Event::Cancel { .. })
                | (RunAction::Terminate(_), Event::Terminate { .. })
                | (RunAction::Suspend(_), Event::Suspend { .. })
                | (RunAction::Resume, Event::Resume)
                | (RunAction::Retry, Event::Retry)
                | (RunAction::Accept(_), Event::Accepted { .. })
        )
    };
    Ok(api.read_store(read).await?.iter().any(|turn| turn.now_ms >= since && is_it(&turn.event)))
}

/// Gives the tasks that a run waits for another priority. Those that end meanwhile need none.
async fn reprioritise(api: &Api, tenant: TenantId, run: RunId, action: &Action) -> Result<(), Failure> {
    let head = run::head_of(api, tenant, run).await?;
    if head.phase.ended() {
        let phase = run::phase_name(head.phase);
        return Err(Failure::new(Code::Conflict, format!("the run has already ended: {phase}")));
    }
    for tasks in head.open_tasks().chunks(TOGETHER) {
        for done in join_all(tasks.iter().map(|task| task_action::act(api, tenant, *task, action, None))).await {
            match done {
                Err(failure) if !matches!(failure.code(), Code::NotFound | Code::Conflict) => return Err(failure),
                _ => {}
            }
        }
    }
    Ok(())
}
