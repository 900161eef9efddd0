//! A sink that plays the third parties: it answers as it is told and records every request.

#![allow(dead_code, reason = "every test binary uses another part of this")]

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;

/// A request that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    pub(crate) at: Instant,
    /// Milliseconds since 1970.
    pub(crate) at_ms: i64,
    pub(crate) path: String,
    /// `Dunmore-Delivery-Id`; empty when it was not sent.
    pub(crate) delivery: String,
    /// `Dunmore-Event-Id`, or the event that a Slack message names.
    pub(crate) event: String,
    /// `Dunmore-Attempt`
    pub(crate) attempt: String,
    pub(crate) traceparent: String,
    pub(crate) body: Bytes,
    /// What was answered; 0 when nothing was.
    pub(crate) status: u16,
}

impl Hit {
    /// What the sink saw delivered where.
    pub(crate) fn pair(&self) -> (String, String) {
        (self.event.clone(), self.path.clone())
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// This status; a failure quotes the path, as some services do.
    Status(u16),
    /// This status with `Retry-After`.
    RetryAfter(u16, String),
    /// This status with `Location`.
    Redirect(u16, String),
    /// None: the connection stays open.
    Hang,
}

/// How a path answers: each of `first` once, then `then` for ever.
#[derive(Clone, Debug)]
struct Script {
    first: VecDeque<Reply>,
    then: Reply,
    delay: Duration,
}

#[derive(Default)]
struct State {
    hits: Mutex<Vec<Hit>>,
    /// What arrived and was answered with 2xx.
    delivered: Mutex<BTreeSet<(String, String)>>,
    scripts: Mutex<HashMap<String, Script>>,
    delay: Mutex<Duration>,
    connections: AtomicUsize,
    /// How often each event `evt_<number>` arrived, when that is all that is to be remembered.
    arrivals: Option<Mutex<Vec<u8>>>,
}

/// An HTTP/1.1 server on loopback, in this process. Without a script a path answers 200 at once.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    /// Serves as long as it lives.
    _runtime: tokio::runtime::Runtime,
}

impl Sink {
    pub(crate) fn start() -> Self {
        Self::start_with(State::default())
    }

    /// A sink for a great many events: it only counts how often each arrived, of the events `evt_0` to
    /// `evt_<events - 1>` with one delivery each, and answers 200.
    pub(crate) fn counting(events: usize) -> Self {
        Self::start_with(State { arrivals: Some(Mutex::new(vec![0; events])), ..State::default() })
    }

