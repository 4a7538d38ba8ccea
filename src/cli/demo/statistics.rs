//! What is printed of measurements. Nothing here is judged.

use std::time::Duration;

/// Times of single calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The time within which this share of the calls was answered, by nearest rank.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }
}

/// Messages a second.
pub(crate) fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(f64::EPSILON)
}

/// A time as a person reads it.
pub(crate) fn time_text(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        ..1e3 => format!("{micros:.0} µs"),
        ..1e5 => format!("{:.1} ms", micros / 1e3),
        ..1e6 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}

/// A whole number with its thousands apart.
pub(crate) fn count_text(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate as a person reads it.
pub(crate) fn rate_text(rate: f64) -> String {
    match rate {
        ..1e4 => format!("{rate:.0}/s"),
        ..1e6 => format!("{:.0} k/s", rate / 1e3),
        _ => format!("{:.2} M/s", rate / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut times = Times::default();
        assert_eq!(times.percentile(50), Duration::ZERO);
        for micros in (1..=200).rev() {
            times.push(Duration::from_micros(micros));
        }
        assert_eq!(times.count(), 200);
        let micros = |percent| times.percentile(percent).as_micros();
        assert_eq!([0, 50, 99, 100].map(micros), [1, 100, 198, 200]);
    }

    #[test]
    fn numbers_are_readable() {
        let times = [(7, "7 µs"), (1_234, "1.2 ms"), (496_700, "497 ms"), (2_500_000, "2.5 s")];
        for (micros, text) in times {
            assert_eq!(time_text(Duration::from_micros(micros)), text);
        }
        for (count, text) in [(0, "0"), (999, "999"), (2_000, "2,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count_text(count), text);
        }
        for (value, text) in [(950.0, "950/s"), (45_600.0, "46 k/s"), (2_340_000.0, "2.34 M/s")] {
            assert_eq!(rate_text(value), text);
        }
        assert_eq!(rate(10, Duration::from_secs(2)), 5.0);
    }
}
