//! `shoal ledger`: who contributed what to a run, and what they decided.

use std::io::{Write, stdout};
use std::sync::Arc;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use shoal_ledger::{Chain, Contributor, ESTABLISHED_ROUNDS, Motion, Reputation, Tally};
use shoal_node::verify::{VerifyError, read_chain};
use shoal_wire::{RunId, charter::Change};

use crate::output::{plain, print_line};
use crate::relay::{TlsArgs, block_on, parse_run};
use crate::verify::{NoVerdict, source};

const EXAMPLES: &str = "Examples:
  shoal ledger https://relay.example --run 5f0c…e1
  shoal ledger /var/lib/shoal --run 5f0c…e1 --peer 3ab9
  shoal ledger https://relay.example --run 5f0c…e1 --json | jq -c 'select(.event == \"peer\") | [.peer, .amount]'";

/// Show who contributed what to a run, and what they decided
///
/// Reads every certificate, checks its signatures and the rules, and recomputes credit and votes; models are not
/// replayed, which `shoal verify` does. Credit is counted in tokens trained, a rating in Elo points above a newcomer's, and
/// trust in audits that found the work good; docs/credit.md says how. As `shoal verify`, it ends with status 1 and the
/// first round that does not hold, or with status 3 and why nothing can be said. The last line of --json says the same:
/// `holds` is true, false, or null.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A relay's address, or a data directory of a relay or a peer
    #[arg(value_name = "RELAY|DIR")]
    source: String,
    /// The run's id
    #[arg(long, value_name = "ID", value_parser = parse_run)]
    run: RunId,
    /// Only the peer whose id begins so, with what it proposed and voted
    #[arg(long, value_name = "ID")]
    peer: Option<String>,
    /// Print one JSON object for each peer and each amendment, and a summary as the last line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tls: TlsArgs,
}

pub fn run(args: &Args) -> Result<()> {
    match read(args) {
        Ok(ledger) if args.json => ledger.print_objects(),
        Ok(ledger) => ledger.print_tables(),
        Err(error) => {
            // Only a history that does not hold has failed; everything else says nothing about it.
            let failed = matches!(error.downcast_ref(), Some(VerifyError::Fails(_)));
            if args.json {
                let (event, holds) = if failed { ("failed", Some(false)) } else { ("unavailable", None) };
                let why = format!("{error:#}");
                print_line(&json!({ "event": event, "holds": holds, "run": args.run, "why": why }))?;
            }
            Err(if failed { error } else { NoVerdict(error).into() })
        }
    }
}

struct Ledger {
    chain: Chain,
    tally: Tally,
    /// Those asked for.
    contributors: Vec<Contributor>,
    motions: Vec<Arc<Motion>>,
}

fn read(args: &Args) -> Result<Ledger> {
    let source = source(&args.source, &args.tls)?;
    let read = block_on(async { Ok(read_chain(&source, args.run).await) })?;
    let (chain, tally) = read.map_err(|error| match error {
        VerifyError::Unavailable(error) => anyhow::Error::from(error),
        fails @ VerifyError::Fails(_) => fails.into(),
    })?;
    let (mut contributors, mut motions) = (chain.contributors(), chain.motions().to_vec());
    if let Some(wanted) = &args.peer {
        contributors.retain(|contributor| contributor.peer.to_string().starts_with(wanted));
        let peer = match contributors[..] {
            [ref only] => only.peer,
            [] => bail!("no peer whose id begins with {wanted:?} contributed to this run"),
            _ => bail!("the ids of {} peers begin with {wanted:?}; write more of it", contributors.len()),
        };
        motions.retain(|motion| motion.by == peer || motion.ballots.contains_key(&peer));
    }
    Ok(Ledger { chain, tally, contributors, motions })
}

impl Ledger {
    fn print_objects(&self) -> Result<()> {
        for contributor in &self.contributors {
            print_line(&peer_object(contributor, self.chain.reputation(contributor.peer))?)?;
        }
        for motion in &self.motions {
            let mut object = serde_json::to_value(&**motion)?;
            object["event"] = "amendment".into();
            print_line(&object)?;
        }
        let head = self.chain.head();
        let manifest = self.chain.manifest();
        print_line(
            &json!({ "event": "ledger", "holds": true, "run": self.chain.run(), "name": manifest.name, "rounds": head.round,
            "body": head.body, "model": head.model, "over": self.chain.is_over(), "creditRule": manifest.credit,
            "learningRate1024": self.chain.learning_rate_1024(), "peers": self.chain.credit().len(),
            "checked": self.tally }),
        )
    }

