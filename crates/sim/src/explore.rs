//! Tries the voting rules in every order of events: an explorer of all states that a small swarm can reach.
//!
//! A state is where each honest peer stands, with the votes that it cast: the [`VoteState`] that [`shoal_swarm::Swarm`]
//! itself goes by. The rest of the world is as hostile as can be, which allows more than any real world does; so what
//! never happens here never happens there:
//!
//! - Messages: any part of what was sent may have arrived, anywhere, in any order. A peer can see a quorum exactly if the
//!   votes sent so far, and those of liars, make one.
//! - Liars vote for everything at once, each peer being told what suits.
//! - Leaders, honest or not, offer any body at any time, as new or as proposed again from any view. (An honest one that
//!   restarts forgets what it proposed; whatever it does is among these.)
//! - Time: every timeout may be over, and every later view may begin, at any moment.
//! - Restarts: any honest peer may come back at any moment, any number of times, with its stored votes and no more. A
//!   vote is stored before it is sent, so one that was not stored was not cast.
//!
//! Peers are alike, and so are bodies: states that differ by their names are one state. Recoveries are not explored.

use std::collections::{BTreeMap, HashMap};

use shoal_ledger::more_than_two_thirds;
use shoal_swarm::rules::{Offer, Phase, VoteState};
use shoal_wire::{View, record::VoteKind};

const HONEST_MAX: usize = 4;
const VIEWS_MAX: usize = 3;
const BODIES_MAX: usize = 3;

type Body = u8;
/// The number of a [`VoteState`] in [`Explorer::standings`].
type Place = u16;
/// Where the honest peers stand, in ascending order.
type State = [Place; HONEST_MAX];
/// Honest prevotes, by view and body; nil comes last.
type Prevotes = [[u8; BODIES_MAX + 1]; VIEWS_MAX];

/// How large a swarm, and with which of its rules.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// All peers, of equal weight; at most four of them honest.
    pub peers: u8,
    pub liars: u8,
    /// At most three.
    pub views: u8,
    /// How many different bodies are proposed, at most three.
    pub bodies: u8,
    pub flaw: Option<Flaw>,
}

/// A rule left out, to see that it is needed, and that the explorer finds what happens without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Prevotes do not heed the lock.
    NoLock,
    /// Two thirds are a quorum, not only more than these.
    TwoThirds,
    /// Half is a quorum.
    Half,
    /// Whoever says that a body had a quorum in an earlier view is believed.
    UnprovenQuorum,
    /// A peer comes back without its votes.
    LostVotes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub states: usize,
    /// Ways from a state to another, over which states were looked at.
    pub steps: u64,
    /// States in which some body can have a certificate.
    pub certified: usize,
    /// The shortest way to two certificates, one line a step.
    pub conflict: Option<Vec<String>>,
}

/// Visits every state that can be reached, or stops at the first in which two bodies can have a certificate.
///
/// # Panics
///
/// When the setting is larger than the explorer can hold.
pub fn explore(setting: Setting) -> Report {
    let honest = usize::from(setting.peers - setting.liars);
    let fits = honest <= HONEST_MAX && usize::from(setting.views) <= VIEWS_MAX;
    assert!(fits && usize::from(setting.bodies) <= BODIES_MAX, "{setting:?} is more than can be explored");
    Explorer::new(setting, honest).run()
}

struct Explorer {
    setting: Setting,
    honest: usize,
    /// Every standing seen so far, and its number.
    standings: Vec<VoteState<Body>>,
    places: BTreeMap<VoteState<Body>, Place>,
    /// All orders of the bodies, and what each standing becomes when they are renamed by one.
    orders: Vec<Vec<Body>>,
    renamed: Vec<Vec<Option<Place>>>,
    /// What a peer can do next, by where it stands and what was prevoted.
    choices: HashMap<(Place, Prevotes), Vec<(String, Place)>>,
}

impl Explorer {
    fn new(setting: Setting, honest: usize) -> Self {
        let orders = orders(setting.bodies);
        let renamed = vec![Vec::new(); orders.len()];
        let (standings, places, choices) = (Vec::new(), BTreeMap::new(), HashMap::new());
        Self { setting, honest, standings, places, orders, renamed, choices }
    }

