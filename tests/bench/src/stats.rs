//! Percentiles of samples, and the order in which rivals take turns.

use serde::Serialize;

/// What a row shows of its samples, in the row's unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Median.
    pub p50: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// Samples.
    pub count: usize,
}

impl Summary {
    /// Summarises samples by the nearest-rank method; `None` when there are none.
    pub fn of(samples: &[f64]) -> Option<Summary> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.last().copied()?;
        let at = |q: f64| sorted[rank(q, sorted.len())];
        Some(Summary { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: last, count: sorted.len() })
    }

    /// A figure that was measured once.
    pub fn single(value: f64) -> Summary {
        Summary { p50: value, p95: value, p99: value, max: value, count: 1 }
    }
}

/// Index of the nearest rank: the smallest value that at least `q` of all values do not exceed.
fn rank(q: f64, count: usize) -> usize {
    ((q * count as f64).ceil() as usize).clamp(1, count) - 1
}

/// Who goes first in each round: every rival begins as often as any other, so that none always runs on a
/// machine that its predecessor warmed up.
pub fn order(rivals: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..rivals).map(move |turn| (turn + round) % rivals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let s = Summary::of(&samples).unwrap();
        assert_eq!((s.p50, s.p95, s.p99, s.max, s.count), (50.0, 95.0, 99.0, 100.0, 100));
        let s = Summary::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((s.p50, s.p99), (2.0, 3.0));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn one_outlier_in_a_hundred_is_the_maximum_and_not_the_99th_percentile() {
        let mut samples = vec![1.0; 99];
        samples.push(1000.0);
        let s = Summary::of(&samples).unwrap();
        assert_eq!((s.p99, s.max), (1.0, 1000.0));
    }

    #[test]
    fn every_rival_runs_once_a_round_and_begins_as_often_as_the_others() {
        let mut first = [0; 3];
        for round in 0..6 {
            let mut turns: Vec<usize> = order(3, round).collect();
            first[turns[0]] += 1;
            turns.sort_unstable();
            assert_eq!(turns, [0, 1, 2]);
        }
        assert_eq!(first, [2, 2, 2]);
    }
}
