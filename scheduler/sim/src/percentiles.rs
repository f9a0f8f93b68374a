//! Percentiles, exact.

/// Of how many values, and which; by nearest rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    pub count: u64,
    pub p50: u64,
    pub p95: u64,
    pub p99: u64,
    pub max: u64,
}

impl Percentiles {
    /// Of these values, in any order; `None` if there is none.
    pub fn of(mut values: Vec<u64>) -> Option<Self> {
        values.sort_unstable();
        let max = *values.last()?;
        let rank = |percent: usize| values[(values.len() * percent).div_ceil(100).max(1) - 1];
        Some(Self {
            count: values.len() as u64,
            p50: rank(50),
            p95: rank(95),
            p99: rank(99),
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_by_nearest_rank() {
        assert_eq!(Percentiles::of(Vec::new()), None);
        let of_one = Percentiles::of(vec![7]).unwrap();
        assert_eq!((of_one.p50, of_one.p99, of_one.max), (7, 7, 7));
        let of_200 = Percentiles::of((1..=200).rev().collect()).unwrap();
        let expected = Percentiles {
            count: 200,
            p50: 100,
            p95: 190,
            p99: 198,
            max: 200,
        };
        assert_eq!(of_200, expected);
    }
}
