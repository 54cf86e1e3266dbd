//! The settings of the Hub from the environment, with the names that huggingface_hub uses.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Error, Result};
use crate::input_file;

/// The most bytes of a file with a token.
const MAX_TOKEN: u64 = 1 << 16;
/// The longest timeout in seconds: the clock of the system cannot count to all that can be written.
const LONGEST_TIMEOUT: u64 = 30 * 24 * 3600;
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// A token of an account. It does not show in debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Reads a token; none where it is blank.
    ///
    /// # Errors
    /// A string that cannot be sent in a header; `source` is where it comes from.
    pub fn new(text: &str, source: &'static str) -> Result<Option<Self>> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::Setting {
                variable: source,
                problem: "not a token: it has characters that are not visible ASCII".to_owned(),
            });
        }
        Ok(Some(Self(text.to_owned())))
    }

    /// The header that sends it.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// How often a failed request is retried, and after which pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// The number of failures in a row after which a request is given up.
    pub attempts: u32,
    /// The pause after the first; each next one is twice as long.
    pub first_pause: Duration,
    /// The longest pause, and the longest that is granted to a server that asks for one.
    pub longest_pause: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(300),
        }
    }
}

impl Retries {
    /// The pause after this many failures in a row, counted from one.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        let doubled = 1u32
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.first_pause
            .saturating_mul(doubled)
            .min(self.longest_pause)
    }
}

/// The address of the Hub, what is sent to it, and where its files are stored.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's address, without a slash at its end.
    pub endpoint: String,
    /// The folder with a folder for each repository.
    pub cache: PathBuf,
    /// The account's token. It is sent to the endpoint alone.
    pub token: Option<Token>,
    /// Make no request: use the cache's files.
    pub offline: bool,
    /// How long to wait for a response to begin.
    pub answer_timeout: Duration,
    /// How long a connection may be silent.
    pub silence_timeout: Duration,
    /// Certificates to trust instead of Mozilla's, in PEM form.
    pub certificates: Option<PathBuf>,
    /// How failures are retried.
    pub retries: Retries,
    /// Files that are downloaded at a time.
    pub workers: usize,
}

impl Settings {
    /// The settings of this process's environment: `HF_ENDPOINT`, `HF_HUB_CACHE` (else
    /// `HUGGINGFACE_HUB_CACHE`, else `hub` in `HF_HOME`, which is `$XDG_CACHE_HOME/huggingface` or
    /// `~/.cache/huggingface`), `HF_TOKEN` (else the file that `HF_TOKEN_PATH` names, else `token`
    /// in `HF_HOME`), `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_OFFLINE`, `HF_HUB_ETAG_TIMEOUT`,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`, and `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE` or `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// Values that cannot be used; no home folder where one is needed.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    fn from_variables(get: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        // An empty variable is taken for one that is not set.
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let text = |name: &'static str| match get(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(_)) => Err(setting(name, "not UTF-8")),
        };
        let is_true = |name| Ok::<_, Error>(text(name)?.is_some_and(|value| truth(&value)));
        let seconds = |name: &'static str| match text(name)? {
            None => Ok(Duration::from_secs(10)),
            Some(value) => match value.trim().parse() {
                Ok(0) | Err(_) => Err(setting(name, "not a whole number of seconds above 0")),
                Ok(seconds) => Ok(Duration::from_secs(u64::min(seconds, LONGEST_TIMEOUT))),
            },
        };
        let user = get("HOME").map(PathBuf::from);
        let path =
            |name: &'static str| get(name).map(|value| expand(&value, user.as_deref(), &get));

        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| Some(user.as_ref()?.join(".cache/huggingface")));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| home.as_ref().map(|home| home.join("hub")))
            .ok_or_else(|| setting("HF_HOME", "not set, and neither is HOME"))?;

        let token = match text("HF_TOKEN")?.or(text("HUGGING_FACE_HUB_TOKEN")?) {
            _ if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN")? => None,
            Some(token) => Token::new(&token, "HF_TOKEN")?,
            None => {
                let file = path("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")));
                let content = file.and_then(|file| input_file::read(&file, MAX_TOKEN).ok()?);
                match content.map(String::from_utf8) {
                    Some(Ok(token)) => Token::new(&token, "HF_TOKEN_PATH")?,
                    // Without the file the user has not logged in.
                    _ => None,
                }
            }
        };
        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if super::address::origin(&endpoint).is_none() {
            return Err(setting(
                "HF_ENDPOINT",
                "not an address that begins with http:// or https://",
            ));
        }
        Ok(Self {
            endpoint,
            cache,
            token,
            // The first that is set decides: HF_HUB_OFFLINE=0 is not offline whatever the other
            // says.
            offline: match text("HF_HUB_OFFLINE")? {
                Some(offline) => truth(&offline),
                None => is_true("TRANSFORMERS_OFFLINE")?,
            },
            answer_timeout: seconds("HF_HUB_ETAG_TIMEOUT")?,
            silence_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT")?,
            certificates: path("REQUESTS_CA_BUNDLE")
                .or_else(|| path("CURL_CA_BUNDLE"))
                .or_else(|| path("SSL_CERT_FILE")),
            retries: Retries::default(),
            workers: 8,
        })
    }
}

