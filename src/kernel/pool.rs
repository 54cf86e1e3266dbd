//! The threads that share a product.
//!
//! A decode step computes more than a hundred products of some hundred microseconds each, so
//! distributing one must cost very little: the helper threads spin for a while before they sleep,
//! the caller works too, and nothing waits for a helper that has not started.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a helper spins for the next product before it sleeps. The work of a decode step between
/// two products takes some ten microseconds; waking a thread may take longer.
const WATCH: Duration = Duration::from_micros(200);
/// How long it spins before it starts to yield its core to other threads.
const WATCH_CLOSELY: Duration = Duration::from_micros(20);

/// A set of helper threads.
pub(super) struct Pool {
    shared: Arc<Shared>,
    helpers: usize,
}

struct Shared {
    /// Products that helpers may still join.
    open: Mutex<Open>,
    /// Wakes sleeping helpers.
    wake: Condvar,
    /// Counts the products that were opened, so that a helper sees a new one without the lock.
    opened: AtomicU64,
}

#[derive(Default)]
struct Open {
    jobs: Vec<Arc<Job>>,
    sleeping: usize,
    closed: bool,
}

/// One product: its chunks in one range per thread, each range in order.
struct Job {
    /// The caller's closure without its lifetime. Only called between a [`Job::join`] under the
    /// lock of `open` and the matching [`Job::leave`], which `run` waits for.
    work: *const (dyn Fn(usize) + Sync),
    ranges: Vec<Range>,
    joined: AtomicUsize,
    active: AtomicUsize,
    panicked: AtomicBool,
}

// SAFETY: the closure that the pointer refers to is Sync, so it may be called from any thread; the
// field's documentation says when. The rest is Send and Sync by itself.
unsafe impl Send for Job {}
// SAFETY: as for Send.
unsafe impl Sync for Job {}

/// Chunks that one thread starts with. Aligned so that two threads' counters are not in one cache
/// line (or pair of them).
#[repr(align(128))]
struct Range {
    next: AtomicUsize,
    end: usize,
}

impl Pool {
    /// The pool of this process: a thread for every core that this process may use, the caller's
    /// own included. Made on first use and kept for the life of the process.
    pub(super) fn global() -> &'static Pool {
        static POOL: OnceLock<Pool> = OnceLock::new();
        POOL.get_or_init(|| Pool::new(thread::available_parallelism().map_or(1, usize::from)))
    }

    /// A pool of `threads` threads, the caller's own included. There are fewer where the system
    /// refuses more.
    pub(super) fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            open: Mutex::default(),
            wake: Condvar::new(),
            opened: AtomicU64::new(0),
        });
        let helpers = (1..threads)
            .take_while(|number| {
                let shared = Arc::clone(&shared);
                thread::Builder::new()
                    .name(format!("matmul-{number}"))
                    .spawn(move || shared.help())
                    .is_ok()
            })
            .count();
        Pool { shared, helpers }
    }

    /// Threads that work on a product, the caller's included.
    pub(super) fn threads(&self) -> usize {
        self.helpers + 1
    }

    /// Calls `work` once with each of 0 … `chunks` − 1, on all threads, and returns when all calls
    /// have returned. Each thread starts with a range of its own, in order, and then helps with the
    /// others.
    ///
    /// # Panics
    /// Where `work` does.
    pub(super) fn run(&self, chunks: usize, work: &(dyn Fn(usize) + Sync)) {
        let ranges = self.threads().min(chunks);
        if ranges <= 1 {
            (0..chunks).for_each(work);
            return;
        }
        // SAFETY: only the lifetime changes. The closure is called by this thread below, and by
        // helpers between joining and leaving; Closing, dropped before `work` ends, lets no more of
        // them join and waits for the joined to leave.
        let work = unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize) + Sync + '_),
                *const (dyn Fn(usize) + Sync + 'static),
            >(work)
        };
        let job = Arc::new(Job {
            work,
            ranges: (0..ranges)
                .map(|range| Range {
                    next: AtomicUsize::new(chunks * range / ranges),
                    end: chunks * (range + 1) / ranges,
                })
                .collect(),
            joined: AtomicUsize::new(1),
            active: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
        });
        let mut open = self.shared.lock();
        open.jobs.push(Arc::clone(&job));
        self.shared.opened.fetch_add(1, Ordering::Release);
        let sleeping = open.sleeping > 0;
        drop(open);
        let closing = Closing {
            shared: &self.shared,
            job: &job,
        };
        if sleeping {
            self.shared.wake.notify_all();
        }
        // SAFETY: `work` lives: this is the call that it was given to.
        unsafe { job.take_chunks(0) };
        drop(closing);
        assert!(
            !job.panicked.load(Ordering::Relaxed),
            "a chunk of a product panicked on another thread"
        );
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.opened.fetch_add(1, Ordering::Release);
        self.shared.wake.notify_all();
    }
}

