//! What held-out examples say of a network.

use serde::Serialize;

use super::{Loss, Targets, mean_loss};
use crate::metrics::{self, Confusion};

/// Measures by the kind of loss; those that the examples cannot tell are `None`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Report {
    /// Of a network with one output, whose sign says which of two classes.
    Binary {
        log_loss: f64,
        accuracy: Option<f64>,
        auc: Option<f64>,
        /// Of the second class.
        f1: Option<f64>,
        calibration_error: Option<f64>,
    },
    Classes {
        log_loss: f64,
        accuracy: Option<f64>,
        macro_f1: Option<f64>,
        calibration_error: Option<f64>,
    },
    /// In the unit of the target before it was standardised.
    Numbers {
        mae: Option<f64>,
        rmse: Option<f64>,
        r2: Option<f64>,
    },
}

impl Report {
    /// Of outputs [examples, outputs]; a unit of outputs and targets is `unit` of what was measured.
    pub fn of(loss: Loss, outputs: &[f32], targets: &Targets, unit: f64) -> Self {
        let log_loss = mean_loss(loss, outputs, targets);
        match (loss, targets) {
            (Loss::Binary, Targets::Values(values)) => {
                let positive: Vec<bool> = values.iter().map(|value| *value > 0.5).collect();
                let predicted: Vec<u32> = outputs.iter().map(|output| u32::from(*output > 0.0)).collect();
                let actual: Vec<u32> = positive.iter().map(|positive| u32::from(*positive)).collect();
                let confidence = outputs.iter().map(|output| metrics::sigmoid(output.abs())).collect::<Vec<_>>();
                Self::Binary {
                    log_loss,
                    accuracy: metrics::accuracy(&predicted, &actual),
                    auc: metrics::roc_auc(outputs, &positive),
                    f1: Confusion::of(&predicted, &actual, 2).f1(1),
                    calibration_error: metrics::calibration_error(&confidence, &right(&predicted, &actual)),
                }
            }
            (_, Targets::Classes(actual)) => {
                let classes = outputs.len() / actual.len().max(1);
                let predicted = metrics::largest(outputs, classes);
                let best = |row: &[f32]| metrics::softmax(row).into_iter().fold(0.0, f64::max);
                let confidence: Vec<f64> = outputs.chunks_exact(classes.max(1)).map(best).collect();
                Self::Classes {
                    log_loss,
                    accuracy: metrics::accuracy(&predicted, actual),
                    macro_f1: Confusion::of(&predicted, actual, classes).macro_f1(),
                    calibration_error: metrics::calibration_error(&confidence, &right(&predicted, actual)),
                }
            }
            (_, Targets::Values(values)) => {
                let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value) * unit).collect::<Vec<_>>();
                let (predicted, actual) = (wide(outputs), wide(values));
                Self::Numbers {
                    mae: metrics::mae(&predicted, &actual),
                    rmse: metrics::rmse(&predicted, &actual),
                    r2: metrics::r2(&predicted, &actual),
                }
            }
        }
    }
}

fn right(predicted: &[u32], actual: &[u32]) -> Vec<bool> {
    predicted.iter().zip(actual).map(|(predicted, actual)| predicted == actual).collect()
}
