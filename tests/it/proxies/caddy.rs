//! Caddy, which shares connections among clients, and names them by itself.

use super::{check, check_headers, counted, echo, requests};
use crate::harness::net;
use crate::harness::proxy::caddy;

#[test]
fn as_its_manual_begins() {
    let _net = net::isolate();
    let _sticky = echo(&[], &[]);
    let _caddy = caddy();
    let (visits, pool) = check(requests(5_000));
    check_headers(&visits);
    assert!(counted(&pool, "shared") > 0, "{pool:#?}");
}
