//! Listens, loads the model, and ends when it is told to.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, oneshot};

use super::error::{Error, Result};
use super::http::{App, Ready};
use super::options::ServeOptions;
use super::scheduler::{Scheduler, Status};
use crate::chat::ChatTemplate;
use crate::config::GenerationConfig;
use crate::engine::LoadOptions;
use crate::input_file;
use crate::source::{LoadedModel, Model};

/// How long a request's head may take to arrive, and a connection may be idle.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// The largest head of a request.
const MOST_HEAD: usize = 64 << 10;
/// How long responses may take to be sent once nothing generates any more.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often it is looked whether the server is to end.
const LOOK: Duration = Duration::from_millis(50);
/// The largest file of API keys.
const MOST_KEYS: u64 = 1 << 20;
/// Threads for connections, tokenizing and decoding.
const THREADS: usize = 2;

/// A server that listens and has no model yet.
pub struct Server {
    listener: TcpListener,
    app: Arc<App>,
}

/// A model to serve.
pub struct Served {
    /// The model.
    pub model: LoadedModel,
    /// How its conversations are rendered.
    pub template: ChatTemplate,
    /// The defaults of its tokens' choice.
    pub generation: GenerationConfig,
}

impl Served {
    /// Loads a model, as `load` does it, with what a server needs of it.
    ///
    /// # Errors
    /// A chat template that cannot be read, and what `load` says.
    pub fn load(model: Model, load: impl FnOnce(Model) -> Result<LoadedModel>) -> Result<Self> {
        let template = model.chat_template().map_err(crate::engine::Error::from)?;
        let generation = model.generation().clone();
        Ok(Self {
            template,
            generation,
            model: load(model)?,
        })
    }
}

/// What a server tells while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerEvent {
    /// The model is loaded and compiled, and requests are taken.
    Ready {
        /// Since the server began to load it.
        took: Duration,
    },
    /// It is to end. No new requests are taken, and those that run may end.
    Draining,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// When all that ran had ended.
    Drained,
    /// While something still ran, since it took too long.
    Cut,
}

impl Model {
    /// Loads the model with what a server needs of it.
    ///
    /// # Errors
    /// As [`load`](Self::load), and a chat template that cannot be read.
    pub fn into_served(self, options: &LoadOptions) -> Result<Served> {
        Served::load(self, |model| Ok(model.load(options)?))
    }
}

impl Server {
    /// Listens on the address that the options say. Requests are answered once it
    /// [runs](Self::run). `name` is the name that the model is served by, where the options have
    /// none.
    ///
    /// # Errors
    /// An address that is taken, a file of keys that cannot be read, sizes of 0.
    pub fn bind(options: &ServeOptions, name: &str) -> Result<Self> {
        for (argument, value) in [
            ("rows", options.rows),
            ("max_length", options.max_length),
            ("prefill_chunk", options.prefill_chunk),
            ("max_queue", options.max_queue),
            ("max_connections", options.max_connections),
        ] {
            if value == 0 {
                let problem = "0 is not at least 1".to_owned();
                return Err(Error::Argument { argument, problem });
            }
        }
        for (argument, route) in [
            ("health_route", &options.health_route),
            ("predict_route", &options.predict_route),
        ] {
            if let Some(route) = route
                && (!route.starts_with('/')
                    || route.contains(['{', '}', '?'])
                    || route.split('/').any(|part| part.starts_with([':', '*'])))
            {
                let problem = format!("{route:?} is not a plain path that begins with /");
                return Err(Error::Argument { argument, problem });
            }
        }
        let keys = keys(options)?;
        let address = SocketAddr::new(options.host, options.port);
        let listener =
            TcpListener::bind(address).map_err(|source| Error::Bind { address, source })?;
        listener.set_nonblocking(true)?;
        let name = options.name.clone().unwrap_or_else(|| name.to_owned());
        let scheduler = Arc::new(Scheduler::new(&name, options.max_queue));
        let app = Arc::new(App::new(scheduler, options.clone(), name, keys));
        Ok(Self { listener, app })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        let fallback = SocketAddr::new(self.app.options.host, self.app.options.port);
        self.listener.local_addr().unwrap_or(fallback)
    }

