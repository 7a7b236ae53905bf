//! Amendments and ballots: what counts, what is refused, and what follows from it, on bodies made for it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Work, certify, identities, join, named, nothing, training};
use shoal_ledger::{Chain, CharterError, LedgerError, Lineage, Motion};
use shoal_sim::toy_manifest;
use shoal_wire::{
    Digest, Envelope, Identity, Manifest, PeerId, Round,
    charter::{Amendment, Ballot, Change},
    limits::{AMENDMENTS_IN_BODY_MAX, LEARNING_RATE_1024_MAX, REASON_BYTES_MAX},
    manifest::{Charter, DataSource},
    record::{Body, Certificate, Content, Message, Said, Verdict},
};

const VOLUNTEERS: usize = 4;
/// What each of them trains in a round, of the 80 tokens assigned.
const TOKENS: [u64; VOLUNTEERS] = [10, 20, 30, 40];
const OPEN: Round = 3;

/// One anchor, four volunteers with unequal credit, and the chain that they made.
struct Run {
    anchor: Identity,
    volunteers: Vec<Identity>,
    chain: Chain,
    certificates: Vec<Certificate>,
}

fn manifest(anchor: &Identity) -> Manifest {
    let charter = Charter { approve_per_mille: 667, turnout_per_mille: 500, open_rounds_min: 3, open_rounds_max: 60 };
    Manifest { charter, ..toy_manifest(vec![anchor.peer()]) }
}

impl Run {
    /// After the round that takes the volunteers in, and this many in which they train.
    fn new(rounds: usize) -> Self {
        let (anchor, volunteers) = (Identity::from_secret([1; 32]), identities(11..11 + VOLUNTEERS as u8));
        let chain = Chain::new(manifest(&anchor));
        let mut run = Self { anchor, volunteers, chain, certificates: Vec::new() };
        let joins = run.volunteers.iter().map(|who| run.say(who, join())).collect();
        run.apply(run.body(nothing(&run.chain), joins, vec![])).unwrap();
        for _ in 0..rounds {
            run.round(vec![]).unwrap();
        }
        run
    }

    fn next(&self) -> Round {
        self.chain.head().round + 1
    }

    fn peer(&self, index: usize) -> PeerId {
        self.volunteers[index].peer()
    }

    fn say(&self, who: &Identity, message: Message) -> Envelope {
        common::say(&self.chain, who, message)
    }

    fn by(&self, index: usize, message: Message) -> Envelope {
        self.say(&self.volunteers[index], message)
    }

    fn amendment(&self, change: Change) -> Amendment {
        let closes = self.next() + OPEN;
        Amendment { change, reason: "to see what happens".to_owned(), closes, effective: closes + 2 }
    }

    fn propose(&self, index: usize, change: Change) -> Envelope {
        self.by(index, Message::Amendment(Box::new(self.amendment(change))))
    }

    fn vote(&self, index: usize, amendment: Digest, approve: bool) -> Envelope {
        self.by(index, Message::Ballot(Ballot { amendment, approve }))
    }

    /// A round in which the update of every volunteer that is there is accepted.
    fn training(&self) -> Content {
        let round = self.next();
        let work = |index: usize| {
            let update = Digest::of(format!("update {index} of round {round}").as_bytes());
            (&self.volunteers[index], update, Digest::of(&[index as u8, round as u8]), TOKENS[index])
        };
        let here = (0..VOLUNTEERS).filter(|index| self.chain.member(self.peer(*index)).is_some());
        let work: Vec<Work<'_>> = here.map(work).collect();
        training(&self.chain, &self.all(), &work, vec![Verdict::Accepted; work.len()])
    }

    fn all(&self) -> Vec<&Identity> {
        self.volunteers.iter().chain([&self.anchor]).collect()
    }

    fn body(&self, content: Content, joins: Vec<Envelope>, mut charter: Vec<Envelope>) -> Body {
        charter.sort_by_key(Envelope::id);
        let filled = common::body(&self.chain, content, |body| (body.joins, body.charter) = (joins, charter));
        filled.unwrap()
    }

    fn certify(&self, body: &Body) -> Certificate {
        let members = self.chain.head().roster.iter().map(|member| named(&self.all(), member.peer));
        certify(&self.chain, body, 0, &members.collect::<Vec<_>>())
    }

    fn apply(&mut self, body: Body) -> Result<(), LedgerError> {
        let certificate = self.certify(&body);
        self.chain.apply(&certificate)?;
        self.certificates.push(certificate);
        Ok(())
    }

    fn round(&mut self, charter: Vec<Envelope>) -> Result<(), LedgerError> {
        self.apply(self.body(self.training(), vec![], charter))
    }

