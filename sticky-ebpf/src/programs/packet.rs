//! What a program is told of: a packet that belongs to no connection yet, or a connection that changes its listener.

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::bpf_skb_load_bytes_relative;
use aya_ebpf::programs::{SkReuseportContext, SockContext};
use aya_log_ebpf::trace;
use sticky_ebpf::client::Client;
use sticky_ebpf::steer::Choice;

const ETH_P_IP: u32 = (0x0800u16).to_be() as u32;
const ETH_P_IPV6: u32 = (0x86ddu16).to_be() as u32;
const IPPROTO_TCP: u32 = 6;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// Where the source address stands in the header: RFC 791 section 3.1, RFC 8200 section 3.
const IPV4_SOURCE: u32 = 12;
const IPV6_SOURCE: u32 = 8;

/// The client of a connection that is leaving a closed listener's queue: the packet is empty then.
#[inline(always)]
pub(crate) fn remote(socket: &SockContext) -> Option<Client> {
    let socket = socket.sock;
    // SAFETY: the kernel's pointer is not null, and the verifier checks each of these fields.
    unsafe {
        match (*socket).family {
            AF_INET => Some(Client::v4((*socket).dst_ip4)),
            AF_INET6 => {
                let [a, b, c, d] = [
                    u64::from((*socket).dst_ip6[0]),
                    u64::from((*socket).dst_ip6[1]),
                    u64::from((*socket).dst_ip6[2]),
                    u64::from((*socket).dst_ip6[3]),
                ];
                Some(Client::v6([b << 32 | a, d << 32 | c]))
            }
            _ => None,
        }
    }
}

/// The port of [`remote`], in network byte order.
#[inline(always)]
pub(crate) fn remote_port(socket: &SockContext) -> u16 {
    // SAFETY: as in `remote`.
    unsafe { (*socket.sock).dst_port }
}

/// The client a packet comes from.
#[inline(always)]
pub(crate) fn source(ctx: &SkReuseportContext) -> Option<Client> {
    match ctx.eth_protocol() {
        ETH_P_IP => load(ctx, IPV4_SOURCE).map(Client::v4),
        ETH_P_IPV6 => load(ctx, IPV6_SOURCE).map(Client::v6),
        _ => None,
    }
}

/// A part of the packet, from `offset` into its network header, as it lies in memory.
#[inline(always)]
fn load<T: Word>(ctx: &SkReuseportContext, offset: u32) -> Option<T> {
    let mut part = MaybeUninit::<T>::uninit();
    // SAFETY: the helper fills all of `part`.
    let error = unsafe {
        bpf_skb_load_bytes_relative(
            ctx.as_ptr(),
            offset,
            part.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            BPF_HDR_START_NET,
        )
    };
    // SAFETY: filled, with zeros on an error, and any bytes are a `Word`.
    (error == 0).then(|| unsafe { part.assume_init() })
}

/// What can be read from a packet: any bytes are a value.
trait Word: Copy {}
impl Word for u32 {}
impl Word for [u64; 2] {}

/// Whether this is a datagram.
#[inline(always)]
pub(crate) fn is_datagram(ctx: &SkReuseportContext) -> bool {
    ctx.ip_protocol() != IPPROTO_TCP
}

/// A TCP segment, to a listener.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Segment {
    /// It opens a connection, whose first byte comes after this one.
    Opening { sequence: u32 },
    /// It brings back a SYN cookie, or is left over of a connection that is gone.
    Bare,
    /// It brings nothing and will bring nothing. Its end has this number.
    Closing { sequence: u32 },
    /// It brings data, so many bytes, from here on; the first of them has this number.
    Data { offset: u32, length: u32, sequence: u32 },
}

/// The port that a segment comes from, in network byte order, and what it is: RFC 9293 section 3.1. Without a packet, the
/// port is 0.
#[inline(always)]
pub(crate) fn segment(ctx: &SkReuseportContext) -> (u16, Segment) {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    // What can be read directly begins with the transport header; the kernel has all of TCP's there.
    let header = ctx.data() as *const [u32; 4];
    let [ports, sequence, _, rest] = if ctx.data() + size_of::<[u32; 4]>() > ctx.data_end() {
        [0; 4]
    } else {
        // SAFETY: it was just seen to be there.
        unsafe { header.read() }
    };
    let (sequence, [offset, flags, ..]) = (u32::from_be(sequence), rest.to_ne_bytes());
    let offset = u32::from(offset >> 4) * 4;
    let length = (ctx.len() as u32).saturating_sub(offset);
    let segment = match () {
        () if flags & SYN != 0 => Segment::Opening { sequence },
        () if flags & RST != 0 => Segment::Bare,
        () if length > 0 => Segment::Data { offset, length, sequence },
        () if flags & FIN != 0 => Segment::Closing { sequence },
        () => Segment::Bare,
    };
    (ports as u16, segment)
}

/// Logs a decision.
#[inline(always)]
pub(crate) fn log(ctx: &SkReuseportContext, client: Client, choice: Option<Choice>) {
    match choice {
        Some(Choice { slot, outcome }) => {
            trace!(ctx, "{:i} gets slot {}, outcome {}", octets(client), slot, outcome as u32);
        }
        None => trace!(ctx, "{:i} is refused: no worker is alive", octets(client)),
    }
}

/// The client's address in network byte order, for a log line.
#[inline(always)]
fn octets(client: Client) -> [u8; 16] {
    let [high, low] = client.words().map(u64::to_ne_bytes);
    let [a, b, c, d, e, f, g, h] = high;
    let [i, j, k, l, m, n, o, p] = low;
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}
