//! What happens in a world, and what its peers make of it.

use std::cmp::Reverse;

use shoal_swarm::{Event, Input, Job, Outcome, Output, Record};
use shoal_wire::{
    Digest, Millis, PeerId, SessionId,
    frame::Frame,
    record::{Message, Said},
};

use crate::{World, liars, world::read};

/// How long everything but training takes an engine.
const JOB_MS: u64 = 5;
const LOAD_MS: u64 = 2;
/// A peer of a later version says something unknown in so many of a thousand frames.
const NEWER_PER_MILLE: u64 = 20;

#[derive(Debug)]
pub(crate) enum Happening {
    Frame {
        from: PeerId,
        bytes: Vec<u8>,
    },
    Link {
        with: PeerId,
        up: bool,
    },
    /// It looks for links.
    Look,
    Done(DoneWork),
    Wake,
}

#[derive(Debug)]
pub(crate) enum DoneWork {
    Computed { job: u64, work: Box<Job>, begun: Millis, takes_ms: u64 },
    Persisted { id: u64, record: Box<Record> },
    Loaded(Digest),
}

impl Happening {
    /// The record of a write that is under way.
    pub fn write(&self) -> Option<&Record> {
        match self {
            Self::Done(DoneWork::Persisted { record, .. }) => Some(record),
            _ => None,
        }
    }
}