    /// Loads the model on a thread of its own and answers requests until `stop` is set; then what
    /// runs may end, for [`drain_timeout`](ServeOptions::drain_timeout). While the model loads, and
    /// after its devices have failed, health says so.
    ///
    /// # Errors
    /// A model that cannot be loaded or compiled, a device that failed, a system without threads.
    pub fn run(
        self,
        load: impl FnOnce() -> Result<Served> + Send + 'static,
        stop: &AtomicBool,
        mut tell: impl FnMut(ServerEvent),
    ) -> Result<Ended> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("serve")
            .enable_all()
            .build()?;
        let (ended, mut end) = oneshot::channel();
        let (loaded, mut ready) = oneshot::channel();
        let app = self.app.clone();
        let began = Instant::now();
        thread::Builder::new()
            .name("devices".to_owned())
            .spawn(move || {
                // The server has ended where nobody listens.
                let _ = ended.send(own_devices(&app, load, loaded));
            })?;
        let app = self.app.clone();
        let outcome = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let connections = Connections::new(&app);
            let mut has_ended = None;
            let mut is_waiting = true;
            loop {
                tokio::select! {
                    accepted = accept(&listener, &connections) => connections.take(accepted),
                    () = set(stop) => break,
                    outcome = &mut ready, if is_waiting => {
                        is_waiting = false;
                        if outcome.is_ok() {
                            tell(ServerEvent::Ready { took: began.elapsed() });
                        }
                    }
                    outcome = &mut end, if has_ended.is_none() => {
                        let outcome = outcome.unwrap_or_else(|_| {
                            let problem = "the thread of the devices ended".to_owned();
                            Err(Error::Load(problem))
                        });
                        let was_ready = app.scheduler.status() != Status::Loading;
                        app.scheduler.fail();
                        match outcome {
                            // Health tells whoever watches, who restarts the server.
                            Err(error) if was_ready => {
                                tracing::error!("{error}");
                                has_ended = Some(Err(error));
                            }
                            outcome => {
                                outcome?;
                                return Ok(Ended::Drained);
                            }
                        }
                    }
                }
            }
            if app.scheduler.status() == Status::Loading {
                return Ok(Ended::Drained);
            }
            tell(ServerEvent::Draining);
            app.scheduler.drain();
            let drained = async {
                while has_ended.is_none() {
                    tokio::select! {
                        accepted = accept(&listener, &connections) => connections.take(accepted),
                        outcome = &mut end => {
                            has_ended = Some(outcome.unwrap_or(Ok(())));
                        }
                    }
                }
                drop(listener);
                // Responses that have ended are still on their way.
                let _ = tokio::time::timeout(LAST_WORDS, connections.shut_down()).await;
                has_ended.unwrap_or(Ok(()))
            };
            tokio::select! {
                outcome = drained => outcome.map(|()| Ended::Drained),
                () = tokio::time::sleep(app.options.drain_timeout) => Ok(Ended::Cut),
            }
        });
        // A connection that does not end is not waited for.
        runtime.shutdown_background();
        outcome
    }
}

/// What the thread of the devices does.
fn own_devices(
    app: &App,
    load: impl FnOnce() -> Result<Served>,
    loaded: oneshot::Sender<()>,
) -> Result<()> {
    let Served {
        model,
        template,
        generation,
    } = load()?;
    let model = Arc::new(model);
    let engine = model.engine();
    let session = app.options.session(&generation);
    let defaults = session.sampling.clone();
    let positions = engine.spec().config.max_position_embeddings();
    let max_length = session.max_length.min(positions);
    app.set_ready(Ready::new(model.clone(), template, defaults, max_length));
    app.scheduler.run(engine, &session, || {
        // The server has ended where nobody listens.
        let _ = loaded.send(());
    })?;
    Ok(())
}

/// The hashes of the API keys.
fn keys(options: &ServeOptions) -> Result<Vec<[u8; 32]>> {
    let mut keys = options.api_keys.clone();
    if let Some(file) = &options.api_key_file {
        let problem = |problem: String| Error::KeyFile {
            file: file.clone(),
            problem,
        };
        let bytes =
            input_file::read(file, MOST_KEYS).map_err(|error| problem(error.to_string()))?;
        let bytes = bytes.ok_or_else(|| problem(format!("larger than {MOST_KEYS} bytes")))?;
        let text = String::from_utf8(bytes).map_err(|_| problem("it is not UTF-8".to_owned()))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let before = keys.len();
        keys.extend(lines.map(str::to_owned));
        if keys.len() == before {
            return Err(problem("it has no key".to_owned()));
        }
    }
    let keys = keys.iter().map(|key| Sha256::digest(key.as_bytes()).into());
    Ok(keys.collect())
}

/// Waits until `stop` is set. A signal's handler can set it.
async fn set(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK).await;
    }
}

/// The connections of a server.
struct Connections {
    router: Router,
    graceful: GracefulShutdown,
    free: Arc<Semaphore>,
}

impl Connections {
    fn new(app: &Arc<App>) -> Self {
        Self {
            router: app.clone().router(),
            graceful: GracefulShutdown::new(),
            free: Arc::new(Semaphore::new(app.options.max_connections)),
        }
    }

    /// Answers a connection's requests.
    fn take(&self, (stream, place): Accepted) {
        // A token is sent when it is there.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(self.router.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(MOST_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let connection = self.graceful.watch(connection);
        tokio::spawn(async move {
            // An error is a client that has gone, or that does not speak HTTP.
            let _ = connection.await;
            drop(place);
        });
    }

    /// Waits for all responses; idle connections end at once.
    async fn shut_down(self) {
        self.graceful.shutdown().await;
    }
}

/// A connection and its place among those that there may be. The semaphore is never closed.
type Accepted = (
    TcpStream,
    std::result::Result<OwnedSemaphorePermit, AcquireError>,
);

/// The next connection, when there is a place for it.
async fn accept(listener: &tokio::net::TcpListener, connections: &Connections) -> Accepted {
    let place = connections.free.clone().acquire_owned().await;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            // Out of file descriptors, for one: others may end.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
