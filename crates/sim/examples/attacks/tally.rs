//! What many worlds show together.

use core::fmt;
use std::collections::BTreeMap;

use serde_json::{Value, json};
use shoal_learn::trainer::UNASSIGNED_TIMES;
use shoal_sim::Model;

use crate::play::{Judged, Play, Seen};

/// Local steps of the presets' rounds, on which judging must be cheap.
const LOCAL_STEPS: f64 = 60.0;
/// Batches of its author's that auditors measure each update on in such a round: a twentieth of the steps.
const MEASURED_BATCHES: f64 = 3.0;

/// An attack and its name.
#[derive(Clone, Debug)]
pub struct Attack {
    pub name: String,
    pub play: Play,
}

pub const HEADING: &str = "| attack | liars | loss against honest | plain mean | banned | rounds of lies | honest banned | stalled |\n\
                           |---|---|---|---|---|---|---|---|";

/// A row of the table.
pub struct Row {
    pub name: String,
    liars: usize,
    /// Mean over seeds of the final loss, over that of the honest worlds of the same seeds.
    loss_ratio: Option<f64>,
    plain_mean_loss_ratio: Option<f64>,
    /// Liars banned in a world, on average.
    banned: f64,
    /// The latest ban in any world, in rounds of lies.
    last_ban: Option<u64>,
    honest_banned: usize,
    stalled: usize,
}

impl Attack {
    /// Each world has three sleepers: a hundred of them show one that gets away.
    pub fn seeds(&self, seeds: u64) -> u64 {
        if self.play.asleep { (seeds * 10).div_ceil(self.play.lies.len() as u64) } else { seeds }
    }

    /// The same three liars where updates are averaged as they are and nobody judges.
    pub fn plain(&self) -> Option<Play> {
        (!self.play.asleep && self.play.lies.len() == 3).then(|| Play { model: Model::PlainMean, ..self.play.clone() })
    }

    pub fn tally(&self, seen: &BTreeMap<String, Vec<Seen>>) -> Row {
        let (own, honest) = (&seen[&self.name], &seen["honest"]);
        let plain = seen.get(&format!("plain {}", self.name));
        // Sleepers' worlds end at different rounds, where losses do not compare.
        let own_ratio = if self.play.asleep { None } else { ratio(own, honest) };
        Row {
            name: self.name.clone(),
            liars: self.play.lies.len(),
            loss_ratio: own_ratio,
            plain_mean_loss_ratio: plain.and_then(|plain| ratio(plain, honest)),
            banned: own.iter().map(|seen| seen.banned.len()).sum::<usize>() as f64 / own.len() as f64,
            last_ban: own.iter().flat_map(|seen| seen.banned.values()).max().copied(),
            honest_banned: own.iter().map(|seen| seen.honest_banned).sum(),
            stalled: own.iter().filter(|seen| seen.stalled).count(),
        }
    }
}

/// Of mean losses of the same seeds; none where a model was destroyed.
fn ratio(attacked: &[Seen], honest: &[Seen]) -> Option<f64> {
    let mean = |seen: &[Seen]| Some(seen.iter().map(|seen| seen.loss).sum::<Option<f64>>()? / seen.len() as f64);
    Some(mean(attacked)? / mean(&honest[..attacked.len()])?)
}

impl Row {
    pub fn json(&self) -> Value {
        json!({
            "liars": self.liars,
            "loss_ratio": self.loss_ratio,
            "banned": self.banned,
            "honest_banned": self.honest_banned,
            "plain_mean_loss_ratio": self.plain_mean_loss_ratio,
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.3}"));
        let Self { name, liars, banned, honest_banned, stalled, .. } = self;
        let last = self.last_ban.map_or("–".to_owned(), |round| round.to_string());
        let (loss, plain) = (number(self.loss_ratio), number(self.plain_mean_loss_ratio));
        write!(f, "| `{name}` | {liars} | {loss} | {plain} | {banned:.2} | {last} | {honest_banned} | {stalled} |")
    }
}

/// The chance that an honest peer is rated above one that is not, in the same world (ties count half), over all worlds.
pub fn auc(seen: &[Seen]) -> f64 {
    let (mut won, mut pairs) = (0.0, 0.0);
    for world in seen {
        let (honest, liars): (Vec<_>, Vec<_>) = world.ratings.iter().partition(|(lie, _)| lie.is_none());
        for (_, good) in &honest {
            for (_, bad) in &liars {
                won += match good.cmp(bad) {
                    core::cmp::Ordering::Greater => 1.0,
                    core::cmp::Ordering::Equal => 0.5,
                    core::cmp::Ordering::Less => 0.0,
                };
                pairs += 1.0;
            }
        }
    }
    won / pairs
}

/// Judging over all compute, where a round has 60 local steps. For each update an auditor evaluates its author's batches
/// before and after, and u times as many that nobody is assigned after; and these, once, before and with its own update. A
/// forward pass is a third of a training step (a backward pass costs twice a forward one).
pub fn judge_share(seen: &[Seen]) -> f64 {
    let sum = |of: fn(&Judged) -> u64| seen.iter().map(|seen| of(&seen.judged)).sum::<u64>() as f64;
    let unassigned = f64::from(UNASSIGNED_TIMES);
    let passes =
        (2.0 + unassigned) * sum(|judged| judged.measurements) + 2.0 * unassigned * sum(|judged| judged.sessions);
    let judging = passes * MEASURED_BATCHES / 3.0;
    let training = sum(|judged| judged.rounds_trained) * LOCAL_STEPS;
    judging / (judging + training)
}
