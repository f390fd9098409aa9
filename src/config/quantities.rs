//! Numbers with units: sizes and times.

use std::{fmt, str::FromStr, time::Duration};

/// A number of bytes: `4096`, `64KiB`, `32MiB`, `1GiB`; `kB`, `MB`, `GB` are powers of ten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_number(text);
        let factor: u64 = match unit {
            "" | "B" => 1,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "K" | "KiB" => 1 << 10,
            "M" | "MiB" => 1 << 20,
            "G" | "GiB" => 1 << 30,
            _ => {
                return Err(format!(
                    "{text:?} is no size; write it like 65536, or with B, KiB, MiB, GiB, kB, MB or GB"
                ));
            }
        };
        let number: u64 = number.parse().map_err(|_| format!("{text:?} is no size; write it like 65536 or 64KiB"))?;
        number.checked_mul(factor).map(Size).ok_or_else(|| format!("{text:?} is too large"))
    }
}

/// A limit of memory: a size, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit(pub Option<Size>);

impl FromStr for MemoryLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "off" { Ok(MemoryLimit(None)) } else { text.parse().map(|size| MemoryLimit(Some(size))) }
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("off"),
            Some(size) => size.fmt(f),
        }
    }
}

/// Writes a size in the largest binary unit of which it is a multiple.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let unit = units.iter().find(|(shift, _)| self.0 > 0 && self.0.trailing_zeros() >= *shift);
        match unit {
            Some((shift, name)) => write!(f, "{}{name}", self.0 >> shift),
            None => self.0.fmt(f),
        }
    }
}

/// A span of time: `10s`, `500ms`, `2m`, `1h`; `0` has no unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_number(text);
        let count: u64 = number.parse().map_err(|_| format!("{text:?} is no time; write it like 10s or 500ms"))?;
        let seconds = |factor: u64| count.checked_mul(factor).map(Duration::from_secs);
        let time = match unit {
            "" if count == 0 => Some(Duration::ZERO),
            "ms" => Some(Duration::from_millis(count)),
            "s" => seconds(1),
            "m" | "min" => seconds(60),
            "h" => seconds(3_600),
            "" => return Err(format!("{text:?} needs a unit of time: ms, s, m or h")),
            part if part.starts_with(['.', ',']) => {
                return Err(format!("{text:?} is no whole number of a unit of time"));
            }
            _ => return Err(format!("{text:?}: {unit:?} is no unit of time: ms, s, m or h")),
        };
        time.map(Time).ok_or_else(|| format!("{text:?} is too long"))
    }
}

/// Writes a time in the largest unit of which it is a multiple: milliseconds, seconds, minutes from two minutes on, or
/// hours.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            _ if self.0.is_zero() => f.write_str("0"),
            _ if self.0.subsec_millis() != 0 => write!(f, "{}ms", self.0.as_millis()),
            3_600.. if seconds.is_multiple_of(3_600) => write!(f, "{}h", seconds / 3_600),
            120.. if seconds.is_multiple_of(60) => write!(f, "{}m", seconds / 60),
            _ => write!(f, "{seconds}s"),
        }
    }
}

/// Splits a text after the digits that it begins with.
fn split_number(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text: &str, bytes: u64| assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        check("0", 0);
        check("4096", 4_096);
        check("64KiB", 65_536);
        check("32 MiB", 32 << 20);
        check("1GB", 1_000_000_000);
        for bad in ["", "x", "1.5MiB", "-1", "1XB", "99999999999999999999", "18446744073709551615GiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        let check = |text: &str, ms: u64| assert_eq!(text.parse(), Ok(Time(Duration::from_millis(ms))), "{text}");
        check("0", 0);
        check("500ms", 500);
        check("10s", 10_000);
        check("2m", 120_000);
        check("1h", 3_600_000);
        for bad in ["", "10", "1.5s", "1d", "s", "18446744073709551615h"] {
            assert!(bad.parse::<Time>().is_err(), "{bad}");
        }
    }
}
