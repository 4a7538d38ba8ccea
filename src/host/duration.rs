//! Times as people write them: `500ms`, `2s`, `1.5`, `3m`.

use std::time::Duration;

/// Reads a time above 0; a bare number is seconds.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let time = parse_with_zero(text)?;
    if time.is_zero() { Err(OUT_OF_RANGE.to_owned()) } else { Ok(time) }
}

/// Reads a time that may be 0.
pub(crate) fn parse_with_zero(text: &str) -> Result<Duration, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = &text[..text.len() - unit.len()];
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err(format!("{unit:?} is no unit of time: use ms, s, m or h")),
    };
    let number: f64 =
        number.parse().map_err(|_| "write a time like 500ms, 2s or 1.5".to_owned())?;
    Duration::try_from_secs_f64(number * factor)
        .ok()
        .filter(|time| *time <= TIME_MAX)
        .ok_or_else(|| OUT_OF_RANGE.to_owned())
}

/// Longer times are slips of the pen, and sums with them could overflow a clock.
const TIME_MAX: Duration = Duration::from_hours(24 * 365 * 100);

const OUT_OF_RANGE: &str = "the time must be above 0, and less than for ever";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let cases = [
            ("2", Some(2_000)),
            ("1.5", Some(1_500)),
            ("500ms", Some(500)),
            ("3m", Some(180_000)),
            ("1h", Some(3_600_000)),
            ("0", None),
            ("-1", None),
            ("2 s", None),
            ("", None),
            ("s", None),
            ("1e9", None),
            ("9999999h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).ok(), expected.map(Duration::from_millis), "{text}");
        }
    }
}
