//! The bench's figures as a table, each beside what it is to reach.

use std::fmt::Write as _;

use super::figures::Median;

/// What a figure is to reach: from the first number to the second.
#[derive(Clone, Copy)]
pub struct Reach(pub f64, pub f64);

impl Reach {
    fn verdict(self, value: f64) -> String {
        let Self(least, most) = self;
        let wanted = match (least.is_finite(), most.is_finite()) {
            (true, true) => format!("{least:.2} to {most:.2}"),
            (true, false) => format!("at least {least:.2}"),
            (false, _) => format!("at most {most}"),
        };
        let verdict = if (least..=most).contains(&value) { "reached" } else { "missed" };
        format!("{wanted}: {verdict}")
    }
}

/// The table, a line for each figure.
#[derive(Default)]
pub struct Report(String);

impl Report {
    /// A line of words.
    pub fn say(&mut self, line: &str) {
        self.0 += line;
        self.0.push('\n');
    }

    /// A figure, in a unit of which `digits` digits after the point matter.
    pub fn figure(&mut self, what: &str, median: Median, unit: &str, reach: Option<Reach>) {
        let verdict = reach.map_or_else(String::new, |reach| reach.verdict(median.value));
        let digits = if median.value < 10.0 { 2 } else { 0 };
        let interval = format!("({:.digits$} to {:.digits$})", median.low, median.high);
        self.row(what, &format!("{:.digits$} {unit}", median.value), &interval, &verdict);
    }

    /// A rate, its ratio to the one it is compared with, and what that is to reach.
    pub fn rate(&mut self, what: &str, rate: Median, ratio: Median, reach: Reach) {
        let compared = format!("{:.3} ({:.3} to {:.3})", ratio.value, ratio.low, ratio.high);
        self.row(what, &format!("{:.0} /s", rate.value), &compared, &reach.verdict(ratio.value));
    }

    /// A ratio, and what it is to reach.
    pub fn ratio(&mut self, what: &str, ratio: Median, reach: Option<Reach>) {
        let verdict = reach.map_or_else(String::new, |reach| reach.verdict(ratio.value));
        let interval = format!("({:.3} to {:.3})", ratio.low, ratio.high);
        self.row(what, &format!("{:.3}  ", ratio.value), &interval, &verdict);
    }

    fn row(&mut self, what: &str, figure: &str, compared: &str, verdict: &str) {
        let line = format!("  {what:<40} {figure:>10}   {compared:<24} {verdict}");
        let _ = writeln!(self.0, "{}", line.trim_end());
    }

    /// The whole.
    pub fn text(&self) -> &str {
        &self.0
    }
}
