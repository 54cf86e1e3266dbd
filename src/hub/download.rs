//! One file from the Hub into the cache.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use ureq::http::{HeaderMap, Method, header};

use super::cache::RepoCache;
use super::events::Event;
use super::hash::Check;
use super::http::{Answer, Client, Failure, Retry, malformed};
use super::repo::is_plain_name;
use super::{Error, Result};

/// The bytes that are read at a time.
const CHUNK: usize = 1 << 18;

/// What is needed to download files of one commit.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client<'a>,
    pub(super) cache: &'a RepoCache,
    pub(super) commit: &'a str,
    /// Set when another file has failed: the rest is not worth waiting for.
    pub(super) stop: &'a AtomicBool,
}

/// Why an attempt at a transfer ended before the file did.
enum Break {
    /// It may go on.
    Passing(Failure),
    /// It will not.
    Fatal(Error),
}

impl Download<'_> {
    /// Puts a file of the commit in the cache. Gives whether anything had to be transferred.
    pub(super) fn file(&self, file: &str) -> Result<bool> {
        if self.cache.snapshot(self.commit).join(file).is_file() {
            return Ok(false);
        }
        let address = self.client.address(self.commit, file);
        let (etag, size) = self.headers(file, &address)?;
        let _lock = self.cache.lock(&etag, || {
            (self.client.observer)(Event::Locked { file });
        })?;
        let blob = self.cache.blob(&etag);
        // Another process, another revision or Python may have it already.
        let is_there = match blob.metadata() {
            Ok(metadata) => size.is_none_or(|size| size == metadata.len()),
            Err(_) => false,
        };
        if !is_there {
            let folder = blob.parent().unwrap_or(&blob);
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
            let transfer = Transfer {
                download: self,
                file,
                address: &address,
                etag: &etag,
                size,
                path: self.cache.incomplete(&etag),
            };
            transfer.run(&blob)?;
        }
        self.cache.link(self.commit, file, &etag)?;
        Ok(!is_there)
    }

    /// The ETag and the size of a file.
    fn headers(&self, file: &str, address: &str) -> Result<(String, Option<u64>)> {
        let answer = match self.client.request(&Method::HEAD, address, file) {
            // Some mirrors serve files only.
            Err(failure) if matches!(failure.status, Some(405 | 501)) => {
                self.client.request(&Method::GET, address, file)
            }
            answer => answer,
        };
        let answer = answer.map_err(|failure| match failure.status {
            Some(404) => Error::FileNotFound {
                repo: self.client.repo.to_string(),
                revision: self.commit.to_owned(),
                file: file.to_owned(),
                index: String::new(),
            },
            _ => failure.error,
        })?;
        match answer.file.etag {
            Some(etag) if is_plain_name(&etag) => Ok((etag, answer.file.size)),
            Some(etag) => Err(malformed(address, &format!("{etag:?} as ETag of {file}")).error),
            None => Err(malformed(address, &format!("no ETag of {file}")).error),
        }
    }
}

/// One content on its way.
struct Transfer<'a> {
    download: &'a Download<'a>,
    file: &'a str,
    address: &'a str,
    etag: &'a str,
    size: Option<u64>,
    /// Where it grows.
    path: PathBuf,
}

/// What has arrived.
struct Partial {
    file: File,
    bytes: u64,
    check: Check,
    /// What the server that has the content called it in this run.
    tag: Option<String>,
}

