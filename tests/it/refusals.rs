//! Every refusal: its message, its hint, its exit code.

use std::process::{Command, Output};

use crate::harness::process::{Process, run_sticky, start_sticky, sticky_ok};
use crate::harness::{app, net};

/// The refusal of `sticky` with these arguments, run through `wrapper` if there is one.
#[track_caller]
pub(crate) fn refused(wrapper: &[&str], arguments: &[&str], what: &[&str], hint: &str) {
    let sticky = env!("CARGO_BIN_EXE_sticky");
    let output = match wrapper.split_first() {
        Some((program, rest)) => {
            let mut command = Command::new("timeout");
            command.arg("20").arg(program).args(rest).arg(sticky).args(arguments);
            command.output().expect("the wrapper starts")
        }
        None => run_sticky(arguments),
    };
    let Output { status, stderr, .. } = output;
    let error = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(2), "{error}");
    for part in what {
        assert!(error.contains(part), "no {part:?} in: {error}");
    }
    assert!(error.contains(&format!("\n\nhint: {hint}")), "no such hint in: {error}");
    assert!(!error.contains("panicked"), "{error}");
}

/// A python worker that answers with its PID.
fn worker(options: &[&str]) -> Process {
    let app = app("name.py");
    let process = Process::start(Command::new("python3").args([&app, "0.0.0.0", "3000"]).args(options));
    process.wait_for("listening");
    process
}

#[test]
fn no_listener() {
    let _net = net::isolate();
    refused(
        &[],
        &["attach", "3000"],
        &["sticky: nothing listens on port 3000 in this network namespace"],
        "start the server first",
    );
    refused(
        &[],
        &["attach", "127.0.0.9:3000"],
        &["nothing listens on 127.0.0.9:3000"],
        "start the server first",
    );
    refused(&[], &["attach", "udp:3000"], &["nothing listens on UDP port 3000"], "start the server first");
}

#[test]
fn one_socket_that_all_workers_share() {
    let _net = net::isolate();
    let gunicorn = Process::start(
        Command::new("gunicorn")
            .args(["--bind", "0.0.0.0:3000", "--workers", "3", "--pythonpath"])
            .arg(app(""))
            .arg("wsgi:app"),
    );
    gunicorn.wait_for_nth("Booting worker", 2);
    refused(
        &[],
        &["attach", "3000"],
        &["0.0.0.0:3000 is one socket shared by 4 processes (`gunicorn` (process ", "it cannot be steered"],
        "start the workers so that each opens the port for itself: `sticky run -w N -- COMMAND`",
    );
}

#[test]
fn node_cluster() {
    let _net = net::isolate();
    let cluster = Process::start(Command::new("node").arg(app("cluster.js")));
    cluster.wait_for("up");
    refused(
        &[],
        &["attach", "3000"],
        &["[::]:3000 is a socket without SO_REUSEPORT, held by `node` (process "],
        "start the workers with `sticky run -w N -- COMMAND`",
    );
}

#[test]
fn a_socket_without_so_reuseport() {
    let _net = net::isolate();
    let _worker = worker(&[]);
    refused(
        &[],
        &["attach", "3000"],
        &["0.0.0.0:3000 is a socket without SO_REUSEPORT, held by `python3` (process "],
        "start the workers with `sticky run -w N -- COMMAND`",
    );
}

#[test]
fn different_programs_in_one_group() {
    let _net = net::isolate();
    let _worker = worker(&["reuseport"]);
    let program = "use IO::Socket::INET; $| = 1;
        $s = IO::Socket::INET->new(LocalAddr => '0.0.0.0:3000', Listen => 9, ReusePort => 1) or die $!;
        print \"listening\\n\"; sleep 1000";
    let perl = Process::start(Command::new("perl").args(["-e", program]));
    perl.wait_for("listening");
    refused(
        &[],
        &["attach", "3000"],
        &["0.0.0.0:3000 is shared by different programs: ", "`python3` (process ", "`perl` (process "],
        "stop the one that does not belong there, or pass `--mixed`",
    );
    sticky_ok(&["attach", "3000", "--once", "--mixed"]);
}

