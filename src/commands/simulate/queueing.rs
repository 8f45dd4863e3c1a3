//! Queueing theory for a pool of workers: pure.
//!
//! With `c` workers and an offered load of `a` (the arrival rate times the mean work, in workers):
//! Erlang's formulas, the mean wait after Allen and Cunneen (M/G/c), and the loss of a bounded
//! buffer (M/M/c/K). Many independent streams are taken for a Poisson process.

/// Returns the share of arrivals that find all workers busy in a system without a queue (Erlang B).
fn erlang_b(workers: u32, load: f64) -> f64 {
    (1..=workers).fold(1.0, |b, n| load * b / (f64::from(n) + load * b))
}

/// Returns the share of arrivals that have to wait (Erlang C); all, if the load exceeds the
/// workers.
pub(super) fn has_to_wait(workers: u32, load: f64) -> f64 {
    let use_of_each = load / f64::from(workers);
    if use_of_each >= 1.0 {
        return 1.0;
    }
    let b = erlang_b(workers, load);
    b / (1.0 - use_of_each * (1.0 - b))
}

/// Returns the mean wait in units of the mean work, for work whose squared coefficient of variation
/// is `variation`; `None` if the queue grows without bound.
pub(super) fn mean_wait(workers: u32, load: f64, variation: f64) -> Option<f64> {
    let spare = f64::from(workers) - load;
    (spare > 0.0).then(|| has_to_wait(workers, load) / spare * (1.0 + variation) / 2.0)
}

/// Returns the share of arrivals that find the buffer full.
pub(super) fn lost(workers: u32, load: f64, buffer: u32) -> f64 {
    let b = erlang_b(workers, load);
    let (use_of_each, room) = (load / f64::from(workers), f64::from(buffer));
    if use_of_each < 1.0 {
        let full = use_of_each.powf(room);
        let waiting = use_of_each * (1.0 - full) / (1.0 - use_of_each);
        return b * full / (1.0 + b * waiting);
    }
    // the same formula divided by `full`, which here grows without bound
    let inverse = 1.0 / use_of_each;
    let waiting = if use_of_each == 1.0 { room } else { (1.0 - inverse.powf(room)) / (1.0 - inverse) };
    b / (inverse.powf(room) + b * waiting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_near(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-4 * expected.max(1e-3), "{value} is not {expected}");
    }

    #[test]
    fn erlang_formulas_match_published_tables() {
        assert_near(erlang_b(10, 5.0), 0.018_385);
        assert_near(has_to_wait(2, 1.0), 1.0 / 3.0);
        assert_near(has_to_wait(10, 7.0), 0.221_729);
        assert_eq!(has_to_wait(3, 3.0), 1.0);
    }

    #[test]
    fn one_worker_waits_as_m_m_1_and_m_d_1_do() {
        // rho / (1 - rho), and half of it for work that never varies
        assert_near(mean_wait(1, 0.8, 1.0).unwrap(), 4.0);
        assert_near(mean_wait(1, 0.8, 0.0).unwrap(), 2.0);
        assert_eq!(mean_wait(1, 1.0, 1.0), None);
    }

    #[test]
    fn a_bounded_buffer_loses_as_m_m_1_k_does() {
        assert_near(lost(1, 0.5, 1), 1.0 / 7.0);
        assert_near(lost(1, 1.0, 4), 1.0 / 6.0);
        assert_near(lost(1, 2.0, 1), 4.0 / 7.0);
        // far above capacity, the excess is lost
        assert_near(lost(10, 20.0, 2000), 0.5);
        assert!(lost(50, 7.0, 500) < 1e-100);
    }
}
