//! Closing the commits: when a round stops waiting for updates, and whose list of them counts.
//!
//! The list is what later randomness hangs on, so a leader must not choose it after it saw seeds or updates, must not
//! close before others would, and must not leave out whom it likes. Each peer judges that by when things came to it.
//! Peers can differ in this for a moment, and a view is lost then: they come together in a list that a third of the
//! weight prevoted. Once every leader had its turn twice, only what everybody can recompute counts.

use std::collections::{BTreeMap, BTreeSet};

use shoal_wire::{
    Digest, Envelope, Millis, PeerId, View,
    record::{CommitList, Message, VoteKind},
};

use crate::{Swarm, pool::Listed, state::CLOSING_GRACE_MS};

/// Turns that each leader gets before only recomputable rules count.
const TURNS: usize = 2;

impl Swarm {
    /// Notes when nobody needs to be waited for any more, here or in the eyes of more than a third of the others: a
    /// single vote or list must not close the round for everybody.
    pub(crate) fn watch_closing(&mut self) {
        if self.round.started.is_none() || self.round.closing_since.is_some() {
            return;
        }
        let voted = self.pool.votes().filter(|(peer, vote, _)| *peer != self.me && vote.kind != VoteKind::Recovery);
        let voted: BTreeSet<PeerId> = voted.map(|(peer, ..)| peer).collect();
        let vouched = self.weight_of(&voted) * 3 > self.total_weight();
        if vouched || self.may_close() {
            self.round.closing_since = Some(self.now);
            self.round.vouched = vouched;
            self.changed = true;
        }
    }

    fn may_close(&self) -> bool {
        let Some(started) = self.round.started else { return false };
        let trainers: Vec<PeerId> =
            self.chain.head().roster.iter().filter(|member| member.trains).map(|member| member.peer).collect();
        if trainers.is_empty() {
            let is_new = |envelope: &Envelope| self.chain.member(envelope.from).is_none();
            return self.joins_with_a_place().iter().any(is_new);
        }
        let committed: BTreeSet<PeerId> = self.pool.commits().map(|(envelope, _)| envelope.from).collect();
        let leaving: BTreeSet<PeerId> = self.pool.leaves().map(|envelope| envelope.from).collect();
        let awaited = |peer: &PeerId| !committed.contains(peer) && !leaving.contains(peer) && self.is_present(*peer);
        !trainers.iter().any(awaited) || self.now.since(started) >= self.train_ms() + CLOSING_GRACE_MS
    }

    /// The leader of view 0 closes the commits; while it is silent, or what it said does not count, the next present
    /// leaders may.
    pub(crate) fn close_commits(&mut self) {
        let Some(since) = self.round.closing_since else { return };
        if !self.is_voter() || self.list().is_some() || !self.has_head_model() {
            return;
        }
        let Some(mine) = self.chain.leaders().iter().position(|peer| *peer == self.me) else { return };
        let view = mine as View;
        let lists = self.pool.lists();
        let spoke = lists.iter().any(|listed| listed.list.view == view);
        let may_count = |before: View| before < view && !self.round.void_lists.contains(&before);
        let others = lists.iter().any(|listed| may_count(listed.list.view));
        let wait_ms = self.turn_ms(view) + if others { self.view_ms() } else { 0 };
        if spoke || self.now.since(since) < wait_ms {
            return;
        }
        let in_time = |id: &Digest| self.pool.commit_time(id).is_some_and(|at| self.before_reveals(at));
        let commits: Vec<Digest> = self.pool.commit_ids().into_iter().filter(in_time).collect();
        if !commits.is_empty() {
            self.say(Message::CommitList(CommitList { view, commits }));
        }
    }

    /// How long after closing a leader waits for those before it.
    fn turn_ms(&self, view: View) -> u64 {
        let leaders = self.chain.leaders();
        let before = leaders.iter().take(view as usize).filter(|peer| self.is_present(**peer)).count() as u64;
        before * self.view_ms()
    }

    fn view_ms(&self) -> u64 {
        u64::from(self.chain.manifest().timing.view_ms)
    }

    /// Whether something came before seeds and updates could be seen.
    fn before_reveals(&self, at: Millis) -> bool {
        self.round.listed_at.is_none_or(|listed| at <= listed)
    }

    /// Whether only what everybody can recompute counts from now on.
    pub(crate) fn is_lenient(&self) -> bool {
        self.round.standing.view as usize >= TURNS * self.chain.leaders().len().max(1)
    }

