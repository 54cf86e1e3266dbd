//! Responses: what their headers say about a file, and what failures mean.

use std::io::{self, Read};
use std::time::SystemTime;

use ureq::Body;
use ureq::http::{HeaderMap, Response};

use super::address::without_secrets;
use super::repo::encode_path;
use super::{Error, RepoId, Settings};

/// What headers say about a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FileHeaders {
    /// Its ETag at the Hub, without quotes: the SHA-256 of a large file, the hash of the git blob
    /// of a small one.
    pub(super) etag: Option<String>,
    /// Its size.
    pub(super) size: Option<u64>,
    /// The ETag at the server that has the content, with its quotes, if it is a strong one.
    pub(super) content_tag: Option<String>,
}

impl FileHeaders {
    /// Takes the headers of one more response in a chain of redirects; the first response that has
    /// a value wins. Where the Hub redirects to a mirror without a word on the file, the mirror's
    /// count.
    pub(super) fn take(&mut self, headers: &HeaderMap, success: bool, at_hub: bool) {
        let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim().to_owned());
        let etag = text("etag").filter(|etag| !etag.is_empty());
        if self.etag.is_none() {
            let linked = text("x-linked-etag").filter(|etag| !etag.is_empty());
            let own = || etag.clone().filter(|_| at_hub || success);
            self.etag = linked.or_else(own).map(|etag| bare(&etag));
        }
        if self.size.is_none() {
            // A redirect's own length is not the file's.
            let own = || text("content-length").filter(|_| success);
            let size = text("x-linked-size").or_else(own);
            self.size = size.and_then(|size| size.parse().ok());
        }
        if success {
            self.content_tag = etag.filter(|etag| etag.starts_with('"'));
        }
    }

    /// Whether all is known.
    pub(super) fn is_known(&self) -> bool {
        self.etag.is_some() && self.size.is_some()
    }
}

/// An ETag without the prefix of a weak one and without quotes.
fn bare(etag: &str) -> String {
    let etag = etag.strip_prefix("W/").unwrap_or(etag);
    etag.trim_matches('"').to_owned()
}

/// A successful response.
pub(super) struct FileResponse {
    /// What its headers and those of the redirects to it say about a file.
    pub(super) file: FileHeaders,
    pub(super) response: Response<Body>,
}

/// A request that failed.
pub(super) struct Failure {
    pub(super) error: Box<Error>,
    /// The HTTP status, where there was one.
    pub(super) status: Option<u16>,
    /// The Hub's error code, or nothing.
    pub(super) code: String,
    pub(super) retry: Retry,
}

/// Whether a failure may be transient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// It is permanent.
    Never,
    /// Probably not: one more attempt.
    Once,
    /// It may be.
    Again,
    /// It is, according to the server, which asks for a pause of this many seconds.
    After(u64),
}

/// What an unsuccessful response means.
pub(super) fn failure(
    repo: &RepoId,
    settings: &Settings,
    url: &str,
    at_hub: bool,
    response: &mut Response<Body>,
) -> Failure {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim().to_owned());
    let code = text("x-error-code").unwrap_or_default();
    let said = text("x-error-message").unwrap_or_else(|| said_in(&beginning(response)));
    let detail = one_line(&said);
    let repo = repo.to_string();
    let endpoint = &without_secrets(&settings.endpoint);
    let page = format!("{endpoint}/{}", encode_path(&repo));
    let with_token = settings.token.is_some();
    let wait = text("retry-after").and_then(|wait| seconds(&wait, SystemTime::now()));

    let (error, retry) = match status {
        401 | 403 if at_hub && code == "RepoNotFound" => (
            Error::RepoNotFound {
                repo,
                endpoint: endpoint.clone(),
                page,
                with_token,
            },
            Retry::Never,
        ),
        401 | 403 if at_hub => (
            Error::NoAccess {
                repo,
                page,
                detail: match detail.is_empty() {
                    true => format!("status {status}"),
                    false => format!("status {status}: {detail}"),
                },
                with_token,
            },
            Retry::Never,
        ),
        429 => (
            Error::TooManyRequests {
                url: without_secrets(url),
                wait,
            },
            wait.map_or(Retry::Again, Retry::After),
        ),
        _ => (
            Error::Status {
                url: without_secrets(url),
                status,
                detail,
            },
            match status {
                408 | 500 | 502 | 503 | 504 => wait.map_or(Retry::Again, Retry::After),
                // The address that the Hub redirects to expires; another request gives a new one.
                401 | 403 => Retry::Again,
                _ => Retry::Never,
            },
        ),
    };
    Failure {
        error: Box::new(error),
        status: Some(status),
        code,
        retry,
    }
}

