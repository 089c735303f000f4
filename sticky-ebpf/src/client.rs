//! The client: the address affinity is kept for.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[cfg(target_endian = "big")]
compile_error!("the programs are little-endian, and hosts must hash as they do");

/// An address of 16 bytes, IPv4 as v4-mapped (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2).
///
/// Held as two words whose bytes in memory are the address in network byte order: the form in which the kernel has
/// addresses, and which a BPF program reads without shuffling bytes. Two source addresses are the same client when
/// they are equal under the pool's [`Masks`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Client([u64; 2]);

/// The first half of a v4-mapped address's second word.
const MAPPED: u64 = 0xffff_0000;

impl Client {
    /// `::`, which nobody connects from.
    pub const UNSPECIFIED: Self = Self([0; 2]);

    /// The client behind an IPv4 source address, given as the word that the header's four bytes make in memory.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, (word as u64) << 32 | MAPPED])
    }

    /// The client behind an IPv6 source address, which may be v4-mapped, given as the words its bytes make in memory.
    #[inline(always)]
    pub const fn v6(words: [u64; 2]) -> Self {
        Self(words)
    }

    /// The words, as they lie in memory.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        self.0
    }

    /// Whether this is a v4-mapped IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        let [high, low] = self.0;
        high == 0 && low as u32 as u64 == MAPPED
    }

    /// Whether this is `::`, or `0.0.0.0` (RFC 4291 section 2.5.2).
    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        let [high, low] = self.0;
        high == 0 && (low == 0 || low == MAPPED)
    }
}

impl From<Ipv4Addr> for Client {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(u32::from_ne_bytes(ip.octets()))
    }
}

impl From<Ipv6Addr> for Client {
    fn from(ip: Ipv6Addr) -> Self {
        let [high, low] = [ip.to_bits() >> 64, ip.to_bits()].map(|half| (half as u64).to_be());
        Self::v6([high, low])
    }
}

impl From<IpAddr> for Client {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(ip) => ip.into(),
        }
    }
}

impl From<Client> for IpAddr {
    /// The address, as IPv4 where it is v4-mapped.
    fn from(Client([high, low]): Client) -> Self {
        let bits = u128::from(u64::from_be(high)) << 64 | u128::from(u64::from_be(low));
        Self::V6(Ipv6Addr::from_bits(bits)).to_canonical()
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
        // All ones or none, instead of a choice between two places: the verifier tolerates an offset that depends on
        // the path only from a loader with CAP_PERFMON.
        let v4 = (client.is_v4() as u64).wrapping_neg();
        let Client([high, low]) = client;
        Client([high & (self.v4[0] & v4 | self.v6[0] & !v4), low & (self.v4[1] & v4 | self.v6[1] & !v4)])
    }
}

/// The mask of a prefix of `bits` bits, laid out as a [`Client`].
const fn prefix(bits: u8) -> [u64; 2] {
    let ones = if bits == 0 { 0 } else { u128::MAX << (128 - bits as u32) };
    [((ones >> 64) as u64).to_be(), (ones as u64).to_be()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mapped_addresses_are_ipv4() {
        let ip = Ipv4Addr::new(203, 0, 113, 7);
        let v4 = Client::from(ip);
        assert!(v4.is_v4());
        assert_eq!(v4, Client::from(ip.to_ipv6_mapped()));
        assert_eq!(IpAddr::from(v4), ip);
        assert!(!Client::from(Ipv6Addr::LOCALHOST).is_v4());
        assert!(!Client::v6([u64::MAX; 2]).is_v4());
        assert!(!Client::default().is_v4());
    }

    #[test]
    fn a_64_prefix_forgets_the_interface_identifier() {
        let masks = Masks::new(32, 64);
        let address = |text: &str| masks.apply(text.parse::<Ipv6Addr>().expect("an address").into());
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:2"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
    }

    proptest! {
        #[test]
        fn words_are_the_bytes_in_memory(octets: [u8; 16]) {
            let client = Client::from(Ipv6Addr::from(octets));
            let [high, low] = client.words();
            prop_assert_eq!([high.to_ne_bytes(), low.to_ne_bytes()].concat(), octets);
            let ip = Ipv6Addr::from(octets);
            prop_assert_eq!(IpAddr::from(client), IpAddr::from(ip).to_canonical());
        }

        #[test]
        fn masks_agree_with_shifting(wide: u128, narrow: u32, v4 in 0u8..=32, v6 in 0u8..=128) {
            let masks = Masks::new(v4, v6);
            prop_assert_eq!(masks.prefixes(), (v4, v6));
            let client = Client::from(Ipv6Addr::from_bits(wide));
            prop_assume!(!client.is_v4());
            let kept = wide.checked_shr(128 - u32::from(v6)).map_or(0, |bits| bits << (128 - u32::from(v6)));
            prop_assert_eq!(masks.apply(client), Client::from(Ipv6Addr::from_bits(kept)));
            let kept = narrow.checked_shr(32 - u32::from(v4)).map_or(0, |bits| bits << (32 - u32::from(v4)));
            prop_assert_eq!(masks.apply(Ipv4Addr::from_bits(narrow).into()), Ipv4Addr::from_bits(kept).into());
        }
    }
}
