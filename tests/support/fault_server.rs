//! A server that fails in one way, on a socket of its own: what a proxy, a crash or a broken network does to
//! a connection, byte by byte.

#![allow(dead_code, reason = "every test binary uses another part of this")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// How the server fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Nobody listens.
    Refused,
    /// Takes the request and never answers.
    Silent,
    /// Takes the request and closes in good order, without an answer.
    Closed,
    /// Resets the connection in the middle of the answer's head.
    ResetInTheHead,
    /// Resets the connection in the middle of the answer's body.
    ResetInTheBody,
    /// Sends the head byte by byte.
    SlowHead,
    /// Sends the body byte by byte.
    SlowBody,
    /// Sends a body that never ends, as fast as it can.
    EndlessBody,
    /// Speaks no HTTP.
    Garbage,
    /// Answers whatever comes first with a plain greeting: no TLS, no HTTP.
    NoTls,
    /// Answers the first request of a connection and then closes its sending half: the connection is there,
    /// and nothing that is sent on it gets an answer.
    HalfClosedWhenIdle,
    /// Answers the first request of a connection and closes when the second one arrives.
    ClosedOnReuse,
}

/// What arrived.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    /// The number of its connection, in the order in which they were accepted.
    pub(crate) connection: usize,
    /// The request line and headers.
    pub(crate) head: String,
    /// Whether it was answered in full with 200.
    pub(crate) answered: bool,
}

/// The server; it ends when this is dropped.
pub(crate) struct FaultServer {
    pub(crate) address: SocketAddr,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    _runtime: tokio::runtime::Runtime,
}

impl FaultServer {
    pub(crate) fn start(fault: Fault) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("faults")
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        if fault == Fault::Refused {
            // Bound once, so that the port is nobody else's, and free again.
            drop(listener);
        } else {
            let arrivals = Arc::clone(&arrivals);
            runtime.spawn(async move {
                let connections = AtomicUsize::new(0);
                loop {
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    let number = connections.fetch_add(1, Ordering::Relaxed);
                    let arrivals = Arc::clone(&arrivals);
                    tokio::spawn(async move {
                        let connection = Connection { stream, number, arrivals };
                        // A client that goes away ends the conversation.
                        let _ = connection.fail(fault).await;
                    });
                }
            });
        }
        Self { address, arrivals, _runtime: runtime }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Every request that arrived.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GREETING: &[u8] = b"220 smtp.example.com ESMTP\r\n";
/// Slower than any timeout of a test, but never silent.
const DRIP: Duration = Duration::from_millis(100);

struct Connection {
    stream: TcpStream,
    number: usize,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
}

impl Connection {
    async fn fail(mut self, fault: Fault) -> std::io::Result<()> {
        if fault == Fault::NoTls {
            let mut buffer = [0; 4096];
            let _hello = self.stream.read(&mut buffer).await?;
            return self.stream.write_all(GREETING).await;
        }
        let answers = matches!(fault, Fault::HalfClosedWhenIdle | Fault::ClosedOnReuse);
        self.request(answers).await?;
        match fault {
            Fault::Refused | Fault::Closed | Fault::NoTls => {}
            Fault::Silent => std::future::pending().await,
            Fault::ResetInTheHead => self.reset(b"HTTP/1.1 200 OK\r\ncontent-le").await?,
            Fault::ResetInTheBody => {
                self.reset(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nsome").await?;
            }
            Fault::SlowHead => self.drip(b"HTTP/1.1 200 OK\r\n", b'x').await?,
            Fault::SlowBody => {
                self.drip(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", b'x').await?;
            }
            Fault::EndlessBody => {
                self.stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                loop {
                    self.stream.write_all(&[b'x'; 8192]).await?;
                }
            }
            Fault::Garbage => self.stream.write_all(GREETING).await?,
            Fault::HalfClosedWhenIdle => {
                self.stream.write_all(OK).await?;
                self.stream.shutdown().await?;
                loop {
                    self.request(false).await?;
                }
            }
            Fault::ClosedOnReuse => {
                self.stream.write_all(OK).await?;
                self.request(false).await?;
            }
        }
        Ok(())
    }

    /// Reads one request with its body.
    async fn request(&mut self, answered: bool) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            let read = self.stream.read(&mut buffer).await?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            bytes.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            if body.len() >= length.unwrap_or(0_usize) {
                let arrival = Arrival { connection: self.number, head: head.to_owned(), answered };
                self.arrivals.lock().unwrap().push(arrival);
                return Ok(());
            }
        }
    }

    async fn reset(&mut self, part: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(part).await?;
        self.stream.flush().await?;
        tokio::time::sleep(DRIP).await;
        // Without lingering a close is a reset.
        self.stream.set_zero_linger()
    }

    async fn drip(&mut self, head: &[u8], byte: u8) -> std::io::Result<()> {
        self.stream.write_all(head).await?;
        loop {
            tokio::time::sleep(DRIP).await;
            self.stream.write_all(&[byte]).await?;
        }
    }
}
