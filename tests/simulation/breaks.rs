//! Deliberate breaks: each makes the shell that the simulation plays ignore, or get wrong, one
//! thing that the product decides or promises. None of it is in the product, so none of it can be
//! switched on there.

use crate::ledger::{AS_ONE, IN_HISTORY, IN_NOTICES, ONE_OUTCOME};

/// What is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Break {
    /// A delivery counts as done although its retry record was not written.
    JumpsOverFailure,
    /// A partition that is given up is not committed: only the timer commits.
    CommitsOnTimerOnly,
    /// A partition that has too many incomplete offsets reads on.
    NoCap,
    /// A completion of an earlier assignment is taken for one of the present.
    OldEpochAccepted,
    /// The end of the state topic is thought to be reached when its last offset was seen as a record.
    LastOffsetIsCaughtUp,
    /// The steps through the tiers are not counted.
    NoAttemptCap,
    /// The fold takes what comes, whatever it knows already.
    SecondDecisionFolded,
    /// An instance works before its view has caught up.
    WorksWithOldView,
    /// A registrar decides before it has what earlier owners wrote.
    TakesOverBlindly,
    /// A registrar looks up how far decisions went only when it takes over.
    LooksUpOnce,
    /// The results of rejected commands are written last.
    RejectedLast,
    /// The results of accepted commands are written first.
    AcceptedFirst,
    /// The history of what is accepted is written behind the state.
    HistoryLast,
    /// Notices are written behind the state.
    NoticesLast,
    /// A registrar that takes over answers nothing again.
    NothingAgain,
    /// The registrar believes that every project may have any number of connectors.
    NoTierLimit,
    /// What stands in the wrong order in the state topic is left so.
    NoRepairs,
    /// What has to be repaired is remembered until the next record, a take-over or a crash.
    RepairsForgotten,
    /// "Slow down" is taken for a plain failure.
    RetryAfterIgnored,
    /// A commit counts as acknowledged although no answer came.
    LostAnswerCounts,
    /// What a lane hands back is kept in memory until the lane takes it.
    HoardsInMemory,
    /// The request to suspend a connector is sent once, whether it arrives or not.
    SuspensionForgotten,
    /// A record of a retry tier is taken up before it is due.
    NotDueTaken,
    /// What is dropped when a partition is given up counts as done.
    DroppedIsDone,
    /// Who takes a partition over ignores what was done beyond the watermark.
    MapIgnored,
    /// A view that stood still for days goes on from where it was.
    StaleViewKept,
    /// What was decided before is decided again when it comes again.
    RepeatsDecided,
    /// Offsets count, whichever topic they are of.
    NumbersOfAnotherTopic,
    /// It is not remembered which command deleted a connector.
    DeletedForgotten,
}

impl Break {
    /// Each break with the invariants of which one must fail.
    pub const ALL: &[(Self, &[&str])] = &[
        (Self::JumpsOverFailure, &["no commit passes unfinished work", "no pair is lost"]),
        (Self::CommitsOnTimerOnly, &["every repeat is explained"]),
        (Self::NoCap, &["at most 1,000 offsets are incomplete"]),
        (Self::OldEpochAccepted, &["no commit passes unfinished work"]),
        (Self::LastOffsetIsCaughtUp, &["everything comes to rest"]),
        (Self::NoAttemptCap, &["attempts are bounded", "everything comes to rest"]),
        // Who decides by such a view may decide otherwise.
        (Self::SecondDecisionFolded, &["every view is the same", AS_ONE]),
        (Self::WorksWithOldView, &["no pair is lost"]),
        (Self::TakesOverBlindly, &[AS_ONE, ONE_OUTCOME, "the tier's limit holds"]),
        (Self::LooksUpOnce, &[AS_ONE, ONE_OUTCOME, "the tier's limit holds"]),
        (Self::RejectedLast, &["every command ends with a result"]),
        (Self::AcceptedFirst, &["an accepted result means durable state"]),
        (Self::HistoryLast, &[IN_HISTORY]),
        (Self::NoticesLast, &[IN_NOTICES]),
        (Self::NothingAgain, &["every command ends with a result", ONE_OUTCOME]),
        (Self::NoTierLimit, &[AS_ONE, "the tier's limit holds"]),
        (Self::NoRepairs, &["every view is the same"]),
        (Self::RepairsForgotten, &["every view is the same"]),
        (Self::RetryAfterIgnored, &["a destination is left alone for as long as it asked"]),
        (
            Self::LostAnswerCounts,
            &["repeats stay within the stated bound", "every repeat is explained"],
        ),
        (Self::HoardsInMemory, &["memory is bounded", "everything comes to rest"]),
        (
            Self::SuspensionForgotten,
            &["a broken connector is suspended", "a broken connector is not called"],
        ),
        (Self::NotDueTaken, &["nothing is tried before it is due"]),
        (Self::DroppedIsDone, &["no commit passes unfinished work", "no pair is lost"]),
        (Self::MapIgnored, &["every repeat is explained", "no commit goes back"]),
        (Self::StaleViewKept, &["every view is the same"]),
        (Self::RepeatsDecided, &[AS_ONE, ONE_OUTCOME]),
        (Self::NumbersOfAnotherTopic, &["every command ends with a result", AS_ONE]),
        (Self::DeletedForgotten, &["every view is the same", "everything comes to rest", AS_ONE]),
    ];
}
