//! Requests: redirects are followed here, so that the token is sent to the Hub alone, and transient
//! failures are retried.

use std::io;
use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::http::{HeaderMap, Method, Request, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::address::{is_loopback, join, origin, without_secrets};
use super::events::{Event, Observer};
use super::response::{Failure, FileHeaders, FileResponse, Retry, failure, malformed, unanswered};
use super::{Error, RepoId, Result, Settings};
use crate::input_file;

/// Redirects that are followed in a row.
const MAX_HOPS: usize = 10;
/// The most that is read of a response that is kept in memory: a listing of a hundred thousand
/// files has some ten megabytes.
const MAX_TEXT: u64 = 1 << 26;

/// Makes requests for one repository.
pub(super) struct Client<'a> {
    agent: Agent,
    pub(super) repo: &'a RepoId,
    pub(super) settings: &'a Settings,
    pub(super) observer: &'a Observer<'a>,
}

impl<'a> Client<'a> {
    pub(super) fn new(
        repo: &'a RepoId,
        settings: &'a Settings,
        observer: &'a Observer<'a>,
    ) -> Result<Self> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = &settings.certificates {
            let pem = input_file::read(path, MAX_TEXT).map_err(Error::io(path))?;
            let too_large = || Error::io(path)(io::Error::other("larger than any such file"));
            let pem = pem.ok_or_else(too_large)?;
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
            // A proxy from the environment is for other machines.
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

    /// Makes a request once, redirects included. `from` requests the bytes from that offset on, and
    /// `tag` only if the content is unchanged.
    pub(super) fn send(
        &self,
        method: &Method,
        url: &str,
        from: u64,
        tag: Option<&str>,
    ) -> std::result::Result<FileResponse, Failure> {
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
                    // The file has another name at the Hub, whose response has its own ETag. Python
                    // does the same.
                    file = FileHeaders::default();
                } else if *method == Method::HEAD && file.is_known() {
                    // A file's headers come with the redirect to its content: no further request is
                    // needed.
                    return Ok(FileResponse { file, response });
                }
                url = next;
                continue;
            }
            if status.is_success() || status.as_u16() == 416 {
                return Ok(FileResponse { file, response });
            }
            return Err(failure(
                self.repo,
                self.settings,
                &url,
                at_hub,
                &mut response,
            ));
        }
        Err(malformed(&url, "too many redirects"))
    }

    /// Makes a request until it succeeds or retrying is pointless. `what` names it in events.
    pub(super) fn request(
        &self,
        method: &Method,
        url: &str,
        what: &str,
    ) -> std::result::Result<FileResponse, Failure> {
        self.persist(what, || self.send(method, url, 0, None))
    }

    /// Requests JSON.
    pub(super) fn json<T: DeserializeOwned>(&self, url: &str) -> std::result::Result<T, Failure> {
        let text = self.persist(&without_secrets(url), || {
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
            .map_err(|error| malformed(url, &format!("not the Hub's JSON: {error}")))
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

    /// Waits before the next attempt, and returns whether there is to be one after this many
    /// failures in a row.
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

/// The target of a redirect, and whether it is relative, without a server's name.
fn next_hop(url: &str, headers: &HeaderMap) -> std::result::Result<(String, bool), Failure> {
    let location = headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| malformed(url, "a redirect without a location"))?;
    let is_relative = origin(location).is_none() && !location.starts_with("//");
    match join(url, location).filter(|next| origin(next).is_some()) {
        Some(next) => Ok((next, is_relative)),
        None => Err(malformed(url, "a redirect to an address that is not http")),
    }
}
