//! Replies as server-sent events, and replies that are waited for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use super::super::reply::{Delta, End, Token};
use super::App;
use super::problem::{Problem, Style};
use super::wanted::One;
use crate::engine::TokenLogprob;

/// Events that wait for a slow reader, at most.
const EVENTS: usize = 64;
/// How long a reader may take nothing before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A reply that has ended.
#[derive(Debug)]
pub(super) struct Whole {
    pub text: String,
    pub tokens: Vec<Token>,
    pub scores: Vec<TokenLogprob>,
    pub end: End,
}

/// Waits for all replies, in their order. Those that are left are abandoned when one fails, or when
/// nobody waits any more.
pub(super) async fn wait_for(app: &Arc<App>, ones: Vec<One>) -> Result<Vec<Whole>, Problem> {
    let mut tasks = JoinSet::new();
    for (index, one) in ones.into_iter().enumerate() {
        let app = app.clone();
        tasks.spawn(async move { (index, whole(&app, one).await) });
    }
    let mut replies = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        let (index, reply) = joined.map_err(|_| ended_early())?;
        replies.push((index, reply?));
    }
    replies.sort_by_key(|(index, _)| *index);
    Ok(replies.into_iter().map(|(_, reply)| reply).collect())
}

async fn whole(app: &App, one: One) -> Result<Whole, Problem> {
    let mut reply = one.reply(app);
    let mut text = String::new();
    let (mut tokens, mut scores) = (Vec::new(), Vec::new());
    while let Some(delta) = reply.next().await? {
        text.push_str(&delta.text);
        tokens.extend(delta.tokens);
        scores.extend(delta.scores);
    }
    let end = reply.end().ok_or_else(ended_early)?;
    Ok(Whole {
        text,
        tokens,
        scores,
        end,
    })
}

/// A reply that was not finished by whoever makes it.
pub(super) fn ended_early() -> Problem {
    Problem::new(
        axum::http::StatusCode::INTERNAL_SERVER_ERROR,
        "the reply ended before its end",
    )
}

/// How an interface writes the events of a stream.
pub(super) trait Events: Send + Sync + 'static {
    /// What is kept of one reply between its events.
    type State: Send + Default;

    /// Before a reply's first token.
    fn begin(&self, _app: &App, _choice: usize, _state: &mut Self::State) -> Vec<Value> {
        Vec::new()
    }

    /// For what came, and at a reply's end.
    fn delta(
        &self,
        app: &App,
        choice: usize,
        delta: Delta,
        end: Option<&End>,
        state: &mut Self::State,
    ) -> Vec<Value>;

    /// After all replies.
    fn after(&self, _ends: &[End]) -> Vec<Value> {
        Vec::new()
    }

    /// The last line of a stream, if there is one.
    fn last(&self) -> Option<&'static str> {
        Some("[DONE]")
    }

    /// Whose form an error has.
    fn style(&self) -> Style {
        Style::OpenAi
    }
}

/// Streams replies as they come.
pub(super) fn stream(app: Arc<App>, ones: Vec<One>, events: impl Events) -> Response {
    let (sender, receiver) = mpsc::channel::<Result<Event, Infallible>>(EVENTS);
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = send_all(app, ones, events, &sender) => {}
        }
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("");
    Sse::new(ReceiverStream::new(receiver))
        .keep_alive(keep_alive)
        .into_response()
}

type Sender = mpsc::Sender<Result<Event, Infallible>>;

/// Sends one event; false where nobody takes it.
async fn send(sender: &Sender, data: String) -> bool {
    let sent = sender.send(Ok(Event::default().data(data)));
    matches!(tokio::time::timeout(PATIENCE, sent).await, Ok(Ok(())))
}

async fn send_values(sender: &Sender, values: Vec<Value>) -> bool {
    for value in values {
        if !send(sender, value.to_string()).await {
            return false;
        }
    }
    true
}

async fn send_all<E: Events>(app: Arc<App>, ones: Vec<One>, events: E, sender: &Sender) {
    let events = Arc::new(events);
    // When this ends, whatever still runs is aborted.
    let mut tasks = JoinSet::new();
    for (choice, one) in ones.into_iter().enumerate() {
        let (app, events, sender) = (app.clone(), events.clone(), sender.clone());
        tasks.spawn(async move { send_one(&app, choice, one, &*events, &sender).await });
    }
    let mut ends = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        match joined.unwrap_or_else(|_| Err(Some(ended_early()))) {
            Ok(end) => ends.push(end),
            Err(None) => return,
            Err(Some(problem)) => {
                let body = problem.body(events.style());
                send_values(sender, vec![body]).await;
                return;
            }
        }
    }
    if send_values(sender, events.after(&ends)).await
        && let Some(last) = events.last()
    {
        send(sender, last.to_owned()).await;
    }
}

/// Sends one reply. An error without a problem is a reader that has gone.
async fn send_one<E: Events>(
    app: &App,
    choice: usize,
    one: One,
    events: &E,
    sender: &Sender,
) -> Result<End, Option<Problem>> {
    let mut state = E::State::default();
    let sent = |sent| if sent { Ok(()) } else { Err(None) };
    sent(send_values(sender, events.begin(app, choice, &mut state)).await)?;
    let mut reply = one.reply(app);
    while let Some(delta) = reply.next().await.map_err(|failed| Some(failed.into()))? {
        let end = reply.end();
        let values = events.delta(app, choice, delta, end.as_ref(), &mut state);
        sent(send_values(sender, values).await)?;
    }
    reply.end().ok_or_else(|| Some(ended_early()))
}
