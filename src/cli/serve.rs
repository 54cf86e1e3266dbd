//! `gemma-xla serve`: an HTTP server.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};

use super::flags::one_line;
use super::model::{ModelArgs, load_opened};
use super::sampling::warn_of_ignored;
use super::terminal::{self, Lines};
use super::{Outcome, signals};
use crate::engine::Workload;
use crate::serve::{Ended, Error, ServeOptions, Served, Server, ServerEvent};
use crate::source::Model;

/// Options of `serve`.
#[derive(Args)]
pub struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Address to listen on [default: 127.0.0.1, or 0.0.0.0 where AIP_HTTP_PORT or PORT is set]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<IpAddr>,
    /// Port to listen on; 0 is any that is free [default: AIP_HTTP_PORT, PORT or 8000]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Name that the model is served by [default: the name or folder given]
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// Replies that run together
    #[arg(long, value_name = "B", default_value_t = 8, value_parser = sizes(1 << 16))]
    rows: usize,
    /// Maximum number of tokens of a prompt and its reply [default: 4096, or what the model has
    /// positions for]
    #[arg(long, value_name = "L", default_value_t = 4096, hide_default_value = true, value_parser = sizes(i32::MAX as u64))]
    max_length: usize,
    /// Tokens of a prompt that run between two steps of the other replies
    #[arg(long, value_name = "C", default_value_t = 64, value_parser = sizes(1 << 16))]
    prefill_chunk: usize,
    /// File with the API keys, one a line; GEMMA_XLA_API_KEY has another [default: no key is needed]
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Replies that may wait for a row; others are refused with status 429
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = sizes(1 << 20))]
    max_queue: usize,
    /// Seconds that running replies may take once the server is told to end
    #[arg(long, value_name = "S", default_value_t = 60)]
    drain_timeout: u64,
    /// Origin that browsers may ask from; * is any; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// Put system messages before the user's first, for templates that refuse them
    #[arg(long)]
    merge_system: bool,
    /// Form of the lines on standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// An object a line
    Json,
}

fn sizes(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

/// Runs the command.
pub fn run(args: &ServeArgs) -> anyhow::Result<Outcome> {
    let options = args.options()?;
    let arguments = args.model.located()?;
    let model = Model::open(&arguments.model)?;
    warn_of_ignored(model.generation(), |field| {
        Some(format!("a request's {field}"))
    });
    let name = args.model.model.display().to_string();
    let name = match args.model.model.is_dir() {
        true => folder_name(&args.model.model).unwrap_or(name),
        false => name,
    };
    let stop = signals::deferred();
    let server = Server::bind(&options, &name)?;
    terminal::note(format_args!("listening on http://{}", server.address()));
    if !options.host.is_loopback() && options.api_keys.is_empty() && options.api_key_file.is_none()
    {
        terminal::warn("anyone who reaches this address can use the model: no API key is set");
    }
    let mut load = arguments.options();
    load.workload = Some(Workload::Session(options.session(model.generation())));
    let load = move || {
        Served::load(model, |model| {
            load_opened(model, &load).map_err(|error| Error::Load(one_line(&error)))
        })
    };
    let ended = server.run(load, &stop, |event| match event {
        ServerEvent::Ready { took } => {
            terminal::note(format_args!("ready after {:.1} s", took.as_secs_f64()));
        }
        ServerEvent::Draining => terminal::note("ending: requests that run may finish"),
    })?;
    Ok(match ended {
        Ended::Drained => Outcome::Done,
        Ended::Cut => Outcome::Interrupted,
    })
}

impl ServeArgs {
    /// The form of lines on standard error.
    pub fn lines(&self) -> Lines {
        match self.log_format {
            LogFormat::Text => Lines::Text,
            LogFormat::Json => Lines::Json,
        }
    }

    fn options(&self) -> anyhow::Result<ServeOptions> {
        // Vertex AI names a port and routes; Cloud Run and others a port.
        let vertex_port = port_of("AIP_HTTP_PORT")?;
        let port = match vertex_port {
            Some(port) => Some(port),
            None => port_of("PORT")?,
        };
        let host = match port {
            Some(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Ok(ServeOptions {
            host: self.host.unwrap_or(host),
            port: self.port.or(port).unwrap_or(8000),
            name: self.served_model_name.clone(),
            rows: self.rows,
            max_length: self.max_length,
            prefill_chunk: self.prefill_chunk,
            api_keys: variable("GEMMA_XLA_API_KEY").into_iter().collect(),
            api_key_file: self.api_key_file.clone(),
            max_queue: self.max_queue,
            drain_timeout: Duration::from_secs(self.drain_timeout),
            cors: self.cors.clone(),
            merge_system: self.merge_system,
            health_route: variable("AIP_HEALTH_ROUTE"),
            predict_route: variable("AIP_PREDICT_ROUTE"),
            ..ServeOptions::default()
        })
    }
}

fn port_of(name: &str) -> anyhow::Result<Option<u16>> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => match value.parse() {
            Ok(port) => Ok(Some(port)),
            Err(_) => anyhow::bail!("{name}: {value:?} is not a port"),
        },
        _ => Ok(None),
    }
}

fn folder_name(folder: &std::path::Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    Some(folder.file_name()?.to_string_lossy().into_owned())
}
