//! Where there is no gate, all is redirected, and it is said why; and a gate that loses its corks gets new ones.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netlink_packet_sock_diag::inet::StateFlags;
use sticky::pool::id::Protocol;
use sticky::sock_diag::{Family, destroy, dump};

use super::{Stage, ask};
use crate::harness::net;
use crate::harness::process::{pool, sticky_ok};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const TRUST: [&str; 2] = ["--trust", "127.0.0.1/32"];

/// So many clients are served by their workers.
#[track_caller]
fn serves(stage: &Stage, clients: u8) {
    let to = SocketAddr::from(([127, 0, 0, 1], 3000));
    for n in 1..=clients {
        let client: IpAddr = [203, 0, 113, n].into();
        let request = format!("GET / HTTP/1.0\r\nX-Forwarded-For: {client}\r\n\r\n");
        let answer = ask(PROXY, to, &[request.as_bytes()]).expect("an answer");
        assert_eq!(answer, (200, Some(stage.home(client.into()))), "{client}");
    }
}

/// Nothing is decided by the kernel, for this reason.
#[track_caller]
fn redirected(stage: &Stage, why: &str, hint: &str) {
    stage
        .sticky
        .wait_for(&format!("no connection of a proxy is decided in the kernel, all are redirected: {why}"));
    serves(stage, 8);
    let outcomes = stage.outcomes();
    assert_eq!((outcomes["redirected"], outcomes["gated"]), (8, 0), "{outcomes:?}");
    let gate = &pool("3000")["gate"];
    assert_eq!(gate["open"], false);
    assert!(gate["why"].as_str().is_some_and(|why| why.contains(hint)), "{gate}");
    let status = sticky_ok(&["status", "3000"]);
    let why = format!("there is no gate: {}", gate["why"].as_str().unwrap_or_default());
    assert!(status.contains(&why), "no {why:?} in {status}");
}

#[test]
fn without_syn_cookies() {
    let _net = net::isolate();
    fs::write("/proc/sys/net/ipv4/tcp_syncookies", "0").expect("a setting of the test's own");
    let stage = Stage::through(&["env"], &TRUST);
    redirected(&stage, "`net.ipv4.tcp_syncookies` is 0", "`sysctl net.ipv4.tcp_syncookies=1`");
}

#[test]
fn without_the_right_to_what_the_reader_does() {
    let _net = net::isolate();
    let stage = Stage::through(&["setpriv", "--bounding-set", "-perfmon,-sys_admin"], &TRUST);
    redirected(&stage, "", "CAP_PERFMON");
}

#[test]
fn without_the_right_to_end_connections() {
    let _net = net::isolate();
    let stage = Stage::through(&["setpriv", "--bounding-set", "-net_admin"], &TRUST);
    stage.sticky.wait_for("connections in TIME_WAIT are left alone, as CAP_NET_ADMIN is missing");
    serves(&stage, 8);
    assert_eq!(stage.outcomes()["gated"], 8);
}

#[test]
fn lost_corks_are_renewed() {
    let _net = net::isolate();
    let stage = Stage::new(&TRUST);
    serves(&stage, 8);
    let mut corks = Vec::new();
    dump(Protocol::Tcp, Family::V4, StateFlags::SYN_RECV, 3000, |request| {
        corks.push(request.header.socket_id.clone());
    })
    .expect("the kernel's list");
    assert!(!corks.is_empty());
    destroy(Family::V4, &corks).expect("they are ended");
    let line = stage.sticky.wait_for("of its corks, which are renewed");
    assert!(line.contains(&format!("lost {} of its corks", corks.len())), "{line}");
    let before = stage.outcomes()["gated"];
    serves(&stage, 8);
    assert_eq!(stage.outcomes()["gated"], before + 8);
}
