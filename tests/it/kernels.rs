//! Kernels other than this machine's: what is refused on one that is too old or has Yama, and that the oldest one of
//! the distributions we name takes our programs and steers.
//!
//! Each test boots a Debian kernel in QEMU, without hardware virtualisation, and types at its shell. The kernels come
//! from Debian's archive, by apt, and stay in `target/kernels`.
#![cfg(target_arch = "x86_64")]

mod archive;
mod initramfs;
mod machine;

use serde_json::Value;

use crate::harness::eventually;
use machine::{Answer, Machine};

const CLIENTS: u64 = 8;
const CONNECTIONS: u64 = 4;

/// The refusal that `command` meets.
#[track_caller]
fn refused(machine: &mut Machine, command: &str, what: &[&str], hint: &str) {
    let Answer { text, code } = machine.sh(command);
    assert_eq!(code, 2, "`{command}`: {text}");
    for part in what {
        assert!(text.contains(part), "`{command}`: no {part:?} in: {text}");
    }
    assert!(text.contains(&format!("\n\nhint: {hint}")), "`{command}`: no such hint in: {text}");
    assert!(!text.contains("panicked"), "`{command}`: {text}");
}

/// Four processes that each listen on port 3000 with SO_REUSEPORT and never accept, started through `wrapper`.
fn start_pool(machine: &mut Machine, wrapper: &str) {
    // Joining a cgroup is writing to a file of this name, here a plain one.
    machine.ok("mkdir -p /tmp/pool");
    for _ in 0..4 {
        machine.ok(&format!(
            "{wrapper} sticky exec-worker --cgroup /tmp/pool --listen 0.0.0.0:3000 -- sleep 1000 &"
        ));
    }
    machine.ok("until [ $(netstat -ltn | grep -c :3000) = 4 ]; do usleep 20000; done");
}

fn json(machine: &mut Machine, command: &str) -> Value {
    serde_json::from_str(&machine.ok(&format!("{command} --json"))).expect("JSON")
}

/// The addresses of the clients: connecting to one of the machine's own addresses is connecting from it.
fn clients() -> impl Iterator<Item = String> {
    (1..=CLIENTS).map(|n| format!("10.9.0.{n}"))
}

/// The slot that each client gets at this port, as `sticky explain` says.
fn explained(machine: &mut Machine, port: u16) -> Vec<u64> {
    clients()
        .map(|client| {
            let found = json(machine, &format!("sticky explain {client} {port}"));
            let outcome = found[0]["outcome"].as_str().expect("an outcome");
            assert!(["table", "known"].contains(&outcome), "{found:#}");
            found[0]["slot"].as_u64().expect("a slot")
        })
        .collect()
}

/// One number of each slot, of the one pool on the port.
fn per_slot(pools: &Value, number: &str) -> Vec<u64> {
    let slots = pools[0]["slots"].as_array().expect("a pool");
    slots.iter().map(|slot| slot[number].as_u64().unwrap_or(0)).collect()
}

/// Every client's connections are in the slot that `explained` says, by our program's decision.
fn check_counts(pools: &Value, explained: &[u64]) {
    let expected: Vec<_> = (0..4)
        .map(|slot| CONNECTIONS * explained.iter().filter(|&&mine| mine == slot).count() as u64)
        .collect();
    assert_eq!(per_slot(pools, "connections"), expected, "{pools:#}");
    let outcomes = pools[0]["outcomes"].as_object().expect("outcomes");
    for (outcome, count) in outcomes {
        let expected = match outcome.as_str() {
            "table" => CLIENTS,
            "known" => CLIENTS * (CONNECTIONS - 1),
            _ => 0,
        };
        assert_eq!(count.as_u64(), Some(expected), "{outcome}: {pools:#}");
    }
}

#[test]
fn linux_5_10_is_too_old() {
    let mut machine = Machine::boot("bullseye", "5.10.");
    start_pool(&mut machine, "");
    let what = [
        "sticky: Linux 5.10.",
        "is too old: it lacks socket migration (`BPF_SK_REUSEPORT_SELECT_OR_MIGRATE`), new in 5.14",
    ];
    let hint = "use a kernel of 5.14 or later";
    refused(&mut machine, "sticky attach 3000", &what, hint);
    refused(&mut machine, "sticky attach --once 3000", &what, hint);
    refused(&mut machine, "sticky run -- sleep 1000", &what, hint);
    assert_eq!(
        machine.ok("find /sys/fs/bpf /sys/fs/cgroup /run -name '*sticky*'"),
        "",
        "a refusal leaves nothing"
    );
}

