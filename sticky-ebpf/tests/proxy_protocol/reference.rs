//! What the redirect makes of a connection that begins with these bytes, by the library that it uses.

use proxy_header::{Error, ParseConfig, ProxyHeader};
use sticky_ebpf::client::Client;
use sticky_ebpf::proxy_protocol::Verdict;

pub fn verdict(bytes: &[u8]) -> Verdict {
    match ProxyHeader::parse(bytes, ParseConfig::default()) {
        Ok((header, _)) => match header.proxied_address() {
            Some(address) if !address.source.ip().to_canonical().is_unspecified() => {
                Verdict::Client(Client::from(address.source.ip()))
            }
            _ => Verdict::Peer,
        },
        Err(Error::BufferTooShort) => Verdict::Incomplete,
        Err(_) => Verdict::Malformed,
    }
}

/// Whoever is sure of a client, or that there is none, is right; all else goes to the redirect anyhow.
pub fn agrees(found: Verdict, bytes: &[u8]) -> bool {
    !matches!(found, Verdict::Client(_) | Verdict::Peer) || found == verdict(bytes)
}
