//! The clock of what is remembered: the kernel's own, which no change of the time of day moves.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sticky_ebpf::abi::Moment;

/// Nanoseconds of a [`Moment`]'s unit.
const UNIT: u128 = 1 << 30;

/// This moment, as the kernel's programs have it.
pub fn now() -> Moment {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec - offset()).unwrap_or(0);
    Moment::from_nanoseconds(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// How far this process's clock is ahead of the host's, in seconds, in a time namespace: time_namespaces(7).
fn offset() -> i64 {
    let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
    let seconds = offsets.lines().find_map(|line| line.strip_prefix("monotonic")?.split_whitespace().next());
    seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or(0)
}

/// A duration in units of [`Moment`], rounded up.
pub fn units(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// How long so many units are, in whole seconds.
pub fn duration(units: u32) -> Duration {
    Duration::from_secs(
        u64::try_from((u128::from(units) * UNIT + 500_000_000) / 1_000_000_000).unwrap_or(u64::MAX),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_come_back() {
        for seconds in [0, 1, 2, 60, 3600, 86_400] {
            let there = units(Duration::from_secs(seconds));
            assert!(duration(there).as_secs().abs_diff(seconds) <= 1, "{seconds}");
        }
        assert_eq!(units(Duration::from_nanos(1)), 1);
        assert_eq!(units(Duration::MAX), u32::MAX);
        assert!(now() > Moment::default());
    }
}