    fn print_tables(&self) -> Result<()> {
        let mut out = stdout().lock();
        let (head, name) = (self.chain.head(), plain(&self.chain.manifest().name));
        writeln!(out, "{name}: {} rounds, run {}", head.round, self.chain.run())?;
        if self.chain.is_over() {
            writeln!(out, "Those who took part decided to end it.")?;
        }
        writeln!(out)?;
        let [accepted, refused, late, judged] = ["accepted", "refused", "too late", "judged"];
        writeln!(
            out,
            "{:10} {accepted:>9} {refused:>8} {late:>9} {judged:>8} {:>16} {:>16} {:>7} {:>7}  trust",
            "peer", "tokens", "credit", "share", "rating"
        )?;
        for Contributor { peer, credit, share } in &self.contributors {
            let (tokens, amount) = (grouped(credit.tokens), grouped(credit.amount));
            let percent = format!("{:.1} %", share * 100.0);
            let reputation = self.chain.reputation(*peer);
            writeln!(
                out,
                "{:10} {:>9} {:>8} {:>9} {:>8} {tokens:>16} {amount:>16} {percent:>7} {:>+7}  {}",
                peer.short(),
                credit.rounds,
                credit.refused,
                credit.unavailable,
                credit.judged,
                reputation.rating,
                trust(reputation),
            )?;
        }
        if self.contributors.is_empty() {
            writeln!(out, "Nobody has contributed yet.")?;
        }
        for motion in &self.motions {
            writeln!(out)?;
            motion_lines(&mut out, motion)?;
        }
        let Tally { certificates, signatures, judgements, proofs, credit, .. } = self.tally;
        writeln!(out)?;
        writeln!(
            out,
            "Checked: {certificates} certificates, {signatures} signatures, {judgements} judgements, {proofs} proofs of \
             contradiction. Credit in all: {}.",
            grouped(credit)
        )?;
        Ok(())
    }
}

fn peer_object(contributor: &Contributor, reputation: Reputation) -> Result<Value> {
    let mut object = serde_json::to_value(contributor)?;
    object["event"] = "peer".into();
    object["reputation"] = serde_json::to_value(reputation)?;
    Ok(object)
}

fn motion_lines(out: &mut impl Write, motion: &Motion) -> Result<()> {
    let amendment = &motion.amendment;
    writeln!(out, "Amendment {}", motion.id)?;
    writeln!(out, "  {} from round {} on", change(&amendment.change), amendment.effective)?;
    writeln!(out, "  proposed by {} in round {}: {}", motion.by.short(), motion.opened, plain(&amendment.reason))?;
    let approving = motion.ballots.values().filter(|approve| **approve).count();
    let opposing = motion.ballots.len() - approving;
    match motion.outcome {
        None => writeln!(out, "  open until round {}: {approving} for, {opposing} against", amendment.closes)?,
        Some(outcome) => writeln!(
            out,
            "  {} in round {}: {approving} for with {} credit, {opposing} against with {}, of {} that had a say",
            if outcome.accepted { "accepted" } else { "rejected" },
            amendment.closes,
            grouped(outcome.approving),
            grouped(outcome.opposing),
            grouped(outcome.concerned),
        )?,
    }
    for (peer, approve) in &motion.ballots {
        writeln!(out, "    {} {}", peer.short(), if *approve { "for" } else { "against" })?;
    }
    Ok(())
}

/// A change in words that follow on "from round N on".
pub fn change(change: &Change) -> String {
    match change {
        Change::ScaleLearningRate(scale) => {
            format!("learning rates are {:.3} of the recipe's", f64::from(*scale) / 1024.0)
        }
        Change::Stop => "no more rounds".to_owned(),
        Change::RollBack(0) => "go on from the first model".to_owned(),
        Change::RollBack(to) => format!("go on from the model of round {to}"),
        Change::AddSource(source) => {
            format!("on record as a source: {} ({})", plain(&source.name), plain(&source.licence))
        }
    }
}

/// What its audits come to, in words.
fn trust(Reputation { valid, trusted, bans, banned_until, .. }: Reputation) -> String {
    match banned_until {
        Some(round) => format!("banned until round {round}"),
        None if trusted => "trusted".to_owned(),
        None if bans > 0 => format!("back from a ban, {valid} of {ESTABLISHED_ROUNDS} audits"),
        None => format!("new, {valid} of {ESTABLISHED_ROUNDS} audits"),
    }
}

/// With a space between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_read_in_groups_of_three() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1 000", "1 234 567"]);
    }

    #[test]
    fn trust_is_told_in_words() {
        let new = Reputation { valid: 3, ..Reputation::default() };
        assert_eq!(trust(new), "new, 3 of 10 audits");
        assert_eq!(trust(Reputation { valid: 12, trusted: true, ..new }), "trusted");
        assert_eq!(trust(Reputation { bans: 1, ..new }), "back from a ban, 3 of 10 audits");
        assert_eq!(trust(Reputation { bans: 1, banned_until: Some(40), ..new }), "banned until round 40");
    }

    #[test]
    fn changes_are_told_in_words() {
        assert_eq!(change(&Change::ScaleLearningRate(512)), "learning rates are 0.500 of the recipe's");
        assert_eq!(change(&Change::RollBack(50)), "go on from the model of round 50");
    }
}
