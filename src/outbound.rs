//! Sends requests: the only room that knows the HTTP client.
//!
//! Every request of this program to a third party goes through [`Outbound::send`]: first attempts,
//! retries, replays and tests alike. Users' URLs are resolved here, each resolved address is
//! checked, and the connection is made to an address that was checked. Redirects are not followed.

use std::{
    cell::Cell,
    error::Error as StdError,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use http::{
    HeaderValue,
    header::{HOST, USER_AGENT},
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::{Instant, timeout_at};
use tower_layer::layer_fn;
use tower_service::Service;
use url::{Host, Position, Url};

use crate::{
    clock,
    delivery::Reason,
    destination::{MAX_RESPONSE_BYTES, Request, Response},
    egress::{EgressPolicy, PORTS},
};

/// How long connecting may take, name resolution included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections are closed after this; below the 60 s that many servers use.
const POOL_IDLE: Duration = Duration::from_secs(50);
/// Idle connections kept per host. A new connection costs far more than a kept one.
const MAX_IDLE_PER_HOST: usize = 1024;

/// Who called.
pub const AGENT: &str = concat!("dunmore-connectors/", env!("CARGO_PKG_VERSION"));

/// Why no answer came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct SendError {
    /// The reason.
    pub reason: Reason,
    /// In words, without URL or address.
    pub detail: String,
    /// Whether a connection that had served before ended before an answer came. Servers close idle
    /// connections, so that says little of the service, see [`Connection::New`].
    pub was_kept: bool,
}

impl SendError {
    fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), was_kept: false }
    }
}

/// Which connection a request goes out on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connection {
    /// One that was kept, if there is one.
    Kept,
    /// A new one, whatever was kept.
    New,
}

tokio::task_local! {
    /// Whether a connection was begun for the request that this task sends.
    static CONNECTS: Cell<bool>;
}

/// Notes that a connection is begun: what was sent without one went out on a kept connection. The
/// client itself does not tell.
#[derive(Clone)]
struct NotesConnects<S>(S);

impl<R, S: Service<R>> Service<R> for NotesConnects<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: R) -> S::Future {
        // The client begins connections in the task that sends.
        let _ = CONNECTS.try_with(|connects| connects.set(true));
        self.0.call(request)
    }
}

/// Finds the addresses of a name; a port that is not 0 replaces the URL's.
pub type Lookup =
    Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

async fn system_lookup(name: String) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((name, 0)).await?.collect())
}

/// The sender of all requests.
#[derive(Clone)]
pub struct Outbound {
    /// For users' URLs over https.
    guarded: Clients,
    /// For users' URLs over https on a port that only the operator's networks may be called on.
    inside: Clients,
    /// For users' URLs over plain http, to networks that the operator named.
    permitted: Clients,
    /// For URLs that the operator set, over https and over plain http.
    trusted: Clients,
    trusted_plain: Clients,
    policy: Arc<EgressPolicy>,
}

/// The same client twice.
#[derive(Clone)]
struct Clients {
    keeping: reqwest::Client,
    /// It keeps no connection.
    fresh: reqwest::Client,
}

impl Outbound {
    /// A sender that keeps to this policy.
    pub fn new(policy: EgressPolicy) -> Result<Self, String> {
        let lookup: Lookup = Arc::new(|name| Box::pin(system_lookup(name)));
        Self::with_lookup(policy, &lookup)
    }

    /// The same with another way to find the addresses of a name. What is found is checked all
    /// the same, and nothing is looked up a second time for one connection.
    pub fn with_lookup(policy: EgressPolicy, lookup: &Lookup) -> Result<Self, String> {
        // A second call finds the provider already installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let policy = Arc::new(policy);
        let client = |rule: Option<Rule>, speaks: Speaks, max_idle: usize| {
            let mut builder = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_idle_timeout(POOL_IDLE)
                .pool_max_idle_per_host(max_idle)
                .connector_layer(layer_fn(NotesConnects))
                .tcp_nodelay(true)
                .no_proxy()
                .referer(false);
            if speaks == Speaks::Http1 {
                builder = builder.retry(reqwest::retry::never().max_retries_per_request(0));
            }
            if let Some(rule) = rule {
                let (policy, lookup) = (Arc::clone(&policy), Arc::clone(lookup));
                builder = builder.dns_resolver(Arc::new(Guard { policy, rule, lookup }));
            }
            builder.build().map_err(|error| format!("cannot set up the HTTP client: {error}"))
        };
        let clients = |rule: Option<Rule>, speaks: Speaks| -> Result<Clients, String> {
            let keeping = client(rule, speaks, MAX_IDLE_PER_HOST)?;
            Ok(Clients { keeping, fresh: client(rule, speaks, 0)? })
        };
        Ok(Self {
            guarded: clients(Some(Rule::Allowed), Speaks::Http2)?,
            inside: clients(Some(Rule::Inside), Speaks::Http2)?,
            permitted: clients(Some(Rule::Permitted), Speaks::Http1)?,
            trusted: clients(None, Speaks::Http2)?,
            trusted_plain: clients(None, Speaks::Http1)?,
            policy,
        })
    }