#[test]
fn different_users_in_one_group() {
    let _net = net::isolate();
    let _workers = [worker(&["reuseport", "uid=65534"]), worker(&["reuseport", "uid=65533"])];
    refused(
        &[],
        &["attach", "3000"],
        &["0.0.0.0:3000 is shared by different users: ", "user 65534)", "user 65533)"],
        "stop the one that does not belong there, or pass `--mixed`",
    );
    sticky_ok(&["attach", "3000", "--once", "--mixed"]);
}

#[test]
fn a_missing_capability_is_named() {
    let _net = net::isolate();
    let _worker = worker(&["reuseport", "uid=65534"]);
    let without = |capabilities: &'static str| ["setpriv", "--bounding-set", capabilities];
    refused(
        &without("-bpf,-sys_admin"),
        &["attach", "3000"],
        &["sticky: CAP_BPF is missing: sticky needs it to load the steering program"],
        "run sticky as root (`sudo sticky …`), or add CAP_BPF",
    );
    refused(
        &without("-net_admin"),
        &["run", "--", "true"],
        &["CAP_NET_ADMIN is missing: sticky needs it to set SO_REUSEPORT on the workers' sockets"],
        "run sticky as root (`sudo sticky …`), or add CAP_NET_ADMIN",
    );
    refused(
        &without("-sys_ptrace"),
        &["attach", "3000"],
        &[
            "CAP_SYS_PTRACE is missing: sticky needs it to fetch a socket from a process of another user or of more rights",
        ],
        "run sticky as root (`sudo sticky …`), or add CAP_SYS_PTRACE",
    );
}

/// DESIGN's least set of capabilities for a pool of one's own user.
#[test]
fn attach_needs_no_more_than_it_says() {
    let _net = net::isolate();
    let app = app("name.py");
    let powerless = ["--bounding-set", "-all", "python3", &app, "0.0.0.0", "3000", "reuseport"];
    let worker = Process::start(Command::new("setpriv").args(powerless));
    worker.wait_for("listening");
    let sticky = env!("CARGO_BIN_EXE_sticky");
    let attach = ["--bounding-set", "-all,+bpf", sticky, "attach", "3000", "--once"];
    let output = Command::new("setpriv").args(attach).output().expect("setpriv (util-linux)");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_pool_that_is_in_use() {
    let _net = net::isolate();
    let _worker = worker(&["reuseport"]);
    let first = start_sticky(&["attach", "3000"]);
    first.wait_for("is steered");
    let in_use = format!("sticky: the pool 0.0.0.0:3000 is in use by sticky, process {}", first.pid());
    for command in [&["attach", "3000"][..], &["attach", "3000", "--once"], &["detach", "3000"]] {
        refused(&[], command, &[&in_use], "stop that one first");
    }
    let app = app("name.py");
    refused(
        &[],
        &["run", "-w", "2", "--", "python3", &app, "0.0.0.0", "3000"],
        &[&in_use],
        "stop that one first",
    );
}

#[test]
fn a_run_that_is_active() {
    let _net = net::isolate();
    let app = app("name.py");
    let arguments = ["run", "-w", "2", "--", "python3", &app, "0.0.0.0", "3000"];
    let first = start_sticky(&arguments);
    first.wait_for("is complete");
    refused(
        &[],
        &arguments,
        &["the run `python3-", "is active already"],
        "stop that one first, or give this one another name",
    );
    let named = ["run", "-w", "2", "--name", "second", "--", "python3", &app, "0.0.0.0", "3000"];
    refused(&[], &named, &["the pool 0.0.0.0:3000 is in use by sticky, process "], "stop that one first");
}

#[test]
fn nothing_to_detach() {
    let _net = net::isolate();
    refused(
        &[],
        &["detach", "3000"],
        &["port 3000 is steered by nobody here"],
        "`sticky status` lists the pools",
    );
}

#[test]
fn nothing_to_explain() {
    let _net = net::isolate();
    refused(
        &[],
        &["explain", "10.0.0.1"],
        &["no pool takes connections from 10.0.0.1"],
        "`sticky status` lists the pools",
    );
}

#[test]
fn more_sockets_than_slots() {
    let _net = net::isolate();
    let program = "import socket, time
all = []
for _ in range(257):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); s.bind(('0.0.0.0', 3000)); s.listen(); all.append(s)
print('listening', flush=True); time.sleep(1000)";
    let many = Process::start(Command::new("python3").args(["-c", program]));
    many.wait_for("listening");
    refused(
        &[],
        &["attach", "3000"],
        &["0.0.0.0:3000 has 257 sockets; a pool has at most 256 slots"],
        "run fewer workers",
    );
}

