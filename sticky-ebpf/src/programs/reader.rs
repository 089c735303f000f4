//! `reader`: a trusted proxy's first segment → the head of its request, or its PROXY header → client → slot → the
//! worker's socket; or the redirect's socket, for all that cannot be decided here.
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
use sticky_ebpf::abi::{Config, Outcome, ProxyProtocol, REDIRECT, Sharing, Source};
use sticky_ebpf::client::Client;
use sticky_ebpf::head::{self, Bytes, LONGEST};
use sticky_ebpf::proxy_protocol;
use sticky_ebpf::steer::{Choice, Whom, steer as choose};

use crate::maps::{CONFIG, GATED, HEAD, PROXY_HEADER, SOCKETS, TABLES, TRUSTED, WINDOW};
use crate::memory::Memory;
use crate::packet::{self, Segment, segment, source};
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
    let (peer, (port, _)) = (source(ctx).unwrap_or_default(), segment(ctx));
    // An earlier connection of the same port is over.
    // SAFETY: it is only asked for.
    if unsafe { GATED.get(Source::new(peer, port)) }.is_some() {
        let _ = GATED.remove(Source::new(peer, port));
    }
    let Found { client, known, lasts, why } = match config.proxies.protocol() {
        Some(ProxyProtocol::Pass) => proxy_header(ctx, peer),
        // With `strip` there is no gate.
        None | Some(ProxyProtocol::Strip) => head(ctx, config, peer),
    };
    if let Some(why) = why
        && SOCKETS.select(ctx, REDIRECT)
    {
        tally.count(Outcome::Redirected.counter());
        tally.count(why.counter());
        return SK_PASS;
    }
    let whom = if known {
        if lasts || config.proxies.real_client_address() {
            let _ = GATED.insert(Source::new(peer, port), client, 0);
        }
        Whom::client(config, client)
    } else {
        Whom::connection(peer, port)
    };
    let choice = choose(config, table, whom, &Memory::new(ctx, &tally));
    log(client, choice);
    let outcome = if why.is_none() { Outcome::Gated } else { Outcome::Unredirected };
    tally.verdict(choice, 1 + u64::from(outcome.counter()))
}

/// What the first segment says of the connection.
struct Found {
    /// Its client; the peer where it is not known. Not an option: to the verifier what is not there is not initialized,
    /// and the compiler would copy it.
    client: Client,
    known: bool,
    /// Whether the connection may last for long: it is a WebSocket, say.
    lasts: bool,
    /// Why it is to be redirected, if it is.
    why: Option<Outcome>,
}

impl Found {
    #[inline(always)]
    const fn new(client: Client, lasts: bool, why: Option<Outcome>) -> Self {
        Self { client, known: true, lasts, why }
    }

    #[inline(always)]
    const fn nobody(peer: Client, why: Outcome) -> Self {
        Self { client: peer, known: false, lasts: false, why: Some(why) }
    }
}

/// Reads the head of the first request.
#[inline(always)]
fn head(ctx: &SkReuseportContext, config: &Config, peer: Client) -> Found {
    use head::Verdict;

    let Some(scan) = HEAD.get_ptr_mut(0) else { return Found::nobody(peer, Outcome::Strange) };
    let Some(Beginning { window, filled, .. }) = Beginning::load(ctx, LONGEST) else {
        return Found::nobody(peer, Outcome::Strange);
    };
    let mut place = Place { scan, window };
    // SAFETY: the scan is this CPU's own while the program runs; the callback gets `place`, which outlives the loop.
    let (verdict, upgrades) = unsafe {
        (*scan).begin(&config.proxies.header, filled);
        bpf_loop(ROUNDS, head_steps as *mut c_void, (&raw mut place).cast(), 0);
        ((*scan).verdict(peer), (*scan).upgrades())
    };
    let exclusive = config.proxies.sharing() == Sharing::Exclusive;
    match verdict {
        Verdict::Client(client) => Found::new(client, upgrades, None),
        Verdict::Shared(client) if exclusive => Found::new(client, false, None),
        Verdict::Shared(client) => Found::new(client, false, Some(Outcome::Shared)),
        Verdict::Incomplete => Found::nobody(peer, Outcome::Unfinished),
        Verdict::TooLong => Found::nobody(peer, Outcome::TooLong),
        Verdict::Http2 => Found::nobody(peer, Outcome::Http2),
        Verdict::Strange => Found::nobody(peer, Outcome::Strange),
    }
}