    fn run(mut self) -> Report {
        let start = self.place(VoteState::default());
        let first = self.canonical([start; HONEST_MAX]);
        let mut before: HashMap<State, State> = HashMap::from([(first, first)]);
        let mut report = Report { states: 0, steps: 0, certified: 0, conflict: None };
        let mut frontier = vec![first];
        while !frontier.is_empty() {
            let mut next = Vec::new();
            for state in frontier {
                let certified = self.certified(state);
                report.certified += usize::from(certified > 0);
                if certified > 1 {
                    report.conflict = Some(self.way(first, state, &before));
                    report.states = before.len();
                    return report;
                }
                for (_, _, to) in self.steps(state) {
                    report.steps += 1;
                    let to = self.canonical(to);
                    before.entry(to).or_insert_with(|| {
                        next.push(to);
                        state
                    });
                }
            }
            frontier = next;
        }
        report.states = before.len();
        report
    }

    /// Every step out of a state: which peer does what.
    fn steps(&mut self, state: State) -> Vec<(usize, String, State)> {
        let prevotes = self.prevotes(state);
        let mut steps = Vec::new();
        for peer in 0..self.honest {
            for (what, place) in self.choices_of(state[peer], prevotes) {
                let mut to = state;
                to[peer] = place;
                steps.push((peer, what, to));
            }
        }
        steps
    }

    fn choices_of(&mut self, place: Place, prevotes: Prevotes) -> Vec<(String, Place)> {
        if let Some(known) = self.choices.get(&(place, prevotes)) {
            return known.clone();
        }
        let standing = self.standings[usize::from(place)].clone();
        let mut choices = Vec::new();
        for (what, mut after) in self.acts(&standing, &prevotes) {
            // Only what a leader proposes follows from it, and leaders propose anything.
            after.valid = None;
            let to = self.place(after);
            if to != place {
                choices.push((what, to));
            }
        }
        self.choices.insert((place, prevotes), choices.clone());
        choices
    }

    /// Whatever the rules allow a peer that stands here.
    fn acts(&self, standing: &VoteState<Body>, prevotes: &Prevotes) -> Vec<(String, VoteState<Body>)> {
        let view = standing.view;
        let mut acts = Vec::new();
        let vote = |mut after: VoteState<Body>, kind: VoteKind, body: Option<Body>| {
            after.pass(kind);
            after.vote(kind, view, body);
            (format!("{kind:?} {} in view {view}", name(body)), after)
        };
        if standing.phase == Phase::Propose {
            acts.push(vote(standing.clone(), VoteKind::Prevote, None));
            for body in 0..self.setting.bodies {
                for valid_view in (0..=view).map(Some).chain([None]) {
                    match self.may_prevote(standing, Offer { body, valid_view }, prevotes) {
                        Some(true) => acts.push(vote(standing.clone(), VoteKind::Prevote, Some(body))),
                        Some(false) => acts.push(vote(standing.clone(), VoteKind::Prevote, None)),
                        None => {}
                    }
                }
            }
        }
        if standing.phase == Phase::Prevote {
            acts.push(vote(standing.clone(), VoteKind::Precommit, None));
        }
        for body in (0..self.setting.bodies).map(Some).chain([None]) {
            let mut after = standing.clone();
            if self.prevoted(prevotes, view, body) && after.quorum_prevoted(body) {
                acts.push(vote(after, VoteKind::Precommit, body));
            }
        }
        for later in view + 1..View::from(self.setting.views) {
            let mut after = standing.clone();
            after.enter(later);
            acts.push((format!("enters view {later}"), after));
        }
        acts.push(("restarts".to_owned(), self.restarted(standing)));
        acts
    }

    fn may_prevote(&self, standing: &VoteState<Body>, offer: Offer<Body>, prevotes: &Prevotes) -> Option<bool> {
        let mut standing = standing.clone();
        if self.setting.flaw == Some(Flaw::NoLock) {
            standing.lock = None;
        }
        let believed = self.setting.flaw == Some(Flaw::UnprovenQuorum);
        standing.may_prevote(offer, |view| believed || self.prevoted(prevotes, view, Some(offer.body)))
    }

    fn restarted(&self, standing: &VoteState<Body>) -> VoteState<Body> {
        let mut after = VoteState::default();
        if self.setting.flaw == Some(Flaw::LostVotes) {
            return after;
        }
        // In the order in which they were cast.
        let mut votes: Vec<_> = standing.voted.iter().collect();
        votes.sort_by_key(|((kind, view), _)| (*view, *kind));
        for ((kind, view), body) in votes {
            let lock = body.filter(|_| *kind == VoteKind::Precommit).map(|body| (*view, body));
            after.restore(*kind, *view, *body, lock);
        }
        after
    }

