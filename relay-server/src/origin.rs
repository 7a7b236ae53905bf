//! Which web sites may open the WebSocket. Browsers always say where a script comes from; native clients say
//! nothing, and any that lie could as well be native.

use axum::http::{HeaderMap, header};

#[derive(Clone, Debug, Default)]
pub struct Origins {
    allowed: Vec<String>,
}

impl Origins {
    /// `allowed`: origins such as `https://example.org`.
    pub fn new(allowed: &[String]) -> Self {
        Self { allowed: allowed.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()).collect() }
    }

    pub fn allow(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else { return true };
        let Ok(origin) = origin.to_str().map(str::to_ascii_lowercase) else { return false };
        if self.allowed.contains(&origin) {
            return true;
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_ascii_lowercase);
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        authority.is_some() && authority == host.as_deref()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn allows(origin: Option<&str>, host: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        Origins::new(&["https://Partner.example/".to_owned()]).allow(&headers)
    }

    #[test]
    fn pages_of_this_relay_native_clients_and_listed_sites_may_connect() {
        assert!(allows(Some("http://localhost:8080"), "localhost:8080"));
        assert!(allows(Some("https://192.168.1.5:8443"), "192.168.1.5:8443"));
        assert!(allows(None, "localhost:8080"));
        assert!(allows(Some("https://partner.example"), "relay.example"));
    }

    #[test]
    fn other_sites_may_not() {
        for origin in ["https://evil.example", "null", "http://localhost:8081", "https://partner.example.evil", ""] {
            assert!(!allows(Some(origin), "localhost:8080"), "{origin}");
        }
    }
}
