//! One lane: what it holds, when it starts the next request, what it learns from answers.

use std::{collections::VecDeque, time::Duration};

use super::{
    BATCH_LINGER, Deferral, FAST_INTERVAL, FASTEST_INTERVAL, FORGET, LEAST_LATENCY, LEAST_SHARE,
    LaneLimits, Listed, MAX_BATCH_QUEUE, MAX_BLOCK, MAX_CROWDED_WAIT, MAX_LANE_WAIT,
    MAX_STALLED_WAIT, MUCH_SLOWER, Moment, PATIENCE, PROVEN_QUEUE, Report, SLOWER, STALL_PROVEN,
    STALL_UNPROVEN, TURNS, UNPROVEN_QUEUE, UNPROVEN_WINDOW,
    circuit::{Circuit, Gate},
    near::Distance,
    smooth,
};
use crate::delivery::{Reason, Source};

#[derive(Debug)]
pub(super) struct Lane<K, T> {
    pub(super) key: K,
    pub(super) generation: u64,
    pub(super) limits: LaneLimits,
    /// What waits, by what made this program deliver it.
    queues: [VecDeque<T>; Source::ALL.len()],
    /// How many requests were started, for whose turn it is.
    turn: usize,
    pub(super) running: u32,
    pub(super) window: u32,
    pub(super) proven: bool,
    pub(super) tokens: f64,
    pub(super) tokens_at: Moment,
    pub(super) circuit: Circuit,
    pub(super) held: Option<i64>,
    /// The newest version of the connector that was seen.
    version: Option<i64>,
    /// Until when others are known that the open circuit can ask with, instead of one that its
    /// failure would end.
    spare_until: Moment,
    pub(super) blocked_until: Moment,
    pub(super) first_start: Option<Moment>,
    pub(super) last_start: Moment,
    pub(super) last_progress: Moment,
    pub(super) last_finish: Option<Moment>,
    /// When the lane last got something to do after it had nothing.
    pub(super) busy_since: Moment,
    /// Smoothed seconds per request.
    pub(super) latency: f64,
    /// Seconds of the quickest request.
    pub(super) quickest: f64,
    /// How far away its destination is, if that is not known together with others'.
    pub(super) distance: Distance,
    /// Smoothed seconds between finished requests while there is work, without those in which the
    /// lane could have started one and waited for its turn.
    pub(super) interval: f64,
    /// How long it has waited for turns since the last finished request.
    in_line: Duration,
    /// When the lane expects to have worked off what it handed back.
    pub(super) spilled_until: Moment,
    pub(super) listed: Listed,
    pub(super) used_at: Moment,
}

impl<K, T> Lane<K, T> {
    pub(super) fn new(key: K, generation: u64, limits: LaneLimits, now: Moment) -> Self {
        Self {
            key,
            generation,
            limits,
            queues: [const { VecDeque::new() }; Source::ALL.len()],
            turn: 0,
            running: 0,
            window: UNPROVEN_WINDOW.min(limits.concurrency).max(1),
            proven: false,
            tokens: limits.rate.map_or(0.0, |rate| f64::from(rate.burst)),
            tokens_at: now,
            circuit: Circuit::default(),
            held: None,
            version: None,
            spare_until: Moment::ZERO,
            blocked_until: Moment::ZERO,
            first_start: None,
            last_start: Moment::ZERO,
            last_progress: now,
            last_finish: None,
            busy_since: now,
            latency: 0.0,
            quickest: f64::INFINITY,
            distance: Distance::UNKNOWN,
            interval: 0.0,
            in_line: Duration::ZERO,
            spilled_until: Moment::ZERO,
            listed: Listed::No,
            used_at: now,
        }
    }

