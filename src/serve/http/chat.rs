//! OpenAI's `/v1/chat/completions`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::super::reply::{Delta, End, Token};
use super::fields::Fields;
use super::openai::{self, Answer, StreamOptions, finish_reason};
use super::problem::{Problem, Style};
use super::stream::{Events, Whole, stream, wait_for};
use super::wanted::{Choosing, Limit, Wanted};
use super::{App, answered};
use crate::chat::Message;

/// What a request asks to be told of its replies.
struct Told {
    answer: Answer,
    /// How many of the most likely tokens are told.
    logprobs: Option<usize>,
    prompt_tokens: usize,
}

/// Answers a request.
pub(super) async fn chat_completions(State(app): State<Arc<App>>, request: Request) -> Response {
    answered(Style::OpenAi, async {
        let body = app.body(request).await?;
        answer(app, Fields::parse(&body)?).await
    })
    .await
}

/// Answers a request whose fields these are.
pub(super) async fn answer(app: Arc<App>, mut fields: Fields) -> Result<Response, Problem> {
    let ready = app.require_ready()?;
    let model = app.check_model(&mut fields)?;
    let messages = messages(&mut fields, app.options.merge_system)?;
    let rendered = ready.template.render(&messages, true);
    let rendered = rendered.map_err(|error| Problem::field("messages", error))?;
    let prompt = app.encode("messages", &rendered, true)?;
    let mut choosing = Choosing::take(&mut fields, &ready.defaults)?;
    let n = openai::replies(&mut fields)?;
    let wants_logprobs = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.most_likely("top_logprobs")?;
    if !wants_logprobs && top.is_some_and(|top| top > 0) {
        let message = "it is for logprobs: logprobs is not true";
        return Err(Problem::field("top_logprobs", message));
    }
    let logprobs = wants_logprobs.then_some(top.unwrap_or(0));
    let mut limit = Limit::UpTo(usize::MAX);
    for field in ["max_tokens", "max_completion_tokens"] {
        if let Some(tokens) = fields.size(field, 1)? {
            limit = Limit::Exactly(tokens, field);
        }
    }
    let stops = fields.stops("stop")?;
    let streaming = StreamOptions::take(&mut fields)?;
    let form = openai::response_format(&mut fields)?;
    fields.refuse("tools", is_empty)?;
    fields.refuse("functions", is_empty)?;
    fields.refuse("tool_choice", |value| value == "none" || value == "auto")?;
    fields.refuse("function_call", |value| value == "none")?;
    fields.refuse("parallel_tool_calls", Value::is_boolean)?;
    fields.refuse("modalities", |value| value == &json!(["text"]))?;
    fields.finish(openai::IGNORED)?;

    match choosing.ignore_eos {
        true => choosing.stop_tokens.clear(),
        false => choosing.stop_tokens.extend(ready.model.end_of_turn()),
    }
    choosing.sampling.logprobs = logprobs;
    let kinds = ["chat.completion", "chat.completion.chunk"];
    let prompt_tokens = prompt.len();
    let told = Told {
        answer: Answer::new("chatcmpl", kinds, model, streaming, prompt_tokens),
        logprobs,
        prompt_tokens,
    };
    let ones = app.submit(Wanted {
        prompts: vec![prompt.into()],
        n,
        limit,
        choosing,
        score: None,
        stops,
        form,
    })?;
    if streaming.wanted {
        return Ok(stream(app, ones, told));
    }
    let replies = wait_for(&app, ones).await?;
    let choice = |index, reply| told.choice(&app, index, reply);
    Ok(told.answer.whole(replies, choice))
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

/// The messages of a request. With `merge_system` a system message goes before the text of the
/// user's first.
fn messages(fields: &mut Fields, merge_system: bool) -> Result<Vec<Message>, Problem> {
    let problem = |index: usize, what: &str| Problem::field(&format!("messages[{index}]"), what);
    let Some(list) = fields.list("messages")? else {
        return Err(Problem::field("messages", "they are missing"));
    };
    let mut messages: Vec<Message> = Vec::with_capacity(list.len().min(1024));
    let mut system = String::new();
    for (index, message) in list.into_iter().enumerate() {
        let Value::Object(message) = message else {
            return Err(problem(index, "expected an object"));
        };
        let mut message = Fields::new(message);
        let role = match message.text("role")? {
            None => return Err(problem(index, "it has no role")),
            Some(role) if role == "developer" => "system".to_owned(),
            Some(role) => role,
        };
        let content = match message.any("content") {
            None => String::new(),
            Some(Value::String(text)) => text,
            Some(Value::Array(parts)) => {
                let parts: Option<Vec<&str>> = parts
                    .iter()
                    .map(|part| match part.get("type")?.as_str()? {
                        "text" | "input_text" => part.get("text")?.as_str(),
                        _ => None,
                    })
                    .collect();
                let what = "only parts of type text are supported";
                parts.ok_or_else(|| problem(index, what))?.concat()
            }
            Some(_) => return Err(problem(index, "its content is not a text")),
        };
        let leftover = message
            .refuse("tool_calls", is_empty)
            .and_then(|()| message.finish(&["name", "refusal", "annotations", "audio"]));
        leftover.map_err(|inner| problem(index, &inner.message))?;
        if merge_system && role == "system" && messages.is_empty() {
            if !system.is_empty() {
                system.push_str("\n\n");
            }
            system.push_str(&content);
        } else if role == "user" && !system.is_empty() {
            let text = format!("{}\n\n{content}", std::mem::take(&mut system));
            messages.push(Message::new(role, text));
        } else {
            messages.push(Message::new(role, content));
        }
    }
    if !system.is_empty() {
        messages.push(Message::new("user", system));
    }
    Ok(messages)
}

impl Told {
    fn choice(&self, app: &App, index: usize, reply: Whole) -> Value {
        json!({
            "index": index,
            "message": {"role": "assistant", "content": reply.text, "refusal": null},
            "logprobs": self.logprobs(app, &reply.tokens),
            "finish_reason": finish_reason(&reply.end),
            "stop_reason": reply.end.stop_token,
        })
    }

    fn logprobs(&self, app: &App, tokens: &[Token]) -> Value {
        let Some(top) = self.logprobs else {
            return Value::Null;
        };
        let entry = |id: u32, logprob: f32| {
            let token = app.token(id);
            let mut entry = Map::new();
            entry.insert("token".to_owned(), token.name.into());
            entry.insert("logprob".to_owned(), openai::finite(logprob));
            entry.insert("bytes".to_owned(), json!(token.bytes));
            entry
        };
        let content = tokens.iter().filter_map(|token| {
            let logprob = token.logprob.as_ref()?;
            let mut value = entry(token.id, logprob.logprob);
            let most_likely = logprob.top.iter().take(top);
            let most_likely: Vec<Value> = most_likely
                .map(|&(id, logprob)| Value::Object(entry(id, logprob)))
                .collect();
            value.insert("top_logprobs".to_owned(), most_likely.into());
            Some(Value::Object(value))
        });
        json!({"content": content.collect::<Vec<_>>(), "refusal": null})
    }
}

impl Events for Told {
    /// Tokens so far.
    type State = usize;

    fn begin(&self, _: &App, choice: usize, _: &mut usize) -> Vec<Value> {
        let delta = json!({"role": "assistant", "content": "", "refusal": null});
        let value = json!({"index": choice, "delta": delta, "logprobs": null,
            "finish_reason": null});
        vec![self.answer.chunk(value, self.prompt_tokens, 0)]
    }

    fn delta(
        &self,
        app: &App,
        choice: usize,
        delta: Delta,
        end: Option<&End>,
        tokens: &mut usize,
    ) -> Vec<Value> {
        *tokens += delta.tokens.len();
        let has_logprobs = self.logprobs.is_some() && !delta.tokens.is_empty();
        let mut chunks = Vec::new();
        if !delta.text.is_empty() || has_logprobs {
            let logprobs = match has_logprobs {
                true => self.logprobs(app, &delta.tokens),
                false => Value::Null,
            };
            let value = json!({"index": choice, "delta": {"content": delta.text},
                "logprobs": logprobs, "finish_reason": null});
            chunks.push(self.answer.chunk(value, self.prompt_tokens, *tokens));
        }
        if let Some(end) = end {
            let value = json!({"index": choice, "delta": {}, "logprobs": null,
                "finish_reason": finish_reason(end), "stop_reason": end.stop_token});
            chunks.push(self.answer.chunk(value, self.prompt_tokens, *tokens));
        }
        chunks
    }

    fn after(&self, ends: &[End]) -> Vec<Value> {
        self.answer.after(ends)
    }
}