#[test]
fn yama_is_named() {
    let mut machine = Machine::boot("bookworm", "6.1.");
    machine.ok("mount -t bpf bpf /sys/fs/bpf");
    start_pool(&mut machine, "/usr/bin/setpriv --bounding-set -all");
    let scope = |machine: &mut Machine, level: u8| {
        machine.ok(&format!("echo {level} > /proc/sys/kernel/yama/ptrace_scope"));
    };
    let bpf_alone = "/usr/bin/setpriv --bounding-set -all,+bpf sticky attach --once 3000";
    let what = ["sticky: CAP_PERFMON is missing: sticky needs it on kernels before 6.17"];
    refused(&mut machine, bpf_alone, &what, "run sticky as root (`sudo sticky …`), or add CAP_PERFMON");
    let least = "/usr/bin/setpriv --bounding-set -all,+bpf,+perfmon sticky attach --once 3000";
    let what =
        |level| format!("(`kernel.yama.ptrace_scope` is {level}) forbids fetching the socket of process ");

    scope(&mut machine, 0);
    machine.ok(least);
    machine.ok("sticky detach 3000");
    scope(&mut machine, 1);
    refused(
        &mut machine,
        least,
        &["sticky: Yama ", &what(1)],
        "give sticky CAP_SYS_PTRACE (as root it has it)",
    );
    machine.ok("sticky attach --once 3000");
    machine.ok("sticky detach 3000");
    scope(&mut machine, 3);
    let hint = "reboot with `kernel.yama.ptrace_scope` at 2 or below (3 cannot be lowered)";
    for attach in [least, "sticky attach 3000", "sticky attach --once 3000"] {
        refused(&mut machine, attach, &["sticky: Yama ", &what(3)], hint);
    }
    let run = "sticky run -w 2 -- nc -ll -p 4000 -e /bin/true";
    refused(&mut machine, run, &["sticky: stopping 2 workers", "sticky: Yama ", &what(3)], hint);
    assert_eq!(machine.ok("ls /sys/fs/bpf"), "", "a refusal leaves nothing");
}

#[test]
fn linux_6_1_steers() {
    steers("bookworm", "6.1.");
}

#[test]
fn linux_6_12_steers() {
    steers("trixie", "6.12.");
}

/// `attach` and `run` load their programs on this kernel, and keep each client on one worker.
fn steers(suite: &str, release: &str) {
    let mut machine = Machine::boot(suite, release);
    for client in clients() {
        machine.ok(&format!("ip addr add {client}/32 dev lo"));
    }
    attach_steers(&mut machine);
    run_steers(&mut machine);
    gate_decides(&mut machine);
}

fn attach_steers(machine: &mut Machine) {
    start_pool(machine, "");
    let text = machine.ok("sticky attach --once 3000");
    assert!(text.contains("0.0.0.0:3000 is steered: 4 workers"), "{text}");
    // Clients that say nothing and stay.
    machine.ok("mkfifo /tmp/silence; exec 9<>/tmp/silence");
    for client in clients() {
        machine.ok(&format!("for n in $(seq {CONNECTIONS}); do nc {client} 3000 <&9 & done"));
    }
    let pools = eventually("all connections wait in the accept queues", || {
        let pools = json(machine, "sticky status 3000");
        (per_slot(&pools, "waiting").iter().sum::<u64>() == CLIENTS * CONNECTIONS).then_some(pools)
    });
    assert_eq!(per_slot(&pools, "waiting"), per_slot(&pools, "connections"), "{pools:#}");
    check_counts(&pools, &explained(machine, 3000));
    machine.ok("sticky detach 3000");
}

/// The workers are BusyBox's `nc`, a server that sets no SO_REUSEPORT: the bind hooks do.
fn run_steers(machine: &mut Machine) {
    machine.ok(r"printf '#!/bin/sh\necho $((STICKY_WORKER - 1))\n' > /tmp/slot; chmod +x /tmp/slot");
    machine.ok("sticky run -w 4 -- nc -ll -p 4000 -e /tmp/slot 2> /tmp/run & RUN=$!");
    machine.ok("until grep 'is complete: 4 workers listen' /tmp/run; do kill -0 $RUN && usleep 100000 || break; done");
    let mut met = Vec::new();
    for client in clients() {
        let text = machine.ok(&format!("for n in $(seq {CONNECTIONS}); do nc {client} 4000; done"));
        let slots: Vec<u64> = text.lines().map(|line| line.parse().expect("a slot")).collect();
        assert_eq!(slots, [slots[0]; CONNECTIONS as usize], "{client} met two workers");
        met.push(slots[0]);
    }
    assert_eq!(met, explained(machine, 4000));
    let said = machine.ok("cat /tmp/run");
    assert!(!said.contains("cannot be known"), "this kernel does not tell who takes the program off: {said}");
    check_counts(&json(machine, "sticky status 4000"), &met);
    machine.ok("kill $RUN; wait $RUN");
}

/// A trusted peer's connections are sent to the workers of the clients in their requests.
fn gate_decides(machine: &mut Machine) {
    let answer = r"printf '#!/bin/sh\nread a; read b; read c\necho $((STICKY_WORKER - 1))\n'";
    machine.ok(&format!("{answer} > /tmp/answer; chmod +x /tmp/answer"));
    machine.ok("sticky run -w 4 --trust 127.0.0.1 -- nc -ll -p 5000 -e /tmp/answer 2> /tmp/run & RUN=$!");
    machine.ok("until grep 'is complete: 4 workers listen' /tmp/run; do kill -0 $RUN && usleep 100000 || break; done");
    for n in 1..=CLIENTS {
        let request = format!(r"GET / HTTP/1.0\r\nX-Forwarded-For: 203.0.113.{n}\r\n\r\n");
        let slot = machine.ok(&format!("printf '{request}' | nc 127.0.0.1 5000"));
        let explained = json(machine, &format!("sticky explain 203.0.113.{n} 5000"));
        assert_eq!(slot.trim().parse().ok(), explained[0]["slot"].as_u64(), "203.0.113.{n}: {slot}");
    }
    let pools = json(machine, "sticky status 5000");
    assert_eq!((&pools[0]["gate"]["open"], &pools[0]["outcomes"]["gated"]), (&true.into(), &CLIENTS.into()));
    machine.ok("kill $RUN; wait $RUN");
}
