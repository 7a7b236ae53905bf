//! What follows from the measurements of one round.

use std::collections::{BTreeMap, BTreeSet};

use shoal_wire::{Digest, PeerId, judging::Score, record::Verdict};

use super::Panels;

/// Differences below this, in millionths of a nat, are noise of the measurement.
const NOISE: i64 = 50;
/// An honest update brings at least this part of what others' bring on the data of its author.
const SHARE_ASSIGNED: i64 = 4;
/// Where what the others bring is too little or too few to tell, it brings at least this part of it anywhere.
const SHARE: i64 = 8;
/// From this on, in millionths of a nat, what others bring stands out from the measurement.
const REFERENCE_MIN: i64 = 8 * NOISE;
/// It does no more harm elsewhere than so many times what it brings, or what others bring.
const UNDOES: i64 = 3;
/// The round's median stands for honest work once so many updates were measured, auditors' own ones too.
pub(super) const REFERENCE_UPDATES_MIN: usize = 4;
/// Nobody is refused on the word of one auditor.
const AGREE_MIN: usize = 2;
/// Auditors agree on a margin within this part of what is usual.
const AGREED: i64 = 8;
/// A full round of local steps.
const WORK_FULL: i64 = 1024;

/// A committed update that can be measured: its seed is revealed, and its form is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measurable {
    pub author: PeerId,
    pub update: Digest,
    /// Tokens trained, in 1/1024 of those assigned.
    pub work_1024: i64,
}

/// What one auditor measured of one author's update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opinion {
    pub auditor: PeerId,
    pub author: PeerId,
    pub score: Score,
}

/// What an update brings on its author's data beyond what it brings elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Margin {
    /// In 1/1024 of what is usual in the round, for a full round of work.
    pub relative_1024: i64,
    /// Of the work that was assigned: what little of it shows is scaled up, and so is its noise.
    pub work_1024: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Not audited, or its auditors were too few or did not agree.
    Open,
    Good,
    Harmful,
    Copied,
}

/// What a round's audits found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assessment {
    findings: BTreeMap<PeerId, Finding>,
    /// Audited updates of which no auditor thought otherwise.
    unanimous: BTreeSet<PeerId>,
    /// By how much each audited update would make the loss fall on its author's data for a full round of work.
    rates: BTreeMap<PeerId, i64>,
    /// What each audited update brings on its author's data, in 1/1024 of what is expected; only where that can be told.
    worth_1024: BTreeMap<PeerId, i64>,
    /// By how much more audited updates helped on the data that their authors were assigned than elsewhere; only where it
    /// can be told whether they were trained on these.
    margins: BTreeMap<PeerId, Margin>,
    /// How often each auditor was alone with its opinion, and how often it was not.
    auditors: BTreeMap<PeerId, (u32, u32)>,
}

impl Assessment {
    pub fn finding(&self, author: PeerId) -> Finding {
        self.findings.get(&author).copied().unwrap_or(Finding::Open)
    }

    pub fn is_unanimous(&self, author: PeerId) -> bool {
        self.unanimous.contains(&author)
    }

    /// By how much more an update helped on what its author was assigned; none where that cannot be told.
    pub(super) fn margin(&self, author: PeerId) -> Option<Margin> {
        self.margins.get(&author).copied()
    }

    /// What an audited update brings on its author's data, in 1/1024 of what honest work is expected to.
    pub(super) fn worth_1024(&self, author: PeerId) -> Option<i64> {
        self.worth_1024.get(&author).copied()
    }

    pub(super) fn rates(&self) -> &BTreeMap<PeerId, i64> {
        &self.rates
    }

    pub(super) fn auditors(&self) -> &BTreeMap<PeerId, (u32, u32)> {
        &self.auditors
    }

    /// The verdict on an update of good form.
    pub fn verdict(&self, author: PeerId) -> Verdict {
        match self.finding(author) {
            Finding::Open | Finding::Good => Verdict::Accepted,
            Finding::Harmful => Verdict::Harmful,
            Finding::Copied => Verdict::Copied,
        }
    }
}

