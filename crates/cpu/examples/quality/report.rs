//! Means, intervals, and what they say about the goals.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::results::Results;
use crate::train::{Outcome, Point, Setting};
use crate::trial::ARMS;
use crate::tune::Tuned;

/// Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// Of numbers that belong to different seeds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub mean: f64,
    /// Standard deviation from seed to seed.
    pub deviation: f64,
    /// Half of the mean's 95 % interval.
    pub half_width: f64,
}

impl Spread {
    pub fn of(values: &[f64]) -> Result<Self> {
        if values.len() < 2 {
            bail!("an interval needs at least two seeds");
        }
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let quantile = STUDENT[(values.len() - 2).min(STUDENT.len() - 1)];
        Ok(Self { mean, deviation: variance.sqrt(), half_width: quantile * (variance / count).sqrt() })
    }
}

/// What the difference between two arms should be.
struct Goal {
    arm: &'static str,
    baseline: &'static str,
    measure: Measure,
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Measure {
    /// Loss against the baseline's, in percent.
    LossPercent,
    /// Perplexity against the baseline's, in percent.
    PerplexityPercent,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

const fn goal(arm: &'static str, baseline: &'static str, measure: Measure, bound: Bound) -> Goal {
    Goal { arm, baseline, measure, bound }
}

const GOALS: [Goal; 6] = [
    goal("dense4_one_peer", "adamw", Measure::LossPercent, Bound::AtMost(0.3)),
    goal("topk", "diloco_nesterov", Measure::LossPercent, Bound::AtMost(0.5)),
    goal("topk", "diloco_mean", Measure::LossPercent, Bound::AtMost(0.5)),
    goal("topk_without_feedback", "topk", Measure::LossPercent, Bound::AtLeast(1.0)),
    goal("topk_coded_mean", "topk", Measure::LossPercent, Bound::AtMost(0.5)),
    goal("topk_half_lost", "topk", Measure::PerplexityPercent, Bound::AtMost(3.0)),
];

pub struct Report<'a> {
    setting: &'a Setting,
    tuned: &'a BTreeMap<&'static str, Tuned>,
    outcomes: BTreeMap<&'static str, Vec<Outcome>>,
}

impl<'a> Report<'a> {
    pub fn new(
        setting: &'a Setting,
        tuned: &'a BTreeMap<&'static str, Tuned>,
        results: &Results<'_>,
        seeds: u64,
    ) -> Result<Self> {
        let mut outcomes = BTreeMap::new();
        for arm in &ARMS {
            let rates = tuned[arm.name].rates();
            let of_seed = |seed| results.get(&arm.trial(rates, seed)).cloned();
            outcomes.insert(arm.name, (1..=arm.seeds(seeds)).map(of_seed).collect::<Result<Vec<_>>>()?);
        }
        Ok(Self { setting, tuned, outcomes })
    }

    fn losses(&self, arm: &str) -> Vec<f64> {
        self.outcomes[arm].iter().map(|outcome| outcome.loss.unwrap_or(f64::NAN)).collect()
    }

    /// Of the same seeds, so that what they share cancels out.
    fn difference(&self, goal: &Goal) -> Result<Spread> {
        let pairs = self.losses(goal.arm).into_iter().zip(self.losses(goal.baseline));
        let percent = |(loss, base): (f64, f64)| match goal.measure {
            Measure::LossPercent => (loss / base - 1.0) * 100.0,
            Measure::PerplexityPercent => ((loss - base).exp() - 1.0) * 100.0,
        };
        Spread::of(&pairs.map(percent).collect::<Vec<_>>())
    }

    /// The mean curve over seeds: bytes that a peer has sent, and the loss.
    pub fn curve(&self, arm: &str) -> Vec<Point> {
        let outcomes = &self.outcomes[arm];
        let points = outcomes.iter().map(|outcome| outcome.curve.len()).min().unwrap_or(0);
        let mean = |at: usize, part: fn(&Point) -> f64| {
            outcomes.iter().map(|outcome| part(&outcome.curve[at])).sum::<f64>() / outcomes.len() as f64
        };
        let point = |at: usize| Point {
            round: outcomes[0].curve[at].round,
            bytes: mean(at, |point| point.bytes as f64) as u64,
            loss: mean(at, |point| point.loss),
        };
        (0..points).map(point).collect()
    }