impl Transfer<'_> {
    /// Transfers what is lacking, checks the whole, and gives it its name.
    fn run(&self, blob: &Path) -> Result<()> {
        let mut partial = self.open()?;
        let mut kept = partial.bytes;
        self.event(Event::Begun {
            file: self.file,
            size: self.size,
            kept,
        });
        loop {
            self.complete(&mut partial)?;
            // A content that was begun here, and not by who knows whom, is not begun again if it is wrong.
            match self.verify(&partial) {
                Err(_) if kept > 0 => {
                    kept = 0;
                    self.reset(&mut partial)?;
                }
                Err(error) => {
                    // It would be wrong the next time too.
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

    /// Opens what an earlier attempt left, and hashes it.
    fn open(&self) -> Result<Partial> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)
            .map_err(Error::io(&self.path))?;
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
        };
        if self.size.is_some_and(|size| bytes > size) {
            self.reset(&mut partial)?;
        }
        Ok(partial)
    }

    /// Throws away what has arrived.
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

    /// Transfers until all is there, through as many interruptions as are borne.
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
                    // What moves, however slowly, arrives.
                    failures = if partial.bytes > before {
                        1
                    } else {
                        failures + 1
                    };
                    if !self
                        .download
                        .client
                        .waits_after(self.file, &failure, failures)
                    {
                        return Err(match (failure.status, failure.retry) {
                            // What broke off is a transfer, if there was an answer at all.
                            (None, Retry::Again) if partial.bytes > 0 => Error::Broken {
                                file: self.file.to_owned(),
                                arrived: partial.bytes,
                                size: self.size,
                                problem: failure.error.to_string(),
                            },
                            _ => failure.error,
                        });
                    }
                }
            }
        }
    }

    /// Makes one request for what is lacking and takes what comes.
    fn attempt(&self, partial: &mut Partial) -> std::result::Result<(), Break> {
        let client = self.download.client;
        let answer = client
            .send(
                &Method::GET,
                self.address,
                partial.bytes,
                partial.tag.as_deref(),
            )
            .map_err(Break::Passing)?;
        if answer.response.status().as_u16() == 416 {
            // It has no bytes from there on; so what is here is not of this file.
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
            if self.download.stop.load(Ordering::Relaxed) {
                return Err(Break::Fatal(Error::Broken {
                    file: self.file.to_owned(),
                    arrived: partial.bytes,
                    size: self.size,
                    problem: "another file failed".to_owned(),
                }));
            }
            let count = match read(&mut body, &mut buffer) {
                Ok(0) if self.size.is_some_and(|size| partial.bytes < size) => {
                    return Err(self.broken("the connection was closed"));
                }
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) => return Err(self.broken(&said(&error))),
            };
            let chunk = buffer.get(..count).unwrap_or(&buffer);
            let after = partial.bytes + count as u64;
            if let Some(size) = self.size.filter(|&size| after > size) {
                // Nothing of it can be trusted.
                let _ = fs::remove_file(&self.path);
                return Err(Break::Fatal(self.wrong_size(size, after)));
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

    /// Sees to it that what comes goes where it belongs: the server may send the rest, as asked, or all.
    fn place(&self, answer: &Answer, partial: &mut Partial) -> Result<()> {
        if let Some(found) = answer.file.etag.as_ref().filter(|etag| *etag != self.etag) {
            return Err(Error::WrongEtag {
                file: self.file.to_owned(),
                expected: self.etag.to_owned(),
                found: found.clone(),
            });
        }
        let headers = answer.response.headers();
        let bad = |problem: &str| malformed(self.address, problem).error;
        let (start, total) = match answer.response.status().as_u16() {
            206 => content_range(headers).ok_or_else(|| bad("a part without its place"))?,
            _ => (0, length(headers)),
        };
        if let (Some(expected), Some(found)) = (self.size, total)
            && expected != found
        {
            let _ = fs::remove_file(&self.path);
            return Err(self.wrong_size(expected, found));
        }
        match start {
            start if start == partial.bytes => Ok(()),
            0 => self.reset(partial),
            _ => Err(bad("another part than was asked for")),
        }
    }

    /// Holds size and hash against what the Hub said.
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
            error: Error::Unreachable {
                url: super::http::without_query(self.address),
                problem: problem.to_owned(),
            },
            status: None,
            code: String::new(),
            retry: Retry::Again,
        })
    }

    fn event(&self, event: Event<'_>) {
        (self.download.client.observer)(event);
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

/// What is said of a connection that broke.
fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the connection was closed".to_owned(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            "nothing came for too long".to_owned()
        }
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