    /// Sends a request and reads the answer. `trusted` URLs are the operator's and not checked.
    pub async fn send(
        &self,
        request: Request,
        trusted: bool,
        timeout: Duration,
    ) -> Result<Response, SendError> {
        self.send_on(Connection::Kept, request, trusted, timeout).await
    }

    /// The same on a connection of this kind. A head is an answer, whatever becomes of its body.
    pub async fn send_on(
        &self,
        connection: Connection,
        request: Request,
        trusted: bool,
        timeout: Duration,
    ) -> Result<Response, SendError> {
        let clients = self.clients(&request, trusted)?;
        let client = match connection {
            Connection::Kept => &clients.keeping,
            Connection::New => &clients.fresh,
        };
        let (response, _) = exchange(client, request, timeout, MAX_RESPONSE_BYTES).await?;
        Ok(response)
    }

    fn clients(&self, request: &Request, trusted: bool) -> Result<&Clients, SendError> {
        let is_plain = request.url.scheme() != "https";
        if trusted {
            return Ok(if is_plain { &self.trusted_plain } else { &self.trusted });
        }
        let has_odd_port =
            request.url.port_or_known_default().is_none_or(|port| !PORTS.contains(&port));
        let rule = match (is_plain, has_odd_port) {
            (true, _) => Rule::Permitted,
            (false, true) => Rule::Inside,
            (false, false) => Rule::Allowed,
        };
        // The client connects to literal addresses without asking its resolver.
        let literal = match request.url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        if literal.is_some_and(|address| !rule.admits(&self.policy, address)) {
            return Err(refused_address());
        }
        Ok(match rule {
            Rule::Allowed => &self.guarded,
            Rule::Inside => &self.inside,
            Rule::Permitted => &self.permitted,
        })
    }
}

/// The latest version of HTTP that a client may come to speak.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    /// Over plain http. A server can refuse a request in HTTP/2 so that it is known not to have
    /// looked at it, and the client then sends it again; here the copy that it keeps for that is of
    /// no use.
    Http1,
    /// Over https.
    Http2,
}

/// Sends requests to a service that the operator runs beside this one, such as a schema registry.
/// Its address comes from the settings alone, so it is not checked.
#[derive(Clone, Debug)]
pub struct OperatorClient(reqwest::Client);

impl OperatorClient {
    /// A client that also trusts these certificates (PEM).
    pub fn new(certificates: Option<&[u8]>) -> Result<Self, String> {
        // A second call finds the provider already installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE)
            .no_proxy()
            .referer(false);
        if let Some(pem) = certificates {
            let found = reqwest::Certificate::from_pem_bundle(pem);
            let found = found.map_err(|_| "no certificates in PEM".to_owned())?;
            if found.is_empty() {
                return Err("no certificates in PEM".to_owned());
            }
            builder = builder.tls_certs_merge(found);
        }
        let client = builder.build();
        client.map(Self).map_err(|error| format!("cannot set up the HTTP client: {error}"))
    }

    /// Sends a request and reads the answer, of which so many bytes are kept.
    pub async fn send(
        &self,
        request: Request,
        timeout: Duration,
        max_bytes: usize,
    ) -> Result<Response, SendError> {
        let (response, cut) = exchange(&self.0, request, timeout, max_bytes).await?;
        cut.map_or(Ok(response), Err)
    }
}

