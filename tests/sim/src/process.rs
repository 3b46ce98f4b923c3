//! A simulated process: it can pause or crash at any of its calls to the store.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep_until},
};

/// A process between two restarts.
#[derive(Clone)]
pub struct SimProcess(Arc<ProcessState>);

struct ProcessState {
    name: String,
    crashes: AtomicBool,
    alive: watch::Sender<bool>,
    paused_until: watch::Sender<Option<Instant>>,
}

impl SimProcess {
    /// A running process. Faults pause and crash it only if `crashes`.
    pub fn new(name: impl Into<String>, crashes: bool) -> Self {
        Self(Arc::new(ProcessState {
            name: name.into(),
            crashes: AtomicBool::new(crashes),
            alive: watch::Sender::new(true),
            paused_until: watch::Sender::new(None),
        }))
    }

    /// Its name, for the trace.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether it can pause and crash.
    pub fn crashes(&self) -> bool {
        self.0.crashes.load(Ordering::Relaxed)
    }

    /// It neither pauses nor crashes from now on.
    pub fn protect(&self) {
        self.0.crashes.store(false, Ordering::Relaxed);
    }

    /// Kills it: none of its calls gets an answer from now on.
    pub fn kill(&self) {
        self.0.alive.send_replace(false);
    }

    /// Pauses it for `span`: its calls are neither sent nor answered, while its monotonic clock goes on.
    pub fn pause(&self, span: Duration) {
        let until = Instant::now() + span;
        self.0.paused_until.send_modify(|paused| *paused = Some(paused.map_or(until, |before| before.max(until))));
    }

    /// Waits until the process runs. Never returns if it was killed.
    pub(crate) async fn running(&self) {
        loop {
            if !*self.0.alive.borrow() {
                std::future::pending::<()>().await;
            }
            let until = *self.0.paused_until.borrow();
            match until {
                Some(until) if until > Instant::now() => sleep_until(until).await,
                _ => return,
            }
        }
    }

    /// Resolves when the process is killed.
    pub async fn killed(&self) {
        let mut alive = self.0.alive.subscribe();
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = alive.wait_for(|alive| !alive).await;
    }
}

impl fmt::Debug for SimProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimProcess({})", self.0.name)
    }
}
