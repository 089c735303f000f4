//! What steering reads of a pool's maps and changes in them, as the programs do it.

use core::cell::Cell;
use core::ptr;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::SkReuseportContext;
use sticky_ebpf::abi::{Known, Moment, Outcome, Pin, Slot, Standing, moved_counter};
use sticky_ebpf::client::Client;
use sticky_ebpf::steer::Maps;

use crate::maps::{CELL, KNOWN, OPEN, PINS, SOCKETS, STANDINGS};
use crate::steer::Tally;

/// The maps, while a connection is steered.
pub(crate) struct Memory<'a> {
    ctx: &'a SkReuseportContext,
    tally: &'a Tally,
    /// Where the affinity table has the client that it was asked for.
    entry: Cell<*mut u64>,
}

impl<'a> Memory<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a SkReuseportContext, tally: &'a Tally) -> Self {
        Self { ctx, tally, entry: Cell::new(ptr::null_mut()) }
    }
}

impl Maps for Memory<'_> {
    #[inline(always)]
    fn now(&self) -> Moment {
        // SAFETY: it only reads a clock.
        Moment::from_nanoseconds(unsafe { bpf_ktime_get_coarse_ns() })
    }

    #[inline(always)]
    fn pin(&self, client: Client) -> Option<Pin> {
        PINS.get(Key::new(128, client)).copied()
    }

    #[inline(always)]
    fn known(&self, client: Client) -> Known {
        let Some(entry) = KNOWN.get_ptr_mut(client) else { return Known::NOBODY };
        self.entry.set(entry);
        // SAFETY: an entry of the map; whoever writes there at this moment writes a whole word, too. Should it be another
        // client's by now, this one has been forgotten this very moment, and gets that one's slot.
        Known::from_word(unsafe { entry.read_volatile() })
    }

    #[inline(always)]
    fn seen(&self, _: Client, before: Known, now: Moment) {
        let entry = self.entry.get();
        if !entry.is_null() {
            // SAFETY: as above.
            unsafe { compare_exchange(entry, before.to_word(), Known::new(before.slot, now).to_word()) };
        }
    }

    #[inline(always)]
    fn renew(&self, client: Client, old: Known, new: Known) -> Known {
        let Some(entry) = KNOWN.get_ptr_mut(client) else {
            if KNOWN.insert(client, new.to_word(), u64::from(BPF_NOEXIST)).is_err() {
                // It is there by now, or there is no room.
                let says = self.known(client);
                if says.slot != Known::NOBODY.slot {
                    return says;
                }
                self.tally.count(Outcome::Unremembered.counter());
            }
            return new;
        };
        let old = old.to_word();
        // SAFETY: as above.
        let says = unsafe { compare_exchange(entry, old, new.to_word()) };
        if says == old { new } else { Known::from_word(says) }
    }

    #[inline(always)]
    fn standing(&self, slot: Slot) -> Option<&Standing> {
        STANDINGS.get(u32::from(slot))
    }

    #[inline(always)]
    fn open(&self, slot: Slot) -> u64 {
        OPEN.get(u32::from(slot)).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn select(&self, slot: Slot) -> bool {
        SOCKETS.select(self.ctx, slot)
    }

    #[inline(always)]
    fn moved(&self, from: Slot, cause: u64) {
        self.tally.count(moved_counter(from, cause as u32));
    }

    #[inline(always)]
    fn forget(&self, number: u64) -> u64 {
        let Some(cell) = CELL.get_ptr_mut(0) else { return number };
        // SAFETY: this CPU's own.
        unsafe {
            cell.write_volatile(number);
            cell.read_volatile()
        }
    }
}

/// Writes `new` where `old` stands; what stood there.
///
/// In assembly: Rust's target has no such operation, as the first BPF machines had none. Kernels have it since 5.12.
#[inline(always)]
unsafe fn compare_exchange(at: *mut u64, old: u64, new: u64) -> u64 {
    let found: u64;
    // SAFETY: the caller's `at` points to an aligned word of a map.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({at} + 0, r0, {new})",
            at = in(reg) at,
            new = in(reg) new,
            inout("r0") old => found,
            options(nostack),
        );
    }
    found
}
