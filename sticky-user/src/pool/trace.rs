//! The program's log of its decisions, when it was loaded to keep one.

use std::os::fd::AsFd as _;

use anyhow::Result;
use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::Interest;

use crate::say::say;
use crate::sys;

/// Prints what the program logs, from now on and as long as this process lives.
pub fn print(program: &mut Ebpf) -> Result<()> {
    let mut log = EbpfLogger::init_with_logger(program, Lines)?;
    let readable = sys::watch(log.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
    tokio::spawn(async move {
        while let Ok(mut ready) = readable.readable().await {
            log.flush();
            ready.clear_ready();
        }
    });
    Ok(())
}

/// Takes the program's records, which aya-log hands over as the `log` crate's.
struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        say(format_args!("trace: {}", record.args()));
    }

    fn flush(&self) {}
}