/// Weighs the opinions on these subjects. Opinions on others, and of those who were not drawn, are passed over.
///
/// An opinion is against an update when it brings less than a quarter of what the median update brings on its author's
/// data for the same work, or undoes elsewhere three times that. Where fewer than four were audited, or they bring next to
/// nothing, it is against what brings less than an eighth on its author's data and on other data alike: of the median with
/// the auditors' own updates, or else of the auditor's own. The majority of an update's auditors decides.
pub fn assess(subjects: &[Measurable], draw: &Panels, opinions: &[Opinion]) -> Assessment {
    let work: BTreeMap<PeerId, i64> = subjects.iter().map(|subject| (subject.author, subject.work_1024)).collect();
    let full = |value: i32, peer: &PeerId| {
        i64::from(value) * WORK_FULL / work.get(peer).copied().unwrap_or(WORK_FULL).clamp(1, WORK_FULL)
    };
    let mut by_author: BTreeMap<PeerId, Vec<&Opinion>> = BTreeMap::new();
    for opinion in opinions {
        let drawn = draw.get(&opinion.author).is_some_and(|auditors| auditors.contains(&opinion.auditor));
        if drawn && work.contains_key(&opinion.author) {
            by_author.entry(opinion.author).or_default().push(opinion);
        }
    }
    let rate = |opinion: &&Opinion| full(opinion.score.assigned, &opinion.author);
    let margin = |opinion: &&Opinion| rate(opinion) - full(opinion.score.other, &opinion.author);
    let rates = medians(&by_author, rate);
    let own: BTreeMap<PeerId, i64> = by_author
        .values()
        .flatten()
        .filter_map(|opinion| Some((opinion.auditor, full(opinion.score.own?, &opinion.auditor))))
        .collect();
    let mut brought: Vec<i64> = rates.values().copied().collect();
    if brought.len() < REFERENCE_UPDATES_MIN {
        brought.extend(own.into_values());
    }
    let comparable = rates.len() >= REFERENCE_UPDATES_MIN;
    let reference = (brought.len() >= REFERENCE_UPDATES_MIN).then(|| median(brought));
    let clear = reference.filter(|expected| comparable && *expected >= REFERENCE_MIN);
    // Where few were measured, an auditor that trains nothing knows not what is little: only its praise counts.
    let is_harmful = |opinion: &Opinion| {
        let own = opinion.score.own.map(|own| full(own, &opinion.auditor));
        let other = full(opinion.score.other, &opinion.author);
        let Some(expected) = reference.or(own) else {
            return (!helps_too_little(rate(&opinion), other, 0)).then_some(false);
        };
        // Late in a run honest updates fit their own data and lose elsewhere up to as much as they win there.
        let undoes = -UNDOES * expected.max(rate(&opinion)).max(0) - NOISE;
        let too_little = match clear {
            Some(clear) => rate(&opinion) < clear / SHARE_ASSIGNED,
            None => helps_too_little(rate(&opinion), other, expected),
        };
        Some(too_little || other < undoes)
    };
    let copied_from =
        |opinion: &Opinion| opinion.score.copies.filter(|other| *other != opinion.author && work.contains_key(other));
    let mut assessment = Assessment { rates, ..Assessment::default() };
    let mut copies = BTreeMap::new();
    for (author, opinions) in &by_author {
        let mut voices = Vec::with_capacity(opinions.len());
        for opinion in opinions {
            let against = if copied_from(opinion).is_some() { Some(true) } else { is_harmful(opinion) };
            voices.extend(against.map(|against| (*opinion, against)));
        }
        let named: Vec<PeerId> = opinions.iter().filter_map(|opinion| copied_from(opinion)).collect();
        let drawn = draw.get(author).map_or(0, BTreeSet::len);
        let finding = decide(&voices, named.len(), drawn);
        if finding == Finding::Copied {
            copies.insert(*author, most_named(&named));
        }
        assessment.findings.insert(*author, finding);
        note_auditors(&mut assessment, *author, &voices);
    }
    for author in circular(&copies) {
        assessment.findings.insert(author, Finding::Open);
    }
    let mut said: BTreeMap<PeerId, Vec<i64>> = BTreeMap::new();
    for (author, opinions) in by_author.iter().filter(|(_, opinions)| opinions.len() >= AGREE_MIN) {
        said.insert(*author, opinions.iter().map(margin).collect());
    }
    assessment.margins = relative(&said, reference, &work);
    if let Some(expected) = clear {
        let worth = |(author, rate): (&PeerId, &i64)| (*author, rate.saturating_mul(1024) / expected);
        assessment.worth_1024 = assessment.rates.iter().map(worth).collect();
    }
    assessment
}