/// A slice in parts of equal length, for chunks of work that each write one of them.
pub(super) struct Parts<'a, T> {
    start: *mut T,
    /// Parts in the slice.
    count: usize,
    length: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: whoever takes a part guarantees that nothing else has it, so each element belongs to one
// thread; T is what is sent there.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Parts of `length` elements; a remainder at the end belongs to none.
    pub(super) fn new(slice: &'a mut [T], length: usize) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            count: slice.len().checked_div(length).unwrap_or(0),
            length,
            slice: PhantomData,
        }
    }

    /// One part.
    ///
    /// # Safety
    /// It is taken once.
    ///
    /// # Panics
    /// Where there is no such part.
    #[allow(clippy::mut_from_ref, reason = "the caller vouches for it")]
    pub(super) unsafe fn part(&self, index: usize) -> &mut [T] {
        assert!(index < self.count, "part {index} of {}", self.count);
        // SAFETY: the slice, which is borrowed for this long, has that part, and nothing else has
        // it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(index * self.length), self.length) }
    }
}

/// Ends a product, also where the caller's own chunk panics.
struct Closing<'a> {
    shared: &'a Shared,
    job: &'a Arc<Job>,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.shared
            .lock()
            .jobs
            .retain(|job| !Arc::ptr_eq(job, self.job));
        // At most one chunk per helper is left: some microseconds, unless the helper was preempted.
        let mut rounds = 0_u32;
        while self.job.active.load(Ordering::Acquire) > 0 {
            rounds = rounds.saturating_add(1);
            if rounds < 10_000 {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }
}

impl Job {
    /// Takes chunks until none is left, those of the range `first` before others.
    ///
    /// # Safety
    /// The closure lives through the call.
    unsafe fn take_chunks(&self, first: usize) {
        // SAFETY: the caller vouches for it.
        let work = unsafe { &*self.work };
        let (before, from) = self.ranges.split_at(first % self.ranges.len());
        for range in from.iter().chain(before) {
            loop {
                let chunk = range.next.fetch_add(1, Ordering::Relaxed);
                if chunk >= range.end {
                    break;
                }
                work(chunk);
            }
        }
    }

    fn is_taken(&self) -> bool {
        self.ranges
            .iter()
            .all(|range| range.next.load(Ordering::Relaxed) >= range.end)
    }

    /// Call it under the lock of `open`, for a job that is in it. Returns the range to start with.
    fn join(&self) -> usize {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.joined.fetch_add(1, Ordering::Relaxed)
    }

    /// Lets the caller continue. Release: the caller then sees what this thread has written.
    fn leave(&self) {
        self.active.fetch_sub(1, Ordering::Release);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing that can panic runs under the lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The main loop of a helper.
    fn help(&self) {
        while let Some((job, range)) = self.next() {
            let done = catch_unwind(AssertUnwindSafe(|| {
                // SAFETY: next has joined the job: the caller of run waits for the leave below.
                unsafe { job.take_chunks(range) }
            }));
            if done.is_err() {
                job.panicked.store(true, Ordering::Relaxed);
            }
            job.leave();
        }
    }

    /// Waits for a product with chunks left and joins it; `None` when the pool is closed.
    fn next(&self) -> Option<(Arc<Job>, usize)> {
        let mut open = self.lock();
        loop {
            if open.closed {
                return None;
            }
            if let Some(job) = open.jobs.iter().find(|job| !job.is_taken()) {
                return Some((Arc::clone(job), job.join()));
            }
            let seen = self.opened.load(Ordering::Relaxed);
            drop(open);
            self.watch(seen);
            open = self.lock();
            // Nothing is opened under the lock, so no wake-up is missed between this check and the
            // sleep.
            if self.opened.load(Ordering::Relaxed) == seen {
                open.sleeping += 1;
                open = self.wake.wait(open).unwrap_or_else(PoisonError::into_inner);
                open.sleeping -= 1;
            }
        }
    }

    /// Spins until more than `seen` products were opened, for a limited time.
    fn watch(&self, seen: u64) {
        let start = Instant::now();
        while self.opened.load(Ordering::Acquire) == seen {
            let waited = start.elapsed();
            if waited > WATCH {
                return;
            }
            if waited > WATCH_CLOSELY {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }
}
