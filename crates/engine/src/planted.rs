//! Bugs planted on purpose, so that the simulator can show that its checkers fail when the engine is wrong.
//!
//! Without the feature `planted` every question is answered `false` at compile time and the branches vanish.

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// One bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Bug { $($(#[$doc])* $name),* }
        impl Bug {
            /// All of them.
            pub const ALL: &'static [Bug] = &[$(Bug::$name),*];
            /// The name for command lines and reports.
            pub fn name(self) -> &'static str { match self { $(Bug::$name => stringify!($name)),* } }
        }
    };
}

bugs! {
    /// The shell reports a commit before the store has synced.
    DropFsync,
    /// Effects leave before their commit returned.
    EffectBeforeCommit,
    /// A result is taken without looking at its token.
    SkipTokenCheck,
    /// The store takes commits of an old epoch.
    SkipEpochCheck,
    /// Timers fire one second early.
    EarlyTimer,
    /// A timer fires although its task was cancelled.
    FireAfterCancel,
    /// A second result for a task is taken.
    DoubleCompletion,
    /// A failed attempt does not give its permit back.
    LostPermit,
    /// The grant does not count the attempt.
    UncountedAttempt,
    /// An id is made a second time after a takeover.
    ReusedId,
    /// The queue's concurrency limit is off by one.
    LimitOffByOne,
    /// A concurrency key's limit is not looked at.
    IgnoredKeyLimit,
    /// The next task of an ordering key is granted while the one before backs off.
    BrokenOrder,
    /// The body hash of an idempotency key is not compared.
    SkippedBodyHash,
    /// An idempotency key is forgotten when its commit returns.
    ForgottenIdempotency,
    /// A lost attempt is not granted again.
    ForgottenLoss,
    /// A session's lease is renewed by a dead stream.
    ImmortalLease,
    /// A success that comes after a cancel was asked for is turned into a failure.
    SuccessBecomesFailure,
    /// A refused submit is stored all the same.
    RefusedButStored,
    /// A window load brings back tasks that are already granted.
    StaleWindow,
    /// A task beyond its time to live is started.
    ExpiredStarts,
    /// The attempt bound is off by one.
    OneAttemptMore,
    /// A reload after a failed commit keeps the old memory.
    NoReload,
    /// The wall clock of a partition goes back.
    WallFallsBack,
    /// A permit that comes back wakes nobody.
    LostWakeUp,
    /// Rates are not looked at.
    IgnoredRate,
    /// The tenant's concurrency limit is not looked at.
    IgnoredTenantLimit,
    /// Waiting raises nobody.
    NoAging,
    /// The turn stays with the tenant that has it.
    UnfairTurns,
    /// A task that does not fit its window is not looked for in the store.
    ForgottenSpill,
    /// A due time beyond the horizon is not remembered.
    ForgottenTimer,
    /// Attempts that nobody claims after a reload stay as they are.
    ForgottenOrphans,
    /// Counter rows leave cancels out.
    Miscounted,
    /// An ordering key is not given free by the end of its task.
    KeptOrder,
    /// A worker's claim of an attempt is taken without a look at its token.
    StaleClaim,
    /// Answers without a change of their own do not wait for the commits under way.
    EffectsOvertake,
    /// What a worker serves is not looked at.
    IgnoredServes,
    /// It is not looked at whether a worker has code for a type.
    IgnoredCode,
    /// An action on a task as its caller saw it is taken, whatever it is by now.
    IgnoredVersion,
    /// A task waits for its key's worker without an end.
    EndlessAffinity,
    /// Lanes that wait for their key's worker take the places of others.
    CrowdingAffinity,
    /// A lane that was left to the store for want of a worker is forgotten when one comes.
    ForgottenAside,
    /// A scan for lanes forgets that something was left to the store after its first read.
    BlindScan,
    /// The lease of a taken item never runs out.
    EndlessLease,
    /// A taken item counts as lost after a reload, as if a worker had it.
    LeaseForgottenByReload,
    /// What comes for a run that is busy is kept by no row.
    ForgottenRunEvent,
    /// The row of what came for a run stays when it was taken in.
    KeptRunEvent,
    /// A timer of a run has no row.
    ForgottenRunTimer,
    /// A head is written whole without its last turn.
    StaleSnapshot,
    /// A run hears twice that another one has ended.
    ChildEndsTwice,
    /// The end of a task that was tried more than once does not reach its run.
    LostStepEnd,
    /// What a run no longer waits for goes on.
    ForgottenCancel,
    /// A run whose first turn is taken elsewhere is not stored.
    StartWithoutHead,
    /// The claim of a start is not kept.
    ForgottenClaim,
    /// What had ended when an activation was given up is told to no other.
    LostNews,
    /// A program is told with each activation once more what the one before was told.
    NewsTwice,
    /// A program that waits for all goes on with the first.
    HastyWait,
    /// A program is not woken by what it waits for.
    DeafProgram,
    /// What a turn of a program was told is told to later activations in another order.
    ReorderedHistory,
    /// A reset leaves the epoch of a program as it was.
    KeptEpoch,
    /// The value of a step is not told.
    DroppedStep,
    /// A page of turns of a program is named and not stored.
    LostPage,
    /// One turn more leaves a program than the page has that takes them in.
    ShortPage,
    /// A run that completes undoes what it did.
    UndoAfterEnd,
    /// What was done first is undone first.
    UndoInOrder,
    /// What a saga did since the moment to which a reset goes back is not undone.
    ForgottenGivenUp,
    /// What a saga did that has ended well is not undone by a reset to before it.
    EndedSagaKept,
    /// A run that was forked, and goes back to before that, undoes what the other run had done.
    ForeignUndo,
    /// What was still to be undone is undone although a reset keeps it.
    KeptAndUndone,
    /// A step of a saga that failed is undone with the others.
    UndoOfFailedStep,
    /// A saga that ended well is undone when its run fails later.
    UndoAfterSaga,
    /// An undo is given what its saga was given, not what its step gave.
    UndoOfOther,
    /// What comes after a saga that failed begins before all of it is undone.
    HastyCatch,
    /// What is being undone is forgotten when a run is read back into memory.
    UndoLostByReload,
    /// A run moves to a version that has no place for what it stands in.
    UncheckedMove,
    /// A run moves because its history fitted, although it went on since.
    StaleRehearsal,
    /// Whether a run fits another version is asked before what came first is taken in.
    HastyMove,
    /// A move that is refused is made all the same.
    RefusedAndMoved,
    /// The head of a run is not written whole with its move.
    MoveWithoutHead,
    /// A run that is read back into memory follows the newest version.
    LatestByReload,
    /// A program whose replay differs from its history is replayed again, without an end.
    MismatchGoesOn,
    /// A move lets a run go on that a person holds.
    MoveEndsHold,
    /// That a difference was accepted is not told to the next replay.
    ForgottenAccept,
    /// What failed in a `try` is tried once more than its policy says.
    TriedOnceMore,
}

/// Which bug is planted, if any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    #[cfg(feature = "planted")]
    bug: Option<Bug>,
}

impl Planted {
    /// Plants one.
    #[cfg(feature = "planted")]
    pub fn plant(bug: Bug) -> Planted {
        Planted { bug: Some(bug) }
    }

    /// Whether this one is planted.
    #[cfg(feature = "planted")]
    pub fn has(self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Whether this one is planted: never, in the product.
    #[cfg(not(feature = "planted"))]
    #[inline(always)]
    pub fn has(self, _bug: Bug) -> bool {
        false
    }
}
