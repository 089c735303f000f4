//! The client: the address affinity is kept for.

/// An address of 16 bytes in network byte order, IPv4 as v4-mapped (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
///
/// Two source addresses are the same client when they are equal under the pool's [`Masks`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Client([u8; 16]);

impl Client {
    /// The client behind an IPv4 source address.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// The client behind an IPv6 source address, which may be v4-mapped.
    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self(octets)
    }

    /// The 16 bytes, in network byte order.
    pub const fn octets(self) -> [u8; 16] {
        self.0
    }

    /// Whether this is a v4-mapped IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        let [high, low] = self.words();
        high == 0 && low.to_be() >> 32 == 0xffff
    }

    /// The two halves as the machine reads them: the hash's input, equal on every little-endian host.
    #[inline(always)]
    pub(crate) const fn words(self) -> [u64; 2] {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.0;
        [
            u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            u64::from_le_bytes([i, j, k, l, m, n, o, p]),
        ]
    }
}

/// Which bits of an address tell clients apart, for IPv4 and for IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masks {
    v4: [u64; 2],
    v6: [u64; 2],
}

impl Masks {
    /// Masks that keep the first `ipv4` bits of an IPv4 address and the first `ipv6` bits of an IPv6 one.
    ///
    /// Longer prefixes than the address has bits count as the whole address.
    pub const fn new(ipv4: u8, ipv6: u8) -> Self {
        Self {
            v4: prefix(96 + if ipv4 > 32 { 32 } else { ipv4 }),
            v6: prefix(if ipv6 > 128 { 128 } else { ipv6 }),
        }
    }

    /// The prefix lengths, `(IPv4, IPv6)`.
    pub const fn prefixes(&self) -> (u8, u8) {
        let v4 = self.v4[0].count_ones() + self.v4[1].count_ones();
        let v6 = self.v6[0].count_ones() + self.v6[1].count_ones();
        ((v4 - 96) as u8, v6 as u8)
    }

    /// The client with the bits that do not count set to zero.
    #[inline(always)]
    pub const fn apply(&self, client: Client) -> Client {
        let mask = if client.is_v4() { self.v4 } else { self.v6 };
        let [high, low] = client.words();
        let [a, b, c, d, e, f, g, h] = (high & mask[0]).to_le_bytes();
        let [i, j, k, l, m, n, o, p] = (low & mask[1]).to_le_bytes();
        Client([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }
}

/// The mask of a prefix of `bits` bits, as [`Client::words`] lays addresses out.
const fn prefix(bits: u8) -> [u64; 2] {
    let ones = if bits == 0 { 0 } else { u128::MAX << (128 - bits as u32) };
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = ones.to_be_bytes();
    Client([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]).words()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use proptest::prelude::*;

    #[test]
    fn mapped_addresses_are_ipv4() {
        let v4 = Client::v4([203, 0, 113, 7]);
        assert!(v4.is_v4());
        assert_eq!(v4, Client::v6(Ipv4Addr::new(203, 0, 113, 7).to_ipv6_mapped().octets()));
        assert!(!Client::v6(Ipv6Addr::LOCALHOST.octets()).is_v4());
        assert!(!Client::v6([0xff; 16]).is_v4());
    }

    #[test]
    fn a_64_prefix_forgets_the_interface_identifier() {
        let masks = Masks::new(32, 64);
        let address = |text: &str| Client::v6(text.parse::<Ipv6Addr>().expect("an address").octets());
        assert_eq!(masks.apply(address("2001:db8::1")), masks.apply(address("2001:db8::ffff:2")));
        assert_ne!(masks.apply(address("2001:db8::1")), masks.apply(address("2001:db8:0:1::1")));
    }

    proptest! {
        #[test]
        fn masks_agree_with_shifting(octets: [u8; 16], v4 in 0u8..=32, v6 in 0u8..=128) {
            let masks = Masks::new(v4, v6);
            prop_assert_eq!(masks.prefixes(), (v4, v6));
            let wide = u128::from_be_bytes(octets);
            let kept = if v6 == 0 { 0 } else { wide >> (128 - u32::from(v6)) << (128 - u32::from(v6)) };
            prop_assume!(!Client::v6(octets).is_v4());
            prop_assert_eq!(masks.apply(Client::v6(octets)).octets(), kept.to_be_bytes());
            let [a, b, c, d, ..] = octets;
            let narrow = u32::from_be_bytes([a, b, c, d]);
            let kept = if v4 == 0 { 0 } else { narrow >> (32 - u32::from(v4)) << (32 - u32::from(v4)) };
            prop_assert_eq!(masks.apply(Client::v4([a, b, c, d])), Client::v4(kept.to_be_bytes()));
        }
    }
}
