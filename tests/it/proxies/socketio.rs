//! Real socket.io through a proxy: polls over shared connections, then a WebSocket each.

use std::process::Command;

use serde_json::Value;

use super::{counted, run};
use crate::harness::process::{by_client, outcome, pool};
use crate::harness::proxy::{PROXIED, haproxy, nginx};
use crate::harness::{app, net};

const CLIENTS: u64 = 100;

fn check() {
    let output = Command::new("node")
        .args([app("socketio-clients.js"), CLIENTS.to_string(), format!("http://{PROXIED}")])
        .output()
        .expect("`node` (`cargo xtask setup` installs it)");
    assert!(output.status.success(), "{output:?}");
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(result["errors"], Value::Array(Vec::new()));
    for all in ["connected", "upgraded"] {
        assert_eq!(result[all], CLIENTS, "{result}");
    }
    assert_eq!((&result["answered"], &result["strayed"]), (&(CLIENTS * 10).into(), &0.into()));
    // Polls are redirected. So is a WebSocket on a connection that a poll came over; any other the kernel decides.
    let pool = crate::harness::eventually("all WebSockets are counted", || {
        Some(pool("3000")).filter(|pool| outcome(pool, "gated") + counted(pool, "tunnels") >= CLIENTS)
    });
    assert!(outcome(&pool, "gated") > 0 && outcome(&pool, "shared") > 0, "{pool:#?}");
    assert_eq!(by_client(&pool), 0, "{pool:#?}");
    assert_eq!(counted(&pool, "unserved"), 0, "{pool:#?}");
}

#[test]
fn through_nginx() {
    let _net = net::isolate();
    let _sticky = run(&[], &["node", &app("socketio.js")]);
    let _nginx = nginx(
        "keepalive 32;",
        "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;
         proxy_set_header Connection $connection_upgrade;",
    );
    check();
}

#[test]
fn through_haproxy() {
    let _net = net::isolate();
    let _sticky = run(&[], &["node", &app("socketio.js")]);
    let _haproxy = haproxy("", "");
    check();
}