/// Whether an update brings less than an eighth of what is expected, both on its author's data and on other data. How
/// far the two differ is how little one of them says: late in a run, when gains are small, honest ones scatter around
/// nothing. Harm of eight times what is expected needs no such doubt.
fn helps_too_little(assigned: i64, other: i64, expected: i64) -> bool {
    let best = assigned.max(other);
    let doubt = assigned.abs_diff(other).min(i64::MAX as u64 / 2) as i64;
    best < -SHARE * expected.abs().max(NOISE) || best + doubt < least(expected)
}

/// The least fall of the loss that honest work brings where this much is expected.
fn least(expected: i64) -> i64 {
    (if expected > 0 { expected / SHARE } else { expected * SHARE }) - NOISE
}

fn decide(voices: &[(&Opinion, bool)], copied: usize, drawn: usize) -> Finding {
    let all = voices.len();
    let bad = voices.iter().filter(|(_, bad)| *bad).count();
    if bad * 2 > all && bad >= AGREE_MIN {
        return if copied * 2 > all && copied >= AGREE_MIN { Finding::Copied } else { Finding::Harmful };
    }
    let good = all - bad;
    if good * 2 > all && good >= AGREE_MIN.min(drawn) { Finding::Good } else { Finding::Open }
}

/// Whether somebody was alone with an opinion shows only where there are three or more.
fn note_auditors(assessment: &mut Assessment, author: PeerId, voices: &[(&Opinion, bool)]) {
    let bad = voices.iter().filter(|(_, bad)| *bad).count();
    if bad == 0 || bad == voices.len() {
        assessment.unanimous.insert(author);
    }
    if voices.len() < 3 {
        return;
    }
    for (opinion, against) in voices {
        let same = if *against { bad } else { voices.len() - bad };
        let (alone, agreed) = assessment.auditors.entry(opinion.auditor).or_default();
        *(if same == 1 { alone } else { agreed }) += 1;
    }
}

/// Gauntlet's test (Templar): work on the assigned data helps there more than elsewhere. It says something only where
/// enough updates were measured and it shows in them. What is usual is the margin that a third of them reach: where a
/// third are not trained on these data, that is the median of the others. It is at most twice the median
/// of all, so that few with very large margins cannot make those of others look small. Nobody's margin rests on the
/// word of one auditor, and where the most favourable one differs from what counts nobody knows it: honest auditors measure
/// on the same data, and what false ones say must not pass for a run's noise either.
fn relative(
    said: &BTreeMap<PeerId, Vec<i64>>,
    reference: Option<i64>,
    work: &BTreeMap<PeerId, i64>,
) -> BTreeMap<PeerId, Margin> {
    // Of two opinions the more favourable one.
    let middle = |said: &Vec<i64>| if said.len() == AGREE_MIN { said.iter().copied().max() } else { None };
    let margins: BTreeMap<PeerId, i64> =
        said.iter().map(|(author, said)| (*author, middle(said).unwrap_or_else(|| median(said.clone())))).collect();
    let mut sorted: Vec<i64> = margins.values().copied().collect();
    sorted.sort_unstable();
    let usual = usual(&sorted);
    let shows = reference.is_some_and(|reference| usual * 8 >= reference.max(REFERENCE_MIN));
    if !shows || margins.len() < REFERENCE_UPDATES_MIN {
        return BTreeMap::new();
    }
    let of = |(author, margin): (&PeerId, &i64)| {
        let work_1024 = work.get(author).copied().unwrap_or(WORK_FULL).clamp(1, WORK_FULL);
        let best = said.get(author).and_then(|said| said.iter().max()).unwrap_or(margin);
        let agreed = best.saturating_sub(*margin) <= (usual / AGREED).max(NOISE * WORK_FULL / work_1024);
        agreed.then(|| (*author, Margin { relative_1024: margin.saturating_mul(1024) / usual, work_1024 }))
    };
    margins.iter().filter_map(of).collect()
}

/// Of margins in rising order.
pub(super) fn usual(sorted: &[i64]) -> i64 {
    let third = sorted.get(sorted.len() * 2 / 3).copied().unwrap_or(0);
    let middle = sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0);
    third.min(middle.saturating_mul(2))
}

