//! The one path to an HTTP request: what must be asked first, the request, and what its answer means.

mod with_token;

use std::{
    borrow::Cow,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::HeaderName;
use parking_lot::Mutex;

use super::{TRACEPARENT, credentials::Token, dispatch::Dispatcher};
use crate::{
    clock,
    delivery::{Reason, Source, Verdict},
    destination::{Destination, Item, MAX_SETUP_STEPS, Request, Response, Setup},
    event::Event,
    id::DeliveryId,
    lane::Ticket,
    outbound::{Connection, SendError},
    telemetry::{Attempt, Step},
    view::Target,
};

/// What a request said of one delivery.
#[derive(Debug)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// The response's status, when there was a response.
    pub status: Option<u16>,
    /// How long the request took, when one was made.
    pub duration: Option<Duration>,
}

/// The verdict on a delivery for which no request was made.
pub(super) fn unsent(verdict: Verdict) -> Judged {
    Judged { verdict, status: None, duration: None }
}

/// Sends requests for one connector.
pub(super) struct Sender<'a> {
    dispatcher: &'a Arc<Dispatcher>,
    target: &'a Target,
    timeout: Duration,
    source: Source,
    /// An owner's trial: its refusals are not held against other connectors of the type.
    is_trial: bool,
    /// The start that it sends for; none outside of any lane.
    ticket: Option<Ticket>,
    /// Whether it has sent the request that its lane let go.
    has_sent: AtomicBool,
    /// The tokens that its requests had, where a credential makes them: an answer may quote an
    /// earlier one. The last one is behind.
    tokens: Mutex<VecDeque<Arc<Token>>>,
}

/// Why there is no answer.
enum Silence {
    /// None came.
    Lost(SendError),
    /// There is no access token, so nothing was sent.
    NoToken(Verdict),
}

impl Silence {
    fn was_kept(&self) -> bool {
        matches!(self, Self::Lost(error) if error.was_kept)
    }
}

impl<'a> Sender<'a> {
    pub(super) fn new(
        dispatcher: &'a Arc<Dispatcher>,
        target: &'a Target,
        timeout: Duration,
        source: Source,
        ticket: Option<Ticket>,
    ) -> Self {
        let has_sent = AtomicBool::new(false);
        let tokens = Mutex::default();
        Self { dispatcher, target, timeout, source, is_trial: false, ticket, has_sent, tokens }
    }

    /// What the destination needs to know first; asked once and kept.
    pub(super) async fn set_up(&self, destination: &dyn Destination) -> Result<Arc<str>, Verdict> {
        if let Some(setup) = self.target.setup.lock().clone() {
            return Ok(setup);
        }
        let found = self.ask(|answers| Some(destination.setup(answers))).await?.unwrap_or_default();
        *self.target.setup.lock() = Some(Arc::clone(&found));
        Ok(found)
    }

    /// What the destination finds out by its questions; `None` when it has none.
    async fn ask(
        &self,
        next: impl Fn(&[Response]) -> Option<Setup> + Sync,
    ) -> Result<Option<Arc<str>>, Verdict> {
        let mut answers: Vec<Response> = Vec::new();
        let mut connection = Connection::Kept;
        while answers.len() <= MAX_SETUP_STEPS {
            let request = match guarded(|| next(&answers))? {
                None => return Ok(None),
                Some(Setup::Ready(text)) => return Ok(Some(text)),
                Some(Setup::Failed(verdict)) => return Err(self.redacted(&answers, verdict)),
                Some(Setup::Ask(request)) => request,
            };
            let again = || match guarded(|| next(&answers)) {
                Ok(Some(Setup::Ask(request))) => Some(request),
                _ => None,
            };
            let (sent, _) = self.send(request, connection, &again).await;
            match sent {
                // Here the body is what was asked for.
                Ok(response) if response.is_incomplete => {
                    let reason = Reason::ConnectionLost;
                    return Err(Verdict::retry(reason, reason.help()));
                }
                Ok(response) => {
                    answers.push(response);
                    connection = Connection::Kept;
                }
                // The same once more: nothing was answered.
                Err(silence) if silence.was_kept() && connection == Connection::Kept => {
                    connection = Connection::New;
                }
                Err(Silence::NoToken(verdict)) => return Err(verdict),
                Err(Silence::Lost(error)) => {
                    let verdict = Verdict::retry(error.reason, error.detail);
                    return Err(self.redacted(&[], verdict));
                }
            }
        }
        Err(Verdict::dead(Reason::Bug, "the destination asks without end"))
    }

