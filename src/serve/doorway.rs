//! What fuzz targets see of the server.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::error::Result;
use super::http::{App, Ready};
use super::options::ServeOptions;
use super::scheduler::Scheduler;
use super::server::Served;

/// Answers requests without sockets and without a thread of devices: for fuzz targets, which see
/// all that happens to a request before it waits for a row.
#[doc(hidden)]
pub struct Doorway {
    router: Router,
    runtime: Runtime,
}

impl Doorway {
    /// For a model that is loaded.
    ///
    /// # Errors
    /// A system that gives no event loop.
    pub fn new(served: Served) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        // Once these wait, all others are refused.
        let scheduler = Arc::new(Scheduler::new("model", 4));
        let options = ServeOptions {
            predict_route: Some("/predict".to_owned()),
            ..ServeOptions::default()
        };
        let app = App::new(scheduler.clone(), options, "model".to_owned(), Vec::new());
        let defaults = app.options.session(&served.generation).sampling;
        let model = Arc::new(served.model);
        app.set_ready(Ready::new(model, served.template, defaults, 256));
        scheduler.take_requests();
        let router = Arc::new(app).router();
        Ok(Self { router, runtime })
    }

    /// The status and the body of the response to a POST; none where the request waits for a row.
    pub fn post(&self, path: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
        let request = Request::post(path).body(Body::from(body.to_vec()));
        let service = TowerToHyperService::new(self.router.clone());
        self.runtime.block_on(async {
            let answer = async {
                let response = match service.call(request.ok()?).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                let status = response.status().as_u16();
                let body: Body = response.into_body();
                let body = to_bytes(body, usize::MAX).await.ok()?;
                Some((status, body.to_vec()))
            };
            timeout(Duration::from_millis(5), answer).await.ok()?
        })
    }
}
