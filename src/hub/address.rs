//! Addresses: which server one names, and what a reference resolves to.

use std::net::IpAddr;

use ureq::http::Uri;

/// The address that a reference resolves to at another address (RFC 3986, section 5, without dot
/// segments).
pub(super) fn join(base: &str, reference: &str) -> Option<String> {
    let reference = reference.split('#').next().unwrap_or_default();
    if reference.contains("://") && origin(reference).is_some() {
        return Some(reference.to_owned());
    }
    let (scheme, rest) = base.split_once("://")?;
    if let Some(authority) = reference.strip_prefix("//") {
        return Some(format!("{scheme}://{authority}"));
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if reference.starts_with('/') {
        return Some(format!("{scheme}://{authority}{reference}"));
    }
    let path = path.split('?').next().unwrap_or_default();
    let folder = path
        .rfind('/')
        .and_then(|end| path.get(..=end))
        .unwrap_or("/");
    Some(format!("{scheme}://{authority}{folder}{reference}"))
}

/// The origin of an address: scheme, host and port; none where it is not an http address.
pub(super) fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let port = match uri.scheme_str()? {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    Some((
        uri.scheme_str()?.to_owned(),
        uri.host()?.to_ascii_lowercase(),
        uri.port_u16().unwrap_or(port),
    ))
}

pub(super) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// An address for messages: the query and the user's part may contain a secret.
pub(super) fn without_secrets(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_joined_to_their_base() {
        let base = "http://hub:80/a/b?c=d/e";
        for (reference, joined) in [
            ("https://cdn/x?y", "https://cdn/x?y"),
            ("//cdn/x", "http://cdn/x"),
            ("/x#part", "http://hub:80/x"),
            ("x", "http://hub:80/a/x"),
            ("?url=https://y", "http://hub:80/a/?url=https://y"),
        ] {
            assert_eq!(
                join(base, reference).as_deref(),
                Some(joined),
                "{reference}"
            );
        }
        assert_eq!(join("http://hub", "x").as_deref(), Some("http://hub/x"));
    }

    #[test]
    fn addresses_are_shown_without_secrets() {
        for (url, shown) in [
            ("https://hub/a?token=x", "https://hub/a"),
            ("https://ada:pass@hub:80/a@b", "https://hub:80/a@b"),
            ("https://a@b@hub", "https://hub"),
            ("hub?x", "hub"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }

    #[test]
    fn this_machine_is_known() {
        for host in ["localhost", "127.0.0.1", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["hub", "127.0.0.1.example", "10.0.0.1", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("http://Hub/x"), origin("http://hub:80"));
        assert_ne!(origin("http://hub:81"), origin("http://hub"));
        assert_ne!(origin("https://hub"), origin("http://hub"));
        assert_ne!(origin("http://hub.evil.example"), origin("http://hub"));
        assert_ne!(
            origin("http://evil@hub:80").map(|o| o.1),
            Some("evil".to_owned())
        );
        for none in ["", "hub", "ftp://hub", "http://", "file:///etc"] {
            assert_eq!(origin(none), None, "{none}");
        }
    }
}
