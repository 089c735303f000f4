//! Measurements that take turns, so that whatever slows the machine down for a while hits all that is compared.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use super::figures::Median;
use super::machine::Spent;
use super::report::Report;

/// A round in which others spent more than this share of the processors' time is done again.
const QUIET: f64 = 0.06;
/// How often on average: on a machine that is never quiet the bench ends all the same.
const PATIENCE: usize = 5;
/// How long to wait before that, so that others come to an end.
const PAUSE: Duration = Duration::from_millis(500);

/// How much is measured.
#[derive(clap::Args)]
pub struct Length {
    /// Rounds of each comparison
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Length of a round
    #[arg(long, default_value_t = 0.4)]
    pub seconds: f64,

    /// A short look: a tenth of the rounds
    #[arg(long)]
    quick: bool,
}

impl Length {
    /// How many rounds.
    pub fn rounds(&self) -> usize {
        usize::from(if self.quick { self.rounds.div_ceil(10) } else { self.rounds })
    }
}

/// What was measured of some kinds, in each round of each.
pub struct Rounds<T> {
    rounds: Vec<Vec<T>>,
    /// How many of the rounds others disturbed, even so.
    disturbed: usize,
}

impl<T> Rounds<T> {
    /// Measures `rounds` rounds, in each of them all of `kinds` kinds, in an order that turns.
    ///
    /// `measure` gets the kind and a number that no other round has.
    pub fn measure(
        rounds: usize,
        kinds: usize,
        mut measure: impl FnMut(usize, usize) -> Result<T>,
    ) -> Result<Self> {
        let mut done = Self { rounds: Vec::new(), disturbed: 0 };
        let mut repeated = 0;
        while done.rounds.len() < rounds {
            let number = done.rounds.len() + repeated;
            let before = Spent::now()?;
            let round = turns(number, kinds, |kind| measure(kind, number))?;
            let disturbed = Spent::now()?.by_others_since(&before) > QUIET;
            if disturbed && repeated < rounds * PATIENCE {
                repeated += 1;
                sleep(PAUSE);
            } else {
                done.rounds.push(round);
                done.disturbed += usize::from(disturbed);
            }
        }
        Ok(done)
    }

    /// The median of the `n`-th kind.
    pub fn median(&self, n: usize, figure: impl Fn(&T) -> f64) -> Median {
        Median::of(self.rounds.iter().map(|round| figure(&round[n])))
    }

    /// The median of the rounds' ratios of the `n`-th kind to the `base`-th.
    pub fn ratio(&self, n: usize, base: usize, figure: impl Fn(&T) -> f64) -> Median {
        Median::of(self.rounds.iter().map(|round| figure(&round[n]) / figure(&round[base])))
    }

    /// The sum over all rounds of the `n`-th kind.
    pub fn sum(&self, n: usize, figure: impl Fn(&T) -> f64) -> f64 {
        self.rounds.iter().map(|round| figure(&round[n])).sum()
    }

    /// Says how sure the figures are.
    pub fn doubts(&self, report: &mut Report) {
        if self.disturbed > 0 {
            report.say(&format!("    unsure: other processes disturbed {} of these rounds", self.disturbed));
        }
    }
}

/// What `measure` gives for each kind, which the round `number` asks for in an order of its own.
fn turns<T>(number: usize, kinds: usize, measure: impl FnMut(usize) -> Result<T>) -> Result<Vec<T>> {
    let order = (0..kinds).map(|turn| (number + turn) % kinds);
    let mut measured = order.map(measure).collect::<Result<Vec<_>>>()?;
    measured.rotate_right(number % kinds);
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order() {
        for number in 0..7 {
            let mut asked = Vec::new();
            let measured = turns(number, 3, |kind| {
                asked.push(kind);
                Ok(kind)
            });
            let measured = measured.expect("nothing fails");
            assert_eq!(measured, [0, 1, 2]);
            assert_eq!(asked[0], number % 3);
        }
    }
}
