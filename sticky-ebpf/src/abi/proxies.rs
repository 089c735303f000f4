//! How connections of trusted proxies are treated: a part of the pool's configuration.

use core::mem::{offset_of, size_of};

use crate::forwarded::HeaderName;

/// How connections of trusted proxies are treated.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proxies {
    flags: u32,
    gate: u32,
    /// The header in which they name the client.
    pub header: HeaderName,
}

/// The PROXY protocol of trusted proxies: what becomes of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// The worker gets what comes after it.
    Strip,
    /// The worker gets it too.
    Pass,
}

/// What trusted proxies do with their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// They tell by what they send: `Connection: close`, HTTP/1.0 and upgrades are for one client.
    Auto,
    /// Each connection is for one client.
    Exclusive,
    /// Any connection may be for several.
    Shared,
}

/// Whether trusted proxies' connections are decided in the kernel, and if not, why.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Nobody has opened it.
    Closed = 0,
    /// It is open.
    Open = 1,
    /// Nothing could be decided there, as the pool is configured.
    Useless = 2,
    /// The kernel makes no SYN cookies (`net.ipv4.tcp_syncookies`).
    NoCookies = 3,
    /// The kernel does not take the program that reads requests.
    NoReader = 4,
    /// Its sockets cannot be opened.
    NoSockets = 5,
}

impl Gate {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Closed, Self::Open, Self::Useless, Self::NoCookies, Self::NoReader, Self::NoSockets];
}

impl Proxies {
    /// Nobody is trusted.
    pub const NONE: Self = Self { flags: 0, gate: Gate::Closed as u32, header: HeaderName::X_FORWARDED_FOR };

    const TRUSTING: u32 = 1;
    const STRIP: u32 = 2;
    const PASS: u32 = 4;
    const REAL_CLIENT_ADDRESS: u32 = 8;
    const EXCLUSIVE: u32 = 16;
    const SHARED: u32 = 32;

    /// Whether anybody is trusted, or was. Where not, the program looks into none of the maps for proxies.
    #[inline(always)]
    pub const fn trusting(&self) -> bool {
        self.flags & Self::TRUSTING != 0
    }

    /// Whether their connections begin with a PROXY header.
    #[inline(always)]
    pub const fn protocol(&self) -> Option<ProxyProtocol> {
        match self.flags & (Self::STRIP | Self::PASS) {
            0 => None,
            Self::STRIP => Some(ProxyProtocol::Strip),
            _ => Some(ProxyProtocol::Pass),
        }
    }

    /// Whether workers see the client as their peer, instead of the proxy.
    #[inline(always)]
    pub const fn real_client_address(&self) -> bool {
        self.flags & Self::REAL_CLIENT_ADDRESS != 0
    }

    /// What they do with their connections.
    #[inline(always)]
    pub const fn sharing(&self) -> Sharing {
        match self.flags & (Self::EXCLUSIVE | Self::SHARED) {
            0 => Sharing::Auto,
            Self::EXCLUSIVE => Sharing::Exclusive,
            _ => Sharing::Shared,
        }
    }

    /// Whether the program uses the gate.
    #[inline(always)]
    pub const fn gated(&self) -> bool {
        self.gate == Gate::Open as u32
    }

    /// Whether the gate is open, and if not, why.
    pub fn gate(&self) -> Gate {
        *Gate::ALL.get(self.gate as usize).unwrap_or(&Gate::Closed)
    }

    /// The same, with somebody trusted.
    pub const fn trusting_somebody(self) -> Self {
        self.with(Self::TRUSTING, Self::TRUSTING)
    }

    /// The same, with another protocol.
    pub const fn with_protocol(self, protocol: Option<ProxyProtocol>) -> Self {
        let flag = match protocol {
            None => 0,
            Some(ProxyProtocol::Strip) => Self::STRIP,
            Some(ProxyProtocol::Pass) => Self::PASS,
        };
        self.with(Self::STRIP | Self::PASS, flag)
    }

    /// The same, with workers that see the client or the proxy as their peer.
    pub const fn with_real_client_address(self, real: bool) -> Self {
        self.with(Self::REAL_CLIENT_ADDRESS, if real { Self::REAL_CLIENT_ADDRESS } else { 0 })
    }

    /// The same, with proxies that do other things with their connections.
    pub const fn with_sharing(self, sharing: Sharing) -> Self {
        let flag = match sharing {
            Sharing::Auto => 0,
            Sharing::Exclusive => Self::EXCLUSIVE,
            Sharing::Shared => Self::SHARED,
        };
        self.with(Self::EXCLUSIVE | Self::SHARED, flag)
    }

    /// The same, with the gate in another state.
    pub const fn with_gate(self, gate: Gate) -> Self {
        Self { gate: gate as u32, ..self }
    }

    const fn with(self, mask: u32, flag: u32) -> Self {
        Self { flags: self.flags & !mask | flag, ..self }
    }
}

const _: () = assert!(size_of::<Proxies>() == 64 && offset_of!(Proxies, header) == 8);
