//! Sizes, shares and times as people write them: `"100M"`, `"25%"`, `"5m"`.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::host::document::{Entry, Problem};
use crate::host::duration;

/// A number of bytes.
///
/// `K`, `M`, `G`, `T` (also `KiB` …) are powers of 1024, as systemd and Docker have them; `kB`,
/// `MB`, `GB`, `TB` are powers of 1000.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ByteSize(pub u64);

/// A share of one processor core in percent; 200 is two cores.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct CpuShare(pub u32);

impl ByteSize {
    fn parse(text: &str) -> Option<Self> {
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number: f64 = text[..text.len() - unit.len()].parse().ok()?;
        let &(_, factor) = UNITS.iter().find(|(names, _)| names.contains(&unit.trim_start()))?;
        let bytes = number * factor;
        // Beyond 2^53 a float skips numbers, and no machine has so much.
        let fits = (1.0..9e15).contains(&bytes);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked: between 1 and 2^53; a part of a byte is left out"
        )]
        fits.then_some(Self(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = |shift: u32| self.0 != 0 && self.0.is_multiple_of(1 << shift);
        match self.0 {
            bytes if unit(30) => write!(f, "{}G", bytes >> 30),
            bytes if unit(20) => write!(f, "{}M", bytes >> 20),
            bytes if unit(10) => write!(f, "{}K", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

impl CpuShare {
    fn parse(text: &str) -> Option<Self> {
        let percent: u32 = text.strip_suffix('%')?.trim_end().parse().ok()?;
        (1..=SHARE_MAX).contains(&percent).then_some(Self(percent))
    }

    /// From a bare number of percent.
    pub(super) fn from_percent(percent: u64) -> Option<Self> {
        let percent = u32::try_from(percent).ok()?;
        (1..=SHARE_MAX).contains(&percent).then_some(Self(percent))
    }
}

impl fmt::Display for CpuShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// A value of a key, in its own notation.
pub(super) trait Read: Copy {
    fn read(entry: &Entry) -> Result<Self, Problem>;
}

impl Read for ByteSize {
    fn read(entry: &Entry) -> Result<Self, Problem> {
        let size = match (entry.as_integer(), entry.as_string()) {
            (Some(bytes), _) => u64::try_from(bytes).ok().filter(|&bytes| bytes > 0).map(Self),
            (None, Some(text)) => Self::parse(text),
            (None, None) => None,
        };
        size.ok_or_else(|| entry.mismatch("a size like \"100M\", \"1.5G\" or a number of bytes"))
    }
}

impl Read for CpuShare {
    fn read(entry: &Entry) -> Result<Self, Problem> {
        entry
            .as_string()
            .and_then(Self::parse)
            .ok_or_else(|| entry.mismatch("a share of one core like \"25%\", or \"200%\" for two"))
    }
}

impl Read for Duration {
    fn read(entry: &Entry) -> Result<Self, Problem> {
        read_time(entry, duration::parse)
    }
}

impl Read for u64 {
    fn read(entry: &Entry) -> Result<Self, Problem> {
        entry.positive()
    }
}

/// A time that may be 0.
pub(super) fn read_time_with_zero(entry: &Entry) -> Result<Duration, Problem> {
    read_time(entry, duration::parse_with_zero)
}

fn read_time(
    entry: &Entry,
    parse: fn(&str) -> Result<Duration, String>,
) -> Result<Duration, Problem> {
    let text = entry
        .as_string()
        .ok_or_else(|| entry.mismatch("a time like \"5s\", \"500ms\" or \"5m\""))?;
    parse(text).map_err(|reason| entry.wrong(format!("`{}`: {reason}", entry.key)))
}

/// A number that fits 32 bits.
pub(super) fn read_count(entry: &Entry) -> Result<u32, Problem> {
    let count = entry.positive()?;
    u32::try_from(count).map_err(|_| entry.mismatch("a smaller number"))
}

/// Their names, and how many bytes one is.
const UNITS: [(&[&str], f64); 9] = [
    (&["", "B"], 1.0),
    (&["K", "KiB"], 1_024.0),
    (&["M", "MiB"], 1_048_576.0),
    (&["G", "GiB"], 1_073_741_824.0),
    (&["T", "TiB"], 1_099_511_627_776.0),
    (&["kB", "KB"], 1e3),
    (&["MB"], 1e6),
    (&["GB"], 1e9),
    (&["TB"], 1e12),
];

/// More cores than any machine has.
const SHARE_MAX: u32 = 100 * 4_096;

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of bytes: 100M, 1.5G. K, M, G, T are powers of 1024; \
                            kB, MB, GB, TB of 1000.",
            "type": ["string", "integer"],
            "pattern": "^[0-9]+(\\.[0-9]+)? ?(B|[KMGT](iB)?|[kKMGT]B)?$",
            "minimum": 1,
        })
    }
}

impl JsonSchema for CpuShare {
    fn schema_name() -> Cow<'static, str> {
        "CpuShare".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A share of one core: 25%, or 200% for two cores.",
            "type": "string",
            "pattern": "^[0-9]+ ?%$",
        })
    }
}

/// How a `Duration` is written, for the schema.
pub(super) struct Time;

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A time: 500ms, 5s, 1.5m, 2h.",
            "type": "string",
            "pattern": "^[0-9]+(\\.[0-9]+)?(ms|s|m|h)?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shares_have_units() {
        let sizes = [
            ("100M", Some(100 << 20)),
            ("100 MiB", Some(100 << 20)),
            ("100MB", Some(100_000_000)),
            ("1.5K", Some(1_536)),
            ("7", Some(7)),
            ("7B", Some(7)),
            ("0", None),
            ("-1M", None),
            ("M", None),
            ("1m", None),
            ("1e9", None),
            ("99999999T", None),
            ("1.2.3M", None),
        ];
        for (text, expected) in sizes {
            assert_eq!(ByteSize::parse(text), expected.map(ByteSize), "{text}");
        }
        let shares = [
            ("25%", Some(25)),
            ("200 %", Some(200)),
            ("0%", None),
            ("25", None),
            ("-5%", None),
            ("2.5%", None),
        ];
        for (text, expected) in shares {
            assert_eq!(CpuShare::parse(text), expected.map(CpuShare), "{text}");
        }
    }

    #[test]
    fn a_shown_size_reads_as_itself() {
        for bytes in [1, 1_023, 1_024, 100 << 20, 3 << 30, (1 << 30) + 1] {
            let size = ByteSize(bytes);
            assert_eq!(ByteSize::parse(&size.to_string()), Some(size));
        }
        assert_eq!(ByteSize(100 << 20).to_string(), "100M");
    }
}
