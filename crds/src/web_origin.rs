//! Origins of web pages, which a spec and the program's command line name.

use url::Url;

/// Whether a text is an origin as browsers send it: a scheme, a host, and a port other than the scheme's default one, in the one
/// spelling that browsers give them.
pub fn is_web_origin(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| url.origin().ascii_serialization() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for text in ["https://portal.example.org", "http://127.0.0.1:8080", "http://[::1]:8080"] {
            assert!(is_web_origin(text), "{text}");
        }
        for text in [
            "*",
            "null",
            "portal.example.org",
            "https://Portal.example.org",
            "https://portal.example.org/",
            "https://portal.example.org:443",
            "https://portal.example.org?a",
            "http://127.1",
        ] {
            assert!(!is_web_origin(text), "{text}");
        }
    }
}
