//! Leave for aya to copy the shared types to and from the kernel as bytes.
#![expect(unsafe_code, reason = "implementing `aya::Pod` is unsafe")]

use crate::abi::{Config, Table};

// SAFETY: `repr(C)`, `Copy`, and made of integers without padding (asserted in `abi`), so every bit pattern is a value.
unsafe impl aya::Pod for Config {}
// SAFETY: as above.
unsafe impl aya::Pod for Table {}
