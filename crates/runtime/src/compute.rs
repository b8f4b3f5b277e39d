//! Threads that take turns of runs which need more time than the loop of a partition can give.
//!
//! So many at a time as there are threads; the others wait. Each answer comes back as a command and is never refused: the run
//! waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};

use parking_lot::Mutex;
use tidewheel_engine::Command;
use tidewheel_engine::effect::Computation;
use tidewheel_engine::run::fold::FoldError;

use crate::Shared;

/// Stack of a thread: values may be nested as deep as the language lets them.
const STACK_BYTES: usize = 8 << 20;

pub(crate) struct Pool {
    sender: mpsc::Sender<Box<Computation>>,
}

impl Pool {
    pub(crate) fn start(shared: &Arc<Shared>) -> Pool {
        let (sender, receiver) = mpsc::channel::<Box<Computation>>();
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..shared.config.computers.max(1) {
            let (shared, receiver) = (shared.clone(), receiver.clone());
            let run = move || {
                loop {
                    let next = receiver.lock().recv();
                    let Ok(work) = next else { return };
                    shared.mailbox.push_always(answer(&work));
                }
            };
            let thread = std::thread::Builder::new().name(format!("turns-{number}")).stack_size(STACK_BYTES);
            if let Err(error) = thread.spawn(run) {
                tracing::error!(%error, "a thread for turns of runs does not start");
            }
        }
        Pool { sender }
    }

    pub(crate) fn ask(&self, work: Box<Computation>) {
        // The threads live as long as this sender.
        let _ = self.sender.send(work);
    }
}

/// What came of it. A turn that ends in a panic is one that cannot be taken: the run stays as it is, for a person.
fn answer(work: &Computation) -> Command {
    let outcome = catch_unwind(AssertUnwindSafe(|| work.run())).unwrap_or_else(|_| {
        tracing::error!(run = %work.run, "a turn of a run ended in a panic");
        Err(FoldError::OutOfFuel)
    });
    Command::TurnComputed { tenant: work.tenant, run: work.run, ticket: work.ticket, outcome: Box::new(outcome) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidewheel_engine::effect::Work;
    use tidewheel_engine::id::{RunId, TenantId};
    use tidewheel_engine::run::act::Event;
    use tidewheel_engine::run::data::Data;
    use tidewheel_engine::run::eval::{Definition, EvalError, Fuel, Json, Scope, Violation};
    use tidewheel_engine::run::head::{Head, Identity, Phase};
    use tidewheel_engine::run::plan::{ExprId, Hints, Intake, ListId, Plan, Profile, SchemaId, Yield};

    use super::*;

    /// A workflow without a statement whose expressions end in a panic.
    #[derive(Debug)]
    struct Broken(Plan);

    impl Definition for Broken {
        fn plan(&self) -> &Plan {
            &self.0
        }
        fn eval(&self, _: ExprId, _: &dyn Scope, _: &mut Fuel) -> Result<Json, EvalError> {
            panic!("as it was told")
        }
        fn check(&self, _: SchemaId, _: &Json, _: &mut Fuel) -> Result<Vec<Violation>, EvalError> {
            Ok(Vec::new())
        }
        fn duration(&self, _: &Json) -> Result<u64, EvalError> {
            Ok(0)
        }
        fn weight(&self) -> usize {
            0
        }
    }

    fn work(input: Intake) -> Computation {
        let plan = Plan {
            hash: [1; 32],
            namespace: "n".into(),
            name: "w".into(),
            version: "1".into(),
            profile: Profile::default(),
            input,
            output: Yield::default(),
            timeout: None,
            root: ListId(0),
            nodes: Vec::new(),
            lists: vec![Vec::new()],
            attributes: Vec::new(),
            definition: ExprId(0),
            hints: Hints::default(),
            version_policy: Default::default(),
        };
        let identity = Arc::new(Identity::new(RunId(5), &plan));
        Computation {
            tenant: TenantId(1),
            run: RunId(5),
            ticket: 9,
            head: Head::new(identity.clone()),
            work: Work::Turn(Event::Start { identity, input: Data::null() }),
            definition: Arc::new(Broken(plan)),
            blobs: Arc::new(BTreeMap::new()),
            now_ms: 1,
            bounds: Default::default(),
        }
    }

    fn outcome(work: &Computation) -> Result<Option<Phase>, FoldError> {
        let Command::TurnComputed { tenant, run, ticket, outcome } = answer(work) else { panic!("another command") };
        assert_eq!((tenant, run, ticket), (TenantId(1), RunId(5), 9));
        (*outcome).map(|turn| turn.map(|turn| turn.head.phase))
    }

    #[test]
    fn a_turn_comes_back_as_a_command() {
        assert_eq!(outcome(&work(Intake::default())), Ok(Some(Phase::Completed)));
    }

    #[test]
    fn a_turn_that_panics_leaves_the_run_as_it_is_and_the_thread_alive() {
        let broken = Intake { from: Some(ExprId(0)), schema: None };
        assert_eq!(outcome(&work(broken)), Err(FoldError::OutOfFuel));
    }
}
