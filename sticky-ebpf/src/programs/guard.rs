//! `guard`: a word to user space when anybody gives a reuseport group another program, or none.
//!
//! Any process that holds a socket of the group may do that, without capabilities, and the kernel has no query for the
//! program. A hook on `setsockopt` sees it just before it is done, on kernels without BTF too.

use aya_ebpf::bindings::bpf_pidns_info;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_ns_current_pid_tgid};
use aya_ebpf::macros::cgroup_sockopt;
use aya_ebpf::programs::SockoptContext;
use aya_ebpf::{EbpfContext as _, Global};
use sticky_ebpf::abi::{Observer, Tampering};
use sticky_ebpf::client::Client;

use crate::maps::CHANGES;

const SOL_SOCKET: i32 = 1;
const SO_ATTACH_REUSEPORT_CBPF: i32 = 51;
const SO_ATTACH_REUSEPORT_EBPF: i32 = 52;
const SO_DETACH_REUSEPORT_BPF: i32 = 68;
const AF_INET: u32 = 2;
const ALLOW: i32 = 1;

#[unsafe(no_mangle)]
static OBSERVER: Global<Observer> =
    Global::new(Observer { network: 0, pid: 0, device: 0, inode: 0, first: 0 });

#[cgroup_sockopt(setsockopt)]
fn guard(ctx: SockoptContext) -> i32 {
    // SAFETY: the context is the program's own, and the verifier checks each field.
    let (level, option) = unsafe { ((*ctx.sockopt).level, (*ctx.sockopt).optname) };
    let attached = match option {
        SO_ATTACH_REUSEPORT_CBPF | SO_ATTACH_REUSEPORT_EBPF => 1,
        SO_DETACH_REUSEPORT_BPF => 0,
        _ => 2,
    };
    if level == SOL_SOCKET && attached != 2 {
        tell(&ctx, attached);
    }
    // As it was given: the kernel does not take back its copy of what is longer than a page.
    // SAFETY: as above.
    unsafe { (*ctx.sockopt).optlen = 0 };
    ALLOW
}

#[inline(always)]
fn tell(ctx: &SockoptContext, attached: u8) {
    let observer = OBSERVER.load();
    let pid = pid(&observer);
    // SAFETY: the context is the program's own.
    let network = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    if network != observer.network || u64::from(pid) == observer.pid {
        return;
    }
    // SAFETY: as in `guard`.
    let tampering = unsafe {
        let socket = (*ctx.sockopt).__bindgen_anon_1.sk;
        // Both are read, lest the compiler chooses where to read from: the verifier allows no arithmetic on the pointer.
        let ipv4 = (&raw const (*socket).src_ip4).read_volatile();
        let [a, b, c, d] = [
            u64::from((&raw const (*socket).src_ip6[0]).read_volatile()),
            u64::from((&raw const (*socket).src_ip6[1]).read_volatile()),
            u64::from((&raw const (*socket).src_ip6[2]).read_volatile()),
            u64::from((&raw const (*socket).src_ip6[3]).read_volatile()),
        ];
        let is_ipv4 = (*socket).family == AF_INET;
        let address = if is_ipv4 { Client::v4(ipv4) } else { Client::v6([b << 32 | a, d << 32 | c]) };
        Tampering { address, pid, port: (*socket).src_port as u16, state: (*socket).state as u8, attached }
    };
    // A full buffer loses the event: user space also attaches its program from time to time.
    let _ = CHANGES.output::<Tampering>(tampering, 0);
}

/// The calling process as the observer numbers it; 0 when it has no number there.
#[inline(always)]
fn pid(observer: &Observer) -> u32 {
    // The first namespace has a number for everybody. Before Linux 6.10 there is no other way.
    if observer.first != 0 {
        return (bpf_get_current_pid_tgid() >> 32) as u32;
    }
    let mut found = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: the place for the answer is of the size that is given. It stays 0 for a process of another namespace.
    unsafe {
        bpf_get_ns_current_pid_tgid(
            observer.device,
            observer.inode,
            &raw mut found,
            size_of::<bpf_pidns_info>() as u32,
        )
    };
    found.tgid
}
