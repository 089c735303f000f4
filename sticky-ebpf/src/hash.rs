//! The keyed hash: client → number, unpredictable to whoever does not know the pool's seed.
//!
//! A hash that anybody can compute lets an attacker pick addresses that all meet one worker, so this is SipHash-1-3
//! (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012) of the client's 16 bytes. It is written out for
//! that one length because the published crates buffer their input, which the verifier does not follow.

use crate::client::Client;

/// The key of a pool's hash; hosts that share it place clients alike.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub [u64; 2]);

/// The hash of `client` under `seed`.
#[inline(always)]
pub fn hash(seed: Seed, client: Client) -> u64 {
    let Seed([k0, k1]) = seed;
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    // The last word of a SipHash holds the input's length modulo 256 in its top byte.
    let [high, low] = client.words();
    absorb(&mut v, high);
    absorb(&mut v, low);
    absorb(&mut v, 16 << 56);
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn absorb(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    v[0] ^= word;
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::Hasher as _;
    use core::net::Ipv6Addr;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_siphash_1_3(k0: u64, k1: u64, octets: [u8; 16]) {
            let mut reference = siphasher::sip::SipHasher13::new_with_keys(k0, k1);
            reference.write(&octets);
            let client = Client::from(Ipv6Addr::from(octets));
            prop_assert_eq!(hash(Seed([k0, k1]), client), reference.finish());
        }
    }
}
