//! The Hub's listings: a revision's commit and files, and a repository's revisions.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::address::without_secrets;
use super::http::Client;
use super::repo::{encode_part, encode_path, is_path_within, is_plain_name};
use super::response::{Failure, malformed};
use super::{Error, Result};

/// The state of a revision at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing {
    /// Its commit.
    pub(super) commit: String,
    /// The paths of its files.
    pub(super) files: Vec<String>,
    /// Their sizes, of those that the listing states.
    pub(super) sizes: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
}

#[derive(Deserialize)]
struct Refs {
    #[serde(default)]
    branches: Vec<Named>,
    #[serde(default)]
    tags: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl Client<'_> {
    /// The commit and the files of a revision.
    ///
    /// # Errors
    /// [`Error::RepoNotFound`] and [`Error::RevisionNotFound`] where there is none; the errors of
    /// [`Client::json`]; names that leave their folder.
    pub(super) fn listing(&self, revision: &str) -> Result<Listing> {
        // With the sizes a file in the cache that was cut short is noticed.
        let revision_part = encode_part(revision);
        let url = format!("{}/revision/{revision_part}?blobs=true", self.api());
        let info: Info = match self.json(&url) {
            Err(failure) if failure.status == Some(404) => {
                return Err(self.not_found(revision, failure));
            }
            info => info.map_err(|failure| *failure.error)?,
        };
        if !is_plain_name(&info.sha) {
            let problem = format!("invalid name of a commit: {:?}", info.sha);
            return Err(*malformed(&url, &problem).error);
        }
        let sizes = info.siblings.iter();
        let sizes = sizes.filter_map(|file| Some((file.rfilename.clone(), file.size?)));
        let sizes = sizes.collect();
        let files: Vec<String> = info
            .siblings
            .into_iter()
            .map(|file| file.rfilename)
            .collect();
        if let Some(file) = files.iter().find(|file| !is_path_within(file)) {
            return Err(Error::FileName {
                repo: self.repo.to_string(),
                file: file.clone(),
            });
        }
        Ok(Listing {
            commit: info.sha,
            files,
            sizes,
        })
    }

    /// The error for a revision that is missing: its own, or that of a missing repository.
    fn not_found(&self, revision: &str, failure: Failure) -> Error {
        if failure.code != "RepoNotFound"
            && let Ok(refs) = self.json::<Refs>(&format!("{}/refs", self.api()))
        {
            let all = refs.branches.into_iter().chain(refs.tags);
            return Error::RevisionNotFound {
                repo: self.repo.to_string(),
                revision: revision.to_owned(),
                known: all.map(|named| named.name).collect(),
            };
        }
        Error::RepoNotFound {
            repo: self.repo.to_string(),
            endpoint: without_secrets(&self.settings.endpoint),
            page: format!("{}/{}", without_secrets(&self.settings.endpoint), self.repo),
            with_token: self.settings.token.is_some(),
        }
    }

    fn api(&self) -> String {
        format!(
            "{}/api/models/{}",
            self.settings.endpoint,
            encode_path(self.repo.as_str())
        )
    }

    /// The address of a file.
    pub(super) fn address(&self, commit: &str, file: &str) -> String {
        format!(
            "{}/{}/resolve/{}/{}",
            self.settings.endpoint,
            encode_path(self.repo.as_str()),
            encode_part(commit),
            encode_path(file)
        )
    }
}
