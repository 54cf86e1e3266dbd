//! The server's interfaces: OpenAI's, Text Generation Inference's, Vertex AI's, health, metrics and
//! a page.

mod chat;
mod completions;
mod fields;
mod openai;
mod operation;
mod problem;
mod stream;
mod tgi;
mod wanted;

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, post};

use tokio_stream::StreamExt;

use super::grammar::{Constraint, Form, Grammars};
use super::options::ServeOptions;
use super::scheduler::{Refusal, Scheduler, Status};
use crate::chat::ChatTemplate;
use crate::sampling::SamplingOptions;
use crate::source::LoadedModel;
use crate::tokenizer::TokenText;
use problem::{Problem, Style};

/// The largest body of a request. A million token ids have about seven bytes each.
const MOST_BODY: usize = 16 << 20;
/// How much of a larger one is read, so that its client sees the response.
const MOST_DRAINED: usize = 256 << 20;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(60);

/// What all requests share.
pub(super) struct App {
    pub scheduler: Arc<Scheduler>,
    pub options: ServeOptions,
    /// The name that the model is served by.
    pub name: String,
    /// When the server started, in seconds since 1970.
    pub started: u64,
    /// The hash of each API key; none where no key is needed.
    pub keys: Vec<[u8; 32]>,
    ready: OnceLock<Ready>,
}

/// What there is once the model is loaded.
pub(super) struct Ready {
    pub model: Arc<LoadedModel>,
    pub template: ChatTemplate,
    /// How tokens are chosen where a request does not say.
    pub defaults: SamplingOptions,
    /// Tokens of a prompt and its reply, at most.
    pub max_length: usize,
    grammars: OnceLock<Result<Grammars, String>>,
}

impl Ready {
    pub fn new(
        model: Arc<LoadedModel>,
        template: ChatTemplate,
        defaults: SamplingOptions,
        max_length: usize,
    ) -> Self {
        Self {
            model,
            template,
            defaults,
            max_length,
            grammars: OnceLock::new(),
        }
    }

    fn constraint(&self, form: &Form) -> Result<Constraint, Problem> {
        let grammars = self.grammars.get_or_init(|| {
            let tokenizer = self.model.tokenizer().ok_or("the model has no tokenizer")?;
            let eos = self.model.engine().spec().config.eos_token_ids().first();
            let end = self.model.end_of_turn().or(eos.copied());
            Grammars::new(tokenizer, end.ok_or("the model has no end of a reply")?)
        });
        let constraint = match grammars {
            Ok(grammars) => grammars.constraint(form),
            Err(problem) => Err(problem.clone()),
        };
        constraint.map_err(|problem| Problem::field("response_format", problem))
    }
}

impl App {
    pub fn new(
        scheduler: Arc<Scheduler>,
        options: ServeOptions,
        name: String,
        keys: Vec<[u8; 32]>,
    ) -> Self {
        Self {
            scheduler,
            options,
            name,
            started: openai::now(),
            keys,
            ready: OnceLock::new(),
        }
    }

    /// Says that the model is loaded.
    pub fn set_ready(&self, ready: Ready) {
        // It is loaded once.
        let _ = self.ready.set(ready);
    }

    fn ready(&self) -> Option<&Ready> {
        self.ready.get()
    }

    /// What there is once requests are taken.
    fn require_ready(&self) -> Result<&Ready, Problem> {
        match (self.scheduler.status(), self.ready()) {
            (Status::Ready, Some(ready)) => Ok(ready),
            (Status::Ready, None) => Err(Refusal::Not(Status::Loading).into()),
            (status, _) => Err(Refusal::Not(status).into()),
        }
    }

    /// What a token stands for.
    fn token(&self, id: u32) -> TokenText {
        let tokenizer = self.ready().and_then(|ready| ready.model.tokenizer());
        let token = tokenizer.and_then(|tokenizer| tokenizer.token(id));
        token.unwrap_or_else(|| TokenText {
            name: format!("<token {id}>"),
            bytes: Vec::new(),
        })
    }

    /// The text of token ids, special ones left out.
    fn text_of(&self, ids: &[u32]) -> String {
        let tokenizer = self.ready().and_then(|ready| ready.model.tokenizer());
        let text = tokenizer.and_then(|tokenizer| tokenizer.decode(ids).ok());
        text.unwrap_or_default()
    }

    /// Reads a request's body.
    async fn body(&self, request: Request) -> Result<Bytes, Problem> {
        let too_large = || {
            let message = format!("the body is larger than {MOST_BODY} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        };
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > MOST_BODY as u64) {
            // Many clients read no response before they have sent everything.
            let mut body = request.into_body().into_data_stream();
            let drained = async {
                let mut left = MOST_DRAINED;
                while let Some(Ok(part)) = body.next().await {
                    left = left.saturating_sub(part.len());
                    if left == 0 {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(BODY_TIME, drained).await;
            return Err(too_large());
        }
        let body = tokio::time::timeout(BODY_TIME, to_bytes(request.into_body(), MOST_BODY));
        match body.await {
            Err(_) => Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("the body took longer than {} s", BODY_TIME.as_secs()),
            )),
            Ok(Ok(body)) => Ok(body),
            Ok(Err(error)) if error.to_string().contains("length limit") => Err(too_large()),
            Ok(Err(error)) => Err(Problem::new(
                StatusCode::BAD_REQUEST,
                format!("the body cannot be read: {error}"),
            )),
        }
    }

    /// All routes.
    pub fn router(self: Arc<Self>) -> Router {
        let (health, predict) = (&self.options.health_route, &self.options.predict_route);
        let mut router = Router::new()
            .route("/health", get(operation::health))
            .route("/ping", get(operation::health))
            .route("/metrics", get(operation::metrics))
            .route("/version", get(operation::version))
            .route("/openapi.json", get(operation::openapi))
            .route("/v1/models", get(openai::models))
            .route("/v1/models/{*name}", get(openai::model))
            .route("/v1/completions", post(completions::completions))
            .route("/v1/chat/completions", post(chat::chat_completions))
            .route("/generate", post(tgi::generate))
            .route("/generate_stream", post(tgi::generate_stream))
            .route("/tokenize", post(tgi::tokenize))
            .route("/info", get(tgi::info))
            .route("/", get(operation::page).post(tgi::either));
        let own = ["/health", "/ping", "/"];
        if let Some(route) = health.as_deref().filter(|route| !own.contains(route)) {
            router = router.route(route, get(operation::health));
        }
        if let Some(route) = predict {
            router = router.route(route, post(operation::predict));
        }
        let cors = operation::cors(&self.options.cors);
        router
            .fallback(operation::unknown_route)
            .method_not_allowed_fallback(operation::wrong_method)
            .layer(middleware::from_fn_with_state(
                self.clone(),
                operation::require_key,
            ))
            .layer(cors)
            .layer(middleware::from_fn(operation::log))
            .with_state(self)
    }
}

/// A number that nobody can know.
fn random() -> u64 {
    // The standard library seeds each of these at random.
    RandomState::new().hash_one(0_u8)
}

/// A response, or the problem in the interface's words.
async fn answered(
    style: Style,
    answer: impl Future<Output = Result<Response, Problem>>,
) -> Response {
    match answer.await {
        Ok(response) => response,
        Err(problem) => problem.response(style),
    }
}
