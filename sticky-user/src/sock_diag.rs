//! The kernel's lists of sockets, and ending some of them: `sock_diag(7)`.

use anyhow::{Result, bail};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NetlinkSerializable};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};

use crate::pool::id::Protocol;

/// What family sockets are of, which is not always their addresses'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Of IPv4.
    V4,
    /// Of IPv6; their addresses may be v4-mapped.
    V6,
}

impl Family {
    const fn number(self) -> u8 {
        match self {
            Self::V4 => AF_INET,
            Self::V6 => AF_INET6,
        }
    }
}

const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => IPPROTO_TCP,
        Protocol::Udp => IPPROTO_UDP,
    }
}

/// Hands all sockets of a family that are in one of `states` to `each`; only those on the local `port`, unless it is 0.
pub fn dump(
    protocol: Protocol,
    family: Family,
    states: StateFlags,
    port: u16,
    mut each: impl FnMut(&InetResponse),
) -> Result<()> {
    let any = if family == Family::V4 { SocketId::new_v4() } else { SocketId::new_v6() };
    let request = InetRequest {
        family: family.number(),
        protocol: number(protocol),
        extensions: ExtensionFlags::empty(),
        states,
        socket_id: SocketId { source_port: port, ..any },
    };
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.send(&message(SockDiagMessage::InetRequest(request), NLM_F_REQUEST | NLM_F_DUMP), 0)?;
    let mut answers = Vec::with_capacity(64 * 1024);
    loop {
        answers.clear();
        socket.recv(&mut answers, 0)?;
        let mut rest = answers.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)?;
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            #[expect(clippy::wildcard_enum_match_arm, reason = "there may be more kinds one day")]
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => each(&response),
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                other => bail!("unexpected answer {other:?}"),
            }
        }
    }
}

/// How many sockets are ended with one call.
const AT_A_TIME: usize = 256;

/// Ends TCP sockets of a family, as [`dump`] named them (`SOCK_DESTROY`; needs CAP_NET_ADMIN). One that is gone already
/// is no error, as nobody waits for an answer.
pub fn destroy(family: Family, sockets: &[SocketId]) -> Result<()> {
    for some in sockets.chunks(AT_A_TIME) {
        let requests = some.iter().flat_map(|id| {
            let request = InetRequest {
                family: family.number(),
                protocol: IPPROTO_TCP,
                extensions: ExtensionFlags::empty(),
                states: StateFlags::all(),
                socket_id: id.clone(),
            };
            message(SockDiagDestroy::new(SockDiagMessage::InetRequest(request)), NLM_F_REQUEST)
        });
        // A socket of its own, for the errors that nobody reads.
        Socket::new(NETLINK_SOCK_DIAG)?.send(&requests.collect::<Vec<_>>(), 0)?;
    }
    Ok(())
}

fn message<T: NetlinkSerializable + Into<NetlinkPayload<T>>>(what: T, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::from(what);
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}
