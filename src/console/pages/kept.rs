//! A look at the logs that is shared by all requests within a while: many browsers that follow a
//! page cost as one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use crate::clock::{self, Timestamp};

/// How long a look is shown at least: a little less than browsers wait between two of theirs.
const SHORTEST: Duration = Duration::from_secs(4);
/// A look that took long is shown so many times as long, so that looking takes a bounded part of a
/// core however much there is to look at.
const TIMES: u32 = 30;
/// How long a look is shown at most.
const LONGEST: Duration = Duration::from_secs(60);

/// The last look.
pub struct Kept<T>(Mutex<Option<Look<T>>>);

struct Look<T> {
    /// Until when it is shown.
    until: Instant,
    at: Timestamp,
    what: Arc<T>,
}

impl<T> Kept<T> {
    /// None yet.
    pub fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// What was looked at lately, and when; a request during a look waits for it.
    pub async fn get<E>(
        &self,
        look: impl Future<Output = Result<T, E>>,
    ) -> Result<(Arc<T>, Timestamp), E> {
        let mut kept = self.0.lock().await;
        if let Some(look) = kept.as_ref().filter(|look| Instant::now() < look.until) {
            return Ok((Arc::clone(&look.what), look.at));
        }
        let (began, at) = (Instant::now(), clock::now());
        let what = Arc::new(look.await?);
        let until = Instant::now() + shown_for(began.elapsed());
        *kept = Some(Look { until, at, what: Arc::clone(&what) });
        Ok((what, at))
    }
}

/// How long a look that took so long is shown.
fn shown_for(took: Duration) -> Duration {
    took.saturating_mul(TIMES).clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn a_look_that_takes_long_is_shown_for_longer() {
        let shown = |millis| shown_for(Duration::from_millis(millis));
        assert_eq!(shown(5), SHORTEST);
        assert_eq!(shown(700), Duration::from_secs(21));
        assert_eq!(shown(30_000), LONGEST);
    }

    #[tokio::test]
    async fn all_who_ask_at_once_are_shown_one_look_and_an_error_is_not_kept() {
        let kept = Kept::new();
        let failed = kept.get(async { Err::<u32, _>("away") }).await;
        assert_eq!(failed.map(|(what, _)| *what), Err("away"));
        let looks = std::sync::atomic::AtomicU32::new(0);
        let ask = || {
            kept.get(async {
                tokio::task::yield_now().await;
                Ok::<_, Infallible>(looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
            })
        };
        let (one, other) = tokio::join!(ask(), ask());
        assert_eq!((*one.unwrap().0, *other.unwrap().0), (0, 0));
    }
}
