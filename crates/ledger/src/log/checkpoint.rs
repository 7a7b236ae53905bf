//! Checkpoints (C2SP `tlog-checkpoint`): a log's size and root, as the text of a signed note.

use thiserror::Error;

use super::{LogSigner, Note, NoteError, TreeHash, VerifierKey};

/// The largest size that is read; indices of entries then fit a signed number, too.
const SIZE_MAX: u64 = i64::MAX as u64;

/// A log at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Names the log.
    pub origin: String,
    /// Entries in it.
    pub size: u64,
    pub root: TreeHash,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CheckpointError {
    #[error(transparent)]
    Note(#[from] NoteError),
    #[error("not a checkpoint: {0}")]
    Malformed(&'static str),
    #[error("it is of the log {found}, not of {wanted}")]
    OtherLog { found: String, wanted: String },
}

impl Checkpoint {
    /// The text that is signed: origin, size and root, each a line.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, self.root)
    }

    pub fn sign(&self, signer: &LogSigner) -> Note {
        Note::signed(self.text(), signer)
    }

    /// Reads a text. Further lines, which a log may add and everybody signs, say nothing here.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let wrong = CheckpointError::Malformed;
        let lines: Vec<&str> = text.strip_suffix('\n').ok_or(wrong("its last line has no end"))?.split('\n').collect();
        let [origin, digits, root, ..] = lines[..] else { return Err(wrong("it has fewer than three lines")) };
        if lines.iter().any(|line| line.is_empty()) {
            return Err(wrong("it has empty lines"));
        }
        let size = decimal(digits).ok_or(wrong("its size is no decimal number"))?;
        let root = TreeHash::from_base64(root).ok_or(wrong("its root is not the base64 of 32 bytes"))?;
        Ok(Self { origin: origin.to_owned(), size, root })
    }

    /// Opens a note that must be signed by the log's key and be about the log that the key names.
    pub fn open(note: &Note, key: &VerifierKey) -> Result<Self, CheckpointError> {
        note.verify(key)?;
        let checkpoint = Self::parse(note.text())?;
        if checkpoint.origin == key.name() {
            Ok(checkpoint)
        } else {
            Err(CheckpointError::OtherLog { found: checkpoint.origin, wanted: key.name().to_owned() })
        }
    }
}

/// A size in its one decimal form.
pub(super) fn decimal(digits: &str) -> Option<u64> {
    let size: u64 = digits.parse().ok()?;
    (size <= SIZE_MAX && size.to_string() == digits).then_some(size)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The example of C2SP `tlog-checkpoint`.
    const TEXT: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    #[test]
    fn the_published_example_is_read_and_written() {
        let checkpoint = Checkpoint::parse(TEXT).unwrap();
        assert_eq!((checkpoint.origin.as_str(), checkpoint.size), ("example.com/behind-the-sofa", 20_852_163));
        assert_eq!(checkpoint.text(), TEXT);
        assert_eq!(Checkpoint::parse(&format!("{TEXT}an extension\n")).unwrap(), checkpoint);
    }

    #[test]
    fn a_checkpoint_is_opened_with_its_own_logs_key_only() {
        let signer = LogSigner::new("example.com/behind-the-sofa", &[1; 32]).unwrap();
        let checkpoint = Checkpoint::parse(TEXT).unwrap();
        let note = Note::parse(checkpoint.sign(&signer).to_string().as_bytes()).unwrap();
        assert_eq!(Checkpoint::open(&note, signer.key()).unwrap(), checkpoint);
        let other = LogSigner::new("example.com/behind-the-sofa", &[2; 32]).unwrap();
        assert!(matches!(Checkpoint::open(&note, other.key()), Err(CheckpointError::Note(NoteError::Unsigned(_)))));
        let renamed = LogSigner::new("example.com/armchair", &[1; 32]).unwrap();
        let note = checkpoint.sign(&renamed);
        assert!(matches!(Checkpoint::open(&note, renamed.key()), Err(CheckpointError::OtherLog { .. })));
    }

    #[test]
    fn texts_that_are_none_are_refused() {
        for text in [
            "",
            "\n",
            "a\n1\n",
            &TEXT[..TEXT.len() - 1],
            &TEXT.replace("20852163", "020852163"),
            &TEXT.replace("20852163", "+1"),
            &TEXT.replace("20852163", ""),
            &TEXT.replace("20852163", "9223372036854775808"),
            &TEXT.replace("CsU", "Cs"),
            &TEXT.replace("q2I=", "q2J="),
            &format!("{TEXT}\n"),
            &format!("\n{TEXT}"),
        ] {
            assert!(Checkpoint::parse(text).is_err(), "{text}");
        }
    }
}
