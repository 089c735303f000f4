//! One proxy with one address and many connections: its ports come round again while earlier ones are in TIME_WAIT.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Stage, amount, tell};
use crate::harness::process::pool;
use crate::harness::{eventually, net};

const THREADS: usize = 4;
/// A segment or an answer that gets lost comes again after 200 ms, then 400 ms, then 800 ms.
const HANGS: Duration = Duration::from_secs(3);

/// A client's request over a connection of its own, closed in order by both ends; the slot that answers.
fn visit(client: IpAddr) -> std::io::Result<u16> {
    let to = SocketAddr::from(([127, 0, 0, 1], 3000));
    let mut stream = TcpStream::connect_timeout(&to, HANGS)?;
    stream.set_read_timeout(Some(HANGS))?;
    stream.write_all(format!("GET / HTTP/1.0\r\nX-Forwarded-For: {client}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.parse().expect("a slot")).unwrap_or(u16::MAX))
}

/// So many connections from one address as fast as they come, each answered by its client's worker.
fn rush(stage: &Stage, count: usize) -> Value {
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for n in (thread..count).step_by(THREADS) {
                    let client: IpAddr = [203, 0, (n >> 8) as u8, n as u8].into();
                    let slot = visit(client).unwrap_or_else(|error| panic!("{client}, the {n}th: {error}"));
                    assert_eq!(slot, stage.home(client.into()), "{client}, the {n}th");
                }
            });
        }
    });
    let pool = pool("3000");
    let (gated, gate) = (&pool["outcomes"]["gated"], &pool["gate"]);
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    tell(format_args!("{count} connections, {rate:.0} a second: gated {gated}, {gate}"));
    pool
}

fn few_ports() {
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40499").expect("a setting of the test's own");
}

#[test]
fn nearly_all_stay_with_the_kernel() {
    let _net = net::isolate();
    let stage = Stage::new(&["--trust", "127.0.0.1/32"]);
    let count = amount(40_000);
    let pool = rush(&stage, count);
    let gated = pool["outcomes"]["gated"].as_u64().expect("a number");
    assert!(gated * 100 >= count as u64 * 99, "{pool:#?}");
    assert!(pool["gate"]["reaped"].as_u64() > Some(0), "{pool:#?}");
}

#[test]
fn ports_that_come_round_at_once_hang_nobody() {
    let _net = net::isolate();
    let stage = Stage::new(&["--trust", "127.0.0.1/32"]);
    few_ports();
    let count = amount(8_000);
    let pool = rush(&stage, count);
    let (gated, recurred) = (pool["outcomes"]["gated"].as_u64(), pool["gate"]["recurred"].as_u64());
    assert!(gated > Some(0) && recurred > Some(0), "{pool:#?}");
}

#[test]
fn without_reaping_all_that_recur_are_redirected() {
    let _net = net::isolate();
    let stage = Stage::new(&["--trust", "127.0.0.1/32", "--keep-time-wait"]);
    few_ports();
    let count = amount(4_000);
    let pool = rush(&stage, count);
    // Each port once.
    assert!(pool["outcomes"]["gated"].as_u64() <= Some(500), "{pool:#?}");
    let recurred = || crate::harness::process::pool("3000")["gate"]["recurred"].as_u64();
    eventually("the redirect has told all", || (recurred() >= Some(count as u64 - 500)).then_some(()));
    assert_eq!(pool["gate"]["reaped"], 0);
}
