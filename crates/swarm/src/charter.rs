//! What this peer's person proposes and votes: said again each round until a certified body carries it, since a leader
//! may not have it in time, or not want it.

use shoal_ledger::CharterError;
use shoal_wire::{Round, limits::AMENDMENTS_OPEN_MAX, record::Message};

use crate::{Event, Swarm};

impl Swarm {
    /// Takes up an amendment or a ballot of this peer's person.
    pub(crate) fn wish(&mut self, message: Message) {
        if self.wishes.len() >= 2 * AMENDMENTS_OPEN_MAX {
            self.tell(Event::Trouble(
                "more amendments and ballots wait than a round takes; try again later".to_owned(),
            ));
        } else if !self.wishes.contains(&message) {
            self.wishes.push(message);
            self.changed = true;
        }
    }

    /// Says what is wished for and not said yet in this round, and forgets what is done or has become impossible.
    pub(crate) fn speak(&mut self) {
        if self.wishes.is_empty() || !self.is_member() {
            return;
        }
        for wish in core::mem::take(&mut self.wishes) {
            let spoken = self.pool.charter().any(|(envelope, message)| envelope.from == self.me && *message == wish);
            if spoken {
                self.wishes.push(wish);
                continue;
            }
            if self.is_on_record(&wish) {
                continue;
            }
            let checked = match &wish {
                Message::Amendment(amendment) => self.chain.check_amendment(amendment, self.me),
                Message::Ballot(ballot) => self.chain.check_ballot(*ballot, self.me),
                _ => Err(CharterError::Misplaced),
            };
            match checked {
                Ok(()) => {
                    self.say(wish.clone());
                    self.wishes.push(wish);
                }
                Err(error) => self.tell(Event::Trouble(format!("an amendment or a ballot does not count: {error}"))),
            }
        }
    }

    fn is_on_record(&self, wish: &Message) -> bool {
        self.chain.motions().iter().any(|motion| match wish {
            Message::Amendment(amendment) => motion.by == self.me && motion.amendment == **amendment,
            Message::Ballot(ballot) => {
                motion.id == ballot.amendment && motion.ballots.get(&self.me) == Some(&ballot.approve)
            }
            _ => false,
        })
    }

    /// Tells what a round that was just certified means for the charter, and lets go of the model when the run starts
    /// from another.
    pub(crate) fn follow_charter(&mut self, round: Round) {
        let mut news = Vec::new();
        for motion in self.chain.motions() {
            if motion.opened == round {
                news.push(Event::Proposed { round, amendment: motion.id, by: motion.by });
            }
            if motion.amendment.closes == round {
                news.push(Event::Decided { round, amendment: motion.id, accepted: motion.is_accepted() });
            }
        }
        if self.chain.is_over() {
            news.push(Event::Over { round });
        }
        for event in news {
            self.tell(event);
        }
        if self.chain.rolled_back_to(round + 1).is_some() {
            self.model = None;
        }
    }
}