/// The beginning of an unsuccessful response's body.
fn beginning(response: &mut Response<Body>) -> Vec<u8> {
    let mut text = Vec::new();
    // The body only adds details to the status, so an error in reading it is ignored.
    let _ = response
        .body_mut()
        .as_reader()
        .take(1 << 14)
        .read_to_end(&mut text);
    text
}

/// A response that cannot be used; a retry would not help.
pub(super) fn malformed(url: &str, problem: &str) -> Failure {
    Failure {
        error: Box::new(Error::Response {
            url: without_secrets(url),
            problem: problem.to_owned(),
        }),
        status: None,
        code: String::new(),
        retry: Retry::Never,
    }
}

/// A request without a response, or with one that ended too early.
pub(super) fn unanswered(url: &str, error: ureq::Error) -> Failure {
    let retry = match &error {
        ureq::Error::HostNotFound => Retry::Once,
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => Retry::Once,
        // Invalid data, such as a certificate that is not trusted.
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => Retry::Never,
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::ConnectionFailed
        | ureq::Error::Protocol(_) => Retry::Again,
        _ => Retry::Never,
    };
    let problem = match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::HostNotFound => "no such host".to_owned(),
        ureq::Error::Timeout(_) => "no response in time".to_owned(),
        error => error.to_string(),
    };
    Failure {
        error: Box::new(Error::Unreachable {
            url: without_secrets(url),
            problem,
        }),
        status: None,
        code: String::new(),
        retry,
    }
}

/// The message in a response's JSON, if it has the Hub's format.
fn said_in(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Said {
        error: String,
    }
    serde_json::from_slice::<Said>(body).map_or(String::new(), |said| said.error)
}

/// A server's message, short and on one line.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line: String = words
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    match line.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// A `Retry-After` header in seconds: it is a number of seconds, or a date (RFC 9110, section
/// 10.2.3).
fn seconds(text: &str, now: SystemTime) -> Option<u64> {
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(
        date.duration_since(now)
            .map_or(0, |wait| wait.as_secs() + 1),
    )
}

#[cfg(test)]
mod tests {
    use ureq::http::header;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = header::HeaderName::from_static(name);
            (name, header::HeaderValue::from_static(value))
        });
        pairs.collect()
    }

    #[test]
    fn a_large_files_headers_are_those_of_the_redirect() {
        let mut file = FileHeaders::default();
        let redirect = headers(&[
            ("x-linked-etag", "\"abc\""),
            ("x-linked-size", "1000"),
            ("etag", "\"of-the-redirect\""),
            ("content-length", "17"),
        ]);
        file.take(&redirect, false, true);
        assert!(file.is_known());
        file.take(
            &headers(&[("etag", "\"s3-2\""), ("content-length", "999")]),
            true,
            false,
        );
        assert_eq!(file.etag.as_deref(), Some("abc"));
        assert_eq!(file.size, Some(1000));
        assert_eq!(file.content_tag.as_deref(), Some("\"s3-2\""));
    }

    #[test]
    fn a_mirrors_headers_count_where_the_hub_says_nothing() {
        let mut file = FileHeaders::default();
        file.take(&headers(&[("content-length", "0")]), false, true);
        file.take(&headers(&[("etag", "\"of-a-redirect\"")]), false, false);
        let mirror = headers(&[("etag", "\"abc\""), ("content-length", "12")]);
        file.take(&mirror, true, false);
        assert_eq!((file.etag.as_deref(), file.size), (Some("abc"), Some(12)));
    }

    #[test]
    fn a_small_files_headers_are_its_own() {
        let mut file = FileHeaders::default();
        file.take(&headers(&[("content-length", "50")]), false, true);
        file.take(
            &headers(&[("etag", "W/\"def\""), ("content-length", "12")]),
            true,
            true,
        );
        assert_eq!(file.etag.as_deref(), Some("def"));
        assert_eq!(file.size, Some(12));
        assert_eq!(
            file.content_tag, None,
            "a weak tag does not say that bytes are equal"
        );
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Fri, 31 Dec 1999 23:59:00 GMT").unwrap();
        assert_eq!(seconds("17", now), Some(17));
        assert_eq!(seconds("Fri, 31 Dec 1999 23:59:59 GMT", now), Some(60));
        assert_eq!(seconds("Thu, 31 Dec 1998 23:59:59 GMT", now), Some(0));
        assert_eq!(seconds("soon", now), None);
    }

    #[test]
    fn what_servers_say_is_cut_to_a_line() {
        assert_eq!(one_line(" a\n\tb\u{7}  c "), "a b c");
        assert_eq!(one_line(&"x".repeat(500)).chars().count(), 201);
        assert_eq!(said_in(b"{\"error\": \"no\"}"), "no");
        assert_eq!(said_in(b"<html>"), "");
    }
}
