//! Signed notes (C2SP `signed-note`): a text, and lines that sign it. Logs sign with Ed25519 (type 0x01); witnesses with
//! the timestamped cosignature of C2SP `tlog-cosignature` (type 0x04).
//!
//! These signatures are over the note's own bytes, as other tools expect, and not under one of
//! [`shoal_wire::sign`]'s labels. So the keys here sign notes and nothing else.

use core::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{SIGNATURE_LENGTH, Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use shoal_wire::limits::{NOTE_BYTES_MAX, NOTE_KEY_NAME_BYTES_MAX, NOTE_SIGNATURES_MAX};
use thiserror::Error;

const ID_BYTES: usize = 4;
const DASH: &str = "\u{2014} ";
/// The latest time that a cosignature may name, in seconds since 1970.
const TIME_S_MAX: u64 = i64::MAX as u64;

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NoteError {
    #[error("a note of {0} bytes is larger than the {NOTE_BYTES_MAX} that are read")]
    TooLarge(usize),
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    #[error("not a verifier key: {0}")]
    Key(&'static str),
    #[error("{0} is no name for a key: it must have no spaces and no plus sign")]
    Name(String),
    #[error("{0} has not signed it")]
    Unsigned(String),
    #[error("the signature of {0} does not hold")]
    BadSignature(String),
}

/// What a key's signatures are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// The text.
    Log = 0x01,
    /// A time and the text.
    Witness = 0x04,
}

/// A public key with its name, as `<name>+<id>+<base64 of type and key>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: [u8; ID_BYTES],
    kind: Kind,
    key: VerifyingKey,
}

impl VerifierKey {
    fn new(name: &str, kind: Kind, key: VerifyingKey) -> Result<Self, NoteError> {
        check_name(name)?;
        let encoded = [&[kind as u8], &key.as_bytes()[..]].concat();
        let hash = Sha256::new().chain_update(name).chain_update(b"\n").chain_update(encoded).finalize();
        let id = [hash[0], hash[1], hash[2], hash[3]];
        Ok(Self { name: name.to_owned(), id, kind, key })
    }

    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let form = NoteError::Key("it has the form NAME+ID+KEY");
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else { return Err(form) };
        let encoded = STANDARD.decode(key).map_err(|_| NoteError::Key("its key is no base64"))?;
        let (kind, key) = encoded.split_first().ok_or(form)?;
        let kind = match kind {
            0x01 => Kind::Log,
            0x04 => Kind::Witness,
            _ => return Err(NoteError::Key("its type is neither Ed25519 (1) nor an Ed25519 cosignature (4)")),
        };
        let key: &[u8; 32] = key.try_into().map_err(|_| NoteError::Key("an Ed25519 key has 32 bytes"))?;
        let weak = NoteError::Key("its key is no usable Ed25519 key");
        let key = VerifyingKey::from_bytes(key).ok().filter(|key| !key.is_weak()).ok_or(weak)?;
        let parsed = Self::new(name, kind, key)?;
        if parsed.id_hex() == id { Ok(parsed) } else { Err(NoteError::Key("its id does not belong to name and key")) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a witness's.
    pub fn cosigns(&self) -> bool {
        self.kind == Kind::Witness
    }

    fn id_hex(&self) -> String {
        format!("{:08x}", u32::from_be_bytes(self.id))
    }

    /// Checks one signature; the time that a cosignature names, in seconds since 1970.
    fn check(&self, text: &str, signature: &[u8]) -> Result<Option<u64>, NoteError> {
        let bad = || NoteError::BadSignature(self.name.clone());
        let (time_s, signature) = match self.kind {
            Kind::Log => (None, signature),
            Kind::Witness => {
                let (time, signature) = signature.split_first_chunk::<8>().ok_or_else(bad)?;
                (Some(u64::from_be_bytes(*time)), signature)
            }
        };
        if time_s.is_some_and(|time| time > TIME_S_MAX) {
            return Err(bad());
        }
        let message = time_s.map_or_else(|| text.to_owned(), |time_s| cosigned(text, time_s));
        let signature: &[u8; SIGNATURE_LENGTH] = signature.try_into().map_err(|_| bad())?;
        self.key.verify_strict(message.as_bytes(), &Signature::from_bytes(signature)).map_err(|_| bad())?;
        Ok(time_s)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoded = [&[self.kind as u8], &self.key.as_bytes()[..]].concat();
        write!(f, "{}+{}+{}", self.name, self.id_hex(), STANDARD.encode(encoded))
    }
}

fn check_name(name: &str) -> Result<(), NoteError> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if name.is_empty() || name.len() > NOTE_KEY_NAME_BYTES_MAX || name.contains(odd) {
        return Err(NoteError::Name(format!("{name:?}")));
    }
    Ok(())
}

