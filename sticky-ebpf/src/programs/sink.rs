//! `sink`: the filter of the gate's second socket, which drops what the program sent there and nothing else.
//!
//! A segment that is dropped by a filter is as good as lost on its way; one that the program drops is answered with a
//! reset. Should the program be taken off the group, the sink is a listener like any other.

use aya_ebpf::macros::socket_filter;
use aya_ebpf::programs::{SkBuffContext, SkReuseportContext};
use sticky_ebpf::abi::SINK;

use crate::maps::{DROPPING, SOCKETS};

/// Has the filter drop this segment; false where there is no sink.
#[inline(always)]
pub(crate) fn drop_it(ctx: &SkReuseportContext) -> bool {
    let Some(dropping) = DROPPING.get_ptr_mut(0) else { return false };
    let selected = SOCKETS.select(ctx, SINK);
    // SAFETY: this CPU's own, and the filter runs next on it: between the two the kernel does not let go of the packet.
    unsafe { *dropping = u32::from(selected) };
    selected
}

#[socket_filter]
fn sink(_: SkBuffContext) -> i64 {
    const KEEP: i64 = u32::MAX as i64;
    match DROPPING.get_ptr_mut(0) {
        // SAFETY: as above.
        Some(dropping) if unsafe { dropping.replace(0) } != 0 => 0,
        _ => KEEP,
    }
}
