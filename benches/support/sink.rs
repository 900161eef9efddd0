//! A sink that answers 200 to everything as cheaply as it can, one thread per connection, in a
//! process of its own. It counts deliveries (rows, where a request has several) and keeps when each
//! event arrived that says when it was sent.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use super::process::Kill;

#[derive(Default)]
struct Seen {
    deliveries: AtomicU64,
    requests: AtomicU64,
    connections: AtomicU64,
    arrivals: Mutex<Vec<Arrival>>,
}

/// Serves until the process is killed; prints its address first.
pub fn run() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    let seen = Arc::new(Seen::default());
    for stream in listener.incoming() {
        let seen = Arc::clone(&seen);
        thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(move || {
                let _ = answer(stream.expect("a connection"), &seen);
            })
            .expect("a thread");
    }
}

/// Microseconds since the Unix epoch.
pub fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// An event at the sink, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When its producer sent it, which names it.
    pub sent: u64,
    /// When its request was there.
    pub arrived: u64,
}

fn answer(stream: TcpStream, seen: &Seen) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(16 * 1024, stream.try_clone()?);
    let mut writer = stream;
    let mut body = Vec::new();
    let mut line = String::new();
    let mut is_first = true;
    loop {
        let mut length = 0;
        let mut path = None;
        let mut begins = true;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if begins {
                let asked = line.strip_prefix("GET ").and_then(|rest| rest.split(' ').next());
                path = asked.map(str::to_owned);
                begins = false;
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        let text = match path.as_deref() {
            Some("/seen") => report(seen),
            Some("/arrivals") => arrivals(seen),
            // A BigQuery connector looks at its table first.
            Some(table) if table.contains("/tables/") => schema(),
            _ => {
                seen.connections.fetch_add(u64::from(is_first), Ordering::Relaxed);
                note(seen, &body);
                "{}".to_owned()
            }
        };
        is_first = false;
        let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        writer.write_all(response.as_bytes())?;
    }
}

/// A table with every column that an event may fill.
fn schema() -> String {
    const COLUMNS: &str = "id type projectId occurredAt payload paymentId endpointId customerId \
        amount currency network txHash stage reason milestone totalSpent path price oldPrice \
        newPrice date revenue paymentCount customerCount failedCount";
    let fields: Vec<String> =
        COLUMNS.split_whitespace().map(|name| format!("{{\"name\":\"{name}\"}}")).collect();
    format!("{{\"schema\":{{\"fields\":[{}]}}}}", fields.join(","))
}

fn note(seen: &Seen, body: &[u8]) {
    const ROW: &[u8] = b"\"insertId\"";
    seen.requests.fetch_add(1, Ordering::Relaxed);
    let rows = if body.starts_with(b"{\"id\"") {
        1
    } else {
        body.windows(ROW.len()).filter(|window| *window == ROW).count().max(1)
    };
    seen.deliveries.fetch_add(rows as u64, Ordering::Relaxed);
    if let Some(sent) = sent_micros(body) {
        let arrived = now_micros();
        seen.arrivals.lock().expect("no panic").push(Arrival { sent, arrived });
    }
}

/// When an event was sent, when it tells.
pub fn sent_micros(body: &[u8]) -> Option<u64> {
    const SENT: &[u8] = b"\"sentAtMicros\":";
    // The field stands near the end.
    let at = body.windows(SENT.len()).rposition(|window| window == SENT)?;
    let digits = body.get(at + SENT.len()..at + SENT.len() + 16)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn report(seen: &Seen) -> String {
    format!(
        "{} {} {}",
        seen.deliveries.load(Ordering::Relaxed),
        seen.requests.load(Ordering::Relaxed),
        seen.connections.load(Ordering::Relaxed),
    )
}

/// They are forgotten when they were told.
fn arrivals(seen: &Seen) -> String {
    let arrivals = std::mem::take(&mut *seen.arrivals.lock().expect("no panic"));
    let lines: Vec<String> =
        arrivals.iter().map(|at| format!("{} {}", at.sent, at.arrived)).collect();
    lines.join("\n")
}

/// What a sink has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Deliveries.
    pub deliveries: u64,
    /// Requests.
    pub requests: u64,
    /// Connections.
    pub connections: u64,
}

/// A sink in a process of its own.
pub struct Sink {
    /// Where it listens.
    pub address: String,
    _process: Kill,
}

impl Sink {
    /// Starts this program again, as the sink.
    pub fn start() -> Self {
        let own = std::env::current_exe().expect("this program");
        let mut process =
            Kill(Command::new(own).arg("sink").stdout(Stdio::piped()).spawn().expect("a sink"));
        let mut line = String::new();
        let output = process.0.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("its address");
        Self { address: line.trim().to_owned(), _process: process }
    }

    /// What it has seen so far.
    pub fn report(&self) -> Report {
        let text = self.get("/seen");
        let mut numbers = text.split(' ').map(|number| number.parse().expect("a number"));
        let mut next = || numbers.next().expect("three numbers");
        Report { deliveries: next(), requests: next(), connections: next() }
    }

    /// The events that arrived since it was last asked and say when they were sent.
    pub fn arrivals(&self) -> Vec<Arrival> {
        let arrival = |line: &str| {
            let (sent, arrived) = line.split_once(' ').expect("two numbers");
            let number = |text: &str| text.parse().expect("a number");
            Arrival { sent: number(sent), arrived: number(arrived) }
        };
        self.get("/arrivals").lines().map(arrival).collect()
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("the sink");
        let request = format!("GET {path} HTTP/1.1\r\nhost: sink\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        let mut line = String::new();
        while reader.read_line(&mut line).expect("a line") > 2 {
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().expect("a length");
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        String::from_utf8(body).expect("text")
    }
}