    /// Whether a quorum of prevotes can be seen.
    fn prevoted(&self, prevotes: &Prevotes, view: View, body: Option<Body>) -> bool {
        let column = body.map_or(BODIES_MAX, usize::from);
        self.is_quorum(prevotes[view as usize][column])
    }

    /// Whether these honest peers and all liars are a quorum.
    fn is_quorum(&self, honest: u8) -> bool {
        let (part, total) = (u64::from(honest + self.setting.liars), u64::from(self.setting.peers));
        match self.setting.flaw {
            Some(Flaw::TwoThirds) => part * 3 >= total * 2,
            Some(Flaw::Half) => part * 2 >= total,
            _ => more_than_two_thirds(part, total),
        }
    }

    fn prevotes(&self, state: State) -> Prevotes {
        let mut prevotes = Prevotes::default();
        for place in &state[..self.honest] {
            for ((kind, view), body) in &self.standings[usize::from(*place)].voted {
                if *kind == VoteKind::Prevote {
                    prevotes[*view as usize][body.map_or(BODIES_MAX, usize::from)] += 1;
                }
            }
        }
        prevotes
    }

    /// How many different bodies have enough precommits in some view for a certificate.
    fn certified(&self, state: State) -> usize {
        let precommits = |view: View, body: Body| {
            let voted = |place: &&Place| {
                let voted = &self.standings[usize::from(**place)].voted;
                voted.get(&(VoteKind::Precommit, view)) == Some(&Some(body))
            };
            state[..self.honest].iter().filter(voted).count() as u8
        };
        let is_certified = |body: &Body| {
            let mut views = 0..View::from(self.setting.views);
            views.any(|view| precommits(view, *body) > 0 && self.is_quorum(precommits(view, *body)))
        };
        (0..self.setting.bodies).filter(is_certified).count()
    }

    fn place(&mut self, standing: VoteState<Body>) -> Place {
        if let Some(place) = self.places.get(&standing) {
            return *place;
        }
        let place = self.standings.len() as Place;
        self.standings.push(standing.clone());
        self.places.insert(standing, place);
        self.renamed.iter_mut().for_each(|places| places.push(None));
        place
    }

    /// The same place when bodies have other names.
    fn renamed(&mut self, order: usize, place: Place) -> Place {
        if let Some(known) = self.renamed[order][usize::from(place)] {
            return known;
        }
        let mut standing = self.standings[usize::from(place)].clone();
        let new_name = |body: Body| self.orders[order][usize::from(body)];
        standing.lock = standing.lock.map(|(view, body)| (view, new_name(body)));
        standing.voted.values_mut().for_each(|body| *body = body.map(new_name));
        let to = self.place(standing);
        self.renamed[order][usize::from(place)] = Some(to);
        to
    }

    /// One of the states that differ by names only.
    fn canonical(&mut self, state: State) -> State {
        let mut least: Option<State> = None;
        for order in 0..self.orders.len() {
            let mut same = state;
            for place in &mut same[..self.honest] {
                *place = self.renamed(order, *place);
            }
            same[..self.honest].sort_unstable();
            least = Some(least.map_or(same, |least| least.min(same)));
        }
        least.unwrap_or(state)
    }

    /// The steps from the first state to `last`, in the names that peers and bodies have at the start.
    fn way(&mut self, first: State, last: State, before: &HashMap<State, State>) -> Vec<String> {
        let mut states = vec![last];
        while let Some(state) = states.last().filter(|state| **state != first) {
            states.push(before[state]);
        }
        let mut now = first;
        let mut lines = Vec::new();
        for wanted in states.into_iter().rev().skip(1) {
            for (peer, what, to) in self.steps(now) {
                if self.canonical(to) == wanted {
                    lines.push(format!("peer {peer}: {what}"));
                    now = to;
                    break;
                }
            }
        }
        lines
    }
}

fn name(body: Option<Body>) -> String {
    body.map_or("nil".to_owned(), |body| char::from(b'A' + body).to_string())
}

/// All orders of the first numbers.
fn orders(count: u8) -> Vec<Vec<u8>> {
    let mut orders = vec![Vec::new()];
    for new in 0..count {
        let longer = |order: Vec<u8>| {
            (0..=order.len()).map(move |at| {
                let mut longer = order.clone();
                longer.insert(at, new);
                longer
            })
        };
        orders = orders.into_iter().flat_map(longer).collect();
    }
    orders
}
