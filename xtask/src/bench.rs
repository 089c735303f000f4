//! `cargo xtask bench`: what steering costs, measured on this machine against what there is without sticky.

mod direct;
mod figures;
mod joining;
mod load;
mod machine;
mod process;
mod program;
mod proxied;
mod rates;
mod report;
mod rounds;
mod sandbox;

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
    Proxied(proxied::Args),
}

/// Measures. A figure out of reach is told, and is no failure.
pub fn bench(args: &Args) -> Result<()> {
    match &args.what {
        What::Direct(args) => direct::direct(args),
        What::Proxied(args) => proxied::proxied(args),
    }
}