    fn refused(&self, charter: Vec<Envelope>) -> CharterError {
        match self.chain.check_body(&self.body(self.training(), vec![], charter)) {
            Err(LedgerError::Charter { source, .. }) => source,
            other => panic!("{other:?}"),
        }
    }

    /// Proposes in the next round, lets these vote in the one after it, and goes on until the vote closes.
    fn decide(&mut self, change: Change, ballots: &[(usize, bool)]) -> Motion {
        let proposal = self.propose(0, change);
        let id = proposal.id();
        self.round(vec![proposal]).unwrap();
        let ballots = ballots.iter().map(|(index, approve)| self.vote(*index, id, *approve)).collect();
        self.round(ballots).unwrap();
        for _ in 0..OPEN - 1 {
            assert!(self.motion(id).is_open());
            self.round(vec![]).unwrap();
        }
        self.motion(id)
    }

    fn motion(&self, id: Digest) -> Motion {
        let found = self.chain.motions().iter().find(|motion| motion.id == id).unwrap();
        Motion::clone(found)
    }
}

#[test]
fn ballots_weigh_what_their_authors_have_trained_when_the_vote_closes() {
    let mut run = Run::new(1);
    let motion = run.decide(Change::ScaleLearningRate(512), &[(1, false), (2, true), (3, true)]);
    // Rounds 2 to 6 earned credit: one before the proposal, and four up to the one that closes.
    assert_eq!((motion.opened, motion.amendment.closes, run.chain.head().round), (3, 6, 6));
    let outcome = motion.outcome.unwrap();
    assert_eq!((outcome.approving, outcome.opposing, outcome.concerned), (5 * 70, 5 * 20, 5 * 100));
    assert!(outcome.accepted);
}

#[test]
fn an_amendment_needs_the_share_of_votes_and_the_turnout_that_the_manifest_names() {
    // 40 of 60 are two thirds, but a little less than 667 of 1,000.
    let accepted = |ballots: &[(usize, bool)]| Run::new(1).decide(Change::Stop, ballots).is_accepted();
    assert!(!accepted(&[(3, true), (1, false)]));
    assert!(accepted(&[(3, true), (0, false)]));
    assert!(!accepted(&[(3, true)]), "40 of 100 are less than half");
    assert!(!accepted(&[]), "nobody voted");
    assert!(!accepted(&[(3, false), (2, false)]));
}

#[test]
fn whoever_earned_nothing_while_a_vote_was_open_does_not_count_against_its_turnout() {
    let mut run = Run::new(1);
    let mut body = run.body(run.training(), vec![], vec![]);
    body.leaves.push(run.by(3, Message::Leave));
    body.roster = run.chain.roster_after(&body).unwrap();
    run.apply(body).unwrap();
    let motion = run.decide(Change::Stop, &[(2, true)]);
    assert_eq!(run.chain.credit()[&run.peer(3)].amount, 2 * 40);
    let outcome = motion.outcome.unwrap();
    assert_eq!((outcome.approving, outcome.concerned, outcome.accepted), (6 * 30, 6 * 60, true));
}

#[test]
fn an_accepted_scale_holds_from_its_round_on_and_a_later_one_takes_its_place() {
    let mut run = Run::new(1);
    let all = [(1, true), (2, true), (3, true)];
    let motion = run.decide(Change::ScaleLearningRate(512), &all);
    assert_eq!((motion.amendment.effective, run.next()), (8, 7));
    assert_eq!(run.chain.learning_rate_1024(), 1024);
    run.round(vec![]).unwrap();
    assert_eq!(run.chain.learning_rate_1024(), 512);
    let motion = run.decide(Change::ScaleLearningRate(2048), &all);
    assert_eq!(run.chain.learning_rate_1024(), 512);
    while run.next() < motion.amendment.effective {
        run.round(vec![]).unwrap();
    }
    assert_eq!(run.chain.learning_rate_1024(), 2048);
}

#[test]
fn no_body_follows_the_round_before_a_stop_takes_effect() {
    let mut run = Run::new(1);
    run.decide(Change::Stop, &[(1, true), (2, true), (3, true)]);
    assert_eq!((run.chain.last_round(), run.chain.is_over()), (Some(7), false));
    run.round(vec![]).unwrap();
    assert!(run.chain.is_over());
    assert_eq!(run.round(vec![]), Err(LedgerError::Over { last: 7 }));
    assert!(run.chain.undo());
    assert!(!run.chain.is_over());
}