/// What a cosignature is over.
fn cosigned(text: &str, time_s: u64) -> String {
    format!("cosignature/v1\ntime {time_s}\n{text}")
}

/// A log's key, which signs the text of its checkpoints.
#[derive(Clone)]
pub struct LogSigner {
    secret: SigningKey,
    key: VerifierKey,
}

impl LogSigner {
    pub fn new(name: &str, secret: &[u8; 32]) -> Result<Self, NoteError> {
        let secret = SigningKey::from_bytes(secret);
        Ok(Self { key: VerifierKey::new(name, Kind::Log, secret.verifying_key())?, secret })
    }

    pub fn key(&self) -> &VerifierKey {
        &self.key
    }

    pub fn sign(&self, text: &str) -> NoteSignature {
        NoteSignature::by(&self.key, self.secret.sign(text.as_bytes()).to_bytes().to_vec())
    }
}

impl fmt::Debug for LogSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogSigner({})", self.key)
    }
}

/// A witness's key, which says when it saw a checkpoint that follows all it saw before.
#[derive(Clone)]
pub struct Cosigner {
    secret: SigningKey,
    key: VerifierKey,
}

impl Cosigner {
    pub fn new(name: &str, secret: &[u8; 32]) -> Result<Self, NoteError> {
        let secret = SigningKey::from_bytes(secret);
        Ok(Self { key: VerifierKey::new(name, Kind::Witness, secret.verifying_key())?, secret })
    }

    pub fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// `time_s`: seconds since 1970.
    pub(super) fn sign(&self, text: &str, time_s: u64) -> NoteSignature {
        let time_s = time_s.min(TIME_S_MAX);
        let signature = self.secret.sign(cosigned(text, time_s).as_bytes()).to_bytes();
        NoteSignature::by(&self.key, [&time_s.to_be_bytes()[..], &signature].concat())
    }
}

impl fmt::Debug for Cosigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cosigner({})", self.key)
    }
}

/// One line under a note. Nothing is known of it until a key checks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    name: String,
    id: [u8; ID_BYTES],
    signature: Vec<u8>,
}

impl NoteSignature {
    fn by(key: &VerifierKey, signature: Vec<u8>) -> Self {
        Self { name: key.name.clone(), id: key.id, signature }
    }

    /// Reads a line without its end.
    fn parse(line: &str) -> Result<Self, NoteError> {
        let form = NoteError::Malformed("a signature has the form `\u{2014} NAME BASE64`");
        let (name, encoded) = line.strip_prefix(DASH).and_then(|line| line.split_once(' ')).ok_or(form.clone())?;
        check_name(name)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| form.clone())?;
        let (id, signature) = bytes.split_first_chunk::<ID_BYTES>().ok_or(form.clone())?;
        if signature.is_empty() {
            return Err(form);
        }
        Ok(Self { name: name.to_owned(), id: *id, signature: signature.to_vec() })
    }

    /// Reads lines such as a witness answers with.
    pub fn parse_lines(text: &str) -> Result<Vec<Self>, NoteError> {
        if text.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLarge(text.len()));
        }
        let lines = text.strip_suffix('\n').ok_or(NoteError::Malformed("its last line has no end"))?;
        if lines.split('\n').count() > NOTE_SIGNATURES_MAX {
            return Err(NoteError::Malformed("it has too many signatures"));
        }
        lines.split('\n').map(Self::parse).collect()
    }

    fn is_by(&self, key: &VerifierKey) -> bool {
        self.name == key.name && self.id == key.id
    }
}

/// A line with its end.
impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoded = STANDARD.encode([&self.id[..], &self.signature].concat());
        writeln!(f, "{DASH}{} {encoded}", self.name)
    }
}

