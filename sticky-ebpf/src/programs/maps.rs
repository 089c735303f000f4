//! The programs' maps. What lies in them: `sticky_ebpf::abi`.

use core::cell::UnsafeCell;
use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::bindings::{bpf_map_def, bpf_map_type::BPF_MAP_TYPE_REUSEPORT_SOCKARRAY};
use aya_ebpf::helpers::bpf_sk_select_reuseport;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf};
use aya_ebpf::programs::SkReuseportContext;
use sticky_ebpf::abi::{
    self, Config, MAX_GATED, MAX_OPENED, MAX_PINS, MAX_RELAYED, MAX_SLOTS, MAX_TRUSTED, Pin, Relay, Repair,
    Slot, Source, Standing, Table,
};
use sticky_ebpf::client::Client;
use sticky_ebpf::{head, proxy_protocol};

use crate::count::Storage;
use crate::opened::Opened;
use crate::reader::Window;

#[map]
pub(crate) static VERSION: Array<u32> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static TABLES: Array<Table> = Array::with_max_entries(2, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(abi::COUNTERS as u32, 0);
#[map]
pub(crate) static TRUSTED: LpmTrie<Client, u8> = LpmTrie::with_max_entries(MAX_TRUSTED as u32, 0);
/// The affinity table; each entry a `Known` as one word.
#[map]
pub(crate) static KNOWN: LruHashMap<Client, u64> = LruHashMap::with_max_entries(abi::KNOWN as u32, 0);
#[map]
pub(crate) static PINS: LpmTrie<Client, Pin> = LpmTrie::with_max_entries(MAX_PINS as u32, 0);
#[map]
pub(crate) static STANDINGS: Array<Standing> = Array::with_max_entries(MAX_SLOTS as u32, 0);
#[map]
pub(crate) static OPEN: Array<u64> = Array::with_max_entries(MAX_SLOTS as u32, 0);
#[btf_map]
pub(crate) static COUNTED: Storage = Storage::new();
#[map]
pub(crate) static RELAYED: HashMap<Source, Relay> =
    HashMap::with_max_entries(MAX_RELAYED as u32, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static GATED: LruHashMap<Source, Client> = LruHashMap::with_max_entries(MAX_GATED as u32, 0);
#[map]
pub(crate) static READER: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// Connections that were just sent to the gate.
#[map]
pub(crate) static OPENED: Array<Opened> = Array::with_max_entries(MAX_OPENED as u32, 0);
/// Whether the next segment at the sink is to be dropped.
#[map]
pub(crate) static DROPPING: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
/// A place to write a number to and read it back from.
#[map]
pub(crate) static CELL: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// What [`crate::reader`] has no room for on its stack.
#[map]
pub(crate) static HEAD: PerCpuArray<head::Scan> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static PROXY_HEADER: PerCpuArray<proxy_protocol::Scan> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static WINDOW: PerCpuArray<Window> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static REDIRECTED: Array<u64> = Array::with_max_entries(abi::REDIRECTED as u32, 0);
#[map]
pub(crate) static REPAIRED: Array<u64> = Array::with_max_entries(Repair::ALL.len() as u32, 0);
#[map]
pub(crate) static CHANGES: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);
#[map]
pub(crate) static SOCKETS: Sockets = Sockets::new();

/// A socket array with values of 8 bytes, which aya's own type lacks.
///
/// Only with those does the kernel tell user space which socket is in a slot (its cookie):
/// <https://elixir.bootlin.com/linux/v6.18/source/kernel/bpf/reuseport_array.c#L168>
#[repr(transparent)]
pub(crate) struct Sockets(UnsafeCell<bpf_map_def>);

// SAFETY: only the kernel's loader reads the definition; the program uses its address.
unsafe impl Sync for Sockets {}

impl Sockets {
    const fn new() -> Self {
        Self(UnsafeCell::new(bpf_map_def {
            type_: BPF_MAP_TYPE_REUSEPORT_SOCKARRAY,
            key_size: size_of::<u32>() as u32,
            value_size: size_of::<u64>() as u32,
            max_entries: abi::SOCKETS as u32,
            map_flags: 0,
            id: 0,
            pinning: 0,
        }))
    }

    /// Selects the socket in `slot`; false when there is none, or it left the group.
    #[inline(always)]
    pub(crate) fn select(&self, ctx: &SkReuseportContext, slot: Slot) -> bool {
        let mut key = u32::from(slot);
        // SAFETY: the context is the program's own, the map a socket array, the key a u32 on the stack.
        unsafe {
            bpf_sk_select_reuseport(
                ctx.as_ptr().cast(),
                self.0.get().cast::<c_void>(),
                (&raw mut key).cast(),
                0,
            ) == 0
        }
    }
}