#[test]
fn a_run_that_is_rolled_back_starts_from_the_model_of_that_round() {
    let mut run = Run::new(60);
    assert!(run.chain.checkpoint(50).is_some());
    let model_50 = run.certificates[49].body.content.model;
    let motion = run.decide(Change::RollBack(50), &[(1, true), (2, true), (3, true)]);
    let effective = motion.amendment.effective;
    run.round(vec![]).unwrap();
    let certified = run.certificates.last().unwrap().body.content.model;
    assert_eq!(run.next(), effective);
    assert_eq!(run.chain.head().model, model_50, "not {certified:?}");
    let body = run.body(run.training(), vec![], vec![]);
    assert_eq!(run.chain.check_body(&body).unwrap().before, model_50);
    // A round without updates must keep the model that the run was rolled back to, not the one before it.
    let mut forgetful = nothing(&run.chain);
    forgetful.model = certified;
    let forgetful = run.body(forgetful, vec![], vec![]);
    assert_eq!(run.chain.check_body(&forgetful), Err(LedgerError::ChangedWithoutUpdates));
    let lineage = run.chain.lineage();
    assert_eq!(lineage.rolled_back, [(51, effective - 1)]);
    assert!(run.chain.undo());
    assert_ne!(run.chain.head().model, model_50);
}

#[test]
fn a_run_goes_back_only_to_rounds_whose_model_is_kept() {
    let run = Run::new(54);
    for to in [1, 49, 51, 100] {
        assert_eq!(run.refused(vec![run.propose(0, Change::RollBack(to))]), CharterError::NotKept(to));
    }
    for to in [0, 50] {
        run.chain.check_amendment(&run.amendment(Change::RollBack(to)), run.peer(0)).unwrap();
    }
}

#[test]
fn an_added_source_is_on_record_from_its_round_on() {
    let mut run = Run::new(1);
    let chunks = vec![shoal_wire::manifest::Chunk { digest: Digest::of(b"chunk"), bytes: 5 }];
    let source = DataSource { name: "more".into(), licence: "CC0-1.0".into(), attribution: String::new(), chunks };
    run.decide(Change::AddSource(source.clone()), &[(1, true), (2, true), (3, true)]);
    assert!(run.chain.data().is_empty());
    run.round(vec![]).unwrap();
    assert_eq!(run.chain.data(), [&source]);
    let nothing = DataSource { chunks: vec![], ..source };
    let refused = run.refused(vec![run.propose(0, Change::AddSource(nothing))]);
    assert!(matches!(refused, CharterError::Number { what: "the source's chunks", .. }), "{refused}");
}

#[test]
fn only_members_with_credit_propose_and_vote() {
    let mut run = Run::new(0);
    assert_eq!(run.refused(vec![run.propose(0, Change::Stop)]), CharterError::NoCredit);
    run.round(vec![]).unwrap();
    let by_anchor = run.say(&run.anchor, Message::Amendment(Box::new(run.amendment(Change::Stop))));
    assert_eq!(run.refused(vec![by_anchor]), CharterError::NoCredit);
    let stranger = Identity::from_secret([99; 32]);
    let by_stranger = run.say(&stranger, Message::Amendment(Box::new(run.amendment(Change::Stop))));
    assert_eq!(run.refused(vec![by_stranger]), CharterError::NoCredit);
    run.round(vec![run.propose(0, Change::Stop)]).unwrap();
}

#[test]
fn a_member_has_one_open_amendment_and_a_body_carries_a_few() {
    let mut run = Run::new(1);
    let two = vec![run.propose(0, Change::Stop), run.propose(0, Change::RollBack(0))];
    assert_eq!(run.refused(two), CharterError::OneEach);
    let many = (0..=AMENDMENTS_IN_BODY_MAX).map(|index| run.propose(index, Change::Stop)).collect();
    assert_eq!(run.refused(many), CharterError::Full);
    run.round(vec![run.propose(0, Change::Stop)]).unwrap();
    assert_eq!(run.refused(vec![run.propose(0, Change::RollBack(0))]), CharterError::OneEach);
    for _ in 0..OPEN {
        run.round(vec![]).unwrap();
    }
    run.round(vec![run.propose(0, Change::RollBack(0))]).unwrap();
}

#[test]
fn a_member_votes_once_on_an_amendment_and_only_while_it_is_open() {
    let mut run = Run::new(1);
    let proposal = run.propose(0, Change::Stop);
    let id = proposal.id();
    assert_eq!(run.refused(vec![run.vote(1, id, true)]), CharterError::NotOpen);
    run.round(vec![proposal]).unwrap();
    let both = vec![run.vote(1, id, true), run.vote(1, id, false)];
    assert_eq!(run.refused(both), CharterError::VotedBefore);
    run.round(vec![run.vote(1, id, true)]).unwrap();
    assert_eq!(run.refused(vec![run.vote(1, id, false)]), CharterError::VotedBefore);
    run.round(vec![]).unwrap();
    run.round(vec![run.vote(2, id, true)]).unwrap();
    assert_eq!(run.refused(vec![run.vote(3, id, true)]), CharterError::NotOpen);
    assert_eq!(run.motion(id).ballots.len(), 2);
}