/// A text and the signatures under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Ends with a line's end.
    text: String,
    signatures: Vec<NoteSignature>,
}

impl Note {
    /// A note with one signature. `text` is lines, each with its end.
    pub fn signed(text: String, signer: &LogSigner) -> Self {
        let signature = signer.sign(&text);
        Self { text, signatures: vec![signature] }
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLarge(bytes.len()));
        }
        let note = core::str::from_utf8(bytes).map_err(|_| NoteError::Malformed("it is no UTF-8"))?;
        if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(NoteError::Malformed("it has control characters"));
        }
        let end = note.rfind("\n\n").ok_or(NoteError::Malformed("no empty line parts text and signatures"))?;
        let (text, signatures) = (&note[..=end], &note[end + 2..]);
        Ok(Self { text: text.to_owned(), signatures: NoteSignature::parse_lines(signatures)? })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Checks what a known key signed. Signatures of others are passed over, as the specification wants; one that claims
    /// to be of this key and is wrong spoils the note. Returns the time in seconds since 1970 for a witness's key.
    pub fn verify(&self, key: &VerifierKey) -> Result<Option<u64>, NoteError> {
        let mut found = Err(NoteError::Unsigned(key.name.clone()));
        for signature in self.signatures.iter().filter(|signature| signature.is_by(key)) {
            found = Ok(key.check(&self.text, &signature.signature)?);
        }
        found
    }

    /// Adds a cosignature, in place of an older one by the same key, after checking it.
    pub fn add(&mut self, key: &VerifierKey, signature: NoteSignature) -> Result<(), NoteError> {
        if !signature.is_by(key) {
            return Err(NoteError::Unsigned(key.name.clone()));
        }
        key.check(&self.text, &signature.signature)?;
        self.signatures.retain(|other| !other.is_by(key));
        self.signatures.push(signature);
        Ok(())
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| write!(f, "{signature}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// The example of C2SP `signed-note`.
    const KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXpp\
        zi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

    fn signer() -> LogSigner {
        LogSigner::new("log.example", &[1; 32]).unwrap()
    }

    fn witness() -> Cosigner {
        Cosigner::new("witness.example/w1", &[2; 32]).unwrap()
    }

    fn cosigned_note() -> Note {
        let mut note = Note::signed("log.example\n5\nroot\n".to_owned(), &signer());
        let signature = witness().sign(note.text(), 1_679_315_147);
        note.add(witness().key(), signature).unwrap();
        note
    }

    #[test]
    fn the_published_example_verifies_and_is_written_as_it_was() {
        let (key, note) = (VerifierKey::parse(KEY).unwrap(), Note::parse(NOTE.as_bytes()).unwrap());
        assert_eq!((key.to_string().as_str(), note.to_string().as_str()), (KEY, NOTE));
        assert_eq!(note.text(), "This is an example message.\n");
        assert_eq!(note.verify(&key), Ok(None));
        let other = Note::parse(NOTE.replace("example message", "example massage").as_bytes()).unwrap();
        assert_eq!(other.verify(&key), Err(NoteError::BadSignature("example.com/foo".to_owned())));
    }

    #[test]
    fn a_cosignature_is_over_the_time_and_the_text() {
        let note = Note::parse(cosigned_note().to_string().as_bytes()).unwrap();
        assert_eq!(note.verify(signer().key()), Ok(None));
        assert_eq!(note.verify(witness().key()), Ok(Some(1_679_315_147)));
        let message = "cosignature/v1\ntime 1679315147\nlog.example\n5\nroot\n";
        let expected = SigningKey::from_bytes(&[2; 32]).sign(message.as_bytes()).to_bytes();
        assert_eq!(note.signatures[1].signature, [&1_679_315_147_u64.to_be_bytes()[..], &expected].concat());
        let mut later = note.clone();
        later.signatures[1].signature[7] ^= 1;
        assert!(matches!(later.verify(witness().key()), Err(NoteError::BadSignature(_))));
        assert_eq!(later.verify(signer().key()), Ok(None), "another's bad signature spoils nothing");
    }

    #[test]
    fn a_key_that_shares_only_the_name_or_the_id_is_passed_over() {
        let namesake = LogSigner::new("log.example", &[3; 32]).unwrap();
        assert_eq!(cosigned_note().verify(namesake.key()), Err(NoteError::Unsigned("log.example".to_owned())));
        let renamed = LogSigner::new("other.example", &[1; 32]).unwrap();
        assert_ne!(renamed.key().id, signer().key().id);
        let as_witness = Cosigner::new("log.example", &[1; 32]).unwrap();
        assert_ne!(as_witness.key().id, signer().key().id, "the type enters the id");
        assert!(cosigned_note().verify(as_witness.key()).is_err());
    }

    #[test]
    fn a_second_cosignature_takes_the_place_of_the_first_and_a_wrong_one_is_not_added() {
        let mut note = cosigned_note();
        let again = witness().sign(note.text(), 1_679_315_200);
        note.add(witness().key(), again).unwrap();
        assert_eq!((note.signatures.len(), note.verify(witness().key())), (2, Ok(Some(1_679_315_200))));
        let about_another = witness().sign("log.example\n6\nroot\n", 1_679_315_300);
        assert!(note.add(witness().key(), about_another).is_err());
        assert_eq!(note.verify(witness().key()), Ok(Some(1_679_315_200)));
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        for text in [
            "",
            "a",
            "a+b",
            "a+00000000+",
            "a+00000000+AQ==",
            "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
            &KEY.replace("foo", "fop"),
            &KEY.replace("530d", "530D"),
            &KEY.replace("+Aek", "+Auk"),
            &format!("{KEY}A"),
            &KEY.replace("example", "exa mple"),
        ] {
            assert!(VerifierKey::parse(text).is_err(), "{text}");
        }
        // A key of small order, whose signatures hold for many texts.
        let weak = format!("a+00000000+{}", STANDARD.encode([&[1][..], &[0; 32]].concat()));
        let refused = NoteError::Key("its key is no usable Ed25519 key");
        assert_eq!(VerifierKey::parse(&weak), Err(refused));
        let long = "n".repeat(NOTE_KEY_NAME_BYTES_MAX + 1);
        assert!(LogSigner::new(&long, &[1; 32]).is_err());
    }

    #[test]
    fn notes_that_are_none_or_too_large_are_refused() {
        let line = NOTE.split_once("\n\n").unwrap().1;
        for text in [
            String::new(),
            "text\n".to_owned(),
            "text\n\n".to_owned(),
            NOTE.trim_end().to_owned(),
            format!("text\n{line}"),
            NOTE.replace("\u{2014} ", "- "),
            NOTE.replace("Uw2Q", "Uw2*"),
            NOTE.replace(" is ", "\tis "),
            format!("{NOTE}\n"),
            "text\n\n\u{2014} a AAAAAA==\n".to_owned(),
            format!("text\n\n{}", line.repeat(NOTE_SIGNATURES_MAX + 1)),
            "t".repeat(NOTE_BYTES_MAX + 1),
        ] {
            assert!(Note::parse(text.as_bytes()).is_err(), "{}", &text[..text.len().min(60)]);
        }
        assert!(Note::parse(b"\xff\n\n").is_err());
        let many = format!("text\n\n{}", line.repeat(NOTE_SIGNATURES_MAX));
        assert_eq!(Note::parse(many.as_bytes()).unwrap().signatures.len(), NOTE_SIGNATURES_MAX);
        let parted = format!("a\n\nb\n\n{line}");
        assert_eq!(Note::parse(parted.as_bytes()).unwrap().text(), "a\n\nb\n");
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_as_it_was(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..400_usize) {
            let mut note = cosigned_note().to_string().into_bytes();
            let at = at % note.len();
            note.splice(at..(at + bytes.len()).min(note.len()), bytes);
            if let Ok(read) = Note::parse(&note) {
                prop_assert_eq!(read.to_string().into_bytes(), note);
            }
        }

        #[test]
        fn any_changed_byte_of_a_signed_text_is_found(at in 0..16_usize, bit in 0..7_u8) {
            let mut bytes = cosigned_note().to_string().into_bytes();
            bytes[at] ^= 1 << bit;
            let holds = Note::parse(&bytes).is_ok_and(|note| note.verify(signer().key()).is_ok());
            prop_assert!(!holds);
        }
    }
}
