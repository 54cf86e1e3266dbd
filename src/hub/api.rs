//! The Hub's listings: a revision's commit and files, and a repository's revisions.

use serde::Deserialize;

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
        let url = format!("{}/revision/{}", self.api(), encode_part(revision));
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
            endpoint: self.settings.endpoint.clone(),
            page: format!("{}/{}", self.settings.endpoint, self.repo),
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