#[test]
fn windows_numbers_and_words_are_bounded() {
    let run = Run::new(1);
    let next = run.next();
    let refused = |change: &dyn Fn(&mut Amendment)| {
        let mut amendment = run.amendment(Change::ScaleLearningRate(512));
        change(&mut amendment);
        match run.chain.check_amendment(&amendment, run.peer(0)) {
            Err(CharterError::Number { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&|it| it.closes = next + 2), "closes");
    assert_eq!(refused(&|it| it.closes = next + 61), "closes");
    assert_eq!(refused(&|it| it.effective = it.closes), "effective");
    assert_eq!(refused(&|it| it.effective = u64::MAX), "effective");
    assert_eq!(refused(&|it| it.change = Change::ScaleLearningRate(0)), "the scale in 1/1024");
    assert_eq!(refused(&|it| it.change = Change::ScaleLearningRate(LEARNING_RATE_1024_MAX + 1)), "the scale in 1/1024");
    assert_eq!(refused(&|it| it.reason = String::new()), "the reason's bytes");
    assert_eq!(refused(&|it| it.reason = "x".repeat(REASON_BYTES_MAX + 1)), "the reason's bytes");
}

#[test]
fn what_is_signed_for_another_round_or_out_of_order_is_refused() {
    let mut run = Run::new(1);
    let early = run.propose(0, Change::Stop);
    run.round(vec![]).unwrap();
    assert_eq!(run.refused(vec![early]), CharterError::Misplaced);
    assert_eq!(run.refused(vec![run.by(0, Message::Leave)]), CharterError::Misplaced);
    let mut body = run.body(run.training(), vec![], vec![run.propose(0, Change::Stop), run.propose(1, Change::Stop)]);
    run.chain.check_body(&body).unwrap();
    body.charter.reverse();
    let refused = run.chain.check_body(&body);
    assert!(matches!(refused, Err(LedgerError::Charter { source: CharterError::Order, .. })), "{refused:?}");
    let mut forged = run.propose(0, Change::Stop);
    forged.from = run.peer(1);
    let refused = run.chain.check_body(&run.body(run.training(), vec![], vec![forged]));
    assert!(matches!(refused, Err(LedgerError::Envelope { what: "amendment or ballot", .. })), "{refused:?}");
}

#[test]
fn who_makes_a_body_takes_of_what_was_said_only_what_it_can_carry() {
    let run = Run::new(1);
    let said: Vec<Envelope> = (0..VOLUNTEERS)
        .map(|index| run.propose(index, Change::Stop))
        .chain([run.vote(0, Digest::of(b"nothing"), true)])
        .collect();
    let opened: Vec<Message> =
        said.iter().map(|envelope| Said::open(envelope, run.chain.run()).unwrap().into_inner().message).collect();
    let taken = run.chain.charter_of(said.iter().zip(&opened));
    assert_eq!(taken.len(), AMENDMENTS_IN_BODY_MAX);
    run.chain.check_body(&run.body(run.training(), vec![], taken)).unwrap();
}

#[test]
fn undoing_rounds_leaves_credit_and_votes_as_they_were() {
    let mut run = Run::new(1);
    let before = run.chain.clone();
    run.decide(Change::Stop, &[(1, true), (2, true), (3, true)]);
    while run.chain.head() != before.head() {
        assert!(run.chain.undo());
    }
    assert_eq!(run.chain.credit(), before.credit());
    assert_eq!((run.chain.motions().len(), run.chain.last_round()), (0, None));
    assert_eq!(run.chain.first_body(), before.first_body());
}

#[test]
fn the_lineage_of_a_model_names_data_contributors_and_what_was_in_force() {
    let mut run = Run::new(1);
    run.decide(Change::ScaleLearningRate(512), &[(1, true), (2, true), (3, true)]);
    run.round(vec![]).unwrap();
    let manifest = run.chain.manifest().clone();
    let lineage = run.chain.lineage();
    assert_eq!((lineage.rounds, lineage.certified_body), (7, run.chain.head().body));
    assert_eq!(lineage.first_body, Some(run.certificates[0].body.digest()));
    assert_eq!(lineage.accepted_updates, 6 * 4);
    let amounts: Vec<u64> = lineage.contributors.iter().map(|contributor| contributor.credit.amount).collect();
    assert_eq!(amounts, [6 * 40, 6 * 30, 6 * 20, 6 * 10]);
    assert!((lineage.contributors[0].share - 0.4).abs() < 1e-12);
    assert_eq!(lineage.amendments.len(), 1);
    let earlier = run.certificates[3].body.content.model;
    let found = Lineage::of(earlier, &manifest, run.certificates.clone()).unwrap().unwrap();
    assert_eq!((found.model, found.rounds, found.amendments.len()), (earlier, 4, 0));
    assert_eq!(Lineage::of(Digest::of(b"another"), &manifest, run.certificates.clone()), Ok(None));
}
