//! The floor: the same bodies, posted plainly by reqwest, so many at a time, in a process of its own.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{event, has, number, process::cpu_of_self};

/// Posts at once, unless said otherwise.
pub const CONCURRENCY: u64 = 64;

/// What plain posts cost.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    /// Microseconds of CPU per post.
    pub cpu_micros: f64,
    /// Posts per second.
    pub rate: f64,
}

/// Starts this program again, as the poster of so many events.
pub fn measure(sink: &str, posts: u64, bytes: u64, args: &[String]) -> Floor {
    let own = std::env::current_exe().expect("this program");
    let mut command = Command::new(own);
    command.args(["floor", sink, "--posts", &posts.to_string(), "--bytes", &bytes.to_string()]);
    let concurrency = number(args, "--floor-concurrency", CONCURRENCY);
    command.args(["--floor-concurrency", &concurrency.to_string()]);
    let run = command.output().expect("the floor");
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let mut fields = text.split_whitespace().map(|field| field.parse().expect("a number"));
    let mut next = || fields.next().expect("two numbers");
    Floor { cpu_micros: next(), rate: next() }
}

/// Posts, then prints what it cost.
pub fn run(args: &[String]) {
    let address = args.get(2).expect("the sink's address");
    let posts = number(args, "--posts", 50_000);
    let bytes = number(args, "--bytes", 0);
    let concurrency = number(args, "--floor-concurrency", CONCURRENCY);
    let mut builder = if has(args, "--one-thread") {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    let runtime = builder.enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let url: url::Url =
            format!("http://{address}/hooks/catch/1/floor/").parse().expect("a URL");
        // As many different bodies as fit into little memory, used again and again.
        let different = posts.min(50_000);
        let bodies: Arc<Vec<bytes::Bytes>> = Arc::new(
            (0..different).map(|n| bytes::Bytes::from(event(n, n % 200, bytes, None))).collect(),
        );
        let (cpu, began) = (cpu_of_self(), Instant::now());
        let next = Arc::new(AtomicU64::new(0));
        let tasks: Vec<_> = (0..concurrency)
            .map(|_| {
                let (client, url) = (client.clone(), url.clone());
                let (next, bodies) = (Arc::clone(&next), Arc::clone(&bodies));
                tokio::spawn(async move {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= posts {
                            return;
                        }
                        let at = usize::try_from(at % different).expect("64 bits");
                        let response = client
                            .post(url.clone())
                            .header("content-type", "application/json")
                            .body(bodies[at].clone())
                            .send()
                            .await
                            .expect("an answer");
                        response.bytes().await.expect("a body");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        let seconds = began.elapsed().as_secs_f64();
        let posts = posts as f64;
        println!("{} {}", (cpu_of_self() - cpu) / posts * 1e6, posts / seconds);
    });
}
