//! A witness's decisions (C2SP `tlog-witness`): it cosigns a checkpoint of a log that it knows when it follows from the
//! last one that it cosigned, so that a log cannot show one history here and another there.
//!
//! In two steps, for what was cosigned must not be forgotten: [`Witness::check`] says what to remember, the shell stores
//! it if what it remembered is still the same, and only then asks for the cosignature ([`Acceptance::cosign`]).

use core::fmt;
use std::collections::BTreeMap;

use shoal_wire::limits::{ADD_CHECKPOINT_BYTES_MAX, PROOF_HASHES_MAX};
use thiserror::Error;

use super::{
    Checkpoint, Cosigner, Note, NoteSignature, TreeHash, VerifierKey, checkpoint::decimal, verify_consistency,
};

/// A request: "cosign this checkpoint, which follows the one of size `old`, as the proof shows".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    pub old: u64,
    pub proof: Vec<TreeHash>,
    pub note: Note,
}

/// The last checkpoint of a log that a witness cosigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub size: u64,
    pub root: TreeHash,
}

/// Why a witness does not cosign.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    #[error("the request is not as C2SP tlog-witness has it: {0}")]
    Malformed(String),
    #[error("the log {0:?} is not known to this witness")]
    UnknownLog(String),
    #[error("the log's key has not signed the checkpoint")]
    Unsigned,
    #[error("the old size is larger than the checkpoint's")]
    Backwards,
    #[error("the last checkpoint that this witness cosigned has size {size}")]
    OtherSize { size: u64 },
    #[error("another root of size {size} was cosigned: the log shows two histories")]
    OtherRoot { size: u64 },
    #[error("the checkpoint does not follow from the last one: {0}")]
    Inconsistent(super::ProofError),
}

impl Refusal {
    /// The status of the HTTP answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) | Self::Backwards => 400,
            Self::Unsigned => 403,
            Self::UnknownLog(_) => 404,
            Self::OtherSize { .. } | Self::OtherRoot { .. } => 409,
            Self::Inconsistent(_) => 422,
        }
    }

    /// The size that an answer of status 409 tells.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::OtherSize { size } | Self::OtherRoot { size } => Some(*size),
            _ => None,
        }
    }

    /// Whether a log's own signature proves that it shows more than one history.
    pub fn accuses(&self) -> bool {
        matches!(self, Self::OtherRoot { .. } | Self::Inconsistent(_))
    }
}

impl AddCheckpoint {
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let wrong = |why: &str| Refusal::Malformed(why.to_owned());
        if bytes.len() > ADD_CHECKPOINT_BYTES_MAX {
            return Err(wrong("it is too large"));
        }
        let text = core::str::from_utf8(bytes).map_err(|_| wrong("it is no UTF-8"))?;
        let (head, note) = text.split_once("\n\n").ok_or_else(|| wrong("no empty line parts proof and checkpoint"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| decimal(line.strip_prefix("old ")?));
        let old = old.ok_or_else(|| wrong("its first line is not `old SIZE`"))?;
        let mut proof = Vec::new();
        for line in lines {
            if proof.len() == PROOF_HASHES_MAX {
                return Err(wrong("its proof has too many lines"));
            }
            proof.push(TreeHash::from_base64(line).ok_or_else(|| wrong("a line of its proof is no hash"))?);
        }
        let note = Note::parse(note.as_bytes()).map_err(|error| Refusal::Malformed(error.to_string()))?;
        Ok(Self { old, proof, note })
    }

    /// Names the log, before anything is checked.
    pub fn origin(&self) -> &str {
        self.note.text().split('\n').next().unwrap_or_default()
    }
}

/// The body of the HTTP request.
impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.note)
    }
}

/// The logs that a witness follows, and its key.
#[derive(Clone, Debug)]
pub struct Witness {
    logs: BTreeMap<String, Vec<VerifierKey>>,
    signer: Cosigner,
}

/// A checkpoint that may be cosigned once it is stored.
#[derive(Clone, Debug)]
pub struct Acceptance {
    origin: String,
    before: Option<Seen>,
    after: Seen,
    note: Note,
}

impl Witness {
    /// Follows the logs that these keys name.
    pub fn new(signer: Cosigner, keys: impl IntoIterator<Item = VerifierKey>) -> Self {
        let mut logs: BTreeMap<String, Vec<VerifierKey>> = BTreeMap::new();
        for key in keys {
            logs.entry(key.name().to_owned()).or_default().push(key);
        }
        Self { logs, signer }
    }