    fn start_with(state: State) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("sink")
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(state);
        let shared = Arc::clone(&state);
        runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                let state = Arc::clone(&shared);
                state.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let answering = Arc::clone(&state);
                    let service =
                        service_fn(move |request| answer(Arc::clone(&answering), request));
                    // A client that is killed breaks its connections.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                    state.connections.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, state, _runtime: runtime }
    }

    /// A URL of the sink.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Settings that send these connector types here instead of to their vendors.
    pub(crate) fn base_urls(&self, types: &[&str]) -> String {
        let line = |kind: &&str| format!("destinations.{kind}.base_url = \"{}\"\n", self.url(""));
        types.iter().map(line).collect()
    }

    /// Makes a path answer with each of `first` once, then with `then`.
    pub(crate) fn script(&self, path: &str, first: &[Reply], then: Reply) {
        let script = Script { first: first.iter().cloned().collect(), then, delay: Duration::ZERO };
        lock(&self.state.scripts).insert(path.to_owned(), script);
    }

    /// Makes every answer of a path take so long.
    pub(crate) fn delay(&self, path: &str, delay: Duration) {
        let mut scripts = lock(&self.state.scripts);
        let plain =
            Script { first: VecDeque::new(), then: Reply::Status(200), delay: Duration::ZERO };
        scripts.entry(path.to_owned()).or_insert(plain).delay = delay;
    }

    /// Makes every answer of paths without a script take so long.
    pub(crate) fn delay_all(&self, delay: Duration) {
        *lock(&self.state.delay) = delay;
    }

    /// Every request so far, in the order of their arrival.
    pub(crate) fn hits(&self) -> Vec<Hit> {
        lock(&self.state.hits).clone()
    }

    /// The requests to one path.
    pub(crate) fn hits_on(&self, path: &str) -> Vec<Hit> {
        lock(&self.state.hits).iter().filter(|hit| hit.path == path).cloned().collect()
    }

    /// How many requests arrived.
    pub(crate) fn count(&self) -> usize {
        lock(&self.state.hits).len()
    }

    /// Of a counting sink: how many events arrived, and how many arrivals were one too many.
    pub(crate) fn counted(&self) -> (usize, usize) {
        let arrivals = lock(self.state.arrivals.as_ref().unwrap());
        let arrived = arrivals.iter().filter(|count| **count > 0).count();
        (arrived, arrivals.iter().map(|count| usize::from(*count)).sum::<usize>() - arrived)
    }

    /// How many connections are open. When a client has died and there are none, everything that it had
    /// sent is recorded.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// What was delivered where, that is answered with 2xx.
    pub(crate) fn delivered(&self) -> BTreeSet<(String, String)> {
        lock(&self.state.delivered).clone()
    }

    /// How much was delivered, repeats not counted.
    pub(crate) fn delivered_count(&self) -> usize {
        lock(&self.state.delivered).len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        // The client died while it sent: nothing arrived.
        return Ok(Response::new(Full::default()));
    };
    let body = body.to_bytes();
    let header = |name: &str| {
        let value = head.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    if let Some(arrivals) = &state.arrivals {
        let number = header("dunmore-event-id").trim_start_matches("evt_").parse::<usize>();
        let mut arrivals = lock(arrivals);
        let count = &mut arrivals[number.unwrap()];
        *count = count.saturating_add(1);
        return Ok(Response::new(Full::from("ok")));
    }
    let path = head.uri.path().to_owned();
    let (reply, delay) = {
        let mut scripts = lock(&state.scripts);
        match scripts.get_mut(&path) {
            None => (Reply::Status(200), *lock(&state.delay)),
            Some(script) => {
                (script.first.pop_front().unwrap_or_else(|| script.then.clone()), script.delay)
            }
        }
    };
    let status = match reply {
        Reply::Status(status) | Reply::RetryAfter(status, _) | Reply::Redirect(status, _) => status,
        Reply::Hang => 0,
    };
    let mut event = header("dunmore-event-id");
    if event.is_empty() {
        event = named_by_slack(&body);
    }
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let hit = Hit {
        at: Instant::now(),
        at_ms: i64::try_from(since_epoch.as_millis()).unwrap_or_default(),
        path: path.clone(),
        delivery: header("dunmore-delivery-id"),
        event,
        attempt: header("dunmore-attempt"),
        traceparent: header("traceparent"),
        body,
        status,
    };
    if (200..300).contains(&status) {
        lock(&state.delivered).insert(hit.pair());
    }
    lock(&state.hits).push(hit);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let text = match reply {
        Reply::Redirect(..) => "it is elsewhere".to_owned(),
        _ if (200..300).contains(&status) => "ok".to_owned(),
        _ => format!("no such thing as {path}"),
    };
    let mut response = Response::new(Full::from(text));
    match reply {
        Reply::Hang => std::future::pending::<()>().await,
        Reply::RetryAfter(_, after) => {
            response.headers_mut().insert("retry-after", after.parse().unwrap());
        }
        Reply::Redirect(_, location) => {
            response.headers_mut().insert("location", location.parse().unwrap());
        }
        Reply::Status(_) => {}
    }
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
    Ok(response)
}

/// A Slack message has no headers of ours; its last block names project, time and event.
fn named_by_slack(body: &[u8]) -> String {
    let message: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let context = message["blocks"][1]["elements"][0]["text"].as_str().unwrap_or_default();
    context.rsplit(" · ").next().unwrap_or_default().trim_matches('`').to_owned()
}