    /// How many of these items, from the first on, make up one request.
    fn batch_size(destination: &dyn Destination, items: &[Item<'_>]) -> usize {
        let Some(batching) = destination.batching() else { return 1 };
        let most = items.len().min(batching.limits().items.max(1));
        let joins = |next: &usize| {
            guarded(|| batching.takes(&items[..*next], &items[*next])).unwrap_or(false)
        };
        (1..most).take_while(joins).last().map_or(1, |last| last + 1)
    }

    /// Items in as many requests as they need; one judgement for each.
    pub(super) async fn exchange_groups(
        &self,
        destination: &dyn Destination,
        items: &[Item<'_>],
        traceparents: &[Option<&str>],
    ) -> Vec<Judged> {
        let mut judged: Vec<Option<Judged>> = items.iter().map(|_| None).collect();
        // Groups of items still to be sent, the next one last.
        let mut groups: Vec<Vec<usize>> = vec![(0..items.len()).collect()];
        while let Some(mut group) = groups.pop() {
            let members: Vec<Item<'_>> = group.iter().map(|index| items[*index]).collect();
            let size = Self::batch_size(destination, &members);
            if size < group.len() {
                groups.push(group.split_off(size));
            }
            let traces: Vec<Option<&str>> =
                group.iter().map(|index| traceparents[*index]).collect();
            let answers = self.exchange(destination, &members[..size], &traces).await;
            let mut again = Vec::new();
            for (index, answer) in group.iter().zip(answers) {
                if size > 1 && answer.verdict.asks_to_split() {
                    again.push(*index);
                }
                judged[*index] = Some(answer);
            }
            if again.len() == size && size > 1 {
                // The answer does not say which item is at fault; the halves will.
                groups.push(again.split_off(size / 2));
            }
            if !again.is_empty() {
                groups.push(again);
            }
        }
        judged
            .into_iter()
            .map(|judged| {
                judged.unwrap_or_else(|| unsent(Verdict::dead(Reason::Bug, "no verdict")))
            })
            .collect()
    }

    /// One request, and what must be asked before it, and what it means for each item.
    pub(super) async fn exchange(
        &self,
        destination: &dyn Destination,
        items: &[Item<'_>],
        traceparents: &[Option<&str>],
    ) -> Vec<Judged> {
        if matches!(guarded(|| destination.lookup(items, &[])), Ok(None)) {
            return self.deliver(destination, items, traceparents).await;
        }
        // Boxed, so that it adds nothing to the tasks of the many that ask nothing.
        Box::pin(self.ask_and_deliver(destination, items, traceparents)).await
    }

    /// What must be asked for these items, then their request.
    async fn ask_and_deliver(
        &self,
        destination: &dyn Destination,
        items: &[Item<'_>],
        traceparents: &[Option<&str>],
    ) -> Vec<Judged> {
        let found = match self.ask(|answers| destination.lookup(items, answers)).await {
            Ok(found) => found,
            Err(verdict) => return items.iter().map(|_| unsent(verdict.clone())).collect(),
        };
        let items: Vec<Item<'_>> = items
            .iter()
            .map(|item| Item { setup: found.as_deref().unwrap_or(item.setup), ..*item })
            .collect();
        self.deliver(destination, &items, traceparents).await
    }

    /// One request and what it means for each item.
    async fn deliver(
        &self,
        destination: &dyn Destination,
        items: &[Item<'_>],
        traceparents: &[Option<&str>],
    ) -> Vec<Judged> {
        let batching = destination.batching();
        let build = || {
            let built = guarded(|| {
                fault_point!("build");
                match (batching, items) {
                    (None, [item]) => destination.build(item),
                    (None, _) => Err(Verdict::dead(Reason::Bug, "no batches here")),
                    (Some(batching), _) => batching.build(items),
                }
            });
            built.and_then(|built| built)
        };
        let request = match build() {
            Ok(request) => request,
            Err(verdict) => {
                let verdict = self.redacted(&[], verdict);
                return items.iter().map(|_| unsent(verdict.clone())).collect();
            }
        };
        if let Some(batching) = batching
            && items.len() > 1
            && request.body.len() > batching.limits().bytes
        {
            let too_large = || Verdict::retry(Reason::PayloadTooLarge, "the batch is too large");
            return items.iter().map(|_| unsent(too_large())).collect();
        }
        let steps = self.steps(items, traceparents);
        // A request has one parent: that of the first delivery which has a trace.
        let own = steps.iter().flatten().next().map(|step| Cow::from(step.traceparent()));
        let carried = || traceparents.iter().flatten().next().map(|text| Cow::from(*text));
        let trace = own.or_else(carried);
        let traced = |request: Request| match &trace {
            Some(trace) => request.header(HeaderName::from_static(TRACEPARENT), trace.as_bytes()),
            None => request,
        };
        let bears_repeats =
            |item: &Item<'_>| guarded(|| destination.repeats_unanswered(item)).unwrap_or(true);
        let _memory = self.dispatcher.budgets.body(request.body.len()).await;
        let again = || build().ok().map(traced);
        let (mut sent, mut duration) = self.send(traced(request), Connection::Kept, &again).await;
        // Most often the server had closed the connection before it saw the request.
        if sent.as_ref().is_err_and(Silence::was_kept)
            && items.iter().all(bears_repeats)
            && let Some(request) = again()
        {
            let (answer, more) = self.send(request, Connection::New, &again).await;
            (sent, duration) = (answer, duration + more);
        }
        let duration = Some(duration);
        let judged: Vec<Judged> = match sent {
            Err(Silence::NoToken(verdict)) => {
                items.iter().map(|_| unsent(verdict.clone())).collect()
            }
            Err(Silence::Lost(error)) => {
                let judged = |item| {
                    let verdict = transport(&error, || bears_repeats(item));
                    Judged { verdict: self.redacted(&[], verdict), status: None, duration }
                };
                items.iter().map(judged).collect()
            }
            Ok(response) => {
                let status = Some(response.status);
                let verdicts = guarded(|| {
                    fault_point!("judge");
                    match (batching, items) {
                        (None, [item]) => vec![destination.judge(item, &response)],
                        (None, _) => Vec::new(),
                        (Some(batching), _) => batching.judge(items, &response),
                    }
                });
                let verdicts = match verdicts {
                    Ok(verdicts) if verdicts.len() == items.len() => verdicts,
                    Ok(_) => vec![Verdict::dead(Reason::Bug, "verdicts missing"); items.len()],
                    Err(verdict) => vec![verdict; items.len()],
                };
                let cut = |(verdict, item): (Verdict, &Item<'_>)| match verdict {
                    // It was taken; of whom not is lost with the rest of the body.
                    Verdict::Retry { reason: Reason::UnexpectedResponse, detail, .. }
                        if response.is_incomplete
                            && response.is_success()
                            && !bears_repeats(item) =>
                    {
                        unrepeatable(Reason::UnexpectedResponse, &detail)
                    }
                    verdict => verdict,
                };
                let verdicts = verdicts.into_iter().zip(items).map(cut).collect();
                let answers = std::slice::from_ref(&response);
                let verdicts = self.redacted_all(answers, verdicts);
                verdicts.into_iter().map(|verdict| Judged { verdict, status, duration }).collect()
            }
        };
        for (step, judged) in steps.into_iter().zip(&judged) {
            if let Some(step) = step {
                step.judged(judged.status, judged.verdict.failure().map(Reason::as_str));
            }
        }
        judged
    }

    /// A span for each item whose trace is sampled.
    fn steps(&self, items: &[Item<'_>], traceparents: &[Option<&str>]) -> Vec<Option<Step>> {
        let Some(traces) = self.dispatcher.traces() else { return Vec::new() };
        let (connector, kind) = (&self.target.key, self.target.kind);
        let step = |(item, parent): (_, Option<&str>)| {
            let batch = items.len();
            traces.attempt(parent, Attempt { item, connector, kind, source: self.source, batch })
        };
        items.iter().zip(traceparents.iter().copied()).map(step).collect()
    }

    /// Sends a request. The lane has counted one request; each further one waits until the lane's
    /// rate allows it.
    async fn send_once(
        &self,
        request: Request,
        connection: Connection,
    ) -> (Result<Response, SendError>, Duration) {
        if let Some(ticket) = self.ticket
            && self.has_sent.swap(true, Ordering::Relaxed)
        {
            let wait = self.dispatcher.spend(ticket);
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
        }
        let began = Instant::now();
        let outbound = &self.dispatcher.options.outbound;
        let trusted = self.target.trusted;
        let sent = outbound.send_on(connection, request, trusted, self.timeout).await;
        let metrics = self.dispatcher.metrics();
        let duration = began.elapsed();
        metrics.attempt(self.target.kind, self.source, duration);
        if let Ok(response) = &sent
            && !self.is_trial
        {
            self.dispatcher.note_answer(self.target.kind, response);
        }
        (sent, duration)
    }

    /// The same for each of several; where all was delivered there is nothing to show.
    fn redacted_all(&self, answers: &[Response], verdicts: Vec<Verdict>) -> Vec<Verdict> {
        if verdicts.iter().all(|verdict| *verdict == Verdict::Delivered) {
            return verdicts;
        }
        let verdicts = self.target.secrets.redactor().verdicts(answers, verdicts);
        let tokens = self.tokens.lock();
        tokens.iter().fold(verdicts, |verdicts, token| token.redacted(answers, verdicts))
    }

    /// The verdict as it may be shown, whatever these answers quote.
    fn redacted(&self, answers: &[Response], verdict: Verdict) -> Verdict {
        let mut verdicts = self.redacted_all(answers, vec![verdict]);
        verdicts.pop().unwrap_or_else(|| Verdict::dead(Reason::Bug, "no verdict"))
    }
}

/// Runs a destination's function; a panic in it is this program's bug and ends one delivery only.
fn guarded<T>(function: impl FnOnce() -> T) -> Result<T, Verdict> {
    catch_unwind(AssertUnwindSafe(function))
        .map_err(|_| Verdict::dead(Reason::Bug, "the destination's code failed; please report it"))
}

/// What it means that no answer came. Whether the destination acted is known only where nothing
/// was sent; then, and where it bears repeats, the item is tried again.
fn transport(error: &SendError, bears_repeats: impl Fn() -> bool) -> Verdict {
    let detail = error.detail.clone();
    match error.reason {
        reason @ Reason::AddressRefused => Verdict::broken(reason, detail),
        reason @ (Reason::Timeout | Reason::ConnectionLost) if !bears_repeats() => {
            unrepeatable(reason, &detail)
        }
        reason => Verdict::retry(reason, detail),
    }
}

fn unrepeatable(reason: Reason, detail: &str) -> Verdict {
    let why = "it may have been taken all the same, and a repeat would count twice";
    Verdict::dead(reason, format!("{detail}; {why}"))
}

/// Sends one event to a connector outside of any lane, for a user who tests the connector.
pub async fn test_send(
    dispatcher: &Arc<Dispatcher>,
    target: &Target,
    event: &Event,
    id: DeliveryId,
) -> Judged {
    let destination = match &target.destination {
        Ok(destination) => destination.as_ref(),
        Err(words) => return unsent(Verdict::broken(Reason::Unusable, words.clone())),
    };
    if let Some(wait) = dispatcher.shared_pause(target.kind) {
        let detail = "the service refused so many calls that all connectors of its type pause";
        return unsent(Verdict::retry_after(Reason::RateLimited, detail, wait));
    }
    let timeout = dispatcher.timeout(target.kind);
    let sender = Sender::new(dispatcher, target, timeout, Source::Live, None);
    let sender = Sender { is_trial: true, ..sender };
    let setup = match sender.set_up(destination).await {
        Ok(setup) => setup,
        Err(verdict) => return unsent(verdict),
    };
    let item = Item { event, delivery_id: id, attempt: 1, sent_at: clock::now(), setup: &setup };
    let mut judged = sender.exchange(destination, &[item], &[None]).await;
    judged.pop().unwrap_or_else(|| unsent(Verdict::dead(Reason::Bug, "no verdict")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_ends_what_must_not_be_repeated() {
        let verdict = |reason, bears_repeats| {
            let error = SendError { reason, detail: "no answer".to_owned(), was_kept: false };
            transport(&error, || bears_repeats)
        };
        for reason in [Reason::Timeout, Reason::ConnectionLost] {
            assert_eq!(verdict(reason, true), Verdict::retry(reason, "no answer"));
            let Verdict::Dead { reason: told, detail } = verdict(reason, false) else { panic!() };
            assert!(told == reason && detail.contains("count twice"), "{detail}");
        }
        // Nothing was sent.
        for reason in [Reason::ConnectFailed, Reason::DnsFailed, Reason::TlsFailed] {
            assert_eq!(verdict(reason, false), Verdict::retry(reason, "no answer"));
        }
        assert!(matches!(verdict(Reason::AddressRefused, true), Verdict::Broken { .. }));
    }

    #[test]
    fn a_panic_is_a_bug_of_one_delivery() {
        let verdict = guarded(|| -> u8 { panic!("on purpose") });
        assert!(matches!(verdict, Err(Verdict::Dead { reason: Reason::Bug, .. })));
    }
}
