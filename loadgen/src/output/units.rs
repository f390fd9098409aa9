//! Numbers as people read them.

/// Returns a whole number with a thin gap before each three digits: `1 000`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Returns a time with its unit and three significant digits: `1.57 ms`.
pub(crate) fn time(ns: f64) -> String {
    let (scale, unit) = match ns {
        ns if ns < 999.5 => (1.0, "ns"),
        ns if ns < 999.5e3 => (1e3, "µs"),
        ns if ns < 999.5e6 => (1e6, "ms"),
        _ => (1e9, "s"),
    };
    format!("{} {unit}", significant(ns / scale))
}

/// Returns a number with three significant digits, and with all digits of its whole part.
pub(crate) fn significant(number: f64) -> String {
    let decimals = match number.abs() {
        size if size < 9.995 => 2,
        size if size < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{number:.decimals$}");
    match text.split_once('.') {
        Some(_) => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        None if number >= 1e3 => grouped(number.round() as u64),
        None => text,
    }
}

/// Returns a number with a short suffix for thousands, millions and so on: `1.5k`, for axes.
pub(crate) fn short(number: f64) -> String {
    let (scale, suffix) = match number.abs() {
        size if size < 1e3 => (1.0, ""),
        size if size < 1e6 => (1e3, "k"),
        size if size < 1e9 => (1e6, "M"),
        _ => (1e9, "G"),
    };
    format!("{}{suffix}", significant(number / scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_three_digits() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1 000", "1 234 567"]);
    }

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let cases =
            [(0.0, "0 ns"), (999.0, "999 ns"), (999.9, "1 µs"), (1_572_864.0, "1.57 ms"), (12_345.0, "12.3 µs")];
        let long = [(60e9, "60 s"), (999_600_000.0, "1 s"), (123e6, "123 ms"), (4_000e9, "4 000 s")];
        for (ns, text) in cases.into_iter().chain(long) {
            assert_eq!(time(ns), text);
        }
    }

    #[test]
    fn short_numbers() {
        let cases = [(0.0, "0"), (0.25, "0.25"), (1_000.0, "1k"), (1_500.0, "1.5k"), (250_000.0, "250k"), (2e6, "2M")];
        for (number, text) in cases {
            assert_eq!(short(number), text);
        }
    }
}
