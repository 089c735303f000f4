//! Real socket.io over a pool: its handshake takes several requests, which must all meet one worker.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::process::{by_client, pool, start_sticky, sticky_ok};
use crate::harness::{app, net};

const CLIENTS: u64 = 100;

/// What became of the clients.
fn clients() -> Value {
    let output = Command::new("node")
        .args([app("socketio-clients.js"), CLIENTS.to_string(), "http://127.0.0.1:3000".into()])
        .output()
        .expect("`node` (`cargo xtask setup` installs it)");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn polling_then_websocket_without_an_error() {
    let installed = app("node_modules/socket.io");
    assert!(
        Path::new(&installed).exists(),
        "socket.io is missing: `cargo xtask setup`, or `npm ci` in tests/apps"
    );
    let _net = net::isolate();
    let mut sticky = start_sticky(&["run", "-w", "4", "--", "node", &app("socketio.js")]);
    sticky.wait_for("is complete: 4 workers");
    let result = clients();
    assert_eq!(result["errors"], Value::Array(Vec::new()));
    assert_eq!(result["connected"], CLIENTS);
    assert_eq!(result["upgraded"], CLIENTS);
    assert_eq!(result["answered"], CLIENTS * 10);
    assert_eq!(result["strayed"], 0);
    // A handshake, a poll or two, and a WebSocket from each.
    let steered = by_client(&pool("3000"));
    assert!(steered >= CLIENTS * 3, "{steered} connections are fewer than socket.io must have made");

    // The control: the same workers without the program. Only so is it sticky that made the difference.
    sticky.signal(Signal::KILL);
    sticky.wait();
    let workers = pool("3000")["slots"].clone();
    sticky_ok(&["detach", "3000"]);
    let result = clients();
    let errors = result["errors"].to_string();
    assert!(errors.contains("Session ID unknown"), "plain SO_REUSEPORT had no trouble: {result}");
    for slot in workers.as_array().expect("slots") {
        let _ = Command::new("kill").arg(slot["pids"][0].to_string()).status();
    }
}
