//! Where sequences lie in a flat list of numbers, and statistics over the tokens that a mask selects.
//!
//! What the mask leaves out is never read, so that a NaN there stays there. Sums are f64.

use std::ops::Range;

/// Sequences end to end: where each begins and ends in a flat list with one number per token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spans {
    ends: Vec<usize>,
}

impl Spans {
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        let ends = lengths.into_iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        Self { ends: ends.collect() }
    }

    /// How many sequences.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many tokens all sequences have together.
    pub fn tokens(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The range of one sequence.
    pub fn get(&self, sequence: usize) -> Range<usize> {
        let start = sequence.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[sequence]
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        (0..self.len()).map(|sequence| self.get(sequence))
    }
}

/// The values that the mask selects.
pub fn selected<'a>(values: &'a [f32], mask: &'a [bool]) -> impl Iterator<Item = f64> + Clone + 'a {
    values.iter().zip(mask).filter(|(_, is_on)| **is_on).map(|(value, _)| f64::from(*value))
}

/// The mean of the selected values; 0 of none.
pub fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0usize, 0.0), |(count, sum), value| (count + 1, sum + value));
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// Mean and variance, the latter with Bessel's correction (n - 1, as verl has it); of fewer than two values, 0.
pub fn mean_and_variance(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let mean = mean(values.clone());
    let (count, squares) = values.fold((0usize, 0.0), |(count, sum), value| (count + 1, sum + (value - mean).powi(2)));
    (mean, if count < 2 { 0.0 } else { squares / (count - 1) as f64 })
}

/// Shifts and scales the selected values to mean 0 and variance 1, over all sequences together, as
/// `(x - mean) / sqrt(variance + 1e-8)`; the others become 0. Values that are all equal become 0.
///
/// It belongs before the cut into mini-batches: whitened by parts, a part of good responses would be taught as bad.
pub fn whiten(values: &mut [f32], mask: &[bool]) {
    let (mean, variance) = mean_and_variance(selected(values, mask));
    let scale = 1.0 / (variance + 1e-8).sqrt();
    for (value, is_on) in values.iter_mut().zip(mask) {
        *value = if *is_on { ((f64::from(*value) - mean) * scale) as f32 } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_lie_end_to_end() {
        let spans = Spans::new([2, 0, 3]);
        assert_eq!(spans.iter().collect::<Vec<_>>(), [0..2, 2..2, 2..5]);
        assert_eq!((spans.len(), spans.tokens()), (3, 5));
        assert_eq!(Spans::new([]).tokens(), 0);
    }

    #[test]
    fn what_is_masked_is_never_read() {
        let values = [1.0, f32::NAN, 3.0, f32::INFINITY];
        let mask = [true, false, true, false];
        assert_eq!(mean_and_variance(selected(&values, &mask)), (2.0, 2.0));
        let mut whitened = values;
        whiten(&mut whitened, &mask);
        let root = std::f32::consts::FRAC_1_SQRT_2;
        for (value, expect) in whitened.iter().zip([-root, 0.0, root, 0.0]) {
            assert!((value - expect).abs() < 1e-6, "{whitened:?}");
        }
    }

    #[test]
    fn nothing_selected_and_everything_equal_are_zero() {
        assert_eq!(mean_and_variance(selected(&[f32::NAN], &[false])), (0.0, 0.0));
        for mut values in [vec![], vec![0.1], vec![0.1; 1000]] {
            let mask = vec![true; values.len()];
            whiten(&mut values, &mask);
            assert!(values.iter().all(|value| *value == 0.0), "{values:?}");
        }
    }

    #[test]
    fn whitening_is_over_the_whole_batch() {
        let mut whole = [1.0, 2.0, 11.0, 12.0];
        whiten(&mut whole, &[true; 4]);
        assert!(whole[0] < whole[1] && whole[1] < 0.0 && 0.0 < whole[2] && whole[2] < whole[3]);
        let mut halves = [1.0, 2.0, 11.0, 12.0];
        let (low, high) = halves.split_at_mut(2);
        whiten(low, &[true; 2]);
        whiten(high, &[true; 2]);
        assert_eq!(low, high, "by halves, the good half would look like the bad one");
    }
}
