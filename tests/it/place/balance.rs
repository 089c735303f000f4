//! What placing by load is for: a few clients that hold many connections, and how evenly they come to lie.

use crate::harness::client::loopback;
use crate::harness::net;
use crate::harness::process::{outcome, pool, sticky_ok};

use super::{Held, open, workers};

const WORKERS: usize = 8;
const CLIENTS: usize = 1000;
/// Every fiftieth client holds so many connections.
const HEAVY: usize = 50;

/// How many connections each client holds, in the order in which they come.
fn clients() -> impl Iterator<Item = (usize, usize)> {
    (1..=CLIENTS).map(|client| (client, if client % (CLIENTS / 20) == 25 { HEAVY } else { 1 }))
}

/// The most connections that a worker has, of what they have on average, when all clients are there.
fn unevenness(place: &str, seed: &str) -> f64 {
    let _net = net::isolate();
    let workers = workers(WORKERS);
    sticky_ok(&["attach", "3000", "--once", "--place", place, "--seed", seed]);
    let mut held = Vec::new();
    for (client, connections) in clients() {
        let theirs: Vec<_> = (0..connections).map(|_| Held::open(loopback(client))).collect();
        assert!(theirs.iter().all(|one| one.pid == theirs[0].pid), "client {client} met several workers");
        held.extend(theirs);
    }
    let by_worker = |pid| held.iter().filter(|held| held.pid == u64::from(pid)).count();
    let most = workers.iter().map(|worker| by_worker(worker.pid())).max().expect("workers");
    if place == "least" {
        assert_eq!(outcome(&pool("3000"), "least"), CLIENTS as u64);
        assert_eq!(open().into_iter().max(), Some(most as u64));
    } else {
        assert_eq!(outcome(&pool("3000"), "table"), CLIENTS as u64);
    }
    most as f64 * WORKERS as f64 / held.len() as f64
}

#[test]
#[expect(clippy::print_stderr, reason = "the figures, for `--no-capture`")]
fn heavy_clients_are_spread_better_by_load_than_by_hash() {
    sticky::kernel::raise_descriptors();
    let mut sums = [0.0; 2];
    for seed in 2..=3 {
        let seed = format!("{seed:032x}");
        let figures = ["hash", "least"].map(|place| unevenness(place, &seed));
        eprintln!("most connections of a worker / mean: hash {:.2}, least {:.2}", figures[0], figures[1]);
        assert!(figures[1] < 1.25, "seed {seed}: {figures:?}");
        for (sum, figure) in sums.iter_mut().zip(figures) {
            *sum += figure - 1.0;
        }
    }
    assert!(sums[1] < sums[0] / 1.5, "hash is above the mean by {:.2}, least by {:.2}", sums[0], sums[1]);
}