    pub fn key(&self) -> &VerifierKey {
        self.signer.key()
    }

    /// Checks a request against the last checkpoint of its log that was cosigned.
    pub fn check(&self, request: &AddCheckpoint, last: Option<Seen>) -> Result<Acceptance, Refusal> {
        let origin = request.origin();
        let keys = self.logs.get(origin).ok_or_else(|| Refusal::UnknownLog(origin.to_owned()))?;
        if !keys.iter().any(|key| request.note.verify(key).is_ok()) {
            return Err(Refusal::Unsigned);
        }
        let Checkpoint { origin, size, root } =
            Checkpoint::parse(request.note.text()).map_err(|error| Refusal::Malformed(error.to_string()))?;
        if request.old > size {
            return Err(Refusal::Backwards);
        }
        let before = last.unwrap_or(Seen { size: 0, root: super::empty_root() });
        if request.old != before.size {
            return Err(Refusal::OtherSize { size: before.size });
        }
        if size == before.size && root != before.root {
            return Err(Refusal::OtherRoot { size });
        }
        verify_consistency(before.size, before.root, size, root, &request.proof).map_err(Refusal::Inconsistent)?;
        Ok(Acceptance { origin, before: last, after: Seen { size, root }, note: request.note.clone() })
    }
}

impl Acceptance {
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// What must still be remembered of the log when [`Self::after`] takes its place, in one step.
    pub fn before(&self) -> Option<Seen> {
        self.before
    }

    /// What is to be remembered from now on.
    pub fn after(&self) -> Seen {
        self.after
    }

