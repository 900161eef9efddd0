//! A schema registry of our own, for what a real one does not do on request: GUIDs, odd answers,
//! answers by number. It speaks as much of Confluent's protocol as clients need to register a schema and
//! to find it again.

#![allow(dead_code, reason = "every user takes another part of this")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

type Odd = dyn Fn(&str) -> Option<(u16, String)> + Send + Sync;

struct Shared {
    /// By id, from 1.
    schemas: Mutex<Vec<String>>,
    asked: AtomicUsize,
    odd: Box<Odd>,
}

/// It ends with the process.
pub(crate) struct FakeRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl FakeRegistry {
    pub(crate) fn start() -> Self {
        Self::with(|_| None)
    }

    /// One that answers some paths in its own way.
    pub(crate) fn with(
        odd: impl Fn(&str) -> Option<(u16, String)> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            schemas: Mutex::default(),
            asked: AtomicUsize::new(0),
            odd: Box::new(odd),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&accepting);
                // Who hangs up in the middle is no concern of anybody.
                thread::spawn(move || serve(&shared, stream?));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The id of a schema, which is registered if it is new.
    pub(crate) fn register(&self, schema: &str) -> u32 {
        self.shared.register(schema)
    }

    /// How many requests there were.
    pub(crate) fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }
}

/// The GUID of the schema of an id: 16 bytes.
pub(crate) fn guid(id: u32) -> [u8; 16] {
    let mut guid = *b"\x01\x23\x45\x67\x89\xab\x4d\xef\x81\x23\x45\x67\0\0\0\0";
    guid[12..].copy_from_slice(&id.to_be_bytes());
    guid
}

fn guid_text(id: u32) -> String {
    uuid::Uuid::from_bytes(guid(id)).to_string()
}

impl Shared {
    fn register(&self, schema: &str) -> u32 {
        let mut schemas = self.schemas.lock().unwrap();
        let place = schemas.iter().position(|known| known == schema).unwrap_or_else(|| {
            schemas.push(schema.to_owned());
            schemas.len() - 1
        });
        u32::try_from(place + 1).unwrap()
    }

    fn answer(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(odd) = (self.odd)(path) {
            return odd;
        }
        let unknown =
            |code: u32| (404, json!({"error_code": code, "message": "not found"}).to_string());
        let schemas = || self.schemas.lock().unwrap().clone();
        let whole = |id: u32, schema: &str| {
            json!({"id": id, "guid": guid_text(id), "version": 1, "subject": "s", "schema": schema})
                .to_string()
        };
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (method, &parts[..]) {
            ("GET", ["schemas", "ids", id]) => {
                let id: u32 = id.parse().unwrap_or(0);
                match schemas().get((id as usize).wrapping_sub(1)) {
                    Some(schema) => (200, whole(id, schema)),
                    None => unknown(40403),
                }
            }
            ("GET", ["schemas", "guids", wanted]) => {
                let schemas = schemas();
                let mut all = (1..).zip(&schemas);
                match all.find(|(id, _)| guid_text(*id) == *wanted) {
                    Some((id, schema)) => (200, whole(id, schema)),
                    None => unknown(40403),
                }
            }
            ("POST", ["subjects", _] | ["subjects", _, "versions"]) => {
                let body: Value = serde_json::from_slice(body).unwrap_or_default();
                let schema = body["schema"].as_str().unwrap_or_default();
                let is_known = schemas().iter().any(|known| known == schema);
                if parts.len() == 2 && !is_known {
                    return unknown(40403);
                }
                (200, whole(self.register(schema), schema))
            }
            _ => unknown(40401),
        }
    }
}

fn serve(shared: &Shared, stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap_or(0))
        });
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = path.split('?').next().unwrap_or_default();
        let (status, answer) = shared.answer(method, path, &body);
        let length = answer.len();
        write!(
            stream,
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{answer}"
        )?;
    }
}
