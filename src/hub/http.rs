//! Requests: redirects followed by hand, so that the token goes to the Hub alone; failures told apart by whether they may pass.

use std::io::{self, Read};
use std::net::IpAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::http::{HeaderMap, Method, Request, Response, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::access::{self, FileHeaders};
use super::events::{Event, Observer};
use super::{Error, RepoId, Result, Settings};

/// Redirects that are followed in a row.
const MAX_HOPS: usize = 10;
/// The most that is read of an answer that is kept in memory: a listing of a hundred thousand files has some ten megabytes.
const MAX_TEXT: u64 = 1 << 26;

/// Makes requests for one repository.
pub(super) struct Client<'a> {
    agent: Agent,
    pub(super) repo: &'a RepoId,
    pub(super) settings: &'a Settings,
    pub(super) observer: &'a Observer<'a>,
}

/// An answer that is no failure.
pub(super) struct Answer {
    /// What its headers and those of the redirects to it say of a file.
    pub(super) file: FileHeaders,
    pub(super) response: Response<Body>,
}

/// A request that failed.
pub(super) struct Failure {
    pub(super) error: Box<Error>,
    /// The HTTP status, where there was one.
    pub(super) status: Option<u16>,
    /// The Hub's own word for what is wrong, or nothing.
    pub(super) code: String,
    pub(super) retry: Retry,
}

/// Whether a failure may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    /// It stays.
    Never,
    /// It may, but hardly: one more attempt.
    Once,
    /// It may.
    Again,
    /// It does after so many seconds, says the server.
    After(u64),
}

impl<'a> Client<'a> {
    pub(super) fn new(
        repo: &'a RepoId,
        settings: &'a Settings,
        observer: &'a Observer<'a>,
    ) -> Result<Self> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = &settings.certificates {
            let pem = std::fs::read(path).map_err(Error::io(path))?;
            let certificates: Vec<_> = parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            if certificates.is_empty() {
                return Err(Error::io(path)(io::Error::other(
                    "has no certificates in PEM form",
                )));
            }
            tls = tls.root_certs(RootCerts::new_with_certs(&certificates));
        }
        let mut config = Agent::config_builder();
        if origin(&settings.endpoint).is_some_and(|(_, host, _)| is_loopback(&host)) {
            // Whatever proxy the environment names is for what lies beyond this machine.
            config = config.proxy(None);
        }
        let config = config
            .tls_config(tls.build())
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("gemma-xla/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(settings.answer_timeout))
            .timeout_connect(Some(settings.answer_timeout))
            .timeout_recv_response(Some(settings.answer_timeout))
            .timeout_per_read(Some(settings.silence_timeout))
            .timeout_per_write(Some(settings.silence_timeout))
            .max_idle_connections_per_host(settings.workers)
            .build();
        Ok(Self {
            agent: config.into(),
            repo,
            settings,
            observer,
        })
    }

