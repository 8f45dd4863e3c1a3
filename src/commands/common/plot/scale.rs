//! Mapping from values to positions: pure.

/// Approximate number of ticks.
const TICKS: f64 = 5.0;

/// Values from 0 to a round number not below the highest, laid out between two positions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    most: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// Makes a scale for these values.
    pub(crate) fn of(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let highest = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
        let highest = if highest > 0.0 { highest } else { 1.0 };
        let step = round_step(highest / TICKS);
        Self { most: (highest / step).ceil() * step, step, from, to }
    }

    /// Makes a scale that ends at the highest value, round or not.
    pub(crate) fn ending(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let highest = values.clone().filter(|value| value.is_finite()).fold(0.0, f64::max);
        let scale = Self::of(values, from, to);
        Self { most: if highest > 0.0 { highest } else { scale.most }, ..scale }
    }

    /// Returns the position of a value.
    pub(crate) fn at(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * (value / self.most).clamp(0.0, 1.0)
    }

    /// Returns the round values and their labels.
    pub(crate) fn ticks(&self) -> impl Iterator<Item = (f64, String)> {
        let count = (self.most / self.step + 1e-9).floor() as u32;
        let digits = (-self.step.log10().floor()).clamp(0.0, 9.0) as usize;
        (0..=count).map(move |n| {
            let value = f64::from(n) * self.step;
            (value, format!("{value:.digits$}"))
        })
    }
}

/// Returns 1, 2 or 5 times a power of ten, at least as large as `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    factors.map(|factor| factor * power).into_iter().find(|step| *step >= least * 0.999).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(highest: f64) -> Vec<String> {
        Scale::of([highest].into_iter(), 0.0, 100.0).ticks().map(|tick| tick.1).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(ticks(52.0), ["0", "20", "40", "60"]);
        assert_eq!(ticks(100.0), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(ticks(0.73), ["0.0", "0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(ticks(0.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(ticks(123_456.0), ["0", "50000", "100000", "150000"]);
    }

    #[test]
    fn positions_go_from_one_end_to_the_other() {
        let scale = Scale::of([5.0, 10.0].into_iter(), 200.0, 100.0);
        assert_eq!([0.0, 5.0, 10.0, 99.0].map(|value| scale.at(value)), [200.0, 150.0, 100.0, 100.0]);
    }
}