#[test]
fn cgroup2_missing_or_read_only() {
    let _net = net::isolate();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let cgroup2 =
        mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let cgroup2 = cgroup2.expect("cgroup2 is mounted");
    let other_ways = "start the workers yourself, each with SO_REUSEPORT, and use `sticky attach`";
    let script = |change: String| format!("{change} && exec \"$0\" \"$@\"");
    let read_only = script(format!("mount -o remount,bind,ro {cgroup2}"));
    refused(
        &["unshare", "--mount", "sh", "-c", &read_only],
        &["run", "--", "true"],
        &["no cgroup can be made in `", "Read-only file system", other_ways],
        "run sticky as root; in a container mount cgroup2 read-write",
    );
    let missing = script(format!("umount -l {cgroup2}"));
    refused(
        &["unshare", "--mount", "sh", "-c", &missing],
        &["run", "--", "true"],
        &["cgroup2 is not mounted; `sticky run` keeps its workers in a cgroup", other_ways],
        "mount it (`mount -t cgroup2",
    );
}

#[test]
fn no_bpffs_and_no_right_to_mount_it() {
    let _net = net::isolate();
    let _worker = worker(&["reuseport"]);
    let script = "umount -l /sys/fs/bpf 2>/dev/null; exec setpriv --bounding-set -sys_admin \"$0\" \"$@\"";
    refused(
        &["unshare", "--mount", "sh", "-c", script],
        &["attach", "3000"],
        &["no BPF file system is mounted at `/sys/fs/bpf`, and mounting it failed: "],
        "mount it (`mount -t bpf bpf /sys/fs/bpf`)",
    );
}

#[test]
fn commands_and_users_that_do_not_exist() {
    let _net = net::isolate();
    refused(
        &[],
        &["run", "--", "no-such-command"],
        &["there is no command `no-such-command`"],
        "check the spelling",
    );
    refused(
        &[],
        &["run", "--", "/no/such/file"],
        &["there is no command `/no/such/file`"],
        "check the spelling",
    );
    refused(
        &[],
        &["run", "--user", "nobody-at-all", "--", "true"],
        &["there is no user `nobody-at-all`"],
        "`getent passwd`",
    );
    refused(
        &[],
        &["run", "--listen-fds", "udp:53", "--", "true"],
        &["only TCP ports can be passed"],
        "open UDP sockets",
    );
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &["attach"][..],
        &["attach", "0"],
        &["attach", "65536"],
        &["attach", "localhost:80"],
        &["run"],
        &["run", "-w", "0", "--", "true"],
        &["run", "-w", "257", "--", "true"],
        &["run", "--seed", "short", "--", "true"],
        &["run", "--ipv4-prefix", "33", "--", "true"],
        &["run", "--grace", "soon", "--", "true"],
        &["explain", "not-an-address"],
        &["detach"],
        &["detach", "3000", "--all"],
        &["no-such-command"],
    ] {
        let output = run_sticky(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains("error: ") && error.contains("--help"), "{arguments:?}: {error}");
    }
}
