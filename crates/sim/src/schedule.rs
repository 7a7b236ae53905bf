//! When what goes wrong does: drawn from the options before the world begins.

use crate::{Options, Random, RelayFate};

/// How long a tab freezes.
const FREEZE_MS: u64 = 60_000;

/// Something that a trial does to its world. Peers go by the order in which they come, anchors first; what is to happen
/// to one that is not there does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Join,
    Crash(usize),
    Start(usize),
    /// It says good-bye.
    Leave(usize),
    Freeze(usize, u64),
    /// These no longer reach the others, and unless it is one-way the others do not reach them.
    Part {
        side: Vec<usize>,
        one_way: bool,
    },
    Mend,
    Relay(bool),
    FillDisk(usize),
    /// So many free riders come at once.
    Crowd(usize),
}

/// What to do, and at what time, in order.
pub(crate) fn draw(options: &Options) -> Vec<(u64, Action)> {
    let mut random = Random::new(options.seed ^ 0x5c4e_d01e_0000_0000);
    let mut actions = Vec::new();
    comings(options, &mut random, &mut actions);
    churn(options, &mut random, &mut actions);
    partitions(options, &mut random, &mut actions);
    relay(options, &mut random, &mut actions);
    let peers = options.anchors + options.volunteers;
    for _ in 0..options.freezes {
        let last = options.unsafe_ms - FREEZE_MS;
        let who = random.between(options.anchors as u64, peers as u64 - 1) as usize;
        actions.push((random.between(1_000, last), Action::Freeze(who, FREEZE_MS)));
    }
    for _ in 0..options.full_disks {
        let who = random.between(options.anchors as u64, peers as u64 - 1) as usize;
        actions.push((random.between(0, options.unsafe_ms), Action::FillDisk(who)));
    }
    // What was drawn first comes first at the same time.
    actions.sort_by_key(|(at, _)| *at);
    actions
}

fn comings(options: &Options, random: &mut Random, actions: &mut Vec<(u64, Action)>) {
    for _ in 0..options.volunteers {
        actions.push((random.between(0, 5_000), Action::Join));
    }
    if options.sybils > 0 {
        actions.push((random.between(10_000, options.unsafe_ms), Action::Crowd(options.sybils)));
    }
    for _ in 0..options.latecomers {
        actions.push((random.between(10_000, options.unsafe_ms), Action::Join));
    }
}

/// In about each round, some go, and come back within the next two.
fn churn(options: &Options, random: &mut Random, actions: &mut Vec<(u64, Action)>) {
    let round_ms = u64::from(options.train_ms_max);
    let first = if options.anchors_churn { 0 } else { options.anchors };
    for turn in 1..options.unsafe_ms / round_ms {
        for who in first..options.anchors + options.volunteers {
            if !random.chance(options.churn_percent * 10) {
                continue;
            }
            let at = turn * round_ms + random.between(0, round_ms);
            let back = at + random.between(500, 2 * round_ms);
            let leaves = who >= options.anchors && random.chance(200);
            if leaves {
                actions.push((at.saturating_sub(200), Action::Leave(who)));
            }
            actions.push((at, Action::Crash(who)));
            actions.push((back, Action::Start(who)));
        }
    }
}

fn partitions(options: &Options, random: &mut Random, actions: &mut Vec<(u64, Action)>) {
    let peers = options.anchors + options.volunteers + options.latecomers;
    let share_ms = options.unsafe_ms / (options.partitions as u64).max(1);
    for turn in 0..options.partitions as u64 {
        let side = (0..peers).filter(|_| random.chance(500)).collect();
        let from = turn * share_ms + random.between(5_000, share_ms / 2);
        let to = from + random.between(2_000, share_ms / 2);
        actions.push((from, Action::Part { side, one_way: options.one_way }));
        actions.push((to, Action::Mend));
    }
}

fn relay(options: &Options, random: &mut Random, actions: &mut Vec<(u64, Action)>) {
    match options.relay {
        RelayFate::Stays => {}
        RelayFate::Restarts => {
            for _ in 0..3 {
                let from = random.between(5_000, options.unsafe_ms);
                actions.push((from, Action::Relay(false)));
                actions.push((from + random.between(1_000, 30_000), Action::Relay(true)));
            }
        }
        RelayFate::GoneForGood => actions.push((random.between(10_000, options.unsafe_ms), Action::Relay(false))),
    }
}
