//! A simulated process: it can pause and die at any of its calls to the store.

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

/// One life of a process. A restart is a new one.
#[derive(Clone)]
pub struct Process(Arc<Life>);

struct Life {
    name: String,
    mortal: AtomicBool,
    alive: watch::Sender<bool>,
    paused_until: watch::Sender<Option<Instant>>,
}

impl Process {
    /// A process that is alive. One that is not `mortal` never pauses and never dies.
    pub fn new(name: impl Into<String>, mortal: bool) -> Self {
        Self(Arc::new(Life {
            name: name.into(),
            mortal: AtomicBool::new(mortal),
            alive: watch::Sender::new(true),
            paused_until: watch::Sender::new(None),
        }))
    }

    /// Its name, for the trace.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether faults of the machine may strike it.
    pub fn mortal(&self) -> bool {
        self.0.mortal.load(Ordering::Relaxed)
    }

    /// Makes it immortal from now on.
    pub fn protect(&self) {
        self.0.mortal.store(false, Ordering::Relaxed);
    }

    /// Ends it: none of its calls is answered any more.
    pub fn kill(&self) {
        self.0.alive.send_replace(false);
    }

    /// Stops it for `span`: its calls neither leave nor return meanwhile, while its monotonic clock goes on.
    pub fn pause(&self, span: Duration) {
        let until = Instant::now() + span;
        self.0.paused_until.send_modify(|paused| *paused = Some(paused.map_or(until, |before| before.max(until))));
    }

    /// Waits until the process runs. For ever if it is dead.
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
        // The sender lives as long as `self`, so this ends only with the process.
        let _ = alive.wait_for(|alive| !alive).await;
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({})", self.0.name)
    }
}