    /// The checkpoint, as the log signed it.
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// The cosignature, for a checkpoint that is stored. `time_s`: seconds since 1970.
    pub fn cosign(&self, witness: &Witness, time_s: u64) -> NoteSignature {
        witness.signer.sign(self.note.text(), time_s)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::log::{LogSigner, ProofError, Tree, leaf_hash};

    const ORIGIN: &str = "log.example/run";

    fn log_key() -> LogSigner {
        LogSigner::new(ORIGIN, &[1; 32]).unwrap()
    }

    fn witness() -> Witness {
        let signer = Cosigner::new("witness.example", &[2; 32]).unwrap();
        Witness::new(signer, [log_key().key().clone()])
    }

    /// A log that differs from that of another branch from entry 5 on.
    fn tree(branch: u8, size: u8) -> Tree {
        let mut tree = Tree::default();
        (0..size).for_each(|number| tree.push(leaf_hash(&[number, if number < 5 { 0 } else { branch }])));
        tree
    }

    fn request(tree: &Tree, old: u64, size: u64) -> AddCheckpoint {
        let root = tree.root_at(size).unwrap();
        let note = Checkpoint { origin: ORIGIN.to_owned(), size, root }.sign(&log_key());
        AddCheckpoint { old, proof: tree.consistency(old, size).unwrap_or_default(), note }
    }

    fn seen(tree: &Tree, size: u64) -> Seen {
        Seen { size, root: tree.root_at(size).unwrap() }
    }

    #[test]
    fn a_checkpoint_that_follows_is_cosigned_with_the_time() {
        let (tree, witness) = (tree(0, 9), witness());
        for (last, old, size) in
            [(None, 0, 4), (Some(seen(&tree, 4)), 4, 9), (Some(seen(&tree, 9)), 9, 9), (None, 0, 0)]
        {
            let asked = request(&tree, old, size);
            let received = AddCheckpoint::parse(asked.to_string().as_bytes()).unwrap();
            assert_eq!(received, asked);
            let accepted = witness.check(&received, last).unwrap();
            assert_eq!((accepted.before(), accepted.origin()), (last, ORIGIN));
            assert_eq!(accepted.after(), seen(&tree, size));
            let mut note = accepted.note().clone();
            let lines = accepted.cosign(&witness, 1_700_000_000).to_string();
            let [signature] = &NoteSignature::parse_lines(&lines).unwrap()[..] else { panic!("{lines}") };
            note.add(witness.key(), signature.clone()).unwrap();
            assert_eq!(note.verify(witness.key()), Ok(Some(1_700_000_000)));
            assert_eq!(Checkpoint::open(&note, log_key().key()).unwrap().size, size);
        }
    }

    #[test]
    fn a_split_view_is_refused_at_the_same_size_and_at_a_larger_one() {
        let (ours, theirs, witness) = (tree(0, 9), tree(1, 12), witness());
        let last = Some(seen(&ours, 8));
        let same = witness.check(&request(&theirs, 8, 8), last).unwrap_err();
        assert_eq!((same.clone(), same.status(), same.size()), (Refusal::OtherRoot { size: 8 }, 409, Some(8)));
        let larger = witness.check(&request(&theirs, 8, 12), last).unwrap_err();
        assert_eq!((larger.clone(), larger.status()), (Refusal::Inconsistent(ProofError::Root), 422));
        assert!(same.accuses() && larger.accuses());
        // Without proof, and with the proof of what it cosigned before they parted.
        for proof in [vec![], theirs.consistency(4, 12).unwrap()] {
            let asked = AddCheckpoint { proof, ..request(&theirs, 8, 12) };
            assert_eq!(witness.check(&asked, last).unwrap_err().status(), 422);
        }
    }

    #[test]
    fn whoever_does_not_know_the_last_size_is_told_it() {
        let (tree, witness) = (tree(0, 9), witness());
        for (last, old, size) in
            [(Some(seen(&tree, 6)), 0, 9), (Some(seen(&tree, 6)), 5, 9), (Some(seen(&tree, 9)), 4, 8), (None, 2, 9)]
        {
            let refusal = witness.check(&request(&tree, old, size), last).unwrap_err();
            assert_eq!((refusal.status(), refusal.size()), (409, Some(last.map_or(0, |last| last.size))));
            assert!(!refusal.accuses());
        }
        let asked = AddCheckpoint { old: 9, ..request(&tree, 4, 8) };
        assert_eq!(witness.check(&asked, Some(seen(&tree, 9))).unwrap_err(), Refusal::Backwards);
        assert_eq!(Refusal::Backwards.status(), 400);
    }

    #[test]
    fn unknown_logs_and_unsigned_checkpoints_are_refused_before_anything_else() {
        let (tree, witness) = (tree(0, 4), witness());
        let root = tree.root_at(4).unwrap();
        let signed_by = |origin: &str, name: &str, secret: u8| {
            let signer = LogSigner::new(name, &[secret; 32]).unwrap();
            let note = Checkpoint { origin: origin.to_owned(), size: 4, root }.sign(&signer);
            witness.check(&AddCheckpoint { old: 0, proof: vec![], note }, None).unwrap_err()
        };
        assert_eq!(signed_by("other.example", ORIGIN, 1).status(), 404);
        assert_eq!(signed_by(ORIGIN, ORIGIN, 9), Refusal::Unsigned);
        assert_eq!(signed_by(ORIGIN, "other.example", 1).status(), 403);
        let note = Note::signed(format!("{ORIGIN}\nfour\n"), &log_key());
        let asked = AddCheckpoint { old: 0, proof: vec![], note };
        assert_eq!(witness.check(&asked, None).unwrap_err().status(), 400);
    }

    #[test]
    fn requests_of_another_form_are_refused() {
        let asked = request(&tree(0, 9), 3, 9);
        let text = asked.to_string();
        let many = AddCheckpoint { proof: vec![TreeHash([0; 32]); PROOF_HASHES_MAX + 1], ..asked.clone() };
        for bad in [
            String::new(),
            text.replacen("old 3", "old 03", 1),
            text.replacen("old 3", "new 3", 1),
            text.replacen("old 3", "old", 1),
            text.replacen("old 3\n", "old 3\n!\n", 1),
            text.replacen("\n\n", "\n", 1),
            many.to_string(),
            format!("{text}{}", "\u{2014} a AAAAAAA=\n".repeat(20_000)),
        ] {
            let refusal = AddCheckpoint::parse(bad.as_bytes()).unwrap_err();
            assert_eq!(refusal.status(), 400, "{}", &bad[..bad.len().min(80)]);
        }
        let full = AddCheckpoint { proof: vec![TreeHash([0; 32]); PROOF_HASHES_MAX], ..asked };
        assert_eq!(AddCheckpoint::parse(full.to_string().as_bytes()).unwrap(), full);
    }

    proptest! {
        #[test]
        fn any_request_that_is_read_is_written_so(bytes in prop::collection::vec(any::<u8>(), 0..60), at in 0..300_usize) {
            let mut text = request(&tree(0, 9), 3, 9).to_string().into_bytes();
            let at = at % text.len();
            text.splice(at..(at + bytes.len()).min(text.len()), bytes);
            if let Ok(read) = AddCheckpoint::parse(&text) {
                prop_assert_eq!(read.to_string().into_bytes(), text);
            }
        }
    }
}
