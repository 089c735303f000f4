//! nginx, which by default makes a connection for each request, in HTTP/1.0.

use super::{check, check_headers, counted, echo, gated, requests};
use crate::harness::net;
use crate::harness::process::outcome;
use crate::harness::proxy::{nginx, nginx_before};

const KEPT: &str = "proxy_http_version 1.1; proxy_set_header Connection '';";

#[test]
fn a_connection_for_each_request() {
    let _net = net::isolate();
    let _sticky = echo(&[], &[]);
    let _nginx = nginx("", "");
    let (visits, pool) = check(requests(2_000));
    check_headers(&visits);
    gated(&pool, visits.len());
}

#[test]
fn a_connection_for_each_request_and_no_gate() {
    let _net = net::isolate();
    let _sticky = echo(&["--proxy-connections", "shared"], &[]);
    let _nginx = nginx("", "");
    let (visits, pool) = check(requests(2_000));
    check_headers(&visits);
    assert_eq!(outcome(&pool, "redirected"), visits.len() as u64);
    assert_eq!(counted(&pool, "shared"), 0);
    // nginx speaks HTTP/1.0, and the redirect HTTP/1.1.
    assert!(visits.iter().all(|visit| visit.answer.as_ref().expect("an answer").told()["version"] == "1.1"));
    assert!(
        outcome(&pool, "relayed") < visits.len() as u64,
        "connections to workers are not kept: {pool:#?}"
    );
}

#[test]
fn workers_of_ipv4_alone_behind_the_gate() {
    let _net = net::isolate();
    let _sticky = echo(&[], &["0.0.0.0"]);
    let _nginx = nginx("", "");
    let (visits, pool) = check(requests(2_000));
    check_headers(&visits);
    gated(&pool, visits.len());
}

/// At workers of IPv6 alone, and of both.
#[test]
fn over_ipv6_behind_the_gate() {
    for address in [&["::1"][..], &[]] {
        let _net = net::isolate();
        let _sticky = echo(&["--trust", "::1/128"], address);
        let _nginx = nginx_before("[::1]:3000", "", "");
        let (visits, pool) = check(requests(2_000));
        gated(&pool, visits.len());
        for visit in visits {
            assert_eq!(visit.answer.expect("an answer").told()["peer"], "::1");
        }
    }
}

#[test]
fn connections_that_are_kept_and_shared() {
    let _net = net::isolate();
    let _sticky = echo(&[], &[]);
    let _nginx = nginx("keepalive 32;", KEPT);
    let (visits, pool) = check(requests(10_000));
    check_headers(&visits);
    assert!(counted(&pool, "shared") > 0, "{pool:#?}");
    assert!(outcome(&pool, "redirected") < visits.len() as u64, "{pool:#?}");
}

#[test]
fn workers_of_ipv4_alone() {
    let _net = net::isolate();
    let _sticky = echo(&[], &["0.0.0.0"]);
    let _nginx = nginx("keepalive 32;", KEPT);
    let (visits, _) = check(requests(2_000));
    check_headers(&visits);
}