/// Reads the PROXY header, which speaks for all of the connection.
#[inline(always)]
fn proxy_header(ctx: &SkReuseportContext, peer: Client) -> Found {
    use proxy_protocol::Verdict;

    let Some(scan) = PROXY_HEADER.get_ptr_mut(0) else { return Found::nobody(peer, Outcome::Strange) };
    let Some(Beginning { window, length, .. }) = Beginning::load(ctx, proxy_protocol::LOOKED_AT) else {
        return Found::nobody(peer, Outcome::Strange);
    };
    let mut place = Place { scan, window };
    // SAFETY: as in `head`.
    let verdict = unsafe {
        (*scan).begin(&*window, length);
        bpf_loop(PROXY_HEADER_ROUNDS, proxy_header_steps as *mut c_void, (&raw mut place).cast(), 0);
        (*scan).verdict()
    };
    match verdict {
        Verdict::Client(client) => Found::new(client, true, None),
        Verdict::Peer => Found::new(peer, false, None),
        Verdict::Incomplete => Found::nobody(peer, Outcome::Unfinished),
        Verdict::Malformed => Found::nobody(peer, Outcome::Strange),
    }
}

/// Steps of a scan for each call of its callback.
const STRIDE: u32 = 4;
/// So many rounds are enough for the longest head, and for the longest header.
const ROUNDS: u32 = (LONGEST + 16) / STRIDE;
const PROXY_HEADER_ROUNDS: u32 = proxy_protocol::LOOKED_AT / STRIDE;

/// Where a scan is, and what it looks at.
struct Place<S> {
    scan: *mut S,
    window: *const Window,
}

/// Some steps through a head; 1 when there is nothing more to do.
unsafe extern "C" fn head_steps(_: u64, place: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` hands on what it was given.
    let (scan, window) = unsafe {
        let place = &*place.cast::<Place<head::Scan>>();
        (&mut *place.scan, &*place.window)
    };
    for _ in 0..STRIDE {
        if !scan.step(window, |client| TRUSTED.get(Key::new(128, client)).is_some()) {
            return 1;
        }
    }
    0
}

/// The same through a PROXY header.
unsafe extern "C" fn proxy_header_steps(_: u64, place: *mut c_void) -> i64 {
    // SAFETY: as above.
    let (scan, window) = unsafe {
        let place = &*place.cast::<Place<proxy_protocol::Scan>>();
        (&mut *place.scan, &*place.window)
    };
    for _ in 0..STRIDE {
        if !scan.step(window) {
            return 1;
        }
    }
    0
}

/// A segment's data, as much of it as is looked at.
struct Beginning {
    window: *const Window,
    /// How many bytes there are, at least one, and how many of them are in the window.
    length: u32,
    filled: u32,
}

impl Beginning {
    /// Loads at most so many bytes, a power of two up to [`LONGEST`].
    #[inline(always)]
    fn load(ctx: &SkReuseportContext, most: u32) -> Option<Self> {
        let window = WINDOW.get_ptr_mut(0)?;
        let (_, Segment::Data { offset, length, .. }) = segment(ctx) else { return None };
        let shorter = if length < most { length } else { most };
        // In these words the verifier sees that it is 1 to `most`.
        let filled = (shorter.wrapping_sub(1) & (most - 1)) + 1;
        // SAFETY: the window has room for so many bytes, and is this CPU's own while the program runs.
        let error = unsafe { bpf_skb_load_bytes(ctx.as_ptr(), offset, window.cast(), filled) };
        (error == 0).then_some(Self { window, length, filled })
    }
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
