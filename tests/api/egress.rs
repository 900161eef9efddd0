//! Where requests may go: a table of spellings, and a real client against servers that misbehave.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use dunmore_connectors::{
    delivery::Reason,
    destination::{MAX_RESPONSE_BYTES, Request},
    egress::EgressPolicy,
    outbound::{Lookup, Outbound},
};
use url::Url;

/// Hosts that no user may name, in the spellings that URL parsers and resolvers know.
const HOSTS: &[&str] = &[
    // Loopback.
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "127.000.000.001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0x7f000001",
    "0X7F000001",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "0177.0.0.01",
    "0x7f.0x0.0x0.0x1",
    "127.0.0.0x1",
    "0177.0x0.0.1",
    "%31%32%37.0.0.1",
    "127%2e0%2e0%2e1",
    "１２７.0.0.1",
    "127。0。0。1",
    "127．0．0．1",
    "①②⑦.0.0.1",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000:0000:0000:0000:0000:0000:0000:0001]",
    "[::0:1]",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "a.localhost",
    "localhost.localdomain",
    "ⓛocalhost",
    "l%6fcalhost",
    // This network.
    "0.0.0.0",
    "0",
    "0x0",
    "00",
    "0.1.2.3",
    "[::]",
    "[0::0]",
    // Private.
    "10.0.0.1",
    "10.1",
    "10.255.255.255",
    "0xa.0.0.1",
    "012.0.0.1",
    "167772161",
    "0x0a000001",
    "172.16.0.1",
    "172.31.255.255",
    "0xac100001",
    "2886729729",
    "172.16.1",
    "192.168.0.1",
    "192.168.1",
    "192.168.255.255",
    "0xc0a80001",
    "3232235521",
    "0300.0250.0.1",
    "030052000001",
    // Link-local and metadata services.
    "169.254.0.1",
    "169.254.169.254",
    "169.254.169.254.",
    "0xa9fea9fe",
    "2852039166",
    "025177524776",
    "0251.0376.0251.0376",
    "0xa9.0xfe.0xa9.0xfe",
    "169.254.43518",
    "169.16689662",
    "169.254.170.2",
    "169.254.169.253",
    "[fe80::1]",
    "[fe80::a9fe:a9fe]",
    "[febf::1]",
    "[fd00:ec2::254]",
    "100.100.100.200",
    "168.63.129.16",
    "0xa83f8110",
    "[::ffff:168.63.129.16]",
    "[64:ff9b::a83f:8110]",
    "[64:ff9b:1::808:808]",
    "[64:ff9b:1:808:8:800::]",
    "metadata.google.internal",
    "metadata",
    "instance-data",
    "metadata.internal",
    // Shared address space, benchmarks, protocol assignments, documentation.
    "100.64.0.1",
    "100.127.255.255",
    "0x64400001",
    "1681915905",
    "198.18.0.1",
    "198.19.255.255",
    "192.0.0.1",
    "192.0.0.170",
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    // Multicast, reserved, broadcast.
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "0xffffffff",
    "4294967295",
    "037777777777",
    "[ff02::1]",
    "[ff00::]",
    "[ff0e::1]",
    // IPv4 inside IPv6: mapped, compatible, translated, NAT64, 6to4, Teredo.
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::FFFF:10.0.0.1]",
    "[::ffff:a00:1]",
    "[::ffff:192.168.0.1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[::ffff:0.0.0.0]",
    "[::ffff:100.64.0.1]",
    "[::ffff:255.255.255.255]",
    "[::ffff:172.16.0.1]",
    "[::127.0.0.1]",
    "[::10.0.0.1]",
    "[::a9fe:a9fe]",
    "[::192.168.1.1]",
    "[::ffff:0:127.0.0.1]",
    "[::ffff:0:10.0.0.1]",
    "[::ffff:0:a9fe:a9fe]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b::10.0.0.1]",
    "[64:ff9b::192.168.0.1]",
    "[64:ff9b::172.16.0.1]",
    "[64:ff9b:1::127.0.0.1]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[64:ff9b:1:fffe::10.0.0.1]",
    "[2002:7f00:1::]",
    "[2002:a00:1::1]",
    "[2002:a9fe:a9fe::]",
    "[2002:c0a8:1::]",
    "[2002:808:808::]",
    "[2001:0:7f00:1::]",
    "[2001::1]",
    // Other IPv6 that is not public.
    "[fc00::1]",
    "[fd00::1]",
    "[fdff:ffff::1]",
    "[fec0::1]",
    "[100::1]",
    "[2001:db8::1]",
    "[2001:2::1]",
    "[2001:10::1]",
    "[2001:20::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[4000::1]",
    "[8000::1]",
    "[1::1]",
    "[e000::1]",
    "[::2]",
    "[0:0:1::]",
    // Names of the inside.
    "printer.local",
    "PRINTER.LOCAL",
    "db.internal",
    "db.internal.",
    "vault.corp.internal",
    "nas.lan",
    "wiki.intranet",
    "router.home.arpa",
    "home.arpa",
    "internal",
    "local",
    "kubernetes",
    "redis",
    "db",
    "xn--lcalhost-c1a",
    "host.localdomain",
    "a.b.c.local.",
    "kubernetes.default.svc.cluster.local",
];

