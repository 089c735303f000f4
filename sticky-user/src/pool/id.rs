//! A pool's name: what the kernel forms a reuseport group by.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The transport protocol of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// One decision for each connection.
    Tcp,
    /// One decision for each datagram.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// What tells one reuseport group from another, besides the user that opened it: see `inet_reuseport_add_sock` in
/// <https://elixir.bootlin.com/linux/v6.18/source/net/ipv4/inet_hashtables.c#L715>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolId {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The address the sockets are bound to.
    pub address: SocketAddr,
    /// Whether IPv6 sockets refuse IPv4 (`IPV6_V6ONLY`).
    pub v6only: bool,
    /// The interface the sockets are bound to (`SO_BINDTODEVICE`), 0 for any.
    pub interface: u32,
    /// The cookie of the network namespace.
    pub namespace: u64,
}

impl PoolId {
    /// The name of the pool's directory, such as `tcp-::-3000-net1`: bpffs allows no dots in names.
    pub fn dir_name(&self) -> String {
        let Self { protocol, address, v6only, interface, namespace } = self;
        let six = if *v6only { "6" } else { "" };
        let ip = address.ip().to_string().replace('.', "_");
        let device = if *interface == 0 { String::new() } else { format!("-if{interface}") };
        format!("{protocol}{six}-{ip}-{}-net{namespace}{device}", address.port())
    }

    /// The pool whose directory has this name.
    pub fn from_dir_name(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let (protocol, v6only) = match parts.next()? {
            "tcp" => (Protocol::Tcp, false),
            "tcp6" => (Protocol::Tcp, true),
            "udp" => (Protocol::Udp, false),
            "udp6" => (Protocol::Udp, true),
            _ => return None,
        };
        let ip: IpAddr = parts.next()?.replace('_', ".").parse().ok()?;
        let port = parts.next()?.parse().ok()?;
        let namespace = parts.next()?.strip_prefix("net")?.parse().ok()?;
        let interface = match parts.next() {
            Some(device) => device.strip_prefix("if")?.parse().ok().filter(|interface| *interface != 0)?,
            None => 0,
        };
        let address = SocketAddr::new(ip, port);
        parts.next().is_none().then_some(Self { protocol, address, v6only, interface, namespace })
    }
}

/// As a user names it: `3000` for any address, else `127.0.0.1:3000`, with `udp:` before a UDP port.
impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol == Protocol::Udp {
            f.write_str("udp:")?;
        }
        write!(f, "{}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_names_lead_back_to_the_pool() {
        for (protocol, address, v6only, interface) in [
            (Protocol::Tcp, "0.0.0.0:3000", false, 0),
            (Protocol::Tcp, "[::]:80", true, 3),
            (Protocol::Udp, "[2001:db8::1]:53", false, 0),
            (Protocol::Tcp, "[::ffff:10.0.0.1]:8080", false, 12),
        ] {
            let address = address.parse().expect("an address");
            let id = PoolId { protocol, address, v6only, interface, namespace: 1 };
            assert!(!id.dir_name().contains('.'), "{}", id.dir_name());
            assert_eq!(PoolId::from_dir_name(&id.dir_name()), Some(id));
        }
        for name in [
            "",
            "tcp",
            "tcp-0_0_0_0-3000",
            "tcp-x-1-net1",
            "tcp-::-1-net1-if0",
            "tcp-::-1-net1-if1-x",
            "sctp-::-1-net1",
        ] {
            assert_eq!(PoolId::from_dir_name(name), None, "{name}");
        }
    }
}
