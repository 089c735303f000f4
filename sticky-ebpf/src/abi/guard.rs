//! What the kernel tells of those who meddle with a pool's program, and what is counted of the repairs.

use core::mem::{align_of, offset_of, size_of};

use crate::client::Client;

/// The process that is to be told.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observer {
    /// The cookie of its network namespace: of others it is told nothing.
    pub network: u64,
    /// Its number in its PID namespace: of itself it is told nothing.
    pub pid: u64,
    /// The device of its PID namespace's file, in the kernel's own form.
    pub device: u64,
    /// The inode of its PID namespace's file.
    pub inode: u64,
    /// Not 0 when its PID namespace is the first one, which numbers the processes of all others too.
    pub first: u64,
}

/// Somebody gives a socket's reuseport group another program, or none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tampering {
    /// The socket's address.
    pub address: Client,
    /// Whose doing it is, in sticky's own PID namespace; 0 when it has no number there.
    pub pid: u32,
    /// The socket's port.
    pub port: u16,
    /// The socket's TCP state.
    pub state: u8,
    /// 1 for another program, 0 for none.
    pub attached: u8,
}

impl Tampering {
    /// As it was written; `None` for what is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        let (high, rest) = bytes.split_first_chunk()?;
        let (low, rest) = rest.split_first_chunk()?;
        let (pid, rest) = rest.split_first_chunk()?;
        let (port, rest) = rest.split_first_chunk()?;
        let [state, attached] = rest.first_chunk()?;
        Some(Self {
            address: Client::v6([u64::from_ne_bytes(*high), u64::from_ne_bytes(*low)]),
            pid: u32::from_ne_bytes(*pid),
            port: u16::from_ne_bytes(*port),
            state: *state,
            attached: *attached,
        })
    }
}

/// What was done to a pool that somebody meddled with.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// The program was attached again.
    Attached = 0,
    /// What was missing of the pool's files was pinned again.
    Pinned = 1,
}

impl Repair {
    /// All repairs, in the order of their counters.
    pub const ALL: [Self; 2] = [Self::Attached, Self::Pinned];
}

const _: () = {
    assert!(size_of::<Observer>() == 40 && align_of::<Observer>() == 8);
    assert!(size_of::<Tampering>() == 24 && align_of::<Tampering>() == 8);
    assert!(offset_of!(Tampering, pid) == 16 && offset_of!(Tampering, port) == 20);
    assert!(offset_of!(Tampering, attached) == 23);
};

#[cfg(test)]
mod tests {
    use super::{Client, Tampering};

    #[test]
    fn a_tampering_is_read_as_it_lies_in_memory() {
        let address = Client::v4(u32::from_ne_bytes([127, 0, 0, 1]));
        let mut bytes = [0; 24];
        bytes[10..16].copy_from_slice(&[255, 255, 127, 0, 0, 1]);
        bytes[16..20].copy_from_slice(&3u32.to_ne_bytes());
        bytes[20..22].copy_from_slice(&4u16.to_ne_bytes());
        bytes[22] = 5;
        bytes[23] = 1;
        let read = Tampering { address, pid: 3, port: 4, state: 5, attached: 1 };
        assert_eq!(Tampering::from_bytes(&bytes), Some(read));
        assert_eq!(Tampering::from_bytes(&bytes[..4]), None);
        assert_eq!(Tampering::from_bytes(&[0; 25]), None);
    }
}
