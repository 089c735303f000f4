//! The kernel, the redirect and the library agree about whatever a proxy may send, in whatever segments.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sticky_ebpf::client::Client;
use sticky_ebpf::forwarded::{ClientHeader, HeaderName, client};
use sticky_ebpf::head::{Verdict, verdict};

use super::{Stage, amount, ask, failed_cookies, tell};
use crate::harness::process::pool;
use crate::harness::{eventually, net};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const THREADS: usize = 4;

/// As `--trust` has it.
fn trusted(client: Client) -> bool {
    match IpAddr::from(client) {
        IpAddr::V4(ip) => ip == PROXY || ip.octets()[0] == 10,
        IpAddr::V6(_) => false,
    }
}

/// Numbers that look random and are the same each time: Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn chance(&mut self, of_100: usize) -> bool {
        self.below(100) < of_100
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.below(from.len())]
    }
}

const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1",
    "GET /a/long/path?with=a&query HTTP/1.1",
    "GET / HTTP/1.0",
    "POST /x HTTP/1.0",
    "POST /x HTTP/1.1",
    "DELETE /y HTTP/1.1",
];

const ODD_REQUESTS: &[&str] = &[
    "BREW /pot HTTP/1.1",
    "GET http://test/ HTTP/1.1",
    "GET / HTTP/1.2",
    "PRI * HTTP/2.0",
    "get / HTTP/1.1",
];

const LINES: &[&str] = &[
    "Connection: close",
    "Connection: close",
    "connection: Keep-Alive",
    "Connection: upgrade\r\nUpgrade: websocket",
    "Connection: x-forwarded-for, close",
    "Accept-Language: en-US,en;q=0.5",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64)",
    "X-Forwarded-Fo: 203.0.113.66",
    "X-Real-IP: 203.0.113.66",
    "X-Empty:",
];

const ODD_LINES: &[&str] = &[
    "Content-Length: 0",
    "Content-Length: 3",
    "Content-Length: 3, 3",
    "Transfer-Encoding: chunked",
    "X_Odd.Name~: x",
    "Host: other",
    "X A: b",
];

const ENTRIES: &[&str] = &[
    "203.0.113.7",
    "198.51.100.1:4711",
    "10.1.2.3",
    "127.0.0.1",
    "unknown",
    "2001:db8::7",
    "[2001:db8::8]:80",
    "",
    "::ffff:203.0.113.9",
];

/// A request, mostly in order.
fn request(random: &mut Random) -> Vec<u8> {
    let (requests, lines) = if random.chance(85) { (REQUESTS, LINES) } else { (ODD_REQUESTS, ODD_LINES) };
    let mut text = random.pick(requests).to_owned() + "\r\n";
    if random.chance(95) {
        text += random.pick(&["Host: test\r\n", "host:test:3000\r\n", "Host: test\r\n", "Host: [::1]\r\n"]);
    }
    for _ in 0..random.below(6) {
        match random.below(10) {
            0..=4 => {
                let entries: Vec<_> = (0..=random.below(3)).map(|_| random.pick(ENTRIES)).collect();
                let name = random.pick(&["X-Forwarded-For", "x-forwarded-for", "X-FORWARDED-FOR"]);
                text += &format!("{name}: {}\r\n", entries.join(random.pick(&[", ", ",", " ,\t"])));
                // Each has clients of its own, so that all workers have some.
                let own = format!("203.0.113.{}", random.below(250));
                text = text.replace("203.0.113.7", &own);
            }
            5 if random.chance(40) => {
                text += &format!("Cookie: {}\r\n", "c=1; ".repeat(random.below(3000)));
            }
            _ => {
                text += random.pick(lines);
                text += "\r\n";
            }
        }
    }
    text += "\r\n";
    if text.contains("chunked") {
        text += "0\r\n\r\n";
    } else if text.contains("Length: 3") {
        text += "abc";
    }
    let mut bytes = text.into_bytes();
    if random.chance(20) {
        let at = random.below(bytes.len());
        bytes[at] = random.next() as u8;
    }
    if random.chance(3) {
        bytes.truncate(random.below(bytes.len()) + 1);
    }
    bytes
}

/// The client of a head that the redirect takes, by the rules for its header alone.
fn redirected(bytes: &[u8]) -> Client {
    let text = String::from_utf8_lossy(bytes);
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    let values = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    let values = values.filter(|(name, _)| name.eq_ignore_ascii_case("x-forwarded-for"));
    client(ClientHeader::XForwardedFor, PROXY.into(), values.map(|(_, value)| value), trusted)
}

