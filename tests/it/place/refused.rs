//! Where connections cannot be counted, nobody is placed by them.

use std::process::Command;

use crate::harness::process::{Process, pool, pools, sticky_ok};
use crate::harness::{app, net};
use crate::refusals::refused;

const LEAST: [&str; 5] = ["attach", "3000", "--place", "least", "--once"];

#[test]
fn datagrams_are_no_connections() {
    let _net = net::isolate();
    let worker = Process::start(Command::new("python3").args([&app("udp.py"), "3000"]));
    worker.wait_for("listening");
    refused(
        &[],
        &["attach", "udp:3000", "--place", "least"],
        &["udp:0.0.0.0:3000 is a UDP pool; a datagram is no connection to count"],
        "leave `--place least` out",
    );
    sticky_ok(&["attach", "udp:3000", "--place", "hash", "--once"]);
}

#[test]
fn what_is_missing_is_named() {
    let _net = net::isolate();
    let _workers = super::workers(2);
    let unable: [(&[&str], &str, &str); 2] = [
        (
            &["setpriv", "--bounding-set", "-perfmon,-sys_admin"],
            "CAP_PERFMON is missing: sticky needs it to count connections, by which `--place least` places clients",
            "run sticky as root (`sudo sticky …`), or add CAP_PERFMON",
        ),
        (
            &["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"", "sh"],
            "`/sys/kernel/btf/vmlinux` is missing: `--place least` needs it to count connections",
            "use a kernel with CONFIG_DEBUG_INFO_BTF",
        ),
    ];
    for (wrapper, what, hint) in &unable {
        refused(wrapper, &LEAST, &[what], hint);
        assert!(pools("3000").is_empty(), "a refusal left something behind");
    }
    refused(
        &[],
        &["attach", "3000", "--place", "least", "--remember", "0"],
        &["clients that are placed by load must be remembered"],
        "leave `--remember 0` out, or give `--place hash`",
    );
    sticky_ok(&["attach", "3000", "--once"]);
    for (wrapper, what, hint) in &unable {
        refused(wrapper, &LEAST, &[what], hint);
        assert!(pool("3000")["slots"][0]["open"].is_null(), "a refusal changed something");
    }
    // Nor is what goes on already: it would stop counting one day, and nobody would know why.
    sticky_ok(&LEAST);
    for (wrapper, what, hint) in &unable {
        refused(wrapper, &["attach", "3000", "--once"], &[what], hint);
    }
    let held = super::hold(10);
    super::counted(&held);
}
