//! `cargo xtask bench`: what steering costs, measured on this machine against what there is without sticky.

mod direct;
mod figures;
mod gate;
mod joining;
mod load;
mod machine;
mod memory;
mod meter;
mod process;
mod program;
mod proxied;
mod proxies;
mod rates;
mod report;
mod rounds;
mod sandbox;
mod status;

use anyhow::Result;

/// Measure what steering costs
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Direct(direct::Args),
    Memory(memory::Args),
    Proxied(proxied::Args),
    Gate(gate::Args),
}

/// Measures. A figure out of reach is told, and is no failure.
pub fn bench(args: &Args) -> Result<()> {
    match &args.what {
        What::Direct(args) => direct::direct(args),
        What::Memory(args) => memory::memory(args),
        What::Proxied(args) => proxied::proxied(args),
        What::Gate(args) => gate::gate(args),
    }
}
