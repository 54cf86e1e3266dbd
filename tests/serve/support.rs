//! A server under test, and a client that sees every byte.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::data;

/// How long anything may take before a test fails, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// A running server, which ends with this.
pub struct Server {
    child: Child,
    port: u16,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Serves the small Gemma in float32, with further arguments and environment.
    pub fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let server = Self::begin(&data("gemma-small"), arguments, environment);
        server.wait_until_ready();
        server
    }

    /// The same, without waiting until it is ready.
    pub fn begin(model: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        // Programs are compiled once for all tests.
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("serve-programs");
        let mut child = Command::new(env!("CARGO_BIN_EXE_gemma-xla"))
            .args([
                "serve",
                "--dtype",
                "f32",
                "--port",
                "0",
                "--max-length",
                "256",
                "--model",
            ])
            .arg(model)
            .args(arguments)
            .env_remove("GEMMA_XLA_LOG")
            .env_remove("PORT")
            .env("GEMMA_XLA_CACHE", cache)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                kept.lock().expect("no panic").push(line);
            }
        });
        let mut server = Self {
            child,
            port: 0,
            lines,
        };
        let port = server.eventually("it listens", |server| {
            let lines = server.lines();
            let line = lines
                .iter()
                .find_map(|line| line.split_once("listening on http://"))?;
            let digits = line.1.trim_end_matches(['"', '}']).rsplit(':').next()?;
            digits.parse().ok()
        });
        server.port = port;
        server
    }

    pub fn wait_until_ready(&self) {
        self.eventually("it is ready", |server| {
            (server.get("/health").status == 200).then_some(())
        });
    }

    /// The lines on standard error so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic").clone()
    }

    /// Waits for something.
    pub fn eventually<T>(&self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Ok(false) = fs::exists(format!("/proc/{}/exe", self.child.id())) {
                panic!("the server has ended: {:?}", self.lines());
            }
            if let Some(found) = found(self) {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {:?}", self.lines());
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.send("POST", path, &[], body.to_string().as_bytes())
    }

    /// The JSON of a successful answer.
    pub fn ask(&self, path: &str, body: &Value) -> Value {
        let response = self.post(path, body);
        assert_eq!(response.status, 200, "{body}: {}", response.text());
        response.json()
    }

    pub fn send(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Response {
        let mut stream = self.open(method, path, headers, body);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("the response ends");
        Response::parse(&bytes)
    }

    /// Sends a request and leaves the response to be read. In HTTP 1.0 it ends with the connection.
    pub fn open(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        let mut head = format!(
            "{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n",
            body.len()
        );
        for header in headers {
            head.push_str(&format!("{header}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).expect("it reads");
        // A server may refuse a body before it has read it.
        let _ = stream.write_all(body);
        stream
    }

    /// A stream of events that is read as it comes.
    pub fn events(&self, path: &str, body: &Value) -> Events {
        let stream = self.open("POST", path, &[], body.to_string().as_bytes());
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).expect("a status");
        assert!(line.contains(" 200 "), "{line}");
        Events(reader)
    }

    /// A metric's value.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let line = line.unwrap_or_else(|| panic!("{name} in {text}"));
        let value = line.rsplit(' ').next().expect("a value");
        value.parse().expect("a number")
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is a child") {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it ends: {:?}", self.lines());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A response.
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("a head: {}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Self {
            status: status.expect("a status"),
            head,
            body: bytes[end + 4..].to_vec(),
        }
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found
                .eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("JSON: {}", self.text()))
    }

    /// The error of an OpenAI answer: status, message and field.
    pub fn problem(&self) -> (u16, String, Option<String>) {
        let error = &self.json()["error"];
        let message = error["message"].as_str().expect("a message").to_owned();
        assert!(error["type"].is_string(), "{error}");
        let param = error["param"].as_str().map(str::to_owned);
        (self.status, message, param)
    }
}

/// Events as they come.
pub struct Events(BufReader<TcpStream>);

impl Events {
    /// Ends the connection.
    pub fn close(self) {
        let _ = self.0.get_ref().shutdown(Shutdown::Both);
    }
}

impl Iterator for Events {
    type Item = String;

    /// The data of the next event.
    fn next(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            let read = self.0.read_line(&mut line).expect("the stream is UTF-8");
            if read == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data:") {
                return Some(data.trim().to_owned());
            }
        }
    }
}
