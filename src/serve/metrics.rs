//! What is counted, under the names that vLLM's and TGI's dashboards know.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// Seconds of requests and their parts.
const SECONDS: [f64; 18] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 60.0,
];
/// Tokens of requests.
const TOKENS: [f64; 15] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4,
];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    finished_reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Failure {
    err: &'static str,
}

/// The metrics of a server.
pub(super) struct Metrics {
    registry: Registry,
    pub running: Gauge,
    pub waiting: Gauge,
    pub cache_usage: Gauge<f64, AtomicU64>,
    pub prompt_tokens: Counter,
    pub generation_tokens: Counter,
    succeeded: Family<Reason, Counter>,
    pub prefix_queries: Counter,
    pub prefix_hits: Counter,
    pub first_token: Histogram,
    pub between_tokens: Histogram,
    time_per_token: Histogram,
    whole: Histogram,
    queued: Histogram,
    prefill: Histogram,
    decode: Histogram,
    request_prompt: Histogram,
    request_generation: Histogram,
    pub iteration_tokens: Histogram,
    tgi_queue: Gauge,
    tgi_batch: Gauge,
    // Counters, under TGI's own names: a counter's name would get the suffix `_total`.
    pub tgi_requests: Gauge,
    tgi_succeeded: Gauge,
    tgi_failed: Family<Failure, Gauge>,
    tgi_duration: Histogram,
    /// Programs compiled or loaded so far.
    pub programs: Gauge,
}

/// What a finished reply took.
pub(super) struct Finished {
    pub reason: &'static str,
    pub queued: Duration,
    pub prefill: Duration,
    pub decode: Duration,
    pub prompt_tokens: usize,
    pub new_tokens: usize,
}

impl Metrics {
    pub fn new(model: &str) -> Self {
        let mut registry = Registry::default();
        let labels = [("model_name", model.to_owned()), ("engine", "0".to_owned())];
        let labels = labels.map(|(name, value)| (name.into(), value.into()));
        let of_model = registry.sub_registry_with_labels(labels.into_iter());
        fn add<M: Metric + Clone>(to: &mut Registry, name: &str, help: &str, metric: M) -> M {
            to.register(name, help, metric.clone());
            metric
        }
        let gauge = |to: &mut Registry, name, help| add(to, name, help, Gauge::default());
        let counter = |to: &mut Registry, name, help| add(to, name, help, Counter::default());
        let seconds = |to: &mut Registry, name, help| add(to, name, help, Histogram::new(SECONDS));
        let tokens = |to: &mut Registry, name, help| add(to, name, help, Histogram::new(TOKENS));
        let r = of_model;
        let running = gauge(r, "vllm:num_requests_running", "Replies that have a row");
        let waiting = gauge(
            r,
            "vllm:num_requests_waiting",
            "Replies that wait for a row",
        );
        let cache_usage = add(
            r,
            "vllm:kv_cache_usage_perc",
            "Share of the key-value caches that running replies use, from 0 to 1",
            Gauge::default(),
        );
        let prompt_tokens = counter(r, "vllm:prompt_tokens", "Tokens of prompts that have run");
        let generation_tokens = counter(r, "vllm:generation_tokens", "New tokens");
        let succeeded = add(
            r,
            "vllm:request_success",
            "Replies that have ended, by why",
            Family::default(),
        );
        let prefix_queries = counter(
            r,
            "vllm:prefix_cache_queries",
            "Tokens of prompts that were looked for in freed rows",
        );
        let prefix_hits = counter(
            r,
            "vllm:prefix_cache_hits",
            "Tokens of prompts that a freed row had, which did not run again",
        );
        let first_token = seconds(
            r,
            "vllm:time_to_first_token_seconds",
            "From a request's arrival to its first token",
        );
        let between_tokens = seconds(
            r,
            "vllm:inter_token_latency_seconds",
            "Between one token of a reply and the next",
        );
        let time_per_token = seconds(
            r,
            "vllm:request_time_per_output_token_seconds",
            "Mean time of a reply's tokens after the first",
        );
        let whole = seconds(
            r,
            "vllm:e2e_request_latency_seconds",
            "From a request's arrival to its end",
        );
        let queued = seconds(
            r,
            "vllm:request_queue_time_seconds",
            "From a request's arrival to its row",
        );
        let prefill = seconds(
            r,
            "vllm:request_prefill_time_seconds",
            "From a row to its first token",
        );
        let decode = seconds(
            r,
            "vllm:request_decode_time_seconds",
            "From the first token to the last",
        );
        let request_prompt = tokens(r, "vllm:request_prompt_tokens", "Tokens of a prompt");
        let request_generation = tokens(r, "vllm:request_generation_tokens", "Tokens of a reply");
        let iteration_tokens = tokens(
            r,
            "vllm:iteration_tokens_total",
            "Tokens of a call of a program on the devices",
        );
        let programs = gauge(
            r,
            "gemma_xla:programs",
            "Programs compiled or loaded; constant once the server is ready",
        );
        let r = &mut registry;
        let tgi_queue = gauge(r, "tgi_queue_size", "Replies that wait for a row");
        let tgi_batch = gauge(r, "tgi_batch_current_size", "Replies that have a row");
        let tgi_requests = gauge(r, "tgi_request_count", "Replies asked for");
        let tgi_succeeded = gauge(r, "tgi_request_success", "Replies that have ended");
        let tgi_failed = add(
            r,
            "tgi_request_failure",
            "Replies that were refused or failed, by why",
            Family::default(),
        );
        let tgi_duration = seconds(
            r,
            "tgi_request_duration",
            "Seconds from a request's arrival to its end",
        );
        Self {
            registry,
            running,
            waiting,
            cache_usage,
            prompt_tokens,
            generation_tokens,
            succeeded,
            prefix_queries,
            prefix_hits,
            first_token,
            between_tokens,
            time_per_token,
            whole,
            queued,
            prefill,
            decode,
            request_prompt,
            request_generation,
            iteration_tokens,
            tgi_queue,
            tgi_batch,
            tgi_requests,
            tgi_succeeded,
            tgi_failed,
            tgi_duration,
            programs,
        }
    }

    /// Notes how many replies wait and run.
    pub fn load(&self, waiting: usize, running: usize) {
        for (gauges, count) in [
            ([&self.waiting, &self.tgi_queue], waiting),
            ([&self.running, &self.tgi_batch], running),
        ] {
            for gauge in gauges {
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }

    /// Notes the end of a reply.
    pub fn finished(&self, reply: &Finished) {
        let finished_reason = reply.reason;
        self.succeeded
            .get_or_create(&Reason { finished_reason })
            .inc();
        self.tgi_succeeded.inc();
        let whole = reply.queued + reply.prefill + reply.decode;
        self.whole.observe(whole.as_secs_f64());
        self.tgi_duration.observe(whole.as_secs_f64());
        self.queued.observe(reply.queued.as_secs_f64());
        self.prefill.observe(reply.prefill.as_secs_f64());
        self.decode.observe(reply.decode.as_secs_f64());
        if reply.new_tokens > 1 {
            let gaps = (reply.new_tokens - 1) as f64;
            self.time_per_token
                .observe(reply.decode.as_secs_f64() / gaps);
        }
        self.request_prompt.observe(reply.prompt_tokens as f64);
        self.request_generation.observe(reply.new_tokens as f64);
    }

    /// Notes a reply that was refused, failed or abandoned.
    pub fn failed(&self, err: &'static str) {
        self.tgi_failed.get_or_create(&Failure { err }).inc();
    }

    /// All of them in OpenMetrics' text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
