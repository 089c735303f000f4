//! Medians, and how sure they are.

/// The median of some measurements, and the interval that holds the true median with a probability of 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Median {
    /// The median.
    pub value: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// The value below which the share `share` of `sorted` lies.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    let at = (share * last).clamp(0.0, last);
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

impl Median {
    /// The median of `values`, of which there must be one at least.
    ///
    /// The interval's ends are order statistics, 0.98 √n ranks to both sides (the binomial distribution's normal
    /// approximation), so nothing is assumed about how the values are spread.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<_> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let reach = 0.98 / (sorted.len() as f64).sqrt();
        Self {
            value: quantile(&sorted, 0.5),
            low: quantile(&sorted, 0.5 - reach),
            high: quantile(&sorted, 0.5 + reach),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let median = Median::of((1..=101).rev().map(f64::from));
        assert_eq!(median.value, 51.0);
        assert!((40.0..42.0).contains(&median.low) && (60.0..62.0).contains(&median.high), "{median:?}");
        assert_eq!(Median::of([7.0]), Median { value: 7.0, low: 7.0, high: 7.0 });
        assert_eq!(quantile(&[1.0, 2.0], 0.95), 1.95);
    }
}
