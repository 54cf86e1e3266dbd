//! A Hub of the tests' own: the part of its API that downloads need, with a second server for large
//! contents, and faults on demand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Files of this size and more are kept where large ones are.
pub const LARGE: usize = 20_000;

/// A request that came, and to which of the two servers.
#[derive(Clone, Debug)]
pub struct Request {
    pub at_cdn: bool,
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

/// A commit's files.
#[derive(Clone, Default)]
pub struct Commit {
    pub files: BTreeMap<String, Vec<u8>>,
}

/// What the server has, and how it misbehaves.
#[derive(Default)]
pub struct State {
    /// By repository and revision: the commit.
    pub revisions: BTreeMap<(String, String), String>,
    pub commits: BTreeMap<(String, String), Commit>,
    /// Names listed beside those of the files.
    pub listed: Vec<String>,
    /// A token that files cannot be had without, and the code that is said then.
    pub gate: Option<(String, u16, &'static str)>,
    /// Answers instead of the proper ones: to paths that hold the text, so many times, with a
    /// status and headers.
    pub faults: Vec<Fault>,
    /// ETags and sizes that are said instead of the right ones, by file.
    pub etags: BTreeMap<String, String>,
    pub sizes: BTreeMap<String, usize>,
    /// Bytes after which a large content's connection is cut.
    pub cut_after: Option<usize>,
    /// Large contents come in pieces of so many bytes with a pause before each.
    pub pace: Option<(usize, Duration)>,
    /// Large contents stop here and the connection stays open for a while.
    pub stall_after: Option<(usize, Duration)>,
    /// Ranges are not minded.
    pub whole_only: bool,
    /// Small files have another address at the Hub, to which a redirect without a server's name
    /// leads.
    pub moved: bool,
    /// HEAD is not known.
    pub no_head: bool,
    /// Files come without a length, until the connection is closed.
    pub no_length: bool,
    /// The server that all requests are redirected to.
    pub mirror: Option<String>,
    pub requests: Vec<Request>,
}

pub struct Fault {
    pub path: &'static str,
    pub times: usize,
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: &'static str,
}

pub struct Server {
    state: Arc<Mutex<State>>,
    hub: u16,
}

impl Server {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (hub, cdn) = (listen(), listen());
        let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
        let (hub_port, cdn_port) = (port(&hub), port(&cdn));
        for (listener, at_cdn) in [(hub, false), (cdn, true)] {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = Arc::clone(&state);
                    std::thread::spawn(move || {
                        // A client that goes away is what some tests are about.
                        let _ = serve(&stream, &state, at_cdn, cdn_port);
                    });
                }
            });
        }
        Self {
            state,
            hub: hub_port,
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.hub)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test fails while it has it")
    }

    /// Makes a revision of these files; its commit is given.
    pub fn add(&self, repo: &str, revision: &str, files: &[(&str, &[u8])]) -> String {
        let files: BTreeMap<String, Vec<u8>> = files
            .iter()
            .map(|(name, content)| ((*name).to_owned(), content.to_vec()))
            .collect();
        let mut hash = Sha1::new();
        for (name, content) in &files {
            hash.update(name);
            hash.update(content);
        }
        let commit = hex(&hash.finalize());
        let mut state = self.state();
        let key = |name: &str| (repo.to_owned(), name.to_owned());
        state.revisions.insert(key(revision), commit.clone());
        state.revisions.insert(key(&commit), commit.clone());
        state.commits.insert(key(&commit), Commit { files });
        commit
    }

    pub fn fault(&self, path: &'static str, times: usize, status: u16) {
        self.state().faults.push(Fault {
            path,
            times,
            status,
            headers: Vec::new(),
            body: "",
        });
    }

    /// The requests that came since this was last asked.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().requests)
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name that the Hub has for a content: what git has for a small one, SHA-256 for a large one.
pub fn etag_of(content: &[u8]) -> String {
    if content.len() >= LARGE {
        return hex(&Sha256::digest(content));
    }
    let mut hash = Sha1::new_with_prefix(format!("blob {}\0", content.len()));
    hash.update(content);
    hex(&hash.finalize())
}

fn serve(stream: &TcpStream, state: &Mutex<State>, at_cdn: bool, cdn: u16) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.by_ref().read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let request = Request {
        at_cdn,
        method,
        path,
        headers,
    };
    let answer = {
        let mut state = state.lock().expect("no test fails while it has it");
        state.requests.push(request.clone());
        answer(&mut state, &request, cdn)
    };
    send(stream, &request, answer)
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    cut_after: Option<usize>,
    pace: Option<(usize, Duration)>,
    stall_after: Option<(usize, Duration)>,
    has_length: bool,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut_after: None,
            pace: None,
            stall_after: None,
            has_length: true,
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

fn answer(state: &mut State, request: &Request, cdn: u16) -> Answer {
    let fault = state
        .faults
        .iter_mut()
        .find(|fault| fault.times > 0 && request.path.contains(fault.path));
    if let Some(fault) = fault {
        fault.times -= 1;
        let mut answer = Answer::new(fault.status, fault.body);
        answer.headers = fault.headers.clone();
        return answer;
    }
    if state.no_head && request.method == "HEAD" {
        return Answer::new(405, "");
    }
    if let Some(mirror) = &state.mirror {
        return Answer::new(307, "").with("location", format!("{mirror}{}", request.path));
    }
    let path = request.path.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["api", "models", org, name, "refs"] => refs(state, &format!("{org}/{name}")),
        ["api", "models", org, name, "revision", revision] => info(
            state,
            &format!("{org}/{name}"),
            &revision.replace("%2F", "/"),
        ),
        [org, name, "resolve", commit, file] => {
            file_at_hub(state, request, &format!("{org}/{name}"), commit, file, cdn)
        }
        ["moved", org, name, commit, file] => {
            file_at_hub(state, request, &format!("{org}/{name}"), commit, file, cdn)
        }
        ["content", etag] if request.at_cdn => {
            let content = state
                .commits
                .values()
                .flat_map(|commit| commit.files.values())
                .find(|content| etag_of(content) == *etag);
            match content {
                Some(content) => {
                    let mut answer = part(state, request, content);
                    answer
                        .headers
                        .push(("etag", format!("\"multipart-{}\"", &etag[..8])));
                    answer.cut_after = state.cut_after;
                    answer.pace = state.pace;
                    answer.stall_after = state.stall_after;
                    answer
                }
                None => Answer::new(404, ""),
            }
        }
        _ => Answer::new(404, ""),
    }
}