/// Whole URLs that no user may give.
const URLS: &[&str] = &[
    "http://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "data:,x",
    "javascript:1",
    "ws://example.com/",
    "https://user@example.com/",
    "https://user:pass@example.com/",
    "https://:pass@example.com/",
    "https://example.com@127.0.0.1/",
    "https://127.0.0.1#@example.com/",
    "https://127.0.0.1\\@example.com/",
    "https://example.com#fragment",
    "https://127.0.0.1:443/",
    "https://127.0.0.1:8443/",
    "https:127.0.0.1/",
    "https:/127.0.0.1/",
    "https:///127.0.0.1/",
    "https:\\\\127.0.0.1\\",
    " https://127.0.0.1/",
    "https://127.0.0.1/\n",
    "ht\ttps://127.0.0.1/",
    "https://127.0.\n0.1/",
    "HTTPS://127.0.0.1/",
    "https://[::1]:443/",
    "http://[::1]/",
    "https://%6c%6f%63%61%6c%68%6f%73%74/",
    "https://127.0.0.1?x=https://example.com/",
    "unix:///var/run/docker.sock",
    // Ports of a public host that no webhook is on.
    "https://example.com:22/",
    "https://example.com:6379/",
    "https://8.8.8.8:25/",
    "https://[2606:4700:4700::1111]:9200/",
];

#[test]
fn no_spelling_of_a_private_place_gets_through() {
    let policy = EgressPolicy::default();
    let urls = HOSTS.iter().map(|host| format!("https://{host}/webhook"));
    let urls: Vec<String> = urls.chain(URLS.iter().map(ToString::to_string)).collect();
    assert!(urls.len() >= 200, "{}", urls.len());
    // What the parser refuses is no URL at all, which the caller refuses as well.
    let through: Vec<&String> = urls
        .iter()
        .filter(|text| Url::parse(text).is_ok_and(|url| policy.check_url(&url).is_ok()))
        .collect();
    assert!(through.is_empty(), "{through:#?}");
}

#[test]
fn public_places_get_through() {
    let policy = EgressPolicy::default();
    for host in [
        "example.com",
        "hooks.slack.com",
        "8.8.8.8",
        "1.1.1.1",
        "0x08080808",
        "134744072",
        "172.15.0.1",
        "172.32.0.1",
        "100.63.255.255",
        "100.128.0.1",
        "169.253.0.1",
        "192.167.0.1",
        "198.17.0.1",
        "[2606:4700:4700::1111]",
        "[::ffff:8.8.8.8]",
        "[64:ff9b::808:808]",
        "local.example.com",
        "internal.example.com",
        "notlocal.com",
        "bücher.example",
    ] {
        let url = Url::parse(&format!("https://{host}/webhook")).unwrap();
        assert_eq!(policy.check_url(&url), Ok(()), "{host}");
    }
}

/// A server that answers each connection with these bytes, again and again if it is endless.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

fn server(host: &str, answer: &[u8], is_endless: bool) -> Server {
    let listener = TcpListener::bind((host, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let (count, answer) = (Arc::clone(&connections), answer.to_vec());
    thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(&answer);
                while is_endless && stream.write_all(&[b'x'; 8192]).is_ok() {}
            });
        }
    });
    Server { address, connections }
}

impl Server {
    fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn network(cidr: &str) -> EgressPolicy {
    EgressPolicy { allow_cidrs: vec![cidr.parse().unwrap()], allow_http: true }
}

fn get(url: &str) -> Request {
    Request::get(Url::parse(url).unwrap())
}

const TIME: Duration = Duration::from_secs(5);
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

/// 127.0.0.2 plays the public address here: the operator's rule lets it through, and 127.0.0.1 not.
#[tokio::test]
async fn a_name_that_moves_to_a_private_address_is_not_followed_there() {
    let public = server("127.0.0.2", OK, false);
    let private = server("127.0.0.1", OK, false);
    let answers = Arc::new(Mutex::new(vec![
        vec![private.address],
        // One private address among others is refused as well.
        vec![public.address, private.address],
        vec![private.address],
        vec![public.address],
    ]));
    let lookups = Arc::new(AtomicUsize::new(0));
    let (script, counted) = (Arc::clone(&answers), Arc::clone(&lookups));
    let lookup: Lookup = Arc::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        let next = script.lock().unwrap().pop().unwrap();
        Box::pin(async move { Ok(next) })
    });
    let outbound = Outbound::with_lookup(network("127.0.0.2/32"), &lookup).unwrap();
    let first = outbound.send(get("http://rebind.example/"), false, TIME).await.unwrap();
    assert_eq!(first.status, 200);
    assert_eq!(lookups.load(Ordering::SeqCst), 1, "one connection, one lookup");
    for (count, scheme) in [(2, "http"), (3, "http"), (4, "https")] {
        let url = format!("{scheme}://rebind.example/");
        let error = outbound.send(get(&url), false, TIME).await.unwrap_err();
        assert_eq!(error.reason, Reason::AddressRefused, "{}", error.detail);
        assert_eq!(lookups.load(Ordering::SeqCst), count);
    }
    assert_eq!((public.count(), private.count()), (1, 0));
    // Literal addresses never reach the resolver.
    let url = format!("http://{}/", private.address);
    let error = outbound.send(get(&url), false, TIME).await.unwrap_err();
    assert_eq!(error.reason, Reason::AddressRefused);
    assert_eq!(private.count(), 0);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let target = server("127.0.0.1", OK, false);
    for status in [301, 302, 303, 307, 308] {
        let answer = format!(
            "HTTP/1.1 {status} Moved\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n",
            target.address
        );
        let origin = server("127.0.0.1", answer.as_bytes(), false);
        let outbound = Outbound::new(network("127.0.0.0/8")).unwrap();
        let url = format!("http://{}/", origin.address);
        let response = outbound.send(get(&url), false, TIME).await.unwrap();
        assert_eq!(response.status, status);
    }
    assert_eq!(target.count(), 0);
}