fn setting(variable: &'static str, problem: &str) -> Error {
    Error::Setting {
        variable,
        problem: problem.to_owned(),
    }
}

fn truth(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"]
        .iter()
        .any(|yes| value.eq_ignore_ascii_case(yes))
}

/// A path that may begin with `~` for the user's home, and have `$NAME` and `${NAME}` for variables
/// in it. Unknown variables stay as they are, as in Python.
fn expand(
    value: &OsString,
    home: Option<&Path>,
    get: &dyn Fn(&str) -> Option<OsString>,
) -> PathBuf {
    let path = Path::new(value);
    let path = match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_path_buf(),
    };
    // A path that is not UTF-8 is taken as it is.
    let Some(mut rest) = path.to_str() else {
        return path;
    };
    let mut expanded = OsString::new();
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push(before);
        let (name, end) = match after.strip_prefix('{') {
            Some(braced) => match braced.split_once('}') {
                Some((name, end)) => (name, end),
                None => ("", after),
            },
            None => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len()))
            }
        };
        match get(name).filter(|_| !name.is_empty()) {
            Some(value) => {
                expanded.push(value);
                rest = end;
            }
            None => {
                expanded.push("$");
                rest = after;
            }
        }
    }
    expanded.push(rest);
    expanded.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::from_variables(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        for (variables, cache) in [
            (&[("HOME", "/u")][..], "/u/.cache/huggingface/hub"),
            (
                &[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")],
                "/x/huggingface/hub",
            ),
            (&[("HOME", "/u"), ("HF_HOME", "~/hf")], "/u/hf/hub"),
            (&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")], "/c"),
            (&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/c")], "/c"),
            (&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "")], "/hf/hub"),
            (
                &[("USER", "ada"), ("HF_HOME", "/d/$USER/hf")],
                "/d/ada/hf/hub",
            ),
            (
                &[("U", "ada"), ("HF_HUB_CACHE", "/d/${U}_x$$/$NO-")],
                "/d/ada_x$$/$NO-",
            ),
            (
                &[("HOME", "/u/$X"), ("X", "y"), ("HF_HUB_CACHE", "~/c${")],
                "/u/y/c${",
            ),
        ] {
            assert_eq!(
                settings(variables).unwrap().cache,
                Path::new(cache),
                "{variables:?}"
            );
        }
        let error = settings(&[]).unwrap_err().to_string();
        assert!(error.starts_with("HF_HOME: "), "{error}");
    }

    #[test]
    fn the_token_is_of_the_variable_then_of_the_file_and_never_shown() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_stored\n").unwrap();
        let home = home.path().to_str().unwrap();
        let token = |more: &[(&str, &str)]| {
            let settings = settings(&[&[("HF_HOME", home)], more].concat()).unwrap();
            assert!(!format!("{settings:?}").contains("hf_"));
            settings.token.map(|token| token.header())
        };
        assert_eq!(token(&[]).as_deref(), Some("Bearer hf_stored"));
        assert_eq!(
            token(&[("HF_TOKEN", " hf_set\r\n")]).as_deref(),
            Some("Bearer hf_set")
        );
        assert_eq!(token(&[("HF_TOKEN_PATH", "/no/such")]), None);
        assert_eq!(token(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        let error = settings(&[("HOME", "/u"), ("HF_TOKEN", "hf\u{e9}")]).unwrap_err();
        assert!(
            error.to_string().starts_with("HF_TOKEN: ") && !error.to_string().contains('\u{e9}')
        );
    }

    #[test]
    fn endpoint_offline_and_timeouts_are_read() {
        let read = settings(&[
            ("HOME", "/u"),
            ("HF_ENDPOINT", "http://localhost:8080/hub/"),
            ("HF_HUB_OFFLINE", "yes"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "3"),
        ])
        .unwrap();
        assert_eq!(read.endpoint, "http://localhost:8080/hub");
        assert!(read.offline);
        assert_eq!(read.silence_timeout, Duration::from_secs(3));
        assert!(
            !settings(&[("HOME", "/u"), ("HF_HUB_OFFLINE", "0")])
                .unwrap()
                .offline
        );
        for (first, second, offline) in [
            ("1", "0", true),
            ("0", "1", false),
            ("", "1", true),
            ("off", "", false),
        ] {
            let variables = [
                ("HOME", "/u"),
                ("HF_HUB_OFFLINE", first),
                ("TRANSFORMERS_OFFLINE", second),
            ];
            assert_eq!(
                settings(&variables).unwrap().offline,
                offline,
                "{first} {second}"
            );
        }
        let long = [
            ("HOME", "/u"),
            ("HF_HUB_ETAG_TIMEOUT", "9223372036854775807"),
        ];
        assert_eq!(
            settings(&long).unwrap().answer_timeout.as_secs(),
            LONGEST_TIMEOUT
        );
        for (name, value) in [
            ("HF_ENDPOINT", "huggingface.co"),
            ("HF_HUB_ETAG_TIMEOUT", "soon"),
        ] {
            let error = settings(&[("HOME", "/u"), (name, value)])
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let retries = Retries {
            attempts: 5,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(5),
        };
        let pauses: Vec<u64> = [1, 2, 3, 4, 100]
            .map(|n| retries.pause(n).as_secs())
            .to_vec();
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
    }
}
