//! How a server is run.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::GenerationConfig;
use crate::engine::SessionOptions;

/// How a server is run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// The address that it listens on; the loopback's by default.
    pub host: IpAddr,
    /// The port; 8000 by default. 0 is any that is free.
    pub port: u16,
    /// The name that the model is served by; by default its folder's.
    pub name: Option<String>,
    /// Replies that run together; 8 by default.
    pub rows: usize,
    /// Tokens of a prompt and its reply at most; by default 4096, or what the model has positions
    /// for.
    pub max_length: usize,
    /// Tokens of a prompt that run between two steps of the other replies; 64 by default.
    pub prefill_chunk: usize,
    /// Keys of which every request but health must have one; none is needed where there are none.
    pub api_keys: Vec<String>,
    /// A file with further keys, one a line.
    pub api_key_file: Option<PathBuf>,
    /// Replies that may wait for a row; 512 by default.
    pub max_queue: usize,
    /// How long running replies may take once the server is told to end; 60 s by default.
    pub drain_timeout: Duration,
    /// Origins that a browser may ask from; `*` is any. None by default.
    pub cors: Vec<String>,
    /// Connections at a time; 1024 by default.
    pub max_connections: usize,
    /// Whether system messages go before the text of the user's first message, for templates that
    /// refuse them.
    pub merge_system: bool,
    /// A further route for health, as Vertex AI names one.
    pub health_route: Option<String>,
    /// The route of Vertex AI's predictions.
    pub predict_route: Option<String>,
}

impl ServeOptions {
    /// The session that requests run in, for a model with these defaults.
    pub fn session(&self, generation: &GenerationConfig) -> SessionOptions {
        let mut sampling = generation.sampling.clone();
        sampling.stop.clear();
        SessionOptions {
            rows: self.rows,
            max_length: self.max_length,
            prefill_chunk: self.prefill_chunk,
            sampling,
            own_sampling: true,
            reuse_prefixes: true,
        }
    }
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8000,
            name: None,
            rows: 8,
            max_length: 4096,
            prefill_chunk: 64,
            api_keys: Vec::new(),
            api_key_file: None,
            max_queue: 512,
            drain_timeout: Duration::from_secs(60),
            cors: Vec::new(),
            max_connections: 1024,
            merge_system: false,
            health_route: None,
            predict_route: None,
        }
    }
}
