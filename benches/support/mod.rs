//! What the benches share: a sink that plays the destinations, the plain posts that are the floor, a
//! broker with connectors and events, the pieces of the hot path, and what the system says of a
//! process.

#![allow(dead_code, reason = "every bench uses another part of this")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::expect_used, reason = "a bench stops at what it does not expect")]
#![allow(missing_docs, reason = "benches have no readers from outside")]

pub mod cases;
pub mod floor;
pub mod pieces;
pub mod process;
pub mod sink;
pub mod stage;

/// A number after a flag.
pub fn number(args: &[String], flag: &str, default: u64) -> u64 {
    text(args, flag).map_or(default, |text| text.parse().expect("a number after the flag"))
}

/// The text after a flag.
pub fn text<'a>(args: &'a [String], flag: &str) -> Option<&'a str> {
    let at = args.iter().position(|arg| arg == flag)?;
    args.get(at + 1).map(String::as_str)
}

/// Whether a flag is there.
pub fn has(args: &[String], flag: &str) -> bool {
    args.iter().any(|arg| arg == flag)
}

/// What a run was measured on.
pub fn machine() -> serde_json::Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let line = |text: &str, name: &str| {
        let found = text.lines().find(|line| line.starts_with(name));
        found.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    serde_json::json!({
        "cpu": line(&read("/proc/cpuinfo"), "model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": line(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "loadBefore": read("/proc/loadavg").trim(),
        "version": env!("CARGO_PKG_VERSION"),
    })
}

/// A payment event whose text has at least so many bytes.
pub fn event(number: u64, project: u64, bytes: u64, sent_at_micros: Option<u64>) -> String {
    let sent = sent_at_micros.map_or_else(String::new, |at| format!(",\"sentAtMicros\":{at:016}"));
    let mut text = format!(
        "{{\"id\":\"evt_{number:012}\",\"type\":\"payment.settled\",\"projectId\":\"proj_{project}\",\"occurredAt\":\"2026-11-23T08:00:00.000Z\",\"data\":{{\"paymentId\":\"pay_{number:012}\",\"endpointId\":\"ep_0123456789\",\"customerId\":\"0x52908400098527886E0F7030069857D2E4169EE7\",\"amount\":\"1.250000\",\"currency\":\"USDC\",\"network\":\"base\",\"txHash\":\"0x88df016429689c079f3b2f6ad39fa052532c56795b733da78a91ebe6a713944b\"{sent}"
    );
    let missing = usize::try_from(bytes).unwrap_or(0).saturating_sub(text.len() + 2 + 13);
    if missing > 0 {
        text.push_str(",\"memo\":\"");
        text.extend(std::iter::repeat_n("0123456789abcdef", missing / 16 + 1));
        text.push('"');
    }
    text.push_str("}}");
    text
}
