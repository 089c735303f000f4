//! By which number connections to the gate were just opened, so that data which overtakes the first is known.
//!
//! The cookie of such data would not fit, and the kernel would reset the connection.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use sticky_ebpf::abi::MAX_OPENED;
use sticky_ebpf::client::Client;

use crate::maps::OPENED;

/// When a connection was opened, from where, and by which number; in one word, which no other CPU sees half of.
#[derive(Clone, Copy)]
pub(crate) struct Opened(u64);

impl Opened {
    /// How long data may wait for the data before it, in units of [`Self::time`]: three seconds. Afterwards it is left
    /// over of a connection that is gone.
    const LIMIT: u16 = 45;

    /// Remembers that a connection was opened from `peer` and `port` by this number.
    #[inline(always)]
    pub(crate) fn now(peer: Client, port: u16, sequence: u32) {
        let (place, tag) = place(peer, port);
        if let Some(opened) = OPENED.get_ptr_mut(place) {
            // SAFETY: an element of the map; whoever writes there at this moment writes a whole word, too.
            unsafe { opened.write_volatile(Self::new(tag, Self::time(), sequence)) };
        }
    }

    /// Whether data, or an end, of this number comes before the first of a connection that was opened a moment ago.
    #[inline(always)]
    pub(crate) fn overtaken(peer: Client, port: u16, sequence: u32) -> bool {
        let (place, tag) = place(peer, port);
        let Some(opened) = OPENED.get_ptr(place) else { return false };
        // SAFETY: as above.
        let Self(opened) = unsafe { opened.read_volatile() };
        let age = Self::time().wrapping_sub((opened >> 32) as u16);
        (opened >> 48) as u16 == tag && age < Self::LIMIT && (opened as u32).wrapping_add(1) != sequence
    }

    #[inline(always)]
    const fn new(tag: u16, at: u16, sequence: u32) -> Self {
        Self((tag as u64) << 48 | (at as u64) << 32 | sequence as u64)
    }

    /// About fifteen a second.
    #[inline(always)]
    fn time() -> u16 {
        // SAFETY: it only reads a clock.
        (unsafe { bpf_ktime_get_ns() } >> 26) as u16
    }
}

/// Where connections from there have their place, and what tells those of one address from another's. The ports of an
/// address have places of their own; of two addresses the later one may take a place, and of the other one's data is then
/// believed that it is the first.
#[inline(always)]
fn place(peer: Client, port: u16) -> (u32, u16) {
    let [high, low] = peer.words();
    let folded = high ^ low;
    // Fibonacci hashing: Knuth, The Art of Computer Programming, volume 3, section 6.4.
    let mixed = (folded ^ folded >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (u32::from(port ^ (mixed >> 48) as u16) % MAX_OPENED as u32, (mixed >> 32) as u16)
}
