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

use serde_json::{Value, json};

use super::serve::free_address;

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
