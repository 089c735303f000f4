//! Over a wire with small packets, none of them put together again: heads of any size are served, and soon.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Stage, ask};
use crate::harness::app;
use crate::harness::net::{across_veth, ip, isolate};

/// More of a head does not fit into a packet of 1,500 bytes, besides 20 bytes of IPv4 and 32 of TCP with its timestamps.
const PACKET: usize = 1448;

/// A head of so many bytes, with the client's line at its end.
fn head(client: IpAddr, length: usize) -> String {
    let (begin, end) = ("GET / HTTP/1.0\r\nCookie: ", format!("\r\nX-Forwarded-For: {client}\r\n\r\n"));
    format!("{begin}{}{end}", "c".repeat(length - begin.len() - end.len()))
}

#[test]
fn heads_of_any_size_over_a_small_mtu() {
    let _net = isolate();
    let stage = Stage::new(&["--trust", "10.9.1.1/32"]);
    let lengths = (512..=12 * 1024).step_by(128).chain([PACKET, PACKET + 1]).collect::<Vec<_>>();
    across_veth(1, || {
        // As a network card sends that cannot cut up large ones itself.
        ip("link set far mtu 1500 gso_max_segs 1");
        let (from, to): (IpAddr, SocketAddr) = ([10, 9, 1, 1].into(), ([10, 9, 0, 1], 3000).into());
        for (n, length) in lengths.iter().enumerate() {
            let client: IpAddr = [203, 0, 113, n as u8].into();
            let begin = Instant::now();
            let answer = ask(from, to, &[head(client, *length).as_bytes()]).expect("an answer");
            assert_eq!(answer, (200, Some(stage.home(client.into()))), "{length} bytes");
            assert!(begin.elapsed() < Duration::from_secs(1), "{length} bytes took {:?}", begin.elapsed());
        }
    });
    let outcomes = stage.outcomes();
    let small = lengths.iter().filter(|length| **length <= PACKET).count();
    assert_eq!((outcomes["gated"], outcomes["unfinished"]), (small as u64, (lengths.len() - small) as u64));
}

/// Some segment is lost now and then, or overtaken: what comes too early is as good as lost, and comes again.
#[test]
fn a_second_segment_may_come_first() {
    let _net = isolate();
    let stage = Stage::new(&["--trust", "10.9.1.77/32"]);
    let home = stage.home(IpAddr::from([203, 0, 113, 7]).into());
    let first = "GET / HTTP/1.0\\r\\nX-Forwarded-For: 203.0.113.7\\r\\n\\r\\n";
    // More data, and the end of the connection.
    let outputs = across_veth(1, || {
        [("40000", "and more"), ("40001", "")].map(|(port, second)| {
            let app = app("segments.py");
            let command = [app.as_str(), "far", "10.9.1.77", port, "10.9.0.1", "3000", first, second];
            Command::new("python3").args(command).output().expect("python3")
        })
    });
    for output in outputs {
        let text = String::from_utf8_lossy(&output.stdout);
        let (too_early, in_order) = text.split_once('\n').unwrap_or_else(|| panic!("{output:?}"));
        assert_eq!(too_early, "''", "{output:?}");
        let answer = format!("\\r\\n\\r\\n{home}'");
        assert!(
            in_order.starts_with("'HTTP/1.1 200 OK") && in_order.trim_end().ends_with(&answer),
            "{output:?}"
        );
    }
    assert_eq!((stage.outcomes()["gated"], stage.outcomes()["silent"]), (2, 0));
}
