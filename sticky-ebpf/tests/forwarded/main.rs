//! Who the client is: every rule of `sticky_ebpf::forwarded`.

mod prefixes;
mod properties;
mod reference;
mod table;