/// Sends a request. With a head there is an answer; why its body is not complete is told beside it.
async fn exchange(
    client: &reqwest::Client,
    request: Request,
    timeout: Duration,
    max_bytes: usize,
) -> Result<(Response, Option<SendError>), SendError> {
    let host = plain_host(&request.url);
    let mut raw = reqwest::Request::new(request.method, request.url);
    let headers = raw.headers_mut();
    headers.reserve(request.headers.len() + 2);
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    if let Some(host) = host {
        headers.insert(HOST, host);
    }
    for (name, value) in request.headers {
        headers.insert(name, value);
    }
    if !request.body.is_empty() {
        *raw.body_mut() = Some(request.body.into());
    }
    let deadline = Instant::now() + timeout;
    let late = || {
        let detail = format!("no complete answer within {} s", timeout.as_secs_f64());
        SendError::new(Reason::Timeout, detail)
    };
    let executing = async {
        let executed = timeout_at(deadline, client.execute(raw)).await;
        let executed = executed.map_err(|_| late())?;
        executed.map_err(|error| {
            let connects = CONNECTS.with(Cell::get);
            SendError { was_kept: !connects && is_closed(&error), ..explain(&error) }
        })
    };
    let mut response = CONNECTS.scope(Cell::new(false), executing).await?;
    let status = response.status().as_u16();
    let headers = std::mem::take(response.headers_mut());
    let mut body = BytesMut::new();
    let read = timeout_at(deadline, read_body(&mut response, &mut body, max_bytes)).await;
    let cut = match read {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(explain(&error)),
        Err(_) => Some(late()),
    };
    let (body, is_incomplete) = (body.freeze(), cut.is_some());
    Ok((Response { status, headers, body, received_at: clock::now(), is_incomplete }, cut))
}

/// The value of `Host` for a URL over plain http, which is HTTP/1.1. The client would format it from
/// its parts for each request.
fn plain_host(url: &Url) -> Option<HeaderValue> {
    let host = &url[Position::BeforeHost..Position::AfterPort];
    if url.scheme() == "http" { HeaderValue::from_str(host).ok() } else { None }
}

/// Reads a body up to the cap; the rest is not read.
async fn read_body(
    response: &mut reqwest::Response,
    body: &mut BytesMut,
    max_bytes: usize,
) -> Result<(), reqwest::Error> {
    loop {
        match response.chunk().await? {
            None => return Ok(()),
            Some(chunk) if body.is_empty() && chunk.len() <= max_bytes => {
                // Most answers are one chunk.
                *body = chunk.try_into_mut().unwrap_or_else(|chunk| BytesMut::from(&chunk[..]));
            }
            Some(chunk) => {
                let room = max_bytes.saturating_sub(body.len());
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if body.len() >= max_bytes {
                    return Ok(());
                }
            }
        }
    }
}

/// Which addresses a client may connect to.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// Public ones and those the operator named.
    Allowed,
    /// Only those the operator named.
    Inside,
    /// The same, where plain http is allowed to them.
    Permitted,
}

impl Rule {
    fn admits(self, policy: &EgressPolicy, address: IpAddr) -> bool {
        match self {
            Self::Allowed => policy.allows(address),
            Self::Inside => policy.permits(address),
            Self::Permitted => policy.allow_http && policy.permits(address),
        }
    }
}

/// Resolves names and lets only admitted addresses through.
struct Guard {
    policy: Arc<EgressPolicy>,
    rule: Rule,
    lookup: Lookup,
}