/// What the library says becomes of a first segment, as the program counts it.
fn expected(first: &[u8]) -> (&'static str, Option<Client>) {
    match verdict(&HeaderName::X_FORWARDED_FOR, PROXY.into(), first, trusted) {
        Verdict::Client(client) => ("gated", Some(client)),
        Verdict::Shared(_) => ("shared", None),
        Verdict::Incomplete => ("unfinished", None),
        Verdict::TooLong => ("too_long", None),
        Verdict::Http2 => ("http2", None),
        Verdict::Strange => ("strange", None),
    }
}

/// More than this may leave in several segments: on a slow way the kernel sends two packets' worth at a time
/// (`tcp_min_tso_segs`).
const SURE: usize = 2 * 1400;

/// What became of requests.
#[derive(Default)]
struct Sent {
    /// How many come to which outcome, as the library says.
    outcomes: BTreeMap<&'static str, u64>,
    /// How many workers answered.
    answered: usize,
    /// How many may have left in several segments.
    long: u64,
}

/// Sends so many requests.
fn send(stage: &Stage, seed: u64, count: usize) -> Sent {
    let to: SocketAddr = "127.0.0.1:3000".parse().expect("an address");
    let (mut random, mut sent) = (Random(seed), Sent::default());
    for _ in 0..count {
        let bytes = request(&mut random);
        let cut = if random.chance(35) { random.below(bytes.len()) + 1 } else { bytes.len() };
        let (first, rest) = bytes.split_at(cut);
        let (outcome, gated) = expected(first);
        *sent.outcomes.entry(outcome).or_default() += 1;
        sent.long += u64::from(first.len() > SURE);
        let parts = if rest.is_empty() { vec![first] } else { vec![first, rest] };
        let shown = String::from_utf8_lossy(&bytes);
        let (status, slot) = ask(PROXY, to, &parts)
            .unwrap_or_else(|error| panic!("{error}, cut at {cut}, {outcome}: {shown:.400?}"));
        let client = gated.unwrap_or_else(|| redirected(&bytes));
        if let Some(slot) = slot {
            sent.answered += 1;
            assert_eq!(slot, stage.home(client), "cut at {cut}, {outcome}: {shown:.400?}");
        }
        assert!(gated.is_none() || slot.is_some(), "status {status}, cut at {cut}: {shown:.400?}");
    }
    sent
}

#[test]
fn all_agree_about_generated_requests() {
    let _net = net::isolate();
    let stage = Stage::new(&["--trust", "127.0.0.1/32,10.0.0.0/8"]);
    let before = stage.outcomes();
    let count = amount(8_000);
    let mut sent = Sent::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS as u64)
            .map(|n| {
                let stage = &stage;
                scope.spawn(move || send(stage, 0x9e37_79b9_7f4a_7c15 + n, count.div_ceil(THREADS)))
            })
            .collect();
        for thread in threads {
            let some = thread.join().expect("all agree");
            some.outcomes
                .into_iter()
                .for_each(|(name, count)| *sent.outcomes.entry(name).or_default() += count);
            sent.answered += some.answered;
            sent.long += some.long;
        }
    });
    assert_eq!(failed_cookies(), 0, "SYN cookies failed");
    let after = stage.outcomes();
    let Sent { outcomes, answered, long } = sent;
    let mut missing = 0;
    for name in ["gated", "shared", "unfinished", "too_long", "http2", "strange"] {
        let happened = after[name] - before[name];
        let said = outcomes.get(name).copied().unwrap_or(0);
        assert!(said > 0, "no request came to {name}: {outcomes:?}");
        // Of a long one the kernel may have seen only the beginning.
        let cut = if name == "unfinished" { long } else { 0 };
        assert!(happened <= said + cut, "{name}: the kernel did {after:?}, the library says {outcomes:?}");
        missing += i64::try_from(said).expect("few") - i64::try_from(happened).expect("few");
    }
    let missing = u64::try_from(missing).expect("no more than were sent");
    // Where an earlier connection of the same port was in TIME_WAIT, the redirect got the next one as it was.
    let recurred = || pool("3000")["gate"]["recurred"].as_u64().expect("a number");
    eventually("the redirect counts them", || (recurred() >= missing).then_some(()));
    assert_eq!(missing, recurred(), "the kernel did {after:?}, the library says {outcomes:?}");
    assert!(missing * 20 < count as u64, "{missing} of {count} recurred");
    assert!(answered > count / 2, "workers answered only {answered} of {count}: {outcomes:?}");
    tell(format_args!("{count} requests, {answered} answered by workers: {outcomes:?}, {missing} recurred"));
}
