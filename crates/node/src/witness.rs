//! Asks a witness for a cosignature (C2SP `tlog-witness`).

use std::time::Duration;

use reqwest::{StatusCode, Url, header, redirect};
use shoal_ledger::log::{AddCheckpoint, NoteSignature, VerifierKey};
use shoal_wire::limits;

use crate::{NodeError, Trust, http, tls};

/// For the whole answer: a witness that is away must not hold up a log for long.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where a witness is asked, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessAddress {
    /// The submission prefix, with a slash at its end.
    url: Url,
    key: VerifierKey,
}

/// What a witness answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its cosignature.
    Cosigned(NoteSignature),
    /// The last checkpoint of this log that it cosigned has another size than the request says.
    OtherSize(u64),
}

/// Talks to one witness, at the address that the host gave and nowhere else.
#[derive(Clone, Debug)]
pub struct WitnessClient {
    url: Url,
    key: VerifierKey,
    http: reqwest::Client,
}

impl WitnessAddress {
    /// Reads `URL+VKEY`: the submission prefix, a plus sign, and the witness's verifier key.
    pub fn parse(text: &str) -> Result<Self, NodeError> {
        let refused = |why: String| NodeError::Witness { text: text.to_owned(), why };
        let (url, key) = text.split_once('+').ok_or_else(|| refused("it has the form URL+VKEY".to_owned()))?;
        let key = VerifierKey::parse(key).map_err(|error| refused(error.to_string()))?;
        if !key.cosigns() {
            return Err(refused("its key is not a witness's".to_owned()));
        }
        let url = http::parse_relay(url)?.join("add-checkpoint").map_err(|error| refused(error.to_string()))?;
        Ok(Self { url, key })
    }

    pub fn client(&self) -> Result<WitnessClient, NodeError> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(&Trust::System)?)
            .timeout(TIMEOUT)
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|error| NodeError::Tls(error.to_string()))?;
        Ok(WitnessClient { url: self.url.clone(), key: self.key.clone(), http })
    }
}

impl WitnessClient {
    pub fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// Shows a checkpoint. The signature that comes back was checked against the witness's key.
    pub async fn add_checkpoint(&self, request: &AddCheckpoint) -> Result<Answer, NodeError> {
        let unreachable = |error| http::unreachable(&self.url, &error);
        let mut response =
            self.http.post(self.url.clone()).body(request.to_string()).send().await.map_err(unreachable)?;
        let says_size = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/x.tlog.size");
        let status = response.status();
        if status != StatusCode::OK && !(status == StatusCode::CONFLICT && says_size) {
            return Err(http::refused(response).await);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > limits::NOTE_BYTES_MAX {
                return Err(NodeError::TooLarge { url: self.url.to_string(), limit: limits::NOTE_BYTES_MAX as u64 });
            }
            body.extend_from_slice(&chunk);
        }
        let odd = |why: &str| NodeError::Witness { text: self.url.to_string(), why: why.to_owned() };
        let text = String::from_utf8(body).map_err(|_| odd("its answer is no text"))?;
        if status == StatusCode::CONFLICT {
            let size = text.trim_end().parse().map_err(|_| odd("it says no size"))?;
            return Ok(Answer::OtherSize(size));
        }
        let signatures = NoteSignature::parse_lines(&text).map_err(|error| odd(&error.to_string()))?;
        let mut note = request.note.clone();
        // It may have several keys, of which one is known here.
        let ours = signatures.into_iter().find(|signature| note.add(&self.key, signature.clone()).is_ok());
        ours.map(Answer::Cosigned).ok_or_else(|| odd("its answer has no signature by its key that holds"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use shoal_ledger::log::{Cosigner, LogSigner};

    use super::*;

    #[test]
    fn an_address_is_a_url_and_a_witnesss_key() {
        let cosigner = Cosigner::new("witness.example/w1", &[1; 32]).unwrap();
        let address = WitnessAddress::parse(&format!("https://witness.example/w1+{}", cosigner.key())).unwrap();
        assert_eq!(address.url.as_str(), "https://witness.example/w1/add-checkpoint");
        assert_eq!(&address.key, cosigner.key());
        let log = LogSigner::new("log.example", &[1; 32]).unwrap();
        for bad in [
            "https://witness.example".to_owned(),
            cosigner.key().to_string(),
            format!("ftp://witness.example+{}", cosigner.key()),
            format!("https://witness.example+{}", log.key()),
        ] {
            assert!(WitnessAddress::parse(&bad).is_err(), "{bad}");
        }
    }
}
