//! What a delivery is, how it can end, and what happens next: the pure half of the delivery plane.

mod envelope;
mod fields;
pub mod held;
pub mod policy;
mod reason;
mod step;
mod verdict;

pub use envelope::{AttemptRecord, DeliveryRecord, EnvelopeError, LastError, Origin, Source};
pub use held::{Due, HELD, HOLD, Held};
pub use policy::{MAX_DEFERRED_AGE, Next, RetryPolicy, Tier};
pub use reason::Reason;
pub use step::{Ask, Ending, History, Park, left_to_wait};
pub use verdict::{Certainty, Outcome, Skip, Verdict};
