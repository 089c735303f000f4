//! Leave for aya to copy the shared types to and from the kernel as bytes.
#![expect(unsafe_code, reason = "implementing `aya::Pod` is unsafe")]

use crate::abi::{Config, ConfigOf3, Counted, Observer, Pin, Relay, Source, Standing, Table};
use crate::client::Client;

// SAFETY: `repr(C)`, `Copy`, and made of integers without padding (asserted in `abi`), so every bit pattern is a value.
unsafe impl aya::Pod for Config {}
// SAFETY: as above.
unsafe impl aya::Pod for ConfigOf3 {}
// SAFETY: as above.
unsafe impl aya::Pod for Table {}
// SAFETY: as above.
unsafe impl aya::Pod for Client {}
// SAFETY: as above.
unsafe impl aya::Pod for Observer {}
// SAFETY: as above; the padding is a field of its own.
unsafe impl aya::Pod for Source {}
// SAFETY: as above; the padding is a field of its own.
unsafe impl aya::Pod for Relay {}
// SAFETY: as above; the padding is a field of its own.
unsafe impl aya::Pod for Pin {}
// SAFETY: as above.
unsafe impl aya::Pod for Standing {}
// SAFETY: as above.
unsafe impl aya::Pod for Counted {}