#[tokio::test]
async fn an_endless_body_is_cut_and_a_compressed_one_is_not_unpacked() {
    let outbound = Outbound::new(network("127.0.0.0/8")).unwrap();
    let endless = server("127.0.0.1", b"HTTP/1.1 200 OK\r\n\r\n", true);
    let began = Instant::now();
    let url = format!("http://{}/", endless.address);
    let response = outbound.send(get(&url), false, TIME).await.unwrap();
    assert_eq!(response.body.len(), MAX_RESPONSE_BYTES);
    assert!(began.elapsed() < TIME);

    // The first bytes of a gzip member; whoever unpacked them would fail or grow.
    let packed = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xed, 0xc1, 1, 1, 0, 0];
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        packed.len()
    )
    .into_bytes();
    answer.extend_from_slice(&packed);
    let bomb = server("127.0.0.1", &answer, false);
    let url = format!("http://{}/", bomb.address);
    let response = outbound.send(get(&url), false, TIME).await.unwrap();
    assert_eq!(response.body, &packed[..]);

    let silent = server("127.0.0.1", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", false);
    let url = format!("http://{}/", silent.address);
    // Its head is an answer; what was promised beyond it did not come.
    let response = outbound.send(get(&url), false, TIME).await.unwrap();
    assert!(response.is_incomplete && response.body.is_empty());
}

#[tokio::test]
async fn preliminary_answers_without_end_take_no_longer_than_an_answer_may() {
    const HINT: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let outbound = Outbound::new(network("127.0.0.0/8")).unwrap();
    let few = server("127.0.0.1", &[HINT, HINT, HINT, OK].concat(), false);
    let url = format!("http://{}/", few.address);
    assert_eq!(outbound.send(get(&url), false, TIME).await.unwrap().status, 200);
    let endless = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", endless.local_addr().unwrap());
    let writing = thread::spawn(move || {
        let (mut stream, _) = endless.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        while stream.write_all(HINT).is_ok() {}
    });
    let error = outbound.send(get(&url), false, TIME / 5).await.unwrap_err();
    assert_eq!(error.reason, Reason::Timeout, "{}", error.detail);
    // The connection is closed: the other end notices.
    tokio::task::spawn_blocking(move || writing.join().unwrap()).await.unwrap();
}

#[tokio::test]
async fn only_the_operators_networks_are_called_on_any_port() {
    let inside = server("127.0.0.2", OK, false);
    let outside = server("127.0.0.1", OK, false);
    for (found, expected) in
        [(outside.address, Reason::AddressRefused), (inside.address, Reason::TlsFailed)]
    {
        let lookup: Lookup = Arc::new(move |_| Box::pin(async move { Ok(vec![found]) }));
        let policy =
            EgressPolicy { allow_cidrs: vec!["127.0.0.2/32".parse().unwrap()], allow_http: false };
        let outbound = Outbound::with_lookup(policy, &lookup).unwrap();
        let url = format!("https://n8n.example.com:{}/", found.port());
        let error = outbound.send(get(&url), false, TIME).await.unwrap_err();
        assert_eq!(error.reason, expected, "{}", error.detail);
    }
    // A public address on such a port is refused although it is public.
    let lookup: Lookup = Arc::new(|_| Box::pin(async { Ok(vec!["8.8.8.8:22".parse().unwrap()]) }));
    let outbound = Outbound::with_lookup(network("127.0.0.2/32"), &lookup).unwrap();
    let error = outbound.send(get("https://n8n.example.com:22/"), false, TIME).await.unwrap_err();
    assert_eq!(error.reason, Reason::AddressRefused);
}