    pub fn table(&self) -> Result<String> {
        let mut text = String::new();
        writeln!(
            text,
            "| | peers | inner rate | outer rate | seeds | held-out loss | ± (95 %) | bytes a peer and round |"
        )?;
        writeln!(text, "|---|---|---|---|---|---|---|---|")?;
        for arm in &ARMS {
            let (tuned, outcomes) = (&self.tuned[arm.name], &self.outcomes[arm.name]);
            let spread = Spread::of(&self.losses(arm.name))?;
            let bytes = outcomes[0].bytes / u64::from(self.setting.rounds);
            let border = if tuned.on_border { " (border)" } else { "" };
            writeln!(
                text,
                "| `{}` | {} | {}{border} | {:.3} | {} | {:.4} | {:.4} | {bytes} |",
                arm.name,
                arm.peers,
                f64::from(tuned.lr_millionths) / 1e6,
                f64::from(tuned.outer_1024) / 1024.0,
                outcomes.len(),
                spread.mean,
                spread.half_width,
            )?;
        }
        writeln!(text, "\n| goal | difference, % | 95 % interval | wanted | met |\n|---|---|---|---|---|")?;
        for goal in &GOALS {
            let found = self.difference(goal)?;
            let (low, high) = (found.mean - found.half_width, found.mean + found.half_width);
            let unit = match goal.measure {
                Measure::LossPercent => "loss",
                Measure::PerplexityPercent => "perplexity",
            };
            let wanted = match goal.bound {
                Bound::AtMost(limit) => format!("at most {limit}"),
                Bound::AtLeast(limit) => format!("at least {limit}"),
            };
            writeln!(
                text,
                "| {unit} of `{}` against `{}` | {:+.2} | {low:+.2} to {high:+.2} | {wanted} | {} |",
                goal.arm,
                goal.baseline,
                found.mean,
                if goal.met(found.mean) { "yes" } else { "no" },
            )?;
        }
        Ok(text)
    }

    pub fn json(&self) -> Result<Value> {
        let mut quality = serde_json::Map::new();
        for arm in &ARMS {
            let spread = Spread::of(&self.losses(arm.name))?;
            quality.insert(arm.name.to_owned(), json!({"loss": spread.mean, "spread": spread.deviation}));
        }
        let goals = GOALS.iter().map(|goal| -> Result<Value> {
            let found = self.difference(goal)?;
            Ok(json!({
                "arm": goal.arm,
                "baseline": goal.baseline,
                "difference_percent": found.mean,
                "interval_percent": [found.mean - found.half_width, found.mean + found.half_width],
                "met": goal.met(found.mean),
            }))
        });
        let goals = goals.collect::<Result<Vec<_>>>()?;
        let rounds = json!({"rounds": self.setting.rounds, "local_steps": self.setting.recipe.local_steps});
        Ok(json!({"quality": quality, "goals": goals, "setting": rounds}))
    }

    /// The curves as a table for other programs.
    pub fn csv(&self) -> Result<String> {
        let mut text = "arm,round,bytes_sent_by_a_peer,held_out_loss\n".to_owned();
        for arm in &ARMS {
            for Point { round, bytes, loss } in self.curve(arm.name) {
                writeln!(text, "{},{round},{bytes},{loss:.5}", arm.name)?;
            }
        }
        Ok(text)
    }
}

impl Goal {
    /// A difference that is no number meets nothing.
    fn met(&self, difference: f64) -> bool {
        match self.bound {
            Bound::AtMost(limit) => difference <= limit,
            Bound::AtLeast(limit) => difference >= limit,
        }
    }
}
