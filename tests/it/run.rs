//! `sticky run` with servers as they come, its restarts, its shutdown.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::client::{get, hear, loopback};
use crate::harness::process::{
    Process, all_pools, by_client, pids, pool, pools, start_sticky, sticky, sticky_ok,
};
use crate::harness::{app, eventually, net};

mod beside;

fn port(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Each of 32 clients gets the same answer twice; the different answers.
fn answers(path: &str, to: u16) -> HashSet<String> {
    (1..=32)
        .map(|n| {
            let first = get(loopback(n), port(to), path).expect("an answer");
            assert_eq!(get(loopback(n), port(to), path).expect("an answer"), first);
            first
        })
        .collect()
}

#[test]
fn an_unmodified_node_server() {
    let _net = net::isolate();
    let mut sticky = start_sticky(&["run", "-w", "4", "--", "node", &app("http.js")]);
    sticky.wait_for("[::]:3000 is complete: 4 workers");
    for worker in 1..=4 {
        sticky.wait_for(&format!("[{worker}] listening on 3000"));
    }
    let expected: HashSet<_> = (1..=4).map(|worker| format!("worker: {worker}")).collect();
    assert_eq!(answers("/", 3000), expected);
    assert_eq!(by_client(&pool("3000")), 64);
    // A worker's number is its slot's, whichever worker was the first to listen.
    for client in (1..=8).map(loopback) {
        let explained = sticky_ok(&["explain", &client.to_string(), "3000", "--json"]);
        let explained: serde_json::Value = serde_json::from_str(&explained).expect("JSON");
        let answer = get(client, port(3000), "/").expect("an answer");
        assert_eq!(answer, format!("worker: {}", explained[0]["worker"]));
    }
    assert_eq!(sticky.terminate(), Some(0));
    assert!(pools("3000").is_empty(), "the pool outlived its run");
}

#[test]
fn an_unmodified_python_server() {
    let _net = net::isolate();
    let folder = std::env::temp_dir().join(format!("sticky-www-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("page"), "hello").expect("a file");
    let folder_name = folder.to_str().expect("UTF-8");
    let sticky = start_sticky(&[
        "run",
        "-w",
        "4",
        "--",
        "python3",
        "-m",
        "http.server",
        "--directory",
        folder_name,
        "3000",
    ]);
    sticky.wait_for("0.0.0.0:3000 is complete: 4 workers");
    assert_eq!(answers("/page", 3000), HashSet::from(["hello".to_owned()]));
    let pool = pool("3000");
    assert_eq!(by_client(&pool), 64);
    let used =
        pool["slots"].as_array().expect("slots").iter().filter(|slot| slot["connections"] != 0).count();
    assert_eq!(used, 4, "{pool:#?}");
    drop(sticky);
    let _ = fs::remove_dir_all(folder);
}

#[test]
fn every_port_is_a_pool() {
    let _net = net::isolate();
    let program = "const s = require('node:http').createServer((q, r) => r.end(process.env.STICKY_WORKER));
        s.listen(3000); require('node:http').createServer((q, r) => r.end('admin')).listen(4000, '127.0.0.1');
        require('node:net').createServer().listen(0)";
    let sticky = start_sticky(&["run", "-w", "2", "--", "node", "-e", program]);
    sticky.wait_for("[::]:3000 is complete: 2 workers");
    sticky.wait_for("127.0.0.1:4000 is complete: 2 workers");
    assert_eq!(answers("/", 3000).len(), 2);
    assert_eq!(answers("/", 4000).len(), 1);
    assert_eq!(by_client(&pool("4000")), 64);
    // The sockets on port 0 are nobody's pool, and nobody's business.
    let addresses: Vec<_> = all_pools().iter().map(|pool| pool["address"].to_string()).collect();
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    let complaints: Vec<_> =
        sticky.lines().into_iter().filter(|line| line.contains("gets no connections")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[test]
fn a_worker_gets_its_slot_back() {
    let _net = net::isolate();
    let sticky = start_sticky(&["run", "-w", "3", "--", "node", &app("http.js")]);
    sticky.wait_for("is complete");
    let before = pids(&pool("3000"));
    let client = (1..=64)
        .map(loopback)
        .find(|client| get(*client, port(3000), "/").expect("an answer") == "worker: 2")
        .expect("a client of worker 2");
    let victim = before[1].expect("a PID");
    Command::new("kill").args(["-9", &victim.to_string()]).status().expect("kill");
    sticky.wait_for("worker 2 was killed by signal 9; starting it again now");
    sticky.wait_for_nth("is complete", 1);
    let after = pids(&pool("3000"));
    assert_eq!((before[0], before[2]), (after[0], after[2]));
    assert_ne!(before[1], after[1]);
    assert_eq!(get(client, port(3000), "/").expect("an answer"), "worker: 2");
}

#[test]
fn a_worker_that_keeps_failing_is_reported() {
    let _net = net::isolate();
    let program = "if (process.env.STICKY_WORKER === '2') { console.error('no database'); process.exit(7); }
        require('node:http').createServer((q, r) => r.end('worker: ' + process.env.STICKY_WORKER)).listen(3000)";
    let sticky = start_sticky(&["run", "-w", "3", "--", "node", "-e", program]);
    sticky.wait_for("worker 2 exited with code 7; starting it again in 100ms");
    sticky.wait_for("worker 2 keeps failing (5 times in a row)");
    sticky.wait_for("sticky:   no database");
    assert_eq!(answers("/", 3000), HashSet::from(["worker: 1".into(), "worker: 3".into()]));
}

#[test]
fn a_command_that_never_works_is_given_up() {
    let _net = net::isolate();
    let mut sticky = start_sticky(&["run", "-w", "2", "--", "sh", "-c", "echo broken; exit 3"]);
    assert_eq!(sticky.wait().code(), Some(1));
    sticky.wait_for("no worker ever listened, and all keep failing; the last one exited with code 3");
    sticky.wait_for("[1] broken");
}

#[test]
fn workers_that_do_not_end_are_killed_after_the_grace_period() {
    let _net = net::isolate();
    let program = "trap '' TERM; echo ready; while :; do sleep 1; done";
    let mut sticky = start_sticky(&["run", "-w", "2", "--grace", "300ms", "--", "sh", "-c", program]);
    sticky.wait_for("[1] ready");
    sticky.wait_for("[2] ready");
    assert_eq!(sticky.terminate(), Some(1));
    sticky.wait_for("killed after the grace period of 300ms: worker 1, 2");
}

#[test]
fn workers_may_take_their_time_to_end() {
    let _net = net::isolate();
    let program = "const s = require('node:http').createServer((q, r) => r.end('x')).listen(3000);
        process.on('SIGTERM', () => { s.close(); setTimeout(() => { console.log('saved'); process.exit(0); }, 300); })";
    let mut sticky = start_sticky(&["run", "-w", "2", "--", "node", "-e", program]);
    sticky.wait_for("is complete");
    sticky.signal(Signal::INT);
    assert_eq!(sticky.wait().code(), Some(0));
    sticky.wait_for("[1] saved");
    sticky.wait_for("[2] saved");
}

#[test]
fn sockets_can_be_passed_as_systemd_does() {
    let _net = net::isolate();
    let program = "
import os, socket
assert os.environ['LISTEN_PID'] == str(os.getpid()) and os.environ['LISTEN_FDS'] == '2'
a, b = socket.socket(fileno=3), socket.socket(fileno=4)
while True:
    connection, _ = a.accept()
    connection.sendall((os.environ['STICKY_WORKER'] + ' ' + str(b.getsockname()[1])).encode())
    connection.close()
";
    let arguments = [
        "run",
        "-w",
        "3",
        "--listen-fds",
        "127.0.0.1:3000",
        "--listen-fds",
        "4000",
        "--",
        "python3",
        "-c",
        program,
    ];
    let sticky = start_sticky(&arguments);
    sticky.wait_for("127.0.0.1:3000 is complete: 3 workers");
    sticky.wait_for("[::]:4000 is complete: 3 workers");
    let heard: HashSet<_> = (1..=32).map(|n| hear(loopback(n), port(3000)).expect("an answer")).collect();
    assert_eq!(heard, HashSet::from(["1 4000".into(), "2 4000".into(), "3 4000".into()]));
}

/// With no more capabilities than the systemd unit has.
#[test]
fn workers_can_run_as_another_user() {
    let _net = net::isolate();
    let unit = fs::read_to_string(app("../../deploy/sticky@.service")).expect("the unit");
    let bounding = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("a set");
    let capabilities: Vec<_> = bounding
        .split(' ')
        .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    let program = "import os, http.server
print('i am', os.getuid(), os.getgid(), os.getgroups(), file=open('/dev/stdout', 'w'), flush=True)
http.server.HTTPServer(('', 3000), http.server.SimpleHTTPRequestHandler).serve_forever()";
    let mut command = Command::new("setpriv");
    command.current_dir("/").args(["--bounding-set", &format!("-all,{}", capabilities.join(","))]);
    command.arg(sticky().get_program());
    command.args(["run", "-w", "2", "--user", "nobody", "--", "python3", "-c", program]);
    let mut sticky = Process::start(&mut command);
    sticky.wait_for("0.0.0.0:3000 is complete: 2 workers");
    sticky.wait_for("[1] i am 65534 65534 [65534]");
    assert_eq!(sticky.terminate(), Some(0));
}

#[test]
fn deferred_connections_reach_a_worker_with_their_request() {
    let _net = net::isolate();
    let sticky = start_sticky(&["run", "-w", "2", "--defer-accept", "--", "node", &app("http.js")]);
    sticky.wait_for("is complete");
    assert_eq!(answers("/", 3000).len(), 2);
    // The kernel keeps a silent connection from the worker for a second, which may pass before `ss` looks.
    eventually("a connection without a request is no worker's", || {
        let _silent = crate::harness::client::dial(loopback(1), port(3000)).expect("a connection");
        let mut ss = Command::new("ss");
        let output = ss.args(["-tnH", "state", "established", "sport", "=", ":3000"]).output();
        output.expect("ss (iproute2)").stdout.trim_ascii().is_empty().then_some(())
    });
}

#[test]
fn the_service_manager_is_told_when_the_pool_is_complete() {
    let _net = net::isolate();
    let path = std::env::temp_dir().join(format!("sticky-notify-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(crate::harness::DEADLINE)).expect("a deadline");
    let program = "if ('NOTIFY_SOCKET' in process.env) process.exit(1); require('node:net').createServer().listen(3000)";
    let mut command = sticky();
    command.env("NOTIFY_SOCKET", &path).args(["run", "-w", "2", "--", "node", "-e", program]);
    let sticky = Process::start(&mut command);
    let mut message = [0; 64];
    let length = socket.recv(&mut message).expect("a message");
    assert_eq!(message[..length].trim_ascii(), b"READY=1");
    sticky.wait_for("is complete: 2 workers");
    let _ = fs::remove_file(path);
}

#[test]
fn a_worker_with_several_sockets_has_several_slots() {
    let _net = net::isolate();
    let program = "
import os, socket, threading
def serve():
    s = socket.socket(); s.bind(('0.0.0.0', 3000)); s.listen()
    while True:
        c, _ = s.accept(); c.sendall((os.environ['STICKY_WORKER'] + ' ' + threading.current_thread().name).encode()); c.close()
for name in 'ab':
    threading.Thread(target=serve, name=name).start()
";
    let sticky = start_sticky(&["run", "-w", "2", "--", "python3", "-c", program]);
    sticky.wait_for("is complete: 2 workers");
    let slots = eventually("four slots", || {
        Some(pids(&pool("3000"))).filter(|pids| pids.iter().flatten().count() == 4)
    });
    assert_ne!(slots[0], slots[1], "a worker's second socket took another worker's slot");
    let heard: HashSet<_> = (1..=64).map(|n| hear(loopback(n), port(3000)).expect("an answer")).collect();
    assert_eq!(heard, ["1 a", "1 b", "2 a", "2 b"].map(String::from).into());
}

/// As a container's first process.
#[test]
fn orphans_of_a_container_are_taken_note_of() {
    let _net = net::isolate();
    let worker = format!("(sleep 0.1 &) ; (sleep 0.1 &) ; exec python3 {} 0.0.0.0 3000", app("name.py"));
    let run =
        [env!("CARGO_BIN_EXE_sticky"), "run", "-w", "1", "--name", "container", "--", "sh", "-c", &worker];
    let mut unshare = Command::new("unshare");
    let unshared =
        Process::start(unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).args(run));
    unshared.wait_for("is complete");
    let children = |pid: &str| {
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a list");
        list.split_whitespace().map(String::from).collect::<Vec<_>>()
    };
    let sticky = children(&unshared.pid().to_string()).remove(0);
    eventually("the worker is the only child", || (children(&sticky).len() == 1).then_some(()));
}

/// As systemd gives them with `AmbientCapabilities`.
#[test]
fn workers_inherit_no_rights_of_stickys() {
    let _net = net::isolate();
    let program = "import socket, time
print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('CapAmb')), flush=True)
listener = socket.create_server(('0.0.0.0', 3000), reuse_port=True)
time.sleep(600)";
    let ambient = ["--inh-caps", "+bpf,+net_admin,+sys_ptrace,+net_bind_service"];
    let ambient =
        [&ambient[..], &["--ambient-caps", "+bpf,+net_admin,+sys_ptrace,+net_bind_service"]].concat();
    let run =
        [env!("CARGO_BIN_EXE_sticky"), "run", "-w", "1", "--name", "ambient", "--", "python3", "-c", program];
    let sticky = Process::start(Command::new("setpriv").args(ambient).args(run));
    // CAP_NET_BIND_SERVICE is left: it is the workers' business.
    sticky.wait_for("0000000000000400");
}

#[test]
fn stopping_while_workers_start_is_clean() {
    let _net = net::isolate();
    for _ in 0..8 {
        let mut sticky =
            start_sticky(&["run", "-w", "4", "--", "python3", &app("name.py"), "0.0.0.0", "3000"]);
        let children = format!("/proc/{0}/task/{0}/children", sticky.pid());
        eventually("workers", || fs::read_to_string(&children).ok().filter(|list| !list.is_empty()));
        assert_eq!(sticky.terminate(), Some(0), "{:#?}", sticky.lines());
    }
}
