//! `reader`: a trusted proxy's first segment → the head of its request → client → slot → the worker's socket; or the
//! redirect's socket, for all that cannot be decided here.
//!
//! `steer` ends in it when the gate let a connection come so far. A program of its own, since `bpf_loop` is not in every
//! kernel that `steer` runs on (it is new in 5.17), nor what it does allowed to a loader without CAP_PERFMON.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::helpers::{bpf_loop, bpf_skb_load_bytes};
use aya_ebpf::macros::sk_reuseport;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::SkReuseportContext;
use sticky_ebpf::abi::{Config, Outcome, REDIRECT, Sharing, Source};
use sticky_ebpf::client::Client;
use sticky_ebpf::head::{Bytes, LONGEST, Scan, Verdict};
use sticky_ebpf::steer::{Choice, affine, spread, steer as choose};

use crate::maps::{CONFIG, GATED, SCAN, SOCKETS, TABLES, TRUSTED, WINDOW};
use crate::packet::{self, Segment, segment, source, source_port};
use crate::steer::Tally;

/// Reads in silence.
#[sk_reuseport(migrate)]
fn reader(ctx: SkReuseportContext) -> u32 {
    decide(&ctx, |_, _| {})
}

/// Reads and logs each decision.
#[sk_reuseport(migrate)]
fn reader_traced(ctx: SkReuseportContext) -> u32 {
    decide(&ctx, |client, choice| packet::log(&ctx, client, choice))
}

#[inline(always)]
fn decide(ctx: &SkReuseportContext, log: impl Fn(Client, Option<Choice>)) -> u32 {
    let Some(config) = CONFIG.get(0) else { return SK_DROP };
    let Some(table) = TABLES.get(config.table & 1) else { return SK_DROP };
    let tally = Tally { counts: true };
    let (peer, port) = (source(ctx).unwrap_or_default(), source_port(ctx));
    let (client, why) = match look(ctx, config, peer) {
        Verdict::Client(client) => (Some(client), None),
        Verdict::Shared(client) if config.proxies.sharing() == Sharing::Exclusive => (Some(client), None),
        Verdict::Shared(client) => (Some(client), Some(Outcome::Shared)),
        Verdict::Incomplete => (None, Some(Outcome::Unfinished)),
        Verdict::TooLong => (None, Some(Outcome::TooLong)),
        Verdict::Http2 => (None, Some(Outcome::Http2)),
        Verdict::Strange => (None, Some(Outcome::Strange)),
    };
    if let Some(why) = why
        && SOCKETS.select(ctx, REDIRECT)
    {
        tally.count(Outcome::Redirected.counter());
        tally.count(why.counter());
        return SK_PASS;
    }
    let hash = match client {
        Some(client) => {
            // For when its worker goes before it accepts, and to tell workers their client.
            let _ = GATED.insert(Source::new(peer, port), client, 0);
            affine(config, client)
        }
        None => spread(config, peer, port),
    };
    let choice = choose(config, table, hash, |slot| SOCKETS.select(ctx, slot));
    log(client.unwrap_or(peer), choice);
    let outcome = if why.is_none() { Outcome::Gated } else { Outcome::Unredirected };
    tally.verdict(choice, Some(outcome))
}

/// What the first segment says of the connection.
#[inline(always)]
fn look(ctx: &SkReuseportContext, config: &Config, peer: Client) -> Verdict {
    let (Some(scan), Some(window)) = (SCAN.get_ptr_mut(0), WINDOW.get_ptr_mut(0)) else {
        return Verdict::Strange;
    };
    let Segment::Data { offset, length, .. } = segment(ctx) else { return Verdict::Strange };
    let most = if length < LONGEST { length } else { LONGEST };
    // In these words the verifier sees that it is 1 to `LONGEST`.
    let filled = (most.wrapping_sub(1) & (LONGEST - 1)) + 1;
    // SAFETY: the window has room for so many bytes, and is this CPU's own while the program runs.
    if unsafe { bpf_skb_load_bytes(ctx.as_ptr(), offset, window.cast(), filled) } != 0 {
        return Verdict::Strange;
    }
    let mut place = Place { scan, window };
    // SAFETY: as above; the callback gets `place`, which outlives the loop.
    unsafe {
        (*scan).begin(&config.proxies.header, filled);
        bpf_loop(ROUNDS, step as *mut c_void, (&raw mut place).cast(), 0);
        (*scan).verdict(peer)
    }
}

/// Steps of the scan for each call of the callback.
const STRIDE: u32 = 4;
/// So many rounds are enough for the longest head.
const ROUNDS: u32 = (LONGEST + 16) / STRIDE;

/// Where the scan is, and what it looks at.
struct Place {
    scan: *mut Scan,
    window: *const Window,
}

/// Some steps of the scan; 1 when there is nothing more to do.
unsafe extern "C" fn step(_: u64, place: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` hands on what it was given.
    let (scan, window) = unsafe {
        let place = &*place.cast::<Place>();
        (&mut *place.scan, &*place.window)
    };
    for _ in 0..STRIDE {
        if !scan.step(window, |client| TRUSTED.get(Key::new(128, client)).is_some()) {
            return 1;
        }
    }
    0
}

/// The beginning of a segment, and what a word at its end may stretch over.
#[repr(C, align(8))]
pub(crate) struct Window([u8; LONGEST as usize + 8]);

impl Bytes for Window {
    #[inline(always)]
    fn word(&self, at: u32) -> u64 {
        let word: u64;
        // SAFETY: the mask keeps the eight bytes within the window. In Rust's words the compiler would drop the mask where
        // it knows better than the verifier, and load a word that is not aligned byte by byte.
        unsafe {
            core::arch::asm!(
                "{at} &= {mask}",
                "{at} += {window}",
                "{word} = *(u64 *)({at} + 0)",
                mask = const LONGEST - 1,
                at = inout(reg) u64::from(at) => _,
                window = in(reg) self.0.as_ptr(),
                word = lateout(reg) word,
                options(readonly, nostack),
            );
        }
        word
    }
}
