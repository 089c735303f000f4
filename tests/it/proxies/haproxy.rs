//! HAProxy, which shares connections among clients unless it is told not to, speaks HTTP/2, and the PROXY protocol.

use super::{CLIENTS, check, check_headers, counted, echo, gated, requests, run};
use crate::harness::process::outcome;
use crate::harness::proxy::{haproxy, haproxy_before};
use crate::harness::{app, net};

#[test]
fn connections_that_are_kept_and_shared() {
    let _net = net::isolate();
    let _sticky = echo(&[], &[]);
    let _haproxy = haproxy("", "");
    let (visits, pool) = check(requests(10_000));
    check_headers(&visits);
    assert!(counted(&pool, "shared") > 0, "{pool:#?}");
}

#[test]
fn a_connection_for_each_client() {
    let _net = net::isolate();
    let _sticky = echo(&[], &[]);
    let _haproxy = haproxy("http-reuse never", "");
    let (visits, pool) = check(requests(2_000));
    check_headers(&visits);
    assert_eq!(counted(&pool, "shared"), 0, "{pool:#?}");
    assert!(outcome(&pool, "redirected") >= CLIENTS as u64, "{pool:#?}");
}

#[test]
fn a_connection_for_each_client_which_sticky_is_told() {
    let _net = net::isolate();
    let _sticky = echo(&["--proxy-connections", "exclusive"], &[]);
    let _haproxy = haproxy("http-reuse never", "");
    let (visits, pool) = check(requests(2_000));
    check_headers(&visits);
    gated(&pool, CLIENTS);
}

#[test]
fn a_connection_for_each_request() {
    let _net = net::isolate();
    let _sticky = echo(&[], &[]);
    let _haproxy = haproxy("option httpclose", "");
    let (visits, pool) = check(requests(2_000));
    check_headers(&visits);
    gated(&pool, visits.len());
}

#[test]
fn over_ipv6_behind_the_gate() {
    let _net = net::isolate();
    let _sticky = echo(&["--trust", "::1/128"], &["::1"]);
    let _haproxy = haproxy_before("[::1]:3000", "option httpclose", "");
    let (visits, pool) = check(requests(2_000));
    gated(&pool, visits.len());
}

#[test]
fn http_2() {
    let _net = net::isolate();
    let _sticky = echo(&[], &[]);
    let _haproxy = haproxy("http-reuse always", "proto h2");
    let (visits, pool) = check(requests(2_000));
    check_headers(&visits);
    assert!(counted(&pool, "shared") > 0, "{pool:#?}");
    assert!(outcome(&pool, "redirected") < CLIENTS as u64, "nothing was multiplexed: {pool:#?}");
}

/// The PROXY header says who the client is, for the whole connection.
fn proxy_protocol(server: &str) {
    let _net = net::isolate();
    let _sticky = echo(&["--proxy-protocol", "strip"], &[]);
    let _haproxy = haproxy("", server);
    let (_, pool) = check(requests(2_000));
    assert_eq!(counted(&pool, "shared"), 0, "{pool:#?}");
    assert!(outcome(&pool, "redirected") >= CLIENTS as u64, "{pool:#?}");
}

#[test]
fn proxy_protocol_1_without_its_header() {
    proxy_protocol("send-proxy");
}

#[test]
fn proxy_protocol_2_without_its_header() {
    proxy_protocol("send-proxy-v2");
}

/// The worker gets the header, so the kernel can give it the connection.
fn proxy_protocol_with_its_header(server: &str) {
    let _net = net::isolate();
    let app = app("peers.py");
    let _sticky = run(&["--proxy-protocol", "pass"], &["python3", &app, "::", "3000"]);
    let _haproxy = haproxy("", server);
    let (visits, pool) = check(requests(2_000));
    for visit in visits {
        let told = visit.answer.expect("an answer").told();
        let header = told["proxy"].as_str().expect("a PROXY header");
        assert!(header.starts_with(&format!("PROXY TCP4 {} 127.0.0.1 ", visit.client)), "{header}");
    }
    assert!(outcome(&pool, "gated") >= CLIENTS as u64, "{pool:#?}");
    assert_eq!((outcome(&pool, "redirected"), counted(&pool, "connections")), (0, 0), "{pool:#?}");
}

#[test]
fn proxy_protocol_1_with_its_header() {
    proxy_protocol_with_its_header("send-proxy");
}

#[test]
fn proxy_protocol_2_with_its_header() {
    proxy_protocol_with_its_header("send-proxy-v2");
}
