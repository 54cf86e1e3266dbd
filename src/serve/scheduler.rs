//! The thread that owns the devices: it gives waiting requests rows of one session, runs their
//! prompts part by part between the steps of the others, and hands out tokens as they come.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::grammar::Constraint;
use super::metrics::{Finished, Metrics};
use crate::engine::{
    Admission, Engine, Error, FinishReason, Result, RowId, Session, SessionOptions, TokenLogprob,
};
use crate::sampling::{Key, SamplingOptions};

/// Updates of a reply that nobody has read yet, at most. A reader that is slower loses the reply.
const UPDATES: usize = 1024;
/// Tokens of prompts that may wait, at most.
const MOST_WAITING_TOKENS: usize = 1 << 22;
/// Steps of one call where nothing else waits, on devices whose calls cost more than on a CPU.
const STEPS_AHEAD: usize = 8;

/// A reply that is wanted.
pub(super) struct Request {
    pub prompt: Arc<[u32]>,
    /// New tokens at most, at least 1.
    pub max_tokens: usize,
    pub sampling: SamplingOptions,
    pub key: Key,
    /// How many of the most likely tokens are reported in each place of the prompt.
    pub score: Option<usize>,
    /// Tokens that end the reply.
    pub stop_tokens: Vec<u32>,
    pub constraint: Option<Constraint>,
}

/// What becomes of a reply.
#[derive(Debug)]
pub(super) enum Update {
    /// How likely the next tokens of the prompt were.
    Scores(Vec<TokenLogprob>),
    /// New tokens, what is reported of them, and why the reply ends with them, if it does.
    Tokens {
        ids: Vec<u32>,
        logprobs: Vec<TokenLogprob>,
        /// Tokens of the prompt that a freed row had.
        reused: usize,
        /// How long the reply waited for its row.
        queued: Duration,
        finished: Option<FinishReason>,
    },
    /// The end, by an error.
    Failed {
        message: String,
        /// The argument of the request that it is about.
        argument: Option<String>,
    },
}

impl Update {
    fn failed(error: &Error) -> Self {
        let argument = match error {
            Error::Argument { argument, .. } => Some(*argument),
            Error::Sampling(error) => Some(error.argument),
            _ => None,
        };
        Self::Failed {
            message: error.to_string(),
            argument: argument.map(str::to_owned),
        }
    }
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Too many wait. Seconds after which to try again.
    Busy(u64),
    /// The server is in this state.
    Not(Status),
}

/// What the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Loading,
    Ready,
    Draining,
    Failed,
}

struct Waiting {
    request: Request,
    updates: mpsc::Sender<Update>,
    since: Instant,
}

/// Replies that one call asked for.
struct Group {
    id: u64,
    waiting: VecDeque<Waiting>,
}

#[derive(Default)]
struct Queue {
    groups: VecDeque<Group>,
    /// Groups so far.
    count: u64,
}

impl Queue {
    /// Replies that wait.
    fn replies(&self) -> usize {
        self.groups.iter().map(|group| group.waiting.len()).sum()
    }

    /// Tokens of their prompts.
    fn tokens(&self) -> usize {
        let waiting = self.groups.iter().flat_map(|group| &group.waiting);
        waiting.map(|one| one.request.prompt.len()).sum()
    }
}

/// What the scheduler's thread and those who ask share.
pub(super) struct Scheduler {
    queue: Mutex<Queue>,
    changed: Condvar,
    status: AtomicU8,
    most_waiting: usize,
    pub metrics: Metrics,
}

impl Scheduler {
    pub fn new(model: &str, most_waiting: usize) -> Self {
        Self {
            queue: Mutex::default(),
            changed: Condvar::new(),
            status: AtomicU8::new(Status::Loading as u8),
            most_waiting,
            metrics: Metrics::new(model),
        }
    }

    pub fn status(&self) -> Status {
        match self.status.load(Ordering::Acquire) {
            0 => Status::Loading,
            1 => Status::Ready,
            2 => Status::Draining,
            _ => Status::Failed,
        }
    }

    fn set_status(&self, status: Status) {
        self.status.store(status as u8, Ordering::Release);
        self.changed.notify_all();
    }