    /// The list that counts here.
    pub(crate) fn list(&self) -> Option<Listed<'_>> {
        let (view, _) = self.round.exchange_since.filter(|(view, _)| self.is_unique(*view))?;
        self.pool.lists().into_iter().find(|listed| listed.list.view == view)
    }

    /// A leader that closed the commits twice did not close them.
    fn is_unique(&self, view: View) -> bool {
        self.is_lenient() || !self.round.void_lists.contains(&view)
    }

    /// Notes which lists count from now on, and picks one: of those that a third of the weight prevoted, or else of
    /// all that count, the one of the earliest leader. One that counted goes on counting, unless its leader made another.
    pub(crate) fn watch_lists(&mut self) {
        if self.round.closing_since.is_none() {
            return;
        }
        let lists = self.pool.lists();
        if lists.is_empty() {
            return;
        }
        let vouched = self.vouched_lists();
        let (mut found, mut best) = (Vec::new(), None);
        for listed in lists {
            let view = listed.list.view;
            let by_others = vouched.contains(&listed.id);
            let known = self.round.counting.contains(&view);
            if !known && (!self.is_whole(listed.list) || !(by_others || self.counts(&listed))) {
                continue;
            }
            found.push(view);
            if self.is_unique(view) {
                best = best.min(Some((!by_others, view))).or(Some((!by_others, view)));
            }
        }
        self.round.counting.extend(found);
        let Some((_, view)) = best else { return };
        if self.round.exchange_since.is_none_or(|(listed, _)| listed != view) {
            self.round.exchange_since = Some((view, self.now));
            self.changed = true;
        }
        if self.round.listed_at.is_none() {
            self.round.listed_at = Some(self.now);
            if let Some(started) = self.round.started {
                // What came before this peer began tells nothing of how long it takes.
                let time = |id: &Digest| self.pool.commit_time(id).filter(|at| *at > started);
                let came = |id: &Digest| time(id).map(|at| at.since(started));
                let commits =
                    self.pool.commits().filter_map(|(envelope, commit)| Some((came(&envelope.id())?, commit.steps)));
                self.pace.gathered(commits, self.chain.manifest().recipe.local_steps);
            }
        }
    }

    /// Lists that a third of the weight prevoted: one of them, at least, is honest and found the list good.
    fn vouched_lists(&self) -> BTreeSet<Digest> {
        let lists = self.pool.lists_of_bodies();
        let mut voters: BTreeMap<Digest, BTreeSet<PeerId>> = BTreeMap::new();
        for (peer, vote, _) in self.pool.votes().filter(|(_, vote, _)| vote.kind == VoteKind::Prevote) {
            if let Some(list) = vote.body.and_then(|body| lists.get(&body)) {
                voters.entry(*list).or_default().insert(peer);
            }
        }
        let total = self.total_weight();
        voters.into_iter().filter(|(_, peers)| self.weight_of(peers) * 3 >= total).map(|(list, _)| list).collect()
    }

    /// Whether all that a list names is here, in peer order, each once.
    fn is_whole(&self, list: &CommitList) -> bool {
        let authors: Option<Vec<PeerId>> =
            list.commits.iter().map(|id| self.pool.commit(*id).map(|(envelope, _)| envelope.from)).collect();
        authors.is_some_and(|authors| !authors.is_empty() && authors.is_sorted_by(|a, b| a < b))
    }

    fn counts(&self, listed: &Listed<'_>) -> bool {
        let Listed { list, came, .. } = *listed;
        let Some(closing) = self.round.closing_since else { return false };
        if self.is_lenient() {
            return true;
        }
        // What one peer has for longer than this, all have, unless they are cut off.
        let spread_ms = self.view_ms();
        let in_turn = self.now.since(closing) >= self.turn_ms(list.view);
        let early = !self.round.vouched && came + spread_ms < closing;
        let came_late = |id: &Digest| self.pool.commit_time(id).is_none_or(|at| !self.before_reveals(at));
        let late = !self.before_reveals(came) && list.commits.iter().any(came_late);
        let omitted = |(id, at): (&Digest, Millis)| {
            self.before_reveals(at) && at + spread_ms < came && !list.commits.contains(id)
        };
        in_turn && !early && !late && !self.pool.commit_times().any(omitted)
    }
}
