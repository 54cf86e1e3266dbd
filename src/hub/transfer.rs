//! The transfer of one content from the Hub: resumed after interruptions, and checked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ureq::http::{HeaderMap, Method, header};

use super::events::Event;
use super::hash::Check;
use super::http::Client;
use super::response::{Failure, FileResponse, Retry, malformed};
use super::select::most_bytes;
use super::{Error, Result};

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 18;

/// Why an attempt at a transfer ended before the file did.
enum Break {
    /// It may resume.
    Passing(Failure),
    /// It cannot.
    Fatal(Error),
}

/// The transfer of one content.
pub(super) struct Transfer<'a> {
    pub(super) client: &'a Client<'a>,
    /// Set when another file has failed: the others stop.
    pub(super) stop: &'a AtomicBool,
    pub(super) file: &'a str,
    pub(super) address: &'a str,
    pub(super) etag: &'a str,
    pub(super) size: Option<u64>,
    /// The path of the partial content.
    pub(super) path: PathBuf,
}

/// What has arrived.
struct Partial {
    file: File,
    bytes: u64,
    check: Check,
    /// The ETag that the content's server gave in this run.
    tag: Option<String>,
    /// The size that it gave.
    size: Option<u64>,
}

impl Transfer<'_> {
    /// Transfers what is missing, checks the content, and renames it.
    pub(super) fn run(&self, blob: &Path) -> Result<()> {
        let mut partial = self.open()?;
        let mut kept = partial.bytes;
        self.event(Event::Begun {
            file: self.file,
            size: self.size,
            kept,
        });
        loop {
            self.complete(&mut partial)?;
            // A content that was transferred by this process alone is not transferred again if it
            // is wrong.
            let is_measured = self.size.or(partial.size).is_some();
            if !is_measured && !matches!(partial.check, Check::Sha256(_)) {
                let _ = fs::remove_file(&self.path);
                return Err(Error::Unmeasured {
                    file: self.file.to_owned(),
                });
            }
            match self.verify(&partial) {
                Err(_) if kept > 0 => {
                    kept = 0;
                    self.reset(&mut partial)?;
                }
                Err(error) => {
                    // It would be wrong again.
                    let _ = fs::remove_file(&self.path);
                    return Err(error);
                }
                Ok(()) => break,
            }
        }
        partial.file.sync_all().map_err(Error::io(&self.path))?;
        fs::rename(&self.path, blob).map_err(Error::io(blob))?;
        self.event(Event::Ended { file: self.file });
        Ok(())
    }

    /// Opens what is left of an earlier attempt, and hashes it.
    fn open(&self) -> Result<Partial> {
        // Only a regular file is left of an earlier attempt: a link would lead the content
        // elsewhere, and a FIFO would wait.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| !found.is_file()) {
            fs::remove_file(&self.path).map_err(Error::io(&self.path))?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        }
        let mut file = options.open(&self.path).map_err(Error::io(&self.path))?;
        let mut check = Check::of(self.etag, self.size);
        let mut bytes = 0;
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = read(&mut file, &mut buffer).map_err(Error::io(&self.path))?;
            if count == 0 {
                break;
            }
            check.update(buffer.get(..count).unwrap_or(&buffer));
            bytes += count as u64;
        }
        let mut partial = Partial {
            file,
            bytes,
            check,
            tag: None,
            size: None,
        };
        if self.size.is_some_and(|size| bytes > size) {
            self.reset(&mut partial)?;
        }
        Ok(partial)
    }

    /// Discards what has arrived.
    fn reset(&self, partial: &mut Partial) -> Result<()> {
        partial.file.set_len(0).map_err(Error::io(&self.path))?;
        partial
            .file
            .seek(SeekFrom::Start(0))
            .map_err(Error::io(&self.path))?;
        partial.bytes = 0;
        partial.check = Check::of(self.etag, self.size);
        self.event(Event::Reached {
            file: self.file,
            bytes: 0,
        });
        Ok(())
    }

    /// Transfers until the content is complete, through as many interruptions as the settings
    /// allow.
    fn complete(&self, partial: &mut Partial) -> Result<()> {
        let mut failures = 0;
        loop {
            if self.size == Some(partial.bytes) {
                return Ok(());
            }
            let before = partial.bytes;
            match self.attempt(partial) {
                Ok(()) => return Ok(()),
                Err(Break::Fatal(error)) => return Err(error),
                Err(Break::Passing(failure)) => {
                    // Any progress resets the count of failures.
                    failures = if partial.bytes > before {
                        1
                    } else {
                        failures + 1
                    };
                    if !self.client.waits_after(self.file, &failure, failures) {
                        return Err(match (failure.status, failure.retry) {
                            // It is an interrupted transfer only if there was a response at all.
                            (None, Retry::Again) if partial.bytes > 0 => Error::Broken {
                                file: self.file.to_owned(),
                                arrived: partial.bytes,
                                size: self.size,
                                problem: failure.error.to_string(),
                            },
                            _ => *failure.error,
                        });
                    }
                }
            }
        }
    }

    /// Makes one request for what is missing and stores the response.
    fn attempt(&self, partial: &mut Partial) -> std::result::Result<(), Break> {
        let client = self.client;
        let answer = client
            .send(
                &Method::GET,
                self.address,
                partial.bytes,
                partial.tag.as_deref(),
            )
            .map_err(Break::Passing)?;
        if answer.response.status().as_u16() == 416 {
            // The server has no bytes from this offset on, so what is here is not of this file.
            self.reset(partial).map_err(Break::Fatal)?;
            let mut failure = malformed(self.address, "no such part (status 416)");
            failure.retry = Retry::Once;
            return Err(Break::Passing(failure));
        }
        self.place(&answer, partial).map_err(Break::Fatal)?;
        partial.tag = answer.file.content_tag;
        let mut body = answer.response.into_body().into_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Break::Fatal(Error::Broken {
                    file: self.file.to_owned(),
                    arrived: partial.bytes,
                    size: self.size,
                    problem: "another file failed".to_owned(),
                }));
            }
            let count = match read(&mut body, &mut buffer) {
                Ok(0)
                    if self
                        .size
                        .or(partial.size)
                        .is_some_and(|size| partial.bytes < size) =>
                {
                    return Err(self.broken("the connection was closed"));
                }
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) => return Err(self.broken(&said(&error))),
            };
            let chunk = buffer.get(..count).unwrap_or(&buffer);
            let after = partial.bytes + count as u64;
            if let Some(size) = self.size.filter(|&size| after > size) {
                // None of it can be trusted.
                let _ = fs::remove_file(&self.path);
                return Err(Break::Fatal(self.wrong_size(size, after)));
            }
            let limit = most_bytes(self.file);
            if after > limit {
                let _ = fs::remove_file(&self.path);
                return Err(Break::Fatal(Error::TooLarge {
                    file: self.file.to_owned(),
                    limit,
                }));
            }
            partial
                .file
                .write_all(chunk)
                .map_err(|e| Break::Fatal(Error::io(&self.path)(e)))?;
            partial.check.update(chunk);
            partial.bytes = after;
            self.event(Event::Reached {
                file: self.file,
                bytes: after,
            });
        }
    }

    /// Prepares for the response: the server may send the rest, as requested, or the whole content.
    fn place(&self, answer: &FileResponse, partial: &mut Partial) -> Result<()> {
        if let Some(found) = answer.file.etag.as_ref().filter(|etag| *etag != self.etag) {
            return Err(Error::WrongEtag {
                file: self.file.to_owned(),
                expected: self.etag.to_owned(),
                found: found.clone(),
            });
        }
        let headers = answer.response.headers();
        let bad = |problem: &str| *malformed(self.address, problem).error;
        let (start, total) = match answer.response.status().as_u16() {
            206 => {
                content_range(headers).ok_or_else(|| bad("a part without a valid Content-Range"))?
            }
            _ => (0, length(headers)),
        };
        if let (Some(expected), Some(found)) = (self.size, total)
            && expected != found
        {
            let _ = fs::remove_file(&self.path);
            return Err(self.wrong_size(expected, found));
        }
        partial.size = total;
        match start {
            start if start == partial.bytes => Ok(()),
            0 => self.reset(partial),
            _ => Err(bad("not the part that was requested")),
        }
    }

    /// Compares size and hash with what the Hub stated.
    fn verify(&self, partial: &Partial) -> Result<()> {
        if let Some(size) = self.size.filter(|&size| size != partial.bytes) {
            return Err(self.wrong_size(size, partial.bytes));
        }
        partial
            .check
            .clone()
            .finish(self.etag)
            .map_err(|mismatch| Error::WrongHash {
                file: self.file.to_owned(),
                algorithm: mismatch.algorithm,
                expected: self.etag.to_owned(),
                found: mismatch.found,
            })
    }

    fn wrong_size(&self, expected: u64, found: u64) -> Error {
        Error::WrongSize {
            file: self.file.to_owned(),
            expected,
            found,
        }
    }

    fn broken(&self, problem: &str) -> Break {
        Break::Passing(Failure {
            error: Box::new(Error::Unreachable {
                url: super::address::without_secrets(self.address),
                problem: problem.to_owned(),
            }),
            status: None,
            code: String::new(),
            retry: Retry::Again,
        })
    }

    fn event(&self, event: Event<'_>) {
        (self.client.observer)(event);
    }
}

/// Where a part begins and how large the whole is, from `Content-Range: bytes 5-9/10`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn read(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The message for a connection that broke.
fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no data arrived in time".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_where_it_belongs() {
        let range = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, text.parse().unwrap());
            content_range(&headers)
        };
        assert_eq!(range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(range("bytes 5-9/*"), Some((5, None)));
        for wrong in [
            "",
            "bytes */10",
            "lines 5-9/10",
            "bytes 5/10",
            "bytes -1-9/10",
        ] {
            assert_eq!(range(wrong), None, "{wrong}");
        }
    }
}
