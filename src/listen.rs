//! Serves HTTP on one port: the one server loop of the API and of the admin port.
//!
//! What a caller may hold is bounded: how many connections there are, how long the head of a
//! request may take, and how long an answer may wait to be read. When all places are taken, the
//! connection that has gone longest without a request gives way, so that half-sent requests keep
//! nobody out.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, response::Response};
use futures_util::future::BoxFuture;
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service as _;

/// Connections that a port has at once.
pub const MAX_CONNECTIONS: usize = 1024;
/// How long the head of a request may take, and how long a connection may wait for the next one.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long an answer may wait for its reader without any progress.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest head of a request, in bytes: a token of 8 KiB and room for the rest.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How long to wait after the system would not accept a connection: it may have no file left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often to look again for a connection that may give way, when all are busy.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// Where a request came from: an extension of each request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// The address of a request's sender, as far as it is known.
#[must_use]
pub fn peer<B>(request: &http::Request<B>) -> Option<IpAddr> {
    request.extensions().get::<Peer>().map(|peer| peer.0.ip().to_canonical())
}

/// The connections of a port, the oldest first.
#[derive(Default)]
struct Connections {
    next: u64,
    open: BTreeMap<u64, Arc<Connection>>,
}

#[derive(Default)]
struct Connection {
    /// Requests under way: one at most, in HTTP/1.
    busy: AtomicUsize,
    close: CancellationToken,
}

impl Connections {
    /// Closes the oldest connection that has no request under way; tells whether there was one.
    fn close_idle(&self) -> bool {
        let is_idle = |one: &&Arc<Connection>| {
            one.busy.load(Ordering::Relaxed) == 0 && !one.close.is_cancelled()
        };
        self.open.values().find(is_idle).map(|one| one.close.cancel()).is_some()
    }
}

/// Serves until `stop`, then lets requests under way end.
pub async fn serve(listener: TcpListener, app: Router, stop: CancellationToken) {
    serve_at_most(listener, app, stop, MAX_CONNECTIONS).await;
}

async fn serve_at_most(listener: TcpListener, app: Router, stop: CancellationToken, most: usize) {
    let places = Arc::new(Semaphore::new(most));
    let connections = Arc::new(Mutex::new(Connections::default()));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "no connection accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = tokio::select! {
            () = stop.cancelled() => break,
            place = place(&places, &connections) => place,
        };
        let Some(place) = place else { break };
        let task = connection(stream, address, app.clone(), Arc::clone(&connections), stop.clone());
        tasks.spawn(async move {
            task.await;
            drop(place);
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Waits for a place; connections without a request give way.
async fn place(
    places: &Arc<Semaphore>,
    connections: &Mutex<Connections>,
) -> Option<OwnedSemaphorePermit> {
    loop {
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Some(place);
        }
        connections.lock().close_idle();
        let freed = tokio::time::timeout(FULL_PAUSE, Arc::clone(places).acquire_owned()).await;
        // Else all were busy, or it takes its time to close.
        if let Ok(place) = freed {
            return place.ok();
        }
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    app: Router,
    connections: Arc<Mutex<Connections>>,
    stop: CancellationToken,
) {
    let own = Arc::new(Connection::default());
    let number = {
        let mut connections = connections.lock();
        connections.next += 1;
        let number = connections.next;
        connections.open.insert(number, Arc::clone(&own));
        number
    };
    let _ = stream.set_nodelay(true);
    let service = Served { app, peer: Peer(address), own: Arc::clone(&own) };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream, WRITE_TIMEOUT)), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = own.close.cancelled() => Ok(()),
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        // The caller's fault, or the network's; there may be very many.
        tracing::trace!(%error, "a connection ended early");
    }
    connections.lock().open.remove(&number);
}

/// The routes, as the server calls them.
struct Served {
    app: Router,
    peer: Peer,
    own: Arc<Connection>,
}

/// Counts a request while it is under way.
struct Busy(Arc<Connection>);

impl Busy {
    fn new(own: &Arc<Connection>) -> Self {
        own.busy.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(own))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Service<http::Request<Incoming>> for Served {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(self.peer);
        let busy = Busy::new(&self.own);
        // Routers are always ready.
        let answer = self.app.clone().call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(busy);
            answer
        })
    }
}

/// A connection whose other end must read: a write that makes no progress for so long fails.
struct Patient<S> {
    stream: S,
    most: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    const fn new(stream: S, most: Duration) -> Self {
        Self { stream, most, waiting: None }
    }

    fn bounded<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let until = Instant::now() + self.most;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bounded(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(polled, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(polled, context)
    }
}

/// Raises the soft limit of open files to the hard one: each connection is a file.
pub fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const MOST: usize = 8;

    async fn server() -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let app = Router::new()
            .route("/", get(|request: Request| async move { peer(&request).unwrap().to_string() }))
            .route("/large", get(|| async { vec![b'x'; 64 << 20] }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let task = tokio::spawn(serve_at_most(listener, app, stop.clone(), MOST));
        (address, stop, task)
    }

    async fn get_root(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn half_sent_requests_keep_nobody_out() {
        let (address, stop, task) = server().await;
        let mut held = Vec::new();
        for _ in 0..MOST * 4 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
            held.push(stream);
        }
        let answer = tokio::time::timeout(HEADER_TIMEOUT / 3, get_root(address)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("127.0.0.1"), "{answer}");
        // The first were closed to make room.
        let mut nothing = Vec::new();
        let _ = held[0].read_to_end(&mut nothing).await;
        assert!(nothing.is_empty());
        stop.cancel();
        drop(held);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_write_without_progress_ends() {
        const MOST: Duration = Duration::from_millis(400);
        let (near, far) = tokio::io::duplex(16);
        let mut patient = Patient::new(near, MOST);
        patient.write_all(&[0; 16]).await.unwrap();
        let began = Instant::now();
        let error = patient.write_all(&[0; 16]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= MOST);
        drop(far);
        // With a slow reader it goes on, longer than that in all.
        let (near, mut slow) = tokio::io::duplex(16);
        let mut patient = Patient::new(near, MOST);
        let began = Instant::now();
        let reader = tokio::spawn(async move {
            let mut bytes = [0; 16];
            for _ in 0..12 {
                tokio::time::sleep(MOST / 10).await;
                slow.read_exact(&mut bytes).await.unwrap();
            }
        });
        patient.write_all(&[0; 12 * 16]).await.unwrap();
        reader.await.unwrap();
        assert!(began.elapsed() > MOST);
    }

    #[test]
    fn the_limit_of_open_files_is_raised() {
        use nix::sys::resource::{Resource, getrlimit};
        raise_file_limit();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