    /// Takes no new requests; the thread ends when all that were taken have ended.
    pub fn drain(&self) {
        // The lock orders this with the thread's look at the queue.
        let _queue = self.lock();
        if self.status() != Status::Failed {
            self.set_status(Status::Draining);
        }
    }

    /// Takes requests, unless it drains already.
    pub fn take_requests(&self) {
        let _queue = self.lock();
        if self.status() == Status::Loading {
            self.set_status(Status::Ready);
        }
    }

    /// Takes no requests any more, since the thread has ended.
    pub fn fail(&self) {
        let _queue = self.lock();
        self.set_status(Status::Failed);
    }

    /// Replies that one call may ask for.
    pub fn most_replies(&self) -> usize {
        self.most_waiting
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for replies that belong together: what becomes of each, in their order. A reply is
    /// abandoned when its receiver is dropped.
    pub fn submit(
        &self,
        requests: Vec<Request>,
    ) -> std::result::Result<Vec<mpsc::Receiver<Update>>, Refusal> {
        let count = requests.len();
        self.metrics.tgi_requests.inc_by(count as i64);
        let mut queue = self.lock();
        if self.status() != Status::Ready {
            self.metrics.failed("unavailable");
            return Err(Refusal::Not(self.status()));
        }
        let tokens: usize = requests.iter().map(|request| request.prompt.len()).sum();
        let waiting = queue.replies();
        if waiting + count > self.most_waiting.max(count)
            || queue.tokens() + tokens > MOST_WAITING_TOKENS.max(tokens)
        {
            self.metrics.failed("overloaded");
            return Err(Refusal::Busy((waiting as u64 / 16).clamp(1, 30)));
        }
        let since = Instant::now();
        let mut receivers = Vec::with_capacity(count);
        let waiting = requests.into_iter().map(|request| {
            let (updates, receiver) = mpsc::channel(UPDATES);
            receivers.push(receiver);
            Waiting {
                request,
                updates,
                since,
            }
        });
        let waiting = waiting.collect();
        queue.count += 1;
        let id = queue.count;
        queue.groups.push_back(Group { id, waiting });
        drop(queue);
        self.changed.notify_all();
        Ok(receivers)
    }

    /// Compiles everything, says ready, and runs requests until it is drained.
    ///
    /// # Errors
    /// A device that fails; every request has been told.
    pub fn run(
        &self,
        engine: &Engine,
        options: &SessionOptions,
        ready: impl FnOnce(),
    ) -> Result<()> {
        let outcome = self.try_run(engine, options, ready);
        if let Err(error) = &outcome {
            let mut queue = self.lock();
            for waiting in queue.groups.drain(..).flat_map(|group| group.waiting) {
                let _ = waiting.updates.try_send(Update::failed(error));
            }
            // A model that was never ready is an error of whoever started the server.
            if self.status() != Status::Loading {
                self.set_status(Status::Failed);
            }
        }
        outcome
    }

    fn try_run(
        &self,
        engine: &Engine,
        options: &SessionOptions,
        ready: impl FnOnce(),
    ) -> Result<()> {
        let session = Session::new(engine, options)?;
        session.compile()?;
        let is_host = engine.runs_on_host();
        let mut worker = Worker {
            scheduler: self,
            engine,
            session,
            running: BTreeMap::new(),
            steps_ahead: if is_host { 1 } else { STEPS_AHEAD },
        };
        self.take_requests();
        self.metrics.programs.set(engine.times().programs as i64);
        ready();
        while worker.wait() {
            if let Err(error) = worker.turn() {
                for (_, running) in std::mem::take(&mut worker.running) {
                    let update = Update::failed(&error);
                    let _ = running.updates.try_send(update);
                    self.metrics.failed("device");
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

/// A reply that has a row.
struct Running {
    group: u64,
    updates: mpsc::Sender<Update>,
    stop_tokens: Vec<u32>,
    constraint: Option<Constraint>,
    prompt_tokens: usize,
    reused: usize,
    new_tokens: usize,
    since: Instant,
    admitted: Instant,
    first_token: Option<Instant>,
    last_token: Instant,
}

struct Worker<'a> {
    scheduler: &'a Scheduler,
    engine: &'a Engine,
    session: Session<'a>,
    running: BTreeMap<RowId, Running>,
    steps_ahead: usize,
}

impl Worker<'_> {
    /// Waits for something to do; false where there will be nothing any more.
    fn wait(&self) -> bool {
        let scheduler = self.scheduler;
        let mut queue = scheduler.lock();
        loop {
            scheduler.metrics.load(queue.replies(), self.running.len());
            if !self.running.is_empty() || !queue.groups.is_empty() {
                return true;
            }
            if scheduler.status() == Status::Draining {
                return false;
            }
            let waited = scheduler.changed.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What happens between two looks at the queue: rows of those who have gone are freed, waiting
    /// requests get free rows, one part of a prompt runs, and one step.
    fn turn(&mut self) -> Result<()> {
        self.drop_abandoned();
        self.admit();
        let metrics = &self.scheduler.metrics;
        metrics.programs.set(self.engine.times().programs as i64);
        if let Some(prefilled) = self.session.prefill()? {
            metrics.prompt_tokens.inc_by(prefilled.tokens as u64);
            metrics.iteration_tokens.observe(prefilled.tokens as f64);
            for (row, scores) in prefilled.scores {
                self.send(row, Update::Scores(scores));
            }
        }
        self.constrain()?;
        let waits = self.session.arriving_rows() > 0 || !self.scheduler.lock().groups.is_empty();
        let steps = if waits { 1 } else { self.steps_ahead };
        let stepped = self.session.step(steps, true)?;
        let capacity = self.session.rows() * self.session.max_length();
        let used = self.session.cached_tokens() as f64 / capacity as f64;
        metrics.cache_usage.set(used);
        let new = stepped
            .rows
            .iter()
            .map(|(_, new, _)| new.len())
            .sum::<usize>();
        if new > 0 {
            metrics.iteration_tokens.observe(new as f64);
        }
        let now = Instant::now();
        for ((row, ids, finished), logprobs) in stepped.rows.into_iter().zip(stepped.logprobs) {
            self.accept(row, ids, logprobs, finished, now);
        }
        Ok(())
    }

    fn drop_abandoned(&mut self) {
        let gone = self
            .running
            .iter()
            .filter(|(_, one)| one.updates.is_closed());
        let gone: Vec<RowId> = gone.map(|(&row, _)| row).collect();
        for row in gone {
            self.free(row);
            self.scheduler.metrics.failed("abandoned");
        }
        let mut queue = self.scheduler.lock();
        for group in &mut queue.groups {
            group.waiting.retain(|one| !one.updates.is_closed());
        }
        queue.groups.retain(|group| !group.waiting.is_empty());
    }

    /// Gives free rows to waiting replies: to those of the group that has the fewest, and of equal
    /// ones to that which came first.
    fn admit(&mut self) {
        while self.session.free_rows() > 0 {
            let Some((group, waiting)) = self.next_waiting() else {
                return;
            };
            let Waiting {
                request,
                updates,
                since,
            } = waiting;
            let admission = Admission {
                prompt: &request.prompt,
                new_tokens: request.max_tokens,
                key: request.key,
                sampling: Some(&request.sampling),
                score: request.score,
            };
            let admitted = match self.session.begin(&admission) {
                Ok(Some(admitted)) => admitted,
                // There is a free row.
                Ok(None) => return,
                // It was checked when it came; another option may still be beyond the session's.
                Err(error) => {
                    let _ = updates.try_send(Update::failed(&error));
                    self.scheduler.metrics.failed("validation");
                    continue;
                }
            };
            let now = Instant::now();
            let metrics = &self.scheduler.metrics;
            if request.score.is_none() {
                metrics.prefix_queries.inc_by(request.prompt.len() as u64);
                metrics.prefix_hits.inc_by(admitted.reused as u64);
            }
            let running = Running {
                group,
                updates,
                stop_tokens: request.stop_tokens,
                constraint: request.constraint,
                prompt_tokens: request.prompt.len(),
                reused: admitted.reused,
                new_tokens: 0,
                since,
                admitted: now,
                first_token: None,
                last_token: now,
            };
            self.running.insert(admitted.row, running);
        }
    }

    fn next_waiting(&self) -> Option<(u64, Waiting)> {
        let mut rows_of: HashMap<u64, usize> = HashMap::new();
        for running in self.running.values() {
            *rows_of.entry(running.group).or_default() += 1;
        }
        let mut queue = self.scheduler.lock();
        let rows = |group: &Group| rows_of.get(&group.id).copied().unwrap_or(0);
        let (place, _) = queue
            .groups
            .iter()
            .enumerate()
            .min_by_key(|(place, group)| (rows(group), *place))?;
        let group = queue.groups.get_mut(place)?;
        let id = group.id;
        let waiting = group.waiting.pop_front();
        if group.waiting.is_empty() {
            queue.groups.remove(place);
        }
        Some((id, waiting?))
    }

    /// Says which tokens may come next in each row with a constraint.
    fn constrain(&mut self) -> Result<()> {
        let mut failed = Vec::new();
        for (&row, running) in &mut self.running {
            let Some(constraint) = &mut running.constraint else {
                continue;
            };
            match constraint.allowed() {
                Ok(allowed) => self.session.allow(row, Some(allowed))?,
                Err(problem) => failed.push((row, problem)),
            }
        }
        for (row, problem) in failed {
            let argument = Some("response_format".to_owned());
            let message = problem;
            if self.send(row, Update::Failed { message, argument }) {
                self.free(row);
            }
            self.scheduler.metrics.failed("constraint");
        }
        Ok(())
    }

    fn accept(
        &mut self,
        row: RowId,
        mut ids: Vec<u32>,
        mut logprobs: Vec<TokenLogprob>,
        mut finished: Option<FinishReason>,
        now: Instant,
    ) {
        let metrics = &self.scheduler.metrics;
        let Some(running) = self.running.get_mut(&row) else {
            return;
        };
        let is_stop = |id: &u32| running.stop_tokens.contains(id);
        if let Some(place) = ids.iter().position(is_stop) {
            ids.truncate(place + 1);
            logprobs.truncate(place + 1);
            finished = Some(FinishReason::Stop);
        }
        for &id in &ids {
            let Some(constraint) = &mut running.constraint else {
                break;
            };
            if constraint.push(id) && finished.is_none() {
                finished = Some(FinishReason::Stop);
            }
        }
        metrics.generation_tokens.inc_by(ids.len() as u64);
        running.new_tokens += ids.len();
        match running.first_token {
            None => {
                running.first_token = Some(now);
                let since = now.duration_since(running.since);
                metrics.first_token.observe(since.as_secs_f64());
            }
            Some(_) => {
                let gap = now.duration_since(running.last_token).as_secs_f64();
                for _ in &ids {
                    metrics.between_tokens.observe(gap / ids.len() as f64);
                }
            }
        }
        running.last_token = now;
        let update = Update::Tokens {
            ids,
            logprobs,
            reused: running.reused,
            queued: running.admitted - running.since,
            finished,
        };
        if !self.send(row, update) {
            return;
        }
        let Some(reason) = finished else { return };
        if let Some(running) = self.free(row) {
            let first = running.first_token.unwrap_or(now);
            self.scheduler.metrics.finished(&Finished {
                reason: match reason {
                    FinishReason::Length => "length",
                    _ => "stop",
                },
                queued: running.admitted - running.since,
                prefill: first - running.admitted,
                decode: now - first,
                prompt_tokens: running.prompt_tokens,
                new_tokens: running.new_tokens,
            });
        }
    }

    /// Tells of a reply. One that nobody reads, or reads too slowly, loses its row.
    fn send(&mut self, row: RowId, update: Update) -> bool {
        let Some(running) = self.running.get(&row) else {
            return false;
        };
        let sent = running.updates.try_send(update);
        if let Err(why) = &sent {
            self.scheduler.metrics.failed(match why {
                mpsc::error::TrySendError::Full(_) => "slow reader",
                mpsc::error::TrySendError::Closed(_) => "abandoned",
            });
            self.free(row);
        }
        sent.is_ok()
    }

    fn free(&mut self, row: RowId) -> Option<Running> {
        self.session.free(row);
        self.running.remove(&row)
    }
}