/// The marker by which a refused address is known again in the client's error.
#[derive(Debug, thiserror::Error)]
#[error("the host has no address that may be called")]
struct AddressRefused;

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (policy, rule) = (Arc::clone(&self.policy), self.rule);
        let looking = (self.lookup)(name.as_str().to_owned());
        Box::pin(async move {
            let found = looking.await.map_err(DnsFailed)?;
            // One private address among public ones is as suspicious as a private one alone.
            if found.iter().all(|address| rule.admits(&policy, address.ip())) && !found.is_empty() {
                Ok(Box::new(found.into_iter()) as Addrs)
            } else if found.is_empty() {
                Err(Box::new(DnsFailed(io::Error::from(io::ErrorKind::NotFound))) as _)
            } else {
                Err(Box::new(AddressRefused) as _)
            }
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("name not resolved: {0}")]
struct DnsFailed(io::Error);

fn refused_address() -> SendError {
    SendError::new(
        Reason::AddressRefused,
        "the destination's address is private or reserved, or its port is not one that may be called, \
         and the operator has not allowed it",
    )
}

/// Whether the connection ended before the head of an answer was there.
fn is_closed(error: &reqwest::Error) -> bool {
    use io::ErrorKind as K;
    let is_end = |cause: &(dyn StdError + 'static)| {
        let by_client = cause.downcast_ref::<hyper::Error>();
        let by_system = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        by_client.is_some_and(|error| error.is_incomplete_message() || error.is_canceled())
            || matches!(
                by_system,
                Some(K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::UnexpectedEof)
            )
    };
    let mut causes = std::iter::successors(error.source(), |cause| StdError::source(*cause));
    causes.any(is_end)
}

/// Whether it is a TLS error. One may sit inside an I/O error, or inside one inside it: beyond the
/// `source` of either.
fn is_tls(cause: &(dyn StdError + 'static)) -> bool {
    let inner = || cause.downcast_ref::<io::Error>()?.get_ref();
    cause.is::<rustls::Error>() || inner().is_some_and(|inner| is_tls(inner))
}

/// Whether this process, or the machine, may open no more files.
fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// What this program lacks is held against nothing else: [`Reason::LaneFull`] puts a delivery off
/// and uses up no attempt.
fn out_of_files() -> SendError {
    SendError::new(
        Reason::LaneFull,
        "this instance may open no more files: raise its limit (ulimit -n)",
    )
}

/// What an error of the client means; its text without the URL.
fn explain(error: &(dyn StdError + 'static)) -> SendError {
    let client = error.downcast_ref::<reqwest::Error>();
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    let mut words = String::new();
    let mut reason = None;
    while let Some(cause) = source {
        if cause.is::<AddressRefused>() {
            return refused_address();
        }
        let looked_up = cause.downcast_ref::<DnsFailed>().map(|failed| &failed.0);
        if cause.downcast_ref::<io::Error>().or(looked_up).is_some_and(is_out_of_files) {
            return out_of_files();
        }
        if cause.is::<DnsFailed>() {
            reason = Some(Reason::DnsFailed);
        } else if is_tls(cause) {
            reason = Some(Reason::TlsFailed);
        }
        // The first level's text has the URL; the causes' have not.
        if !cause.is::<reqwest::Error>() {
            words = cause.to_string();
        }
        source = cause.source();
    }
    // A timeout while connecting is no silence: nothing was sent.
    let reason = reason.unwrap_or(if client.is_some_and(reqwest::Error::is_connect) {
        Reason::ConnectFailed
    } else if client.is_some_and(reqwest::Error::is_timeout) {
        Reason::Timeout
    } else {
        Reason::ConnectionLost
    });
    let detail = if words.is_empty() { reason.help().to_owned() } else { words };
    SendError::new(reason, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("tcp open error")]
    struct Wrapped(#[source] io::Error);

    #[test]
    fn too_many_open_files_are_no_fault_of_a_destination() {
        for code in [libc::EMFILE, libc::ENFILE] {
            let error = || io::Error::from_raw_os_error(code);
            assert_eq!(explain(&Wrapped(error())).reason, Reason::LaneFull);
            assert_eq!(explain(&DnsFailed(error())).reason, Reason::LaneFull);
        }
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert_ne!(explain(&Wrapped(refused)).reason, Reason::LaneFull);
        assert_eq!(explain(&AddressRefused).reason, Reason::AddressRefused);
    }

    #[test]
    fn a_plain_host_is_what_the_client_would_say() {
        let host = |url: &str| {
            let value = plain_host(&Url::parse(url).unwrap())?;
            Some(value.to_str().unwrap().to_owned())
        };
        assert_eq!(host("http://gateway:8080/hook?a=1").as_deref(), Some("gateway:8080"));
        assert_eq!(host("http://user:password@gateway:80/").as_deref(), Some("gateway"));
        assert_eq!(host("http://[::1]:9/").as_deref(), Some("[::1]:9"));
        assert_eq!(host("http://bücher.example/").as_deref(), Some("xn--bcher-kva.example"));
        // HTTP/2 has another place for it; which version is spoken shows when connected.
        assert_eq!(host("https://gateway/"), None);
    }
}