fn refs(state: &State, repo: &str) -> Answer {
    let revisions = state.revisions.iter();
    let branches: Vec<_> = revisions
        .filter(|((of, name), commit)| of == repo && name != *commit)
        .map(|((_, name), commit)| {
            serde_json::json!({"name": name, "ref": format!("refs/heads/{name}"), "targetCommit": commit})
        })
        .collect();
    if branches.is_empty() {
        return Answer::new(404, "").with("x-error-code", "RepoNotFound");
    }
    let refs = serde_json::json!({"branches": branches, "tags": [], "converts": []});
    Answer::new(200, refs.to_string())
}

fn info(state: &State, repo: &str, revision: &str) -> Answer {
    if !state.revisions.keys().any(|(of, _)| of == repo) {
        // Nobody is told whether there is a repository that is not shown.
        return Answer::new(401, "").with("x-error-code", "RepoNotFound");
    }
    let Some(commit) = state.revisions.get(&(repo.to_owned(), revision.to_owned())) else {
        return Answer::new(404, "").with("x-error-code", "RevisionNotFound");
    };
    let files = &state.commits[&(repo.to_owned(), commit.clone())].files;
    let names = files.keys().chain(&state.listed);
    let siblings: Vec<_> = names
        .map(|name| serde_json::json!({"rfilename": name, "size": files.get(name).map(Vec::len)}))
        .collect();
    let info = serde_json::json!({"id": repo, "sha": commit, "siblings": siblings});
    Answer::new(200, info.to_string())
}

fn file_at_hub(
    state: &State,
    request: &Request,
    repo: &str,
    commit: &str,
    file: &str,
    cdn: u16,
) -> Answer {
    if let Some((token, status, code)) = &state.gate
        && request.headers.get("authorization") != Some(&format!("Bearer {token}"))
    {
        let mut answer = Answer::new(*status, "");
        if !code.is_empty() {
            answer = answer
                .with("x-error-code", *code)
                .with("x-error-message", "Access to this model is restricted.");
        }
        return answer;
    }
    let key = (repo.to_owned(), commit.to_owned());
    let Some(content) = state
        .commits
        .get(&key)
        .and_then(|commit| commit.files.get(file))
    else {
        return Answer::new(404, "").with("x-error-code", "EntryNotFound");
    };
    let etag = state
        .etags
        .get(file)
        .cloned()
        .unwrap_or_else(|| etag_of(content));
    if content.len() < LARGE && state.moved && request.path.contains("/resolve/") {
        return Answer::new(307, "Temporary Redirect")
            .with("etag", "\"of-the-redirect\"")
            .with("x-linked-size", "5")
            .with("location", format!("/moved/{repo}/{commit}/{file}"));
    }
    if content.len() < LARGE {
        let mut answer = part(state, request, content)
            .with("etag", format!("\"{etag}\""))
            .with("x-repo-commit", commit);
        answer.has_length = !state.no_length;
        return answer;
    }
    let size = state.sizes.get(file).copied().unwrap_or(content.len());
    Answer::new(302, "Found. Redirecting")
        .with("x-repo-commit", commit)
        .with("x-linked-etag", format!("\"{etag}\""))
        .with("x-linked-size", size.to_string())
        .with("etag", "\"of-the-redirect\"")
        .with(
            "location",
            format!(
                "http://127.0.0.1:{cdn}/content/{}?signature=secret",
                etag_of(content)
            ),
        )
}

/// A content, or the part of it that is asked for.
fn part(state: &State, request: &Request, content: &[u8]) -> Answer {
    let from = request
        .headers
        .get("range")
        .filter(|_| !state.whole_only)
        .and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
    match from {
        None => Answer::new(200, content),
        Some(from) if from >= content.len() => {
            Answer::new(416, "").with("content-range", format!("bytes */{}", content.len()))
        }
        Some(from) => Answer::new(206, &content[from..]).with(
            "content-range",
            format!("bytes {from}-{}/{}", content.len() - 1, content.len()),
        ),
    }
}

fn send(mut stream: &TcpStream, request: &Request, answer: Answer) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Status\r\nconnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if answer.has_length {
        head += &format!("content-length: {}\r\n", answer.body.len());
    }
    head += "\r\n";
    stream.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let end = answer
        .cut_after
        .unwrap_or(answer.body.len())
        .min(answer.body.len());
    let mut body = &answer.body[..end];
    if let Some((after, pause)) = answer.stall_after
        && after < body.len()
    {
        stream.write_all(&body[..after])?;
        std::thread::sleep(pause);
        return Ok(());
    }
    let (piece, pause) = answer.pace.unwrap_or((1 << 16, Duration::ZERO));
    while !body.is_empty() {
        std::thread::sleep(pause);
        let (now, later) = body.split_at(piece.min(body.len()));
        stream.write_all(now)?;
        body = later;
    }
    Ok(())
}
