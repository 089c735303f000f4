//! `count`: how many connections each slot has open.
//!
//! A slot's listener carries which slot it is; the kernel copies that to each connection, where it stays until the
//! connection ends, wherever it is by then. What a connection carries also says whether it is counted. So a second one of
//! these programs, attached before the first goes, changes nothing, and no connection is counted out that was not
//! counted in.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;
use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use sticky_ebpf::abi::Counted;

use crate::maps::{COUNTED, OPEN};

const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_RECV: i32 = 3;
const TCP_CLOSE: i32 = 7;

/// `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`.
///
/// Every connection that was established ends here, by FIN, RST or timeout, accepted or not: `tcp_done`, which
/// `tcp_time_wait` calls too, `tcp_disconnect` and `tcp_close` set `TCP_CLOSE` by `tcp_set_state`:
/// <https://elixir.bootlin.com/linux/v6.18/source/net/ipv4/tcp.c>
#[btf_tracepoint(function = "inet_sock_set_state")]
fn count(ctx: BtfTracePointContext) -> i32 {
    let open = match (ctx.arg(1), ctx.arg(2)) {
        // Not from another state: a socket that was accepted may be closed and connect to somebody.
        (TCP_SYN_RECV, TCP_ESTABLISHED) => 1,
        (_, TCP_CLOSE) => 0,
        _ => return 0,
    };
    if let Some(counted) = COUNTED.of(&ctx)
        // SAFETY: the socket's own storage, which nobody else changes: the kernel has the socket locked.
        && let Counted { slot, open: before } = unsafe { *counted }
        && before != open
        && let Some(connections) = OPEN.get_ptr_mut(slot)
    {
        // SAFETY: as above.
        unsafe { (*counted).open = open };
        // SAFETY: an element of the map.
        unsafe { add(connections, if open == 1 { 1 } else { u64::MAX }) };
    }
    0
}

/// Adds to what stands there, whoever else does so at this moment.
///
/// In assembly: Rust's target has no such operation.
#[inline(always)]
unsafe fn add(at: *mut u64, number: u64) {
    // SAFETY: the caller's `at` points to an aligned word of a map.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({at} + 0) += {number}",
            at = in(reg) at,
            number = in(reg) number,
            options(nostack),
        );
    }
}

/// What sockets carry. aya's own type has no `BPF_F_CLONE`, and takes another program's context.
#[repr(C)]
pub(crate) struct Storage {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const Counted,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: only the kernel's loader reads the definition; the program uses its address.
unsafe impl Sync for Storage {}

impl Storage {
    pub(crate) const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// What the socket carries that a tracepoint has as its first argument.
    #[inline(always)]
    fn of(&'static self, ctx: &BtfTracePointContext) -> Option<*mut Counted> {
        let socket: *mut c_void = ctx.arg(0);
        // SAFETY: the map is a socket storage, the socket the kernel's own; without a flag nothing is made.
        let counted =
            unsafe { bpf_sk_storage_get(ptr::from_ref(self).cast_mut().cast(), socket, ptr::null_mut(), 0) };
        (!counted.is_null()).then(|| counted.cast())
    }
}
