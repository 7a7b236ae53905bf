//! How good predictions are on examples that were held out. For people: peers agree on none of these bits.
//!
//! Where there is nothing to measure (no examples, one class only) the answer is `None`.
#![allow(clippy::disallowed_methods)] // see above

/// Share of predictions that are right.
pub fn accuracy(predicted: &[u32], actual: &[u32]) -> Option<f64> {
    let right = predicted.iter().zip(actual).filter(|(p, a)| p == a).count();
    (!actual.is_empty()).then(|| right as f64 / actual.len() as f64)
}

/// The largest of each row's outputs: the lowest class where several are equal.
pub fn largest(outputs: &[f32], classes: usize) -> Vec<u32> {
    let best = |row: &[f32]| (0..row.len()).reduce(|best, at| if row[at] > row[best] { at } else { best }).unwrap_or(0);
    outputs.chunks_exact(classes.max(1)).map(|row| best(row) as u32).collect()
}

/// Probabilities of classes from a row of outputs.
pub fn softmax(row: &[f32]) -> Vec<f64> {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = row.iter().map(|x| f64::from(x - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// Probability of the second of two classes from the one output that a binary network has.
pub fn sigmoid(output: f32) -> f64 {
    1.0 / (1.0 + f64::from(-output).exp())
}

/// Area under the receiver operating characteristic: the chance that an example of the positive class scores above one of
/// the other, where equal scores count half (Mann and Whitney 1947).
pub fn roc_auc(scores: &[f32], positive: &[bool]) -> Option<f64> {
    let mut order: Vec<usize> = (0..scores.len().min(positive.len())).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let positives = order.iter().filter(|index| positive[**index]).count();
    let negatives = order.len() - positives;
    if positives == 0 || negatives == 0 || scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    let (mut below, mut wins) = (0, 0.0);
    // −0 and 0 are neighbours in the order and equal here.
    #[allow(clippy::float_cmp)] // equal scores are those with equal bits or zeros
    for tied in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let ups = tied.iter().filter(|index| positive[**index]).count();
        let downs = tied.len() - ups;
        wins += ups as f64 * (below as f64 + downs as f64 / 2.0);
        below += downs;
    }
    Some(wins / (positives as f64 * negatives as f64))
}

/// Counts by [actual][predicted] class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion(pub Vec<Vec<u64>>);

impl Confusion {
    /// Predictions that are not below `classes` are left out.
    pub fn of(predicted: &[u32], actual: &[u32], classes: usize) -> Self {
        let mut counts = vec![vec![0; classes]; classes];
        for (predicted, actual) in predicted.iter().zip(actual) {
            let cell = counts.get_mut(*actual as usize).and_then(|row| row.get_mut(*predicted as usize));
            if let Some(cell) = cell {
                *cell += 1;
            }
        }
        Self(counts)
    }

    /// 2·TP / (2·TP + FP + FN) of one class; `None` where it neither is nor is predicted.
    pub fn f1(&self, class: usize) -> Option<f64> {
        let right = *self.0.get(class)?.get(class)?;
        let actual: u64 = self.0[class].iter().sum();
        let predicted: u64 = self.0.iter().map(|row| row[class]).sum();
        (actual + predicted > 0).then(|| 2.0 * right as f64 / (actual + predicted) as f64)
    }

    /// Mean of the classes' F1, as far as they have one.
    pub fn macro_f1(&self) -> Option<f64> {
        mean((0..self.0.len()).filter_map(|class| self.f1(class)))
    }
}

/// Expected calibration error (Guo et al., arXiv 1706.04599): in ten equal ranges of confidence, how far the share of right
/// predictions is from the mean confidence.
pub fn calibration_error(confidence: &[f64], right: &[bool]) -> Option<f64> {
    let mut bins = [(0.0, 0.0); 10];
    for (confidence, right) in confidence.iter().zip(right) {
        let bin = &mut bins[((confidence * 10.0) as usize).min(9)];
        bin.0 += confidence;
        bin.1 += f64::from(u8::from(*right));
    }
    (!right.is_empty()).then(|| bins.iter().map(|(sure, right)| (sure - right).abs()).sum::<f64>() / right.len() as f64)
}

/// Mean absolute error.
pub fn mae(predicted: &[f64], actual: &[f64]) -> Option<f64> {
    mean(predicted.iter().zip(actual).map(|(p, a)| (p - a).abs()))
}

/// Root of the mean squared error.
pub fn rmse(predicted: &[f64], actual: &[f64]) -> Option<f64> {
    mean(predicted.iter().zip(actual).map(|(p, a)| (p - a) * (p - a))).map(f64::sqrt)
}

/// Coefficient of determination: 1 less the squared error's share of the variance; `None` where all values are equal.
pub fn r2(predicted: &[f64], actual: &[f64]) -> Option<f64> {
    let middle = mean(actual.iter().copied())?;
    let variance: f64 = actual.iter().map(|a| (a - middle) * (a - middle)).sum();
    let error: f64 = predicted.iter().zip(actual).map(|(p, a)| (p - a) * (p - a)).sum();
    (variance > 0.0).then(|| 1.0 - error / variance)
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0u64), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn near(got: Option<f64>, expected: f64) {
        assert!((got.unwrap() - expected).abs() < 1e-12, "{got:?} is not {expected}");
    }

    #[test]
    fn accuracy_and_f1_are_those_counted_by_hand() {
        let (predicted, actual) = ([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 2, 0]);
        near(accuracy(&predicted, &actual), 4.0 / 6.0);
        let confusion = Confusion::of(&predicted, &actual, 4);
        assert_eq!(confusion.0, [[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]);
        near(confusion.f1(0), 0.5);
        near(confusion.f1(1), 2.0 / 3.0);
        near(confusion.f1(2), 0.8);
        assert_eq!(confusion.f1(3), None);
        near(confusion.macro_f1(), (0.5 + 2.0 / 3.0 + 0.8) / 3.0);
    }

    #[test]
    fn the_area_under_the_curve_counts_ties_half() {
        near(roc_auc(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]), 0.75);
        near(roc_auc(&[1.0, 1.0, 1.0], &[true, false, false]), 0.5);
        near(roc_auc(&[0.0, -0.0, 2.0], &[true, false, true]), 0.75);
        assert_eq!(roc_auc(&[1.0, 2.0], &[true, true]), None);
        assert_eq!(roc_auc(&[f32::NAN, 2.0], &[true, false]), None);
        assert_eq!(roc_auc(&[], &[]), None);
    }

    #[test]
    fn errors_of_numbers_are_those_computed_by_hand() {
        let (predicted, actual) = ([2.0, 4.0, 9.0], [1.0, 4.0, 7.0]);
        near(mae(&predicted, &actual), 1.0);
        near(rmse(&predicted, &actual), (5.0f64 / 3.0).sqrt());
        near(r2(&predicted, &actual), 1.0 - 5.0 / 18.0);
        assert_eq!(r2(&[1.0], &[1.0]), None);
        assert_eq!((mae(&[], &[]), accuracy(&[], &[])), (None, None));
    }

    #[test]
    fn calibration_compares_confidence_with_success() {
        // Two at 0.75 of which one is right, two at 1 of which both are.
        near(calibration_error(&[0.75, 0.75, 1.0, 1.0], &[true, false, true, true]), 0.5 / 4.0);
    }

    #[test]
    fn the_largest_output_wins_and_probabilities_survive_large_outputs() {
        assert_eq!(largest(&[1.0, 3.0, 3.0, 0.0, -1.0, -2.0], 3), [1, 0]);
        assert_eq!(softmax(&[1000.0, 1000.0]), [0.5, 0.5]);
        assert!(sigmoid(-1000.0).abs() < 1e-9 && (sigmoid(0.0) - 0.5).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn the_area_is_the_share_of_pairs_in_order(scored in prop::collection::vec((0u8..6, any::<bool>()), 2..40)) {
            let scores: Vec<f32> = scored.iter().map(|(score, _)| f32::from(*score)).collect();
            let positive: Vec<bool> = scored.iter().map(|(_, positive)| *positive).collect();
            let (mut pairs, mut wins) = (0, 0.0);
            for (i, up) in positive.iter().enumerate().filter(|(_, p)| **p) {
                for (j, _) in positive.iter().enumerate().filter(|(_, p)| **p != *up) {
                    pairs += 1;
                    wins += if scores[i] > scores[j] { 1.0 } else if scores[i] < scores[j] { 0.0 } else { 0.5 };
                }
            }
            let area = roc_auc(&scores, &positive);
            prop_assert_eq!(area.is_some(), pairs > 0);
            prop_assert!(area.is_none_or(|area| (area - wins / f64::from(pairs)).abs() < 1e-9));
        }
    }
}
