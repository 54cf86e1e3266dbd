//! Health, metrics, the page, keys and logs.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::task::JoinSet;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::fields::Fields;
use super::problem::{Problem, Style};
use super::{App, answered, chat, completions, random};
use crate::serve::scheduler::{Refusal, Status};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// The page, one self-contained file.
const PAGE: &str = include_str!("../page.html");

/// `/health`: 200 when requests are taken.
pub(super) async fn health(State(app): State<Arc<App>>) -> Response {
    match app.scheduler.status() {
        Status::Ready => StatusCode::OK.into_response(),
        status => Problem::from(Refusal::Not(status)).response(Style::OpenAi),
    }
}

/// `/metrics`.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let headers = [(header::CONTENT_TYPE, kind)];
    (headers, app.scheduler.metrics.text()).into_response()
}

/// `/version`.
pub(super) async fn version() -> Response {
    Json(json!({"version": env!("CARGO_PKG_VERSION")})).into_response()
}

/// `/openapi.json`.
pub(super) async fn openapi() -> Response {
    Json(super::super::openapi::document()).into_response()
}

/// `/`.
pub(super) async fn page() -> Response {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let hash = |tag: &str| {
            let inner = PAGE.split_once(&format!("<{tag}>"));
            let inner = inner.and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
            let digest = Sha256::digest(inner.map_or("", |(inner, _)| inner));
            format!("'sha256-{}'", BASE64_STANDARD.encode(digest))
        };
        format!(
            "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash("script"),
            hash("style")
        )
    });
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, PAGE).into_response()
}

/// Vertex AI's route: each instance is a request of `/v1/completions`, or of
/// `/v1/chat/completions` where it has messages; parameters are for all of them.
pub(super) async fn predict(State(app): State<Arc<App>>, request: Request) -> Response {
    answered(Style::OpenAi, async {
        let body = app.body(request).await?;
        let mut fields = Fields::parse(&body)?;
        let parameters = match fields.any("parameters") {
            Some(Value::Object(parameters)) => parameters,
            Some(_) => return Err(Problem::field("parameters", "expected an object")),
            None => Map::new(),
        };
        let Some(instances) = fields.list("instances")? else {
            return Err(Problem::field("instances", "they are missing"));
        };
        fields.finish(&[])?;
        let mut tasks = JoinSet::new();
        let count = instances.len();
        for (index, instance) in instances.into_iter().enumerate() {
            let Value::Object(instance) = instance else {
                let name = format!("instances[{index}]");
                return Err(Problem::field(&name, "expected an object"));
            };
            let mut fields = parameters.clone();
            fields.extend(instance);
            fields.remove("stream");
            let is_chat = fields.contains_key("messages");
            let fields = Fields::new(fields);
            let app = app.clone();
            tasks.spawn(async move {
                let response = match is_chat {
                    true => chat::answer(app, fields).await?,
                    false => completions::answer(app, fields).await?,
                };
                let body = axum::body::to_bytes(response.into_body(), usize::MAX).await;
                let body = body
                    .ok()
                    .and_then(|body| serde_json::from_slice(&body).ok());
                Ok::<_, Problem>((index, body.unwrap_or(Value::Null)))
            });
        }
        let mut predictions = vec![Value::Null; count];
        while let Some(joined) = tasks.join_next().await {
            let (index, prediction) = joined.unwrap_or_else(|error| {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Err(Problem::new(status, error.to_string()))
            })?;
            predictions[index] = prediction;
        }
        Ok(Json(json!({"predictions": predictions})).into_response())
    })
    .await
}

/// A path that there is not.
pub(super) async fn unknown_route(request: Request) -> Response {
    let path: String = request.uri().path().chars().take(200).collect();
    let message = format!("no route {path:?}; /openapi.json lists them");
    Problem::new(StatusCode::NOT_FOUND, message).response(Style::OpenAi)
}

/// A method that a path does not take.
pub(super) async fn wrong_method() -> Response {
    let message = "the route does not take this method";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, message).response(Style::OpenAi)
}

/// Which origins a browser may ask from; none where there is none.
pub(super) fn cors(origins: &[String]) -> CorsLayer {
    if origins.is_empty() {
        return CorsLayer::new();
    }
    let headers = [header::AUTHORIZATION, header::CONTENT_TYPE, REQUEST_ID];
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(headers)
        .expose_headers([REQUEST_ID]);
    match origins.iter().any(|origin| origin == "*") {
        true => layer.allow_origin(AllowOrigin::any()),
        false => {
            let origins = origins.iter().filter_map(|origin| origin.parse().ok());
            layer.allow_origin(AllowOrigin::list(origins.collect::<Vec<HeaderValue>>()))
        }
    }
}

/// Refuses requests without a key, where one is needed: all but health, and the page, which asks
/// its user for the key.
pub(super) async fn require_key(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let is_health =
        ["/health", "/ping"].contains(&path) || app.options.health_route.as_deref() == Some(path);
    let is_page = path == "/" && request.method() == Method::GET;
    if app.keys.is_empty() || is_health || is_page {
        return next.run(request).await;
    }
    let given = request.headers().get(header::AUTHORIZATION);
    let given = given.and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    if given.is_some_and(|key| is_key(&app.keys, key)) {
        return next.run(request).await;
    }
    let message = match given {
        Some(_) => "the API key is wrong",
        None => "an API key is needed: Authorization: Bearer KEY",
    };
    let problem = Problem::new(StatusCode::UNAUTHORIZED, message).with_code("invalid_api_key");
    problem.response(Style::OpenAi)
}

/// Whether this is one of the keys, in a time that depends on neither.
fn is_key(keys: &[[u8; 32]], given: &str) -> bool {
    let given: [u8; 32] = Sha256::digest(given.as_bytes()).into();
    let mut found = subtle::Choice::from(0);
    for key in keys {
        found |= key.ct_eq(&given);
    }
    found.into()
}

/// A short header of visible ASCII characters.
fn plain_header(request: &Request, name: &HeaderName) -> Option<String> {
    let value = request.headers().get(name)?.to_str().ok()?;
    let is_plain = value.len() <= 128 && value.bytes().all(|byte| byte.is_ascii_graphic());
    (is_plain && !value.is_empty()).then(|| value.to_owned())
}

/// Gives a request an id, and logs its outcome. Prompts are not logged.
pub(super) async fn log(request: Request, next: Next) -> Response<Body> {
    let began = Instant::now();
    let id = plain_header(&request, &REQUEST_ID);
    let id = id.unwrap_or_else(|| format!("{:016x}", random()));
    let trace = plain_header(&request, &TRACE_PARENT);
    let method = request.method().clone();
    let path: String = request.uri().path().chars().take(200).collect();
    let mut response = next.run(request).await;
    let status = response.status().as_u16();
    let seconds = began.elapsed().as_secs_f64();
    // These are asked for all the time.
    if !["/health", "/ping", "/metrics"].contains(&path.as_str()) {
        tracing::info!(
            target: "gemma_xla::serve",
            request_id = %id,
            traceparent = trace.as_deref(),
            %method,
            path,
            status,
            seconds,
            "request"
        );
    }
    for (name, value) in [(REQUEST_ID, Some(id)), (TRACE_PARENT, trace)] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart() {
        let keys = ["a", "secret"].map(|key| Sha256::digest(key).into());
        assert!(is_key(&keys, "secret") && is_key(&keys, "a"));
        assert!(!is_key(&keys, "secre") && !is_key(&keys, "") && !is_key(&[], "a"));
    }
}