impl World {
    pub(crate) fn happen(&mut self, id: PeerId, life: u32, happening: Happening) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.life == life && peer.swarm.is_some()) else {
            return;
        };
        if peer.frozen_until > self.now {
            let wait_ms = peer.frozen_until.since(self.now);
            self.later(id, wait_ms, happening);
            return;
        }
        match happening {
            Happening::Frame { from, bytes } => self.input(id, Input::Frame { from, bytes: &bytes }),
            Happening::Link { with, up: true } => self.input(id, Input::LinkUp(with)),
            Happening::Link { with, up: false } => self.input(id, Input::LinkDown(with)),
            Happening::Look => self.look_for_links(id),
            Happening::Wake => {
                if peer.wake <= self.now {
                    peer.wake = Millis::NEVER;
                    self.input(id, Input::Tick);
                }
            }
            Happening::Done(work) => self.done(id, work),
        }
    }

    fn done(&mut self, id: PeerId, work: DoneWork) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match work {
            DoneWork::Computed { job, work, begun, takes_ms } => {
                let fails = self.random.chance(self.faults.jobs_per_mille);
                let share_1024 = self.now.since(begun).saturating_mul(1024).checked_div(takes_ms).unwrap_or(1024);
                let outcome = if fails {
                    Outcome::Failed { reason: "the device was lost".to_owned() }
                } else {
                    peer.engine.run(&work, share_1024.min(1024))
                };
                if let Outcome::Trained { update, .. } = &outcome {
                    self.updates.insert(Digest::of(update), update.clone());
                }
                self.input(id, Input::Computed { job, outcome });
            }
            DoneWork::Persisted { id: record, record: what } => {
                let fails =
                    peer.disk.refuses(&what) || (!peer.anchor && self.random.chance(self.faults.writes_per_mille));
                if fails {
                    let reason = "the disk is full".to_owned();
                    self.input(id, Input::PersistFailed { record, reason });
                } else {
                    peer.disk.store(*what);
                    self.input(id, Input::Persisted(record));
                }
            }
            DoneWork::Loaded(blob) => {
                let bytes = peer.disk.blobs.get(&blob).cloned();
                self.input(id, Input::Loaded { blob, bytes });
            }
        }
    }

    /// Hands an input to a peer now, or to one that is frozen when it thaws.
    pub(crate) fn input(&mut self, id: PeerId, input: Input<'_>) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.frozen_until > now
            && let Input::LinkUp(with) | Input::LinkDown(with) = input
        {
            let up = matches!(input, Input::LinkUp(_));
            let wait_ms = peer.frozen_until.since(now);
            self.later(id, wait_ms, Happening::Link { with, up });
            return;
        }
        let input = self.by_identity(input);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(swarm) = &mut peer.swarm {
            self.log.input(now, id, &input);
            if swarm.handle(peer.clock.shows(now), input).is_err() {
                unreachable!("the world always drains a swarm");
            }
            self.drain(id);
        }
    }

    pub(crate) fn drain(&mut self, id: PeerId) {
        loop {
            let Some(peer) = self.peers.get_mut(&id) else { return };
            let Some(swarm) = &mut peer.swarm else { return };
            match swarm.poll() {
                Output::Send { to, frame, .. } => self.send(id, self.linked_process(id, to), &frame),
                Output::Compute { job, work } => {
                    let all = u64::from(self.manifest.recipe.local_steps.max(1));
                    let takes_ms = match &work {
                        Job::Train { steps, .. } => peer.train_ms.saturating_mul(u64::from(*steps)) / all,
                        _ => JOB_MS,
                    };
                    let work = DoneWork::Computed { job, work: Box::new(work), begun: self.now, takes_ms };
                    self.later(id, takes_ms, Happening::Done(work));
                }
                Output::Persist { id: record, record: what } => {
                    let write_ms = self.random.between(self.write_ms.0, self.write_ms.1);
                    peer.disk.written_at = peer.disk.written_at.max(self.now) + write_ms;
                    let wait_ms = peer.disk.written_at.since(self.now);
                    let done = DoneWork::Persisted { id: record, record: Box::new(what) };
                    self.later(id, wait_ms, Happening::Done(done));
                }
                Output::Forget { blob } => {
                    peer.disk.blobs.remove(&blob);
                }
                Output::Load { blob } => self.later(id, LOAD_MS, Happening::Done(DoneWork::Loaded(blob))),
                Output::Tell(event) => self.tell(id, event),
                Output::Drop { peer, why } => {
                    self.checker.dropped(id, peer, why);
                    self.drop_link(id, self.linked_process(id, peer));
                }
                Output::Stop { job, keep } => self.stop(id, job, keep),
                Output::Idle(until) => {
                    let until = peer.clock.when(until);
                    if until < peer.wake {
                        peer.wake = until;
                        let wait_ms = until.since(self.now);
                        self.later(id, wait_ms, Happening::Wake);
                    }
                    return;
                }
            }
        }
    }

    fn tell(&mut self, id: PeerId, event: Event) {
        if let Event::Certified { round, body, model, recovery, .. } = &event {
            let certificates = self.swarm(id).map(shoal_swarm::Swarm::certificates);
            let parent = certificates.and_then(|all| all.get(round)).map(|found| found.body.parent);
            self.checker.certified(id, (parent.unwrap_or_default(), *round), (*body, *model), *recovery);
        }
        self.log.told(self.now, id, &event);
        if matches!(event, Event::Replaced { .. }) {
            self.make_room(id);
        }
        if self.verbose {
            println!("{:>9} ms  {}  {event:?}", self.now.0, id.short());
        }
        self.told.push((id, event));
    }

    fn send(&mut self, from: PeerId, to: PeerId, frame: &[u8]) {
        if let Some((_, gone)) = self.vanishing.take_if(|(sends, _)| *sends <= self.sends) {
            self.vanish(&gone);
            if gone.contains(&from) {
                return;
            }
        }
        self.sends += 1;
        self.note(from, frame);
        if !self.are_linked(from, to) {
            return;
        }
        let speaker = self.peers.get(&from).and_then(|peer| Some((peer.lie?, &peer.identity)));
        match speaker {
            None => self.carry(from, to, frame),
            Some((lie, identity)) => {
                if let Some(said) = liars::speak(lie, identity, self.manifest.run(), to, frame) {
                    self.carry(from, to, &said);
                }
            }
        }
        if self.peers.get(&from).is_some_and(|peer| peer.newer) && self.random.chance(NEWER_PER_MILLE) {
            let unknown = self.unknown(from);
            self.carry(from, to, &unknown);
        }
    }

    fn carry(&mut self, from: PeerId, to: PeerId, frame: &[u8]) {
        let how = (&self.network, &self.path);
        for (wait_ms, bytes) in self.paths.carry(&mut self.random, how, (from, to, self.now), frame) {
            self.later(to, wait_ms, Happening::Frame { from, bytes });
        }
    }

    /// What a later version might say: a frame of an unknown kind, or a signed message of one.
    fn unknown(&mut self, from: PeerId) -> Vec<u8> {
        const KIND: u8 = 120;
        let content = self.random.bytes32();
        let Some(identity) = self.peers.get(&from).map(|peer| &peer.identity) else { return Vec::new() };
        if content[0].is_multiple_of(2) {
            return [&[KIND], &content[..]].concat();
        }
        let round = self.swarm(from).map_or(0, |swarm| swarm.chain().head().round + 1);
        let run = self.manifest.run();
        let session = SessionId(from.0);
        let known = shoal_wire::codec::encode(&Said { run, round, session, message: Message::Leave });
        // The message's kind is the last byte of one without content.
        let payload = [&known[..known.len() - 1], &[KIND], &content[..]].concat();
        let signature = identity.sign(shoal_wire::sign::Domain::Swarm, &payload);
        Frame::Said(shoal_wire::Envelope { from, payload, signature }).encode()
    }

    /// Ends training now, with or without an outcome, as an engine does.
    fn stop(&mut self, id: PeerId, stopped: u64, keep: bool) {
        let life = self.peers.get(&id).map(|peer| peer.life);
        let is_it = |(peer, begun, happening): &(PeerId, u32, Happening)| {
            let same = matches!(happening, Happening::Done(DoneWork::Computed { job, .. }) if *job == stopped);
            same && *peer == id && Some(*begun) == life
        };
        let found = self.happenings.iter().find(|(_, happening)| is_it(happening)).map(|(index, _)| *index);
        let Some((_, _, happening)) = found.and_then(|index| self.happenings.remove(&index)) else { return };
        if keep {
            self.later(id, JOB_MS, happening);
        }
    }

    /// Remembers what a peer says in its own name, and checks its votes.
    fn note(&mut self, from: PeerId, frame: &[u8]) {
        // Only this kind of frame is read, and only once: most of what is sent is passed on.
        let own = frame.first() == Some(&0) && frame.get(1..33) == Some(&self.identity_of(from).0[..]);
        if !own || !self.read.insert(Digest::of(frame)) {
            return;
        }
        let Ok(Frame::Said(envelope)) = Frame::decode(frame) else { return };
        if let Some(Said { round, message: Message::Vote(vote), .. }) = read(&envelope) {
            let disk = self.peers.get(&from).map(|peer| &peer.disk);
            let stored =
                disk.is_some_and(|disk| disk.votes.iter().rev().any(|kept| (kept.round, kept.vote) == (round, vote)));
            self.checker.voted(from, round, vote, stored);
        }
        if self.verbose
            && let Some(said) = read(&envelope)
        {
            let text = format!("{:?}", said.message);
            println!("{:>9} ms  {}  says, of round {}: {text:.120}", self.now.0, from.short(), said.round);
        }
        if self.spoken_ids.insert(envelope.id()) {
            self.spoken.push(envelope);
        }
    }

    pub(crate) fn later(&mut self, id: PeerId, wait_ms: u64, happening: Happening) {
        let Some(life) = self.peers.get(&id).map(|peer| peer.life) else { return };
        self.queue.push(Reverse((self.now + wait_ms, self.next)));
        self.happenings.insert(self.next, (id, life, happening));
        self.next += 1;
    }
}