    /// How many deliveries wait.
    pub(super) fn waiting(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    /// Whether the lane may not take one more of this source. Retries may fill half of what live
    /// deliveries may, replays a quarter, so that neither keeps the others out.
    pub(super) fn is_full(&self, source: Source, share: Option<usize>, now: Moment) -> bool {
        if self.circuit.gate(now) == Gate::Probe {
            return self.waiting() >= 1;
        }
        let capacity = match share {
            Some(share) if self.expected_wait() > MAX_CROWDED_WAIT => {
                self.capacity(now).min(share.max(LEAST_SHARE))
            }
            _ => self.capacity(now),
        };
        let own = match source {
            Source::Live => capacity,
            Source::Retry => capacity.div_ceil(2),
            Source::Replay => capacity.div_ceil(4),
        };
        self.queues[source.index()].len() >= own
    }

    /// A newer version of the connector may have another destination: what was learned of the one
    /// before holds nothing up any more.
    pub(super) fn see_version(&mut self, version: i64) {
        if self.version.is_some_and(|known| known < version) {
            self.circuit = Circuit::default();
            self.blocked_until = Moment::ZERO;
            self.held = None;
        }
        self.version = self.version.max(Some(version));
    }

    /// Whether the open circuit does not take this one, and remembers that it could.
    pub(super) fn is_at_rest(&mut self, is_last: bool, now: Moment) -> bool {
        match self.circuit.gate(now) {
            Gate::Open => false,
            Gate::Probe => self.waiting() > 0 || (is_last && now < self.spare_until),
            Gate::Shut => {
                if !is_last {
                    self.note_spare();
                }
                true
            }
        }
    }

    fn note_spare(&mut self) {
        self.spare_until = self.circuit.opens_at() + self.circuit.rest();
    }

    /// How long the destination is still left alone.
    pub(super) fn rest_left(&self, now: Moment) -> Duration {
        self.circuit.opens_at().max(self.blocked_until).saturating_sub(now)
    }

    /// Counts one more request, and tells how long it has to wait for that.
    pub(super) fn spend(&mut self, now: Moment) -> Duration {
        let Some(rate) = self.limits.rate else { return Duration::ZERO };
        self.refill(now);
        let missing = (1.0 - self.tokens).max(0.0) / rate.per_second.max(1e-6);
        self.tokens -= 1.0;
        let wait = Duration::from_secs_f64(missing.min(3600.0));
        // That it waits for its turn is not the destination's fault.
        self.last_progress = now + wait;
        wait
    }

    fn block(&mut self, after: Duration, now: Moment) {
        self.blocked_until = self.blocked_until.max(now + after.min(MAX_BLOCK));
    }

    /// Puts a delivery behind those of its source.
    pub(super) fn push(&mut self, source: Source, item: T) {
        self.queues[source.index()].push_back(item);
    }

    /// Takes every waiting delivery out that matches.
    pub(super) fn drain(&mut self, matches: &mut impl FnMut(&T) -> bool, drained: &mut Vec<T>) {
        for queue in &mut self.queues {
            if queue.iter().any(&mut *matches) {
                for item in std::mem::take(queue) {
                    if matches(&item) { drained.push(item) } else { queue.push_back(item) }
                }
            }
        }
    }

    /// How long the last one that waits will wait.
    fn expected_wait(&self) -> Duration {
        let ahead = self.step() * f64::from(u32::try_from(self.waiting()).unwrap_or(u32::MAX));
        Duration::from_secs_f64(ahead.min(3600.0))
    }

    /// Where it stands in line from now on.
    pub(super) fn list_as(&mut self, listed: Listed, now: Moment) {
        if let Listed::Ready(since) = self.listed {
            self.in_line += now.saturating_sub(since);
        }
        self.listed = listed;
    }

    /// Seconds from one request to the next at present, as far as the destination decides it. Where
    /// this program is what there is too little of, no destination is to blame.
    pub(super) fn pace(&self) -> f64 {
        let rate = self.limits.rate.map_or(0.0, |rate| 1.0 / rate.per_second.max(1e-6));
        self.interval.max(rate).max(self.latency / f64::from(self.window))
    }

    /// Seconds that one delivery takes at present, if batches are full.
    pub(super) fn step(&self) -> f64 {
        let batch = f64::from(u32::try_from(self.limits.batch_items.max(1)).unwrap_or(u32::MAX));
        self.pace() / batch
    }

    pub(super) fn capacity(&self, now: Moment) -> usize {
        if self.is_stalled(now) {
            return 0;
        }
        let batch = self.limits.batch_items.max(1);
        let in_time = MAX_LANE_WAIT.as_secs_f64() / self.step().max(1e-6) + self.tokens;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let in_time = in_time as usize;
        if self.proven {
            let most = match batch {
                1 => *PROVEN_QUEUE.end(),
                _ => (2 * batch).min(MAX_BATCH_QUEUE),
            };
            // How fast a destination without a published rate is, is measured; on a machine that is
            // short of CPU it looks slow, so it is not held to less than one that is not known yet.
            let least = match self.limits.rate {
                Some(_) => *PROVEN_QUEUE.start(),
                None => UNPROVEN_QUEUE,
            };
            in_time.clamp(least, most.max(least))
        } else {
            in_time.clamp(1, UNPROVEN_QUEUE)
        }
    }

    /// How long the destination asked to be left alone, when that is too long to wait here.
    pub(super) fn long_pause(&self, now: Moment) -> Option<Duration> {
        Some(self.blocked_until.saturating_sub(now)).filter(|pause| *pause > MAX_LANE_WAIT)
    }

    pub(super) fn is_worth_waiting(&self, patient: bool, now: Moment) -> bool {
        if self.proven {
            let fast = if patient { FAST_INTERVAL } else { FASTEST_INTERVAL };
            !self.is_stalled(now) && self.pace() <= fast.as_secs_f64()
        } else {
            let unlimited = self.limits.rate.is_none_or(|rate| rate.per_second >= 100.0);
            patient
                && unlimited
                && self.first_start.is_none_or(|at| now.saturating_sub(at) < PATIENCE)
        }
    }

    pub(super) fn is_stalled(&self, now: Moment) -> bool {
        let patience = if self.proven {
            Duration::from_secs_f64((self.latency * 4.0).min(3600.0))
                .clamp(*STALL_PROVEN.start(), *STALL_PROVEN.end())
        } else {
            STALL_UNPROVEN
        };
        self.running > 0 && now.saturating_sub(self.last_progress) > patience
    }

    pub(super) fn refill(&mut self, now: Moment) {
        if let Some(rate) = self.limits.rate {
            let passed = now.saturating_sub(self.tokens_at).as_secs_f64();
            self.tokens =
                (self.tokens + passed * rate.per_second).min(f64::from(rate.burst.max(1)));
        }
        self.tokens_at = now;
    }

    /// When the lane may start its next request; `None` when that depends on one that runs.
    pub(super) fn start_at(&mut self, now: Moment) -> Option<Moment> {
        if self.running >= self.window || self.held.is_some() {
            return None;
        }
        let circuit = match self.circuit.gate(now) {
            Gate::Open => now,
            Gate::Probe if self.running == 0 => now,
            Gate::Probe => return None,
            Gate::Shut => self.circuit.opens_at(),
        };
        self.refill(now);
        let tokens = match self.limits.rate {
            Some(rate) if self.tokens < 1.0 => {
                let missing = (1.0 - self.tokens) / rate.per_second.max(1e-6);
                now + Duration::from_secs_f64(missing.min(3600.0)) + Duration::from_micros(1)
            }
            _ => now,
        };
        let is_full = self.waiting() >= self.limits.batch_items;
        let company =
            if is_full || self.running == 0 { now } else { self.last_start + BATCH_LINGER };
        Some(circuit.max(tokens).max(self.blocked_until).max(company))
    }

    pub(super) fn take(&mut self, now: Moment) -> Vec<T> {
        let most = self.limits.batch_items.max(1);
        let first = TURNS[self.turn % TURNS.len()];
        self.turn = self.turn.wrapping_add(1);
        // Whose turn it is, then the others in their order, until the request is full.
        let others = Source::ALL.iter().copied().filter(|source| *source != first);
        let mut items = Vec::with_capacity(most.min(self.waiting()));
        for source in std::iter::once(first).chain(others) {
            let queue = &mut self.queues[source.index()];
            items.extend(queue.drain(..(most - items.len()).min(queue.len())));
        }
        if self.limits.rate.is_some() {
            self.tokens -= 1.0;
        }
        if self.running == 0 {
            self.last_progress = now;
        }
        self.first_start.get_or_insert(now);
        self.last_start = now;
        self.running += 1;
        self.used_at = now;
        items
    }

    pub(super) fn finish(&mut self, started: Moment, report: Report, now: Moment) {
        self.running = self.running.saturating_sub(1);
        self.last_progress = now;
        self.used_at = now;
        // What counts as waiting for its turn goes on, for the next request.
        if matches!(self.listed, Listed::Ready(_)) {
            self.list_as(Listed::Ready(now), now);
        }
        let in_line = std::mem::take(&mut self.in_line);
        let was_busy = self.last_finish.is_some_and(|at| at >= started) || self.waiting() > 0;
        match report {
            Report::Working => {
                self.circuit.worked();
                if !self.proven {
                    // What was thought while it had not answered yet counts no more.
                    self.spilled_until = Moment::ZERO;
                    self.proven = true;
                }
                let latency = now.saturating_sub(started).as_secs_f64();
                smooth(&mut self.latency, latency);
                self.adapt_window(latency);
                // A pause in which there was nothing to do says nothing of the destination.
                let since = self.last_finish.unwrap_or(started).max(self.busy_since);
                let gap = now.saturating_sub(since).saturating_sub(in_line).as_secs_f64();
                smooth(&mut self.interval, if was_busy { gap } else { latency });
            }
            Report::SlowDown(after) => {
                self.block(after.unwrap_or(Duration::from_secs(1)), now);
                self.window = (self.window / 2).max(1);
            }
            Report::Failing(after) => {
                self.window = (self.window / 2).max(1);
                self.circuit.failed(now);
                if let Some(after) = after {
                    self.block(after, now);
                }
            }
            Report::Broken { version } => self.held = Some(version),
            Report::Unused => {}
        }
        self.last_finish = Some(now);
    }

    /// Opens the window while answers stay quick, and closes it when they get slow.
    pub(super) fn adapt_window(&mut self, latency: f64) {
        self.quickest = (self.quickest * FORGET).min(latency.max(LEAST_LATENCY));
        // A full batch takes longer than a small one; that says nothing of how many are too many.
        if self.limits.batch_items > 1 || latency <= self.quickest * SLOWER {
            self.window += 1;
        } else if latency > self.quickest * MUCH_SLOWER {
            self.window = self.window.saturating_sub(1);
        }
        self.window = self.window.clamp(1, self.limits.concurrency.max(1));
    }

    pub(super) fn defer(&mut self, item: T, now: Moment) -> Deferral<T> {
        let mut step = Duration::from_secs_f64(self.step().clamp(0.001, 60.0));
        let mut latest = Duration::MAX;
        if self.is_stalled(now) {
            // No better than this is known, and what is put off for too short comes back in vain.
            step = step.max(now.saturating_sub(self.last_progress) / self.running.max(1));
            latest = now + MAX_STALLED_WAIT;
        }
        let ahead = step * u32::try_from(self.waiting()).unwrap_or(u32::MAX).min(100_000);
        let soonest = (now + ahead).max(self.blocked_until);
        self.spilled_until = (self.spilled_until.max(soonest) + step).min(latest);
        Deferral { item, reason: Reason::LaneFull, wait: self.spilled_until.saturating_sub(now) }
    }

    pub(super) fn evict(&mut self, reason: Reason, now: Moment) -> Vec<Deferral<T>> {
        let items: Vec<T> = self.queues.iter_mut().flat_map(|queue| queue.drain(..)).collect();
        let rest = self.rest_left(now);
        if reason == Reason::CircuitOpen && !items.is_empty() {
            self.note_spare();
        }
        let deferral = |item| match reason {
            Reason::LaneFull => self.defer(item, now),
            Reason::RateLimited => {
                Deferral { item, reason, wait: self.blocked_until.saturating_sub(now) }
            }
            Reason::CircuitOpen => Deferral { item, reason, wait: rest },
            _ => Deferral { item, reason, wait: Duration::ZERO },
        };
        items.into_iter().map(deferral).collect()
    }
}
