//! Plays one world: sixteen volunteers and an anchor, some of whom lie, and what became of them and of the model.

use std::collections::{BTreeMap, BTreeSet};

use shoal_ledger::Chain;
use shoal_sim::{Lie, Model, Network, World};
use shoal_wire::{
    PeerId, Round,
    judging::Standing,
    limits::ROSTER_MAX,
    record::{Message, Said},
};

/// Volunteers beside the one anchor: a full roster.
pub const VOLUNTEERS: usize = ROSTER_MAX - 1;
const NETWORK: Network = Network { latency_ms: (10, 60), loss_per_mille: 5, duplicate_per_mille: 5 };
/// Peers that each links with: what is said reaches everybody all the same, in a third of the frames.
const LINKS: usize = 5;
/// Far longer than a round can take: what takes longer has stalled.
const ROUND_MS_MAX: u64 = 300_000;

/// A cast and how long it plays.
#[derive(Clone, Debug)]
pub struct Play {
    pub model: Model,
    /// Of each liar; the others are honest.
    pub lies: Vec<Lie>,
    /// Liars work honestly until they are trusted.
    pub asleep: bool,
    /// Rounds played, after liars wake up.
    pub rounds: Round,
    /// Stop as soon as all liars are banned.
    pub until_banned: bool,
}

/// What a play showed.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// On held-out data after the last round, in nats; none where the model is no model any more.
    pub loss: Option<f64>,
    /// Of each banned liar, after how many rounds of lies it was banned.
    pub banned: BTreeMap<PeerId, Round>,
    pub honest_banned: usize,
    /// Rating of everybody at the end, with the lie.
    pub ratings: Vec<(Option<Lie>, i32)>,
    /// What auditors measured once everybody honest was trusted, and what was trained in these rounds.
    pub judged: Judged,
    /// A round took too long, or liars were never trusted.
    pub stalled: bool,
}

/// Work of a round, summed over rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judged {
    pub measurements: u64,
    /// Auditors that measured at least one update.
    pub sessions: u64,
    /// Updates that were committed to, each after a round's training.
    pub rounds_trained: u64,
}

/// Sleepers are trusted from so many valid rounds on, and get so many rounds to reach them.
const TRUSTED_ROUNDS: u32 = 10;
const ASLEEP_ROUNDS_MAX: Round = 60;

impl Play {
    pub fn run(&self, seed: u64) -> Seen {
        let mut world = World::with_model(self.model, seed, NETWORK, 1, |_| {});
        world.links_wanted = LINKS;
        let (liars, honest) = self.cast(&mut world);
        let mut seen = Seen::default();
        if self.asleep {
            seen.stalled = !until_trusted(&mut world, &liars);
            for (liar, lie) in &liars {
                world.set_engine(*liar, self.model.engine(*liar, Some(*lie)));
                world.checker.liars.insert(*liar);
            }
        }
        let begun = head(&world);
        // Of each liar, the round in which it lies first.
        let mut first_lies: BTreeMap<PeerId, Round> = BTreeMap::new();
        if self.asleep {
            first_lies.extend(liars.iter().map(|(liar, lie)| (*liar, 1 + lie.honest_rounds())));
        }
        let mut trusted_from = None;
        for round in 1..=self.rounds {
            if !next_round(&mut world) {
                seen.stalled = true;
                break;
            }
            let Some(chain) = chain(&world) else { break };
            for (liar, lie) in &liars {
                if chain.member(*liar).is_some() {
                    // Who is a member after this round commits in the next one.
                    first_lies.entry(*liar).or_insert(round + 1 + lie.honest_rounds());
                }
                if let Some(first) = first_lies.get(liar).filter(|_| standing(chain, *liar).bans > 0) {
                    seen.banned.entry(*liar).or_insert((round + 1).saturating_sub(*first));
                }
            }
            if trusted_from.is_none() && honest.iter().all(|peer| is_trusted(chain, *peer)) {
                trusted_from = Some(begun + round);
            }
            if self.until_banned && seen.banned.len() == liars.len() {
                break;
            }
        }
        seen.loss = world.loss();
        let Some(chain) = chain(&world) else { return seen };
        seen.honest_banned = honest.iter().filter(|peer| standing(chain, **peer).bans > 0).count();
        seen.ratings = honest.iter().map(|peer| (None, standing(chain, *peer).rating)).collect();
        seen.ratings.extend(liars.iter().map(|(peer, lie)| (Some(*lie), standing(chain, *peer).rating)));
        seen.judged = trusted_from.map_or_else(Judged::default, |round| judged(&world, round));
        seen
    }

    /// Everybody comes: those who lie, with their lies, and those who do not.
    fn cast(&self, world: &mut World) -> (BTreeMap<PeerId, Lie>, BTreeSet<PeerId>) {
        let mut liars = BTreeMap::new();
        let mut honest = BTreeSet::new();
        for number in 0..VOLUNTEERS {
            // Liars are spread evenly among those who come.
            let index = number * self.lies.len() / VOLUNTEERS;
            let lies = index < (number + 1) * self.lies.len() / VOLUNTEERS;
            match self.lies.get(index).filter(|_| lies) {
                Some(lie) if self.asleep => liars.insert(world.join(), *lie),
                Some(lie) => liars.insert(world.join_liar(*lie), *lie),
                None => {
                    honest.insert(world.join());
                    None
                }
            };
        }
        (liars, honest)
    }
}

/// Goes on until these are trusted; false when they are not in time.
fn until_trusted(world: &mut World, peers: &BTreeMap<PeerId, Lie>) -> bool {
    for _ in 0..ASLEEP_ROUNDS_MAX {
        if chain(world).is_some_and(|chain| peers.keys().all(|peer| is_trusted(chain, *peer))) {
            return true;
        }
        if !next_round(world) {
            return false;
        }
    }
    false
}

/// False when the round takes too long.
fn next_round(world: &mut World) -> bool {
    let round = head(world) + 1;
    world.run_until(ROUND_MS_MAX, |world| head(world) >= round)
}

fn chain(world: &World) -> Option<&Chain> {
    Some(world.swarm(world.anchor())?.chain())
}

fn head(world: &World) -> Round {
    chain(world).map_or(0, |chain| chain.head().round)
}

fn is_trusted(chain: &Chain, peer: PeerId) -> bool {
    chain.member(peer).is_some_and(|member| member.valid >= TRUSTED_ROUNDS)
}

/// Of a member or somebody who was one.
fn standing(chain: &Chain, peer: PeerId) -> Standing {
    let member = chain.member(peer).map(|member| member.standing);
    member.or_else(|| Some(chain.head().departed.get(&peer)?.standing)).unwrap_or_default()
}

/// What auditors measured after this round, as the certificates say.
fn judged(world: &World, after: Round) -> Judged {
    let mut judged = Judged::default();
    let Some(swarm) = world.swarm(world.anchor()) else { return judged };
    let run = world.manifest().run();
    for certificate in swarm.certificates().range(after + 1..).map(|(_, certificate)| certificate) {
        let content = &certificate.body.content;
        for envelope in &content.judgements {
            let Ok(said) = Said::open(envelope, run) else { continue };
            let scores = if let Message::Judgement(judgement) = &said.message { judgement.scores.len() } else { 0 };
            judged.measurements += scores as u64;
            judged.sessions += u64::from(scores > 0);
        }
        judged.rounds_trained += content.commits.len() as u64;
    }
    judged
}
