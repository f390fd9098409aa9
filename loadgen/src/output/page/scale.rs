//! Scales: from values to places in a drawing, with ticks at round values.

/// The scale of an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    kind: Kind,
    low: f64,
    high: f64,
    /// The place of `low`.
    from: f64,
    /// The place of `high`.
    to: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Linear,
    Log,
}

impl Scale {
    /// Makes a scale from 0 to `high`.
    pub(crate) fn exact(high: f64) -> Scale {
        Scale { kind: Kind::Linear, low: 0.0, high: if high > 0.0 { high } else { 1.0 }, from: 0.0, to: 1.0 }
    }

    /// Makes a scale from 0 to a round value, at least `high`.
    pub(crate) fn linear(high: f64) -> Scale {
        let high = if high > 0.0 { high } else { 1.0 };
        let step = step(high);
        Scale::exact((high / step).ceil().max(1.0) * step)
    }

    /// Makes a logarithmic scale that includes `low` and `high`, both above 0. The scale ends at round values such as
    /// 1, 2, 5 and 10, and spans at least a factor of 10.
    pub(crate) fn log(low: f64, high: f64) -> Scale {
        let mut low = ROUND.iter().rev().map(|round| round * decade(low)).find(|&round| round <= low).unwrap_or(low);
        let above = |value: f64| ROUND.iter().map(|round| round * decade(value)).find(|&round| round >= value);
        let mut high = above(high).unwrap_or(decade(high) * 10.0);
        if high / low < 9.99 {
            (low, high) = (decade(low), high.max(decade(low) * 10.0));
        }
        Scale { kind: Kind::Log, low, high, from: 0.0, to: 1.0 }
    }

    /// Puts the scale between two places.
    pub(crate) fn between(self, from: f64, to: f64) -> Scale {
        Scale { from, to, ..self }
    }

    /// Returns the place of a value. A value beyond the scale is put at its end.
    pub(crate) fn place(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        let part = match self.kind {
            Kind::Linear => (value - self.low) / (self.high - self.low),
            Kind::Log => (value / self.low).log10() / (self.high / self.low).log10(),
        };
        self.from + part * (self.to - self.from)
    }

    /// Returns both ends as places.
    pub(crate) fn ends(&self) -> (f64, f64) {
        (self.from, self.to)
    }

    /// Returns round values on the scale, at most 8.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        match self.kind {
            Kind::Linear => {
                let step = step(self.high);
                (0..=TICKS_MAX)
                    .map(|place| place as f64 * step)
                    .take_while(|&tick| tick <= self.high * 1.0001)
                    .collect()
            }
            Kind::Log => {
                let on_scale = |tick: &f64| *tick >= self.low * 0.999 && *tick <= self.high * 1.001;
                let first = decade(self.low).log10().round() as i32;
                let decades = (first..first + DECADES_MAX).map(|power| 10_f64.powi(power));
                let every = |rounds: &'static [f64]| -> Vec<f64> {
                    decades
                        .clone()
                        .flat_map(|ten| rounds.iter().map(move |round| round * ten))
                        .filter(on_scale)
                        .collect()
                };
                let (dense, sparse) = (every(&ROUND[..3]), every(&ROUND[..1]));
                let ticks = if dense.len() <= TICKS_MAX { dense } else { sparse };
                // Of more ticks than fit, only every second one is shown, or fewer.
                let stride = ticks.len().div_ceil(TICKS_MAX);
                ticks.into_iter().step_by(stride.max(1)).collect()
            }
        }
    }
}

/// Returns the largest power of 10 up to a value.
fn decade(value: f64) -> f64 {
    let ten = 10_f64.powi(value.log10().floor() as i32);
    // The logarithm of a power of 10 may be a little too low.
    if ten * 10.0 <= value { ten * 10.0 } else { ten }
}

/// Returns a round step that divides a range from 0 to `high` into at most five parts, or six at a round end.
fn step(high: f64) -> f64 {
    let rough = high / 5.0;
    let ten = decade(rough);
    ROUND.iter().map(|round| round * ten).find(|&round| round >= rough * 0.9999).unwrap_or(ten * 10.0)
}

const ROUND: [f64; 4] = [1.0, 2.0, 5.0, 10.0];
const TICKS_MAX: usize = 8;

/// More than the decades from a nanosecond to a year.
const DECADES_MAX: i32 = 18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_scales_end_at_round_values() {
        for (high, ticks) in [
            (0.0, vec![0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]),
            (0.7, vec![0.0, 0.2, 0.4, 0.6000000000000001, 0.8]),
            (4.0, vec![0.0, 1.0, 2.0, 3.0, 4.0]),
            (99_000.0, vec![0.0, 20_000.0, 40_000.0, 60_000.0, 80_000.0, 100_000.0]),
            (100_000.0, vec![0.0, 20_000.0, 40_000.0, 60_000.0, 80_000.0, 100_000.0]),
        ] {
            let scale = Scale::linear(high);
            assert_eq!(scale.ticks(), ticks, "{high}");
            assert!(scale.place(high) <= 1.0 && scale.place(0.0) == 0.0);
        }
        assert_eq!(Scale::exact(6.0).between(10.0, 130.0).place(3.0), 70.0);
        assert_eq!(Scale::exact(6.0).ticks().last(), Some(&6.0));
    }

    #[test]
    fn logarithmic_scales_span_a_decade_at_least() {
        for (low, high, ticks) in [
            (1_500.0, 1_600.0, vec![1e3, 2e3, 5e3, 1e4]),
            (1e5, 1e5, vec![1e5, 2e5, 5e5, 1e6]),
            (150.0, 4_000.0, vec![100.0, 200.0, 500.0, 1e3, 2e3, 5e3]),
            (1e3, 3e8, vec![1e3, 1e4, 1e5, 1e6, 1e7, 1e8]),
            (1.0, 1e11, vec![1.0, 100.0, 1e4, 1e6, 1e8, 1e10]),
        ] {
            let scale = Scale::log(low, high);
            let close = |(one, other): (&f64, &f64)| (one / other - 1.0).abs() < 1e-9;
            let found = scale.ticks();
            assert!(found.len() == ticks.len() && found.iter().zip(&ticks).all(close), "{low} {high}: {found:?}");
            assert!((0.0..=1.0).contains(&scale.place(low)) && scale.place(low) <= scale.place(high));
        }
        assert!((Scale::log(10.0, 1_000.0).place(100.0) - 0.5).abs() < 1e-9);
        assert_eq!(Scale::log(10.0, 1_000.0).place(1.0), 0.0);
    }
}
