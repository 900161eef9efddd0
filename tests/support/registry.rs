//! A schema registry that somebody else wrote: Apicurio Registry, through `scripts/registry`. The tests
//! of this process share it and keep apart by topic prefix.

#![allow(dead_code, reason = "every test binary uses another part of this")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};

use super::{certificates, serve::free_address};

/// The path of Confluent's protocol at Apicurio.
const PATH: &str = "/apis/ccompat/v7";

/// A running registry. It ends with this process: then its standard input is closed.
pub(crate) struct Registry {
    _child: Child,
    address: SocketAddr,
}

/// The shared registry, started at the first call.
pub(crate) fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let address = free_address();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/registry");
        let mut child = Command::new(&script)
            .arg("run")
            .env("REGISTRY_PORT", address.port().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("http"), "scripts/registry did not start (see above)");
        Registry { _child: child, address }
    })
}

impl Registry {
    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    /// The id of a schema that is registered for a topic.
    pub(crate) fn register(&self, topic: &str, schema: &str) -> u32 {
        let path = format!("/subjects/{topic}-value/versions");
        let answer = self.call("POST", &path, &json!({ "schema": schema }));
        u32::try_from(answer["id"].as_u64().unwrap()).unwrap()
    }

    /// Makes the registry demand that versions for a topic are compatible; its default is not to.
    pub(crate) fn demand(&self, topic: &str, compatibility: &str) {
        let path = format!("/config/{topic}-value");
        self.call("PUT", &path, &json!({ "compatibility": compatibility }));
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(
            stream,
            "{method} {PATH}{path} HTTP/1.0\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{method} {path}: {answer}");
        serde_json::from_str(body).unwrap()
    }
}

/// A way to the registry that can be closed and opened again; the registry keeps what it has.
pub(crate) struct Gate {
    address: SocketAddr,
    target: SocketAddr,
    open: Option<Open>,
}

struct Open {
    stop: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    accepting: JoinHandle<()>,
}

impl Gate {
    /// An open gate.
    pub(crate) fn new(registry: &Registry) -> Self {
        let mut gate = Self { address: free_address(), target: registry.address, open: None };
        gate.open();
        gate
    }

    /// The registry's URL through the gate.
    pub(crate) fn url(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    /// Opens it again at the same address.
    pub(crate) fn open(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let (target, stopping, kept) = (self.target, Arc::clone(&stop), Arc::clone(&streams));
        let accepting = thread::spawn(move || {
            while !stopping.load(Ordering::SeqCst) {
                let Ok((client, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                client.set_nonblocking(false).unwrap();
                let server = TcpStream::connect(target).unwrap();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    kept.lock().unwrap().push(from.try_clone().unwrap());
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        self.open = Some(Open { stop, streams, accepting });
    }

    /// Closes it: connections break, and new ones are refused.
    pub(crate) fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        open.stop.store(true, Ordering::SeqCst);
        open.accepting.join().unwrap();
        for stream in open.streams.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A way to the registry through TLS and past a password, for one request per connection.
pub(crate) struct Guarded {
    address: SocketAddr,
}

impl Guarded {
    /// Opens it, with `ca.pem` of this folder as what a client has to trust; `authorization` is the
    /// header that it demands.
    pub(crate) fn new(registry: &Registry, folder: &Path, authorization: &str) -> Self {
        certificates::authority(folder, "ca");
        certificates::authority(folder, "other");
        certificates::certificate(folder, "registry");
        let certificate = CertificateDer::from_pem_file(folder.join("registry.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(folder.join("registry.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let (config, address) = (Arc::new(config), free_address());
        let listener = TcpListener::bind(address).unwrap();
        let (target, wanted) = (registry.address, format!("authorization: {authorization}\r\n"));
        thread::spawn(move || {
            for client in listener.incoming() {
                let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
                let stream = rustls::StreamOwned::new(connection, client.unwrap());
                let wanted = wanted.clone();
                // Who does not trust the certificate hangs up.
                thread::spawn(move || pass_on(stream, target, &wanted));
            }
        });
        Self { address }
    }

    /// The registry's URL through it.
    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}{PATH}", self.address.port())
    }
}

fn pass_on(
    mut client: rustls::StreamOwned<rustls::ServerConnection, TcpStream>,
    target: SocketAddr,
    wanted: &str,
) -> std::io::Result<()> {
    let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
    let (head, length) = loop {
        let count = client.read(&mut chunk)?;
        request.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let head = text[..end + 2].to_owned();
            let length = head.to_lowercase().lines().find_map(|line| {
                line.strip_prefix("content-length: ").map(|length| length.parse::<usize>().unwrap())
            });
            break (head, end + 4 + length.unwrap_or(0));
        }
        if count == 0 {
            return Ok(());
        }
    };
    while request.len() < length {
        let count = client.read(&mut chunk)?;
        request.extend_from_slice(&chunk[..count]);
    }
    if head.contains(wanted) {
        let mut server = TcpStream::connect(target)?;
        let body = &request[head.len() + 2..];
        let head = format!("{head}Connection: close\r\n\r\n");
        server.write_all(&[head.as_bytes(), body].concat())?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        client.write_all(&answer)?;
    } else {
        let body = r#"{"error_code":40101,"message":"Unauthorized"}"#;
        let head = "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length";
        write!(client, "{head}: {}\r\n\r\n{body}", body.len())?;
    }
    client.conn.send_close_notify();
    client.flush()
}