    /// Makes a request once, redirects included. `from` asks for the bytes from there on, and `tag` only if the content is still the same.
    pub(super) fn send(
        &self,
        method: &Method,
        url: &str,
        from: u64,
        tag: Option<&str>,
    ) -> std::result::Result<Answer, Failure> {
        let hub = origin(&self.settings.endpoint);
        let mut url = url.to_owned();
        let mut file = FileHeaders::default();
        for _ in 0..=MAX_HOPS {
            let at_hub = hub.is_some() && origin(&url) == hub;
            let mut request = Request::builder()
                .method(method)
                .uri(&url)
                .header(header::ACCEPT_ENCODING, "identity");
            if let (true, Some(token)) = (at_hub, &self.settings.token) {
                request = request.header(header::AUTHORIZATION, token.header());
            }
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
                if let Some(tag) = tag {
                    request = request.header(header::IF_RANGE, tag);
                }
            }
            let request = request
                .body(())
                .map_err(|e| malformed(&url, &e.to_string()))?;
            let mut response = self
                .agent
                .run(request)
                .map_err(|error| unanswered(&url, error))?;
            let status = response.status();
            file.take(response.headers(), status.is_success(), at_hub);
            if status.is_redirection() {
                let (next, is_relative) = next_hop(&url, response.headers())?;
                if is_relative {
                    // The file has another name at the Hub, and only there is its own ETag said. Python has it so too.
                    file = FileHeaders::default();
                } else if *method == Method::HEAD && file.is_known() {
                    // A file's headers come with the redirect to where its content is: nobody need be asked there.
                    return Ok(Answer { file, response });
                }
                url = next;
                continue;
            }
            if status.is_success() || status.as_u16() == 416 {
                return Ok(Answer { file, response });
            }
            return Err(access::failure(self, &url, at_hub, &mut response));
        }
        Err(malformed(&url, "too many redirects"))
    }

    /// Makes a request until it succeeds or there is no point in more. `what` names it to whoever waits.
    pub(super) fn request(
        &self,
        method: &Method,
        url: &str,
        what: &str,
    ) -> std::result::Result<Answer, Failure> {
        self.persist(what, || self.send(method, url, 0, None))
    }

    /// Asks for JSON.
    pub(super) fn json<T: DeserializeOwned>(&self, url: &str) -> std::result::Result<T, Failure> {
        let text = self.persist(&without_query(url), || {
            let mut answer = self.send(&Method::GET, url, 0, None)?;
            answer
                .response
                .body_mut()
                .with_config()
                .limit(MAX_TEXT)
                .read_to_vec()
                .map_err(|error| unanswered(url, error))
        })?;
        serde_json::from_slice(&text)
            .map_err(|error| malformed(url, &format!("not the JSON that the Hub gives: {error}")))
    }

    fn persist<T>(
        &self,
        what: &str,
        mut attempt: impl FnMut() -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failure> {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(failure) => {
                    failures += 1;
                    if !self.waits_after(what, &failure, failures) {
                        return Err(failure);
                    }
                }
            }
        }
    }

    /// Waits before the next attempt; or says that there is to be none, after so many failures in a row.
    pub(super) fn waits_after(&self, what: &str, failure: &Failure, failures: u32) -> bool {
        let retries = &self.settings.retries;
        let most = match failure.retry {
            Retry::Never => return false,
            Retry::Once => 2.min(retries.attempts),
            Retry::Again | Retry::After(_) => retries.attempts,
        };
        let mut pause = retries.pause(failures);
        if let Retry::After(seconds) = failure.retry {
            let wanted = Duration::from_secs(seconds);
            if wanted > retries.longest_pause {
                return false;
            }
            pause = pause.max(wanted);
        }
        if failures >= most {
            return false;
        }
        (self.observer)(Event::Waiting {
            what,
            why: &failure.error.to_string(),
            pause,
        });
        std::thread::sleep(pause);
        true
    }
}

/// The start of what a failed request's answer says.
pub(super) fn beginning(response: &mut Response<Body>) -> Vec<u8> {
    let mut text = Vec::new();
    // What is said beside the status is a courtesy; where it cannot be read it is not missed.
    let _ = response
        .body_mut()
        .as_reader()
        .take(1 << 14)
        .read_to_end(&mut text);
    text
}

/// A server's answer that cannot be used, and would not be better the next time.
pub(super) fn malformed(url: &str, problem: &str) -> Failure {
    Failure {
        error: Box::new(Error::Answer {
            url: without_query(url),
            problem: problem.to_owned(),
        }),
        status: None,
        code: String::new(),
        retry: Retry::Never,
    }
}

/// A request without an answer, or with one that ended too early.
fn unanswered(url: &str, error: ureq::Error) -> Failure {
    let retry = match &error {
        ureq::Error::HostNotFound => Retry::Once,
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => Retry::Once,
        // Bytes that came and are not what they should be, as a certificate that is not trusted.
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
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        error => error.to_string(),
    };
    Failure {
        error: Box::new(Error::Unreachable {
            url: without_query(url),
            problem,
        }),
        status: None,
        code: String::new(),
        retry,
    }
}

/// Where a redirect leads, and whether it says so without naming a server.
fn next_hop(url: &str, headers: &HeaderMap) -> std::result::Result<(String, bool), Failure> {
    let location = headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| malformed(url, "a redirect to nowhere"))?;
    let is_relative = origin(location).is_none() && !location.starts_with("//");
    match join(url, location).filter(|next| origin(next).is_some()) {
        Some(next) => Ok((next, is_relative)),
        None => Err(malformed(url, "a redirect to no http address")),
    }
}

/// The address that a reference means at another address (RFC 3986, section 5, without dot segments).
fn join(base: &str, reference: &str) -> Option<String> {
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

/// Who answers at an address: scheme, host and port; or nothing where it is no http address.
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

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// An address as messages have it: what stands behind the question mark may be a secret.
pub(super) fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
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