fn medians(by_author: &BTreeMap<PeerId, Vec<&Opinion>>, of: impl Fn(&&Opinion) -> i64) -> BTreeMap<PeerId, i64> {
    by_author.iter().map(|(author, opinions)| (*author, median(opinions.iter().map(&of).collect()))).collect()
}

/// The lower median; 0 of nothing.
fn median(mut values: Vec<i64>) -> i64 {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

fn most_named(named: &[PeerId]) -> Option<PeerId> {
    let count = |peer: &PeerId| named.iter().filter(|other| *other == peer).count();
    named.iter().copied().max_by_key(|peer| (count(peer), core::cmp::Reverse(*peer)))
}

/// Authors that are said to have copied each other: then nobody knows who was first, and the copied one must not lose.
fn circular(copies: &BTreeMap<PeerId, Option<PeerId>>) -> Vec<PeerId> {
    let next = |peer: PeerId| copies.get(&peer).copied().flatten();
    let returns = |start: PeerId| {
        let mut at = next(start);
        for _ in 0..copies.len() {
            match at {
                Some(peer) if peer == start => return true,
                Some(peer) => at = next(peer),
                None => return false,
            }
        }
        false
    };
    copies.keys().copied().filter(|peer| returns(*peer)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judging::evidence;

    fn peer(number: u8) -> PeerId {
        PeerId([number; 32])
    }

    fn score(assigned: i32, other: i32) -> Score {
        Score { assigned, other, own: Some(9_000), alignment_1024: None, copies: None }
    }

    /// Peers 1 to n with full work, each audited by the next three, which say what `of` says of it.
    fn round(n: u8, of: impl Fn(u8, u8) -> Score) -> Assessment {
        let subjects: Vec<Measurable> = (1..=n)
            .map(|author| Measurable { author: peer(author), update: Digest([author; 32]), work_1024: 1024 })
            .collect();
        let auditors = |author: u8| (1..=3).map(move |step| (author - 1 + step) % n + 1);
        let draw: Panels = (1..=n).map(|author| (peer(author), auditors(author).map(peer).collect())).collect();
        let opinions: Vec<Opinion> = (1..=n)
            .flat_map(|author| auditors(author).map(move |auditor| (author, auditor)))
            .map(|(author, auditor)| Opinion {
                auditor: peer(auditor),
                author: peer(author),
                score: of(author, auditor),
            })
            .collect();
        assess(&subjects, &draw, &opinions)
    }

    fn honest(author: u8) -> Score {
        let spread = i32::from(author) * 300;
        score(14_000 + spread, 8_000 + spread)
    }

    #[test]
    fn lies_in_updates_are_told_from_honest_work_and_from_half_of_it() {
        let lies = [
            ("sign flip", score(-15_000, -9_000), Finding::Harmful),
            ("a thousand times", score(i32::MIN, i32::MIN), Finding::Harmful),
            ("noise", score(-300, -200), Finding::Harmful),
            ("nothing", score(0, 0), Finding::Harmful),
            ("help here and harm elsewhere", score(15_000, -60_000), Finding::Harmful),
            ("half of the work", score(7_500, 4_000), Finding::Good),
            ("all of it", score(15_000, 9_000), Finding::Good),
        ];
        for (name, lie, finding) in lies {
            let found = round(9, |author, _| if author == 4 { lie } else { honest(author) });
            assert_eq!(found.finding(peer(4)), finding, "{name}");
            let others = (1..=9).filter(|author| *author != 4);
            assert!(others.into_iter().all(|author| found.finding(peer(author)) == Finding::Good), "{name}");
            assert!(found.is_unanimous(peer(4)));
        }
    }

    #[test]
    fn where_few_are_audited_the_auditors_own_update_is_the_measure() {
        for (assigned, finding) in [(0, Finding::Harmful), (1_000, Finding::Harmful), (1_200, Finding::Good)] {
            let subjects = [Measurable { author: peer(1), update: Digest::default(), work_1024: 1024 }];
            let draw = Panels::from([(peer(1), (2..=4).map(peer).collect())]);
            let opinion =
                |auditor| Opinion { auditor: peer(auditor), author: peer(1), score: score(assigned, assigned) };
            let found = assess(&subjects, &draw, &[opinion(2), opinion(3), opinion(4)]);
            assert_eq!(found.finding(peer(1)), finding, "{assigned}");
        }
    }

    #[test]
    fn honest_work_that_fits_its_own_data_and_loses_elsewhere_late_in_a_run_is_not_refused() {
        // As a small model's honest peers were measured once it had learnt what there was.
        let measured = [(15_009, -2_810), (8_032, -7_581), (10_357, -10_206), (4_418, -1_961), (12_971, -1_155)];
        for few in [1, 5] {
            let of = |author: u8, _: u8| {
                let (assigned, other) = measured[usize::from(author - 1) % 5];
                Score { own: Some(-500 + 700 * i32::from(author % 3)), ..score(assigned, other) }
            };
            let found = round(few + 4, of);
            assert!((1..=few + 4).all(|author| found.finding(peer(author)) == Finding::Good), "{few}");
        }
    }

    #[test]
    fn where_gains_are_lost_in_noise_nobody_is_refused_who_does_no_clear_harm() {
        for (assigned, other, against) in
            [(-300, 700, false), (90, -900, false), (60, 60, true), (-4_100, -8_000, true), (-500, -600, true)]
        {
            assert_eq!(helps_too_little(assigned, other, 1_000), against, "{assigned} and {other}");
        }
        let least = i64::from(i32::MIN) * WORK_FULL;
        assert!(helps_too_little(least, least / 4, 1_000), "however far apart they are");
    }

    #[test]
    fn auditors_that_do_not_train_refuse_nobody_where_they_have_no_measure() {
        for (gain, finding) in [(-5_000, Finding::Open), (5_000, Finding::Good)] {
            let subjects = [Measurable { author: peer(1), update: Digest::default(), work_1024: 1024 }];
            let draw = Panels::from([(peer(1), (2..=3).map(peer).collect())]);
            let idle = Score { own: None, ..score(gain, gain) };
            let opinion = |auditor| Opinion { auditor: peer(auditor), author: peer(1), score: idle };
            assert_eq!(assess(&subjects, &draw, &[opinion(2), opinion(3)]).finding(peer(1)), finding);
        }
    }

    #[test]
    fn little_work_is_measured_as_little_work() {
        let subjects: Vec<Measurable> = (1..=5)
            .map(|author| Measurable {
                author: peer(author),
                update: Digest::default(),
                work_1024: if author == 1 { 128 } else { 1024 },
            })
            .collect();
        let draw: Panels = (1..=5).map(|author| (peer(author), BTreeSet::from([peer(6), peer(7)]))).collect();
        let opinions: Vec<Opinion> = (1..=5)
            .flat_map(|author| [6, 7].map(|auditor| (author, auditor)))
            .map(|(author, auditor)| Opinion {
                auditor: peer(auditor),
                author: peer(author),
                score: if author == 1 { score(1_900, 1_000) } else { score(15_000, 8_000) },
            })
            .collect();
        assert_eq!(assess(&subjects, &draw, &opinions).finding(peer(1)), Finding::Good);
    }

    #[test]
    fn the_majority_decides_and_who_is_alone_is_noted() {
        let lies = |author: u8, auditor: u8| if auditor == 5 { score(-15_000, -9_000) } else { honest(author) };
        let found = round(9, lies);
        assert!((1..=9).all(|author| found.finding(peer(author)) == Finding::Good));
        assert!(!found.is_unanimous(peer(4)) && found.is_unanimous(peer(5)));
        assert_eq!(found.auditors()[&peer(5)], (3, 0));
        assert!(found.auditors().iter().all(|(auditor, (alone, _))| *auditor == peer(5) || *alone == 0));
    }

    #[test]
    fn nobody_is_refused_on_the_word_of_one_nor_found_good_where_a_second_was_asked() {
        let subjects = [Measurable { author: peer(1), update: Digest::default(), work_1024: 1024 }];
        let draw = Panels::from([(peer(1), (2..=4).map(peer).collect())]);
        for assigned in [-15_000, 15_000] {
            let opinion = Opinion { auditor: peer(2), author: peer(1), score: score(assigned, assigned) };
            assert_eq!(assess(&subjects, &draw, &[opinion]).finding(peer(1)), Finding::Open);
            let stranger = Opinion { auditor: peer(9), ..opinion };
            assert_eq!(assess(&subjects, &draw, &[opinion, stranger, stranger]).finding(peer(1)), Finding::Open);
        }
    }

    #[test]
    fn who_copies_is_refused_and_who_was_copied_is_not() {
        let copies = |author: u8, of: u8| Score { copies: Some(peer(of)), ..honest(author) };
        let found = round(9, |author, _| if author == 4 { copies(4, 2) } else { honest(author) });
        assert_eq!(found.finding(peer(4)), Finding::Copied);
        assert_eq!(found.finding(peer(2)), Finding::Good);
        let each_other = round(9, |author, _| match author {
            4 => copies(4, 2),
            2 => copies(2, 4),
            _ => honest(author),
        });
        assert_eq!((each_other.finding(peer(4)), each_other.finding(peer(2))), (Finding::Open, Finding::Open));
        let of_nobody = round(9, |author, _| if author == 4 { copies(4, 77) } else { honest(author) });
        assert_eq!(of_nobody.finding(peer(4)), Finding::Good, "who is not in the round was not copied");
    }

    #[test]
    fn work_on_other_data_than_the_assigned_shows_in_its_margin() {
        let found = round(9, |author, _| if author == 4 { score(9_000, 9_000) } else { honest(author) });
        assert_eq!(found.finding(peer(4)), Finding::Good, "it helps");
        assert_eq!(found.margin(peer(4)), Some(Margin { relative_1024: 0, work_1024: 1024 }));
        assert_eq!(found.margin(peer(5)), Some(Margin { relative_1024: 1024, work_1024: 1024 }));
        let flat = round(9, |author, _| score(9_000 + i32::from(author), 9_000));
        assert_eq!(flat.margin(peer(4)), None, "where nobody's work shows it, nothing follows");
        let few = round(3, |author, _| honest(author));
        assert_eq!(few.margin(peer(1)), None, "and nothing where there are few to compare with");
        let lied_about = |liars: fn(u8) -> bool| {
            let said =
                |author, auditor| if author == 4 && liars(auditor) { score(15_000, i32::MAX) } else { honest(author) };
            round(9, said).margin(peer(4))
        };
        let one = lied_about(|auditor| auditor == 5);
        assert_eq!(one, Some(Margin { relative_1024: 1024, work_1024: 1024 }), "one auditor decides nothing");
        assert_eq!(lied_about(|auditor| auditor == 5 || auditor == 6), None, "that the third one differs is known");
        let praised =
            round(9, |author, auditor| if author == 4 && auditor == 5 { score(15_000, 0) } else { honest(author) });
        assert_eq!(praised.margin(peer(4)), None, "nor can one praise what is as the others say unseen");
        let loud = round(9, |author, _| if author % 4 == 0 { score(1_000_000, 0) } else { honest(author) });
        assert!(loud.margin(peer(1)).unwrap().relative_1024 > 400, "a few with large margins do not set what is usual");
    }

    #[test]
    fn ratings_rank_honest_work_above_half_work_copies_noise_and_sign_flips_by_round_twenty() {
        // 1 to 8 honest, then half work, old work, noise, sign flips, with noise as large as half of an honest gain.
        let mut state = 7_u64;
        let mut noise = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as i32 % 14_000 - 7_000
        };
        let gain = |author: u8| match author {
            1..=8 => 14_000,
            9 | 10 => 7_000,
            11 | 12 => 4_000,
            13 | 14 => 0,
            _ => -14_000,
        };
        let mut ratings: BTreeMap<PeerId, i32> = BTreeMap::new();
        for _ in 0..20 {
            let drawn: Vec<i32> = (0..=16).map(|author| gain(author) + noise()).collect();
            let found = round(16, |author, _| score(drawn[usize::from(author)], drawn[usize::from(author)] / 2));
            let before = ratings.clone();
            let rating = |peer: PeerId| before.get(&peer).copied().unwrap_or_default();
            for author in (1..=16).map(peer) {
                *ratings.entry(author).or_default() += evidence::points(author, rating(author), &found, rating);
            }
        }
        let above = |one: u8, other: u8| u32::from(ratings[&peer(one)] > ratings[&peer(other)]);
        let pairs: u32 =
            (1..=8).flat_map(|one| (9..=16).map(move |other| (one, other))).map(|(a, b)| above(a, b)).sum();
        assert!(pairs * 100 >= 95 * 64, "AUC {pairs}/64: {ratings:?}");
    }
}
