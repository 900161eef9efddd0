//! A sink that answers 200 to everything as cheaply as it can, one thread per connection, in a
//! process of its own. It counts deliveries (rows, where a request has several) and keeps how old
//! each event was that says when it was sent.

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
    ages_micros: Mutex<Vec<u64>>,
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
pub fn now_micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros())
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
        let mut asks = false;
        let mut begins = true;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if begins {
                asks = line.starts_with("GET /seen");
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
        let text = if asks {
            report(seen)
        } else {
            seen.connections.fetch_add(u64::from(is_first), Ordering::Relaxed);
            note(seen, &body);
            "{}".to_owned()
        };
        is_first = false;
        let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        writer.write_all(response.as_bytes())?;
    }
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
    if let Some(age) = age_micros(body) {
        seen.ages_micros.lock().expect("no panic").push(age);
    }
}

/// How long ago an event was sent, in microseconds, when it tells.
pub fn age_micros(body: &[u8]) -> Option<u64> {
    const SENT: &[u8] = b"\"sentAtMicros\":";
    // The field stands near the end.
    let at = body.windows(SENT.len()).rposition(|window| window == SENT)?;
    let digits = body.get(at + SENT.len()..at + SENT.len() + 16)?;
    let sent: u128 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    u64::try_from(now_micros().saturating_sub(sent)).ok()
}

/// The one below which so many thousandths of them are; they are sorted.
pub fn percentile(ages: &[u64], thousandths: usize) -> u64 {
    ages.get(ages.len() * thousandths / 1000).copied().unwrap_or(0)
}

/// The ages are forgotten when they were told.
fn report(seen: &Seen) -> String {
    let mut ages = std::mem::take(&mut *seen.ages_micros.lock().expect("no panic"));
    ages.sort_unstable();
    format!(
        "{} {} {} {} {} {} {}",
        seen.deliveries.load(Ordering::Relaxed),
        seen.requests.load(Ordering::Relaxed),
        seen.connections.load(Ordering::Relaxed),
        ages.len(),
        percentile(&ages, 500),
        percentile(&ages, 990),
        ages.last().copied().unwrap_or(0)
    )
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
    /// How many events told when they were sent, since the last report.
    pub aged: u64,
    /// Microseconds from sent to received: the median, the 99th percentile, the most.
    pub p50_micros: u64,
    /// The 99th percentile.
    pub p99_micros: u64,
    /// The most.
    pub most_micros: u64,
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
        let mut stream = TcpStream::connect(&self.address).expect("the sink");
        stream.write_all(b"GET /seen HTTP/1.1\r\nhost: sink\r\n\r\n").expect("a request");
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
        let text = String::from_utf8_lossy(&body).into_owned();
        let mut numbers = text.split(' ').map(|number| number.parse().expect("a number"));
        let mut next = || numbers.next().expect("seven numbers");
        Report {
            deliveries: next(),
            requests: next(),
            connections: next(),
            aged: next(),
            p50_micros: next(),
            p99_micros: next(),
            most_micros: next(),
        }
    }
}
