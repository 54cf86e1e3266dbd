//! One file from the Hub into the cache.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::AtomicBool;

use ureq::http::Method;

use super::cache::RepoCache;
use super::events::Event;
use super::http::Client;
use super::repo::is_plain_name;
use super::response::malformed;
use super::select::most_bytes;
use super::transfer::Transfer;
use super::{Error, Result};

/// What is needed to download files of one commit.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client<'a>,
    pub(super) cache: &'a RepoCache,
    pub(super) commit: &'a str,
    /// The sizes of files that the listing states.
    pub(super) sizes: &'a BTreeMap<String, u64>,
    /// Set when another file has failed: the others stop.
    pub(super) stop: &'a AtomicBool,
}

impl Download<'_> {
    /// Downloads a file of the commit to the cache. Returns whether anything had to be transferred.
    pub(super) fn file(&self, file: &str) -> Result<bool> {
        let present = self.cache.snapshot(self.commit).join(file);
        if let Ok(metadata) = present.metadata()
            && metadata.is_file()
        {
            let expected = self.sizes.get(file);
            if expected.is_none_or(|size| *size == metadata.len()) {
                return Ok(false);
            }
            // It was cut short, and would be linked again.
            fs::remove_file(&present).map_err(Error::io(&present))?;
        }
        let address = self.client.address(self.commit, file);
        let (etag, size) = self.headers(file, &address)?;
        if size.is_some_and(|size| size > most_bytes(file)) {
            return Err(Error::TooLarge {
                file: file.to_owned(),
                limit: most_bytes(file),
            });
        }
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
                client: self.client,
                stop: self.stop,
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
            // Some mirrors serve only files.
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
            _ => *failure.error,
        })?;
        match answer.file.etag {
            Some(etag) if is_plain_name(&etag) => Ok((etag, answer.file.size)),
            Some(etag) => {
                Err(*malformed(address, &format!("invalid ETag of {file}: {etag:?}")).error)
            }
            None => Err(*malformed(address, &format!("no ETag of {file}")).error),
        }
    }
}
