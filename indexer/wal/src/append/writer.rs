//! The writer: entry, descriptors, proof.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::Draft;
use crate::{Clock, ClockError, Entropy, Log, Outcome, Schedule, Second, StoreError, Token};

/// Where the dated parameters of a log come from: its root chain, or a constant in tests.
#[async_trait]
pub trait ParameterSource: Send + Sync {
    /// The parameters as they are now: reads the head of the root chain, nothing cached.
    async fn schedule(&self) -> Result<Schedule, SourceError>;
}

/// Why the dated parameters could not be had.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the log's parameters could not be read: {why}")]
pub struct SourceError {
    /// What happened and what to do.
    pub why: String,
}

#[async_trait]
impl ParameterSource for Schedule {
    async fn schedule(&self) -> Result<Schedule, SourceError> {
        Ok(self.clone())
    }
}

/// How a writer behaves.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Name of the writer: its clock object, and `writer` of drafts that name none. One process, one name.
    pub name: String,
    /// How many tokens an append may take before it gives up.
    pub attempts: u32,
}

impl WriterOptions {
    /// The defaults for a writer of this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), attempts: 4 }
    }
}

/// Appends to one log. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    log: Log,
    clock: Clock,
    source: Arc<dyn ParameterSource>,
    options: WriterOptions,
    entropy: Entropy,
}

/// Proof that an append is committed, in every index and for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The token of the entry.
    pub token: Token,
    /// Store time at which everything was seen.
    pub acknowledged: Second,
    /// How many tokens it took.
    pub attempts: u32,
}

/// An entry that is durable, and what is still to be put until its end.
#[derive(Clone, Debug)]
pub struct Begun {
    /// The token of the entry.
    pub token: Token,
    /// Store time after which nothing of it can be completed any more.
    pub ends: Second,
    /// What is still to be put, in this order.
    pub uploads: Vec<Upload>,
}

/// One object that completes an operation.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The operation.
    pub op: u32,
    /// Its key.
    pub key: String,
    /// A signed URL for one PUT; `None` where the store has no URLs.
    pub url: Option<url::Url>,
    /// The headers that the PUT must carry.
    pub headers: Vec<(String, String)>,
}

/// Why an append was not acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The clock could not be read.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The parameters could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The draft cannot be appended.
    #[error("the draft cannot be appended: {why}")]
    Invalid {
        /// What is wrong with it.
        why: String,
    },
    /// The stores' clocks are too far apart.
    #[error("the clocks of the stores are {} s apart, more than the {} s that appends allow; nothing was written", spread.as_secs(), allowed.as_secs())]
    Spread {
        /// How far they are apart.
        spread: Duration,
        /// How far they may be.
        allowed: Duration,
    },
    /// Another operation's object has the key.
    #[error("\"{key}\" exists and belongs to another operation; take another name for the update")]
    Occupied {
        /// The key.
        key: String,
    },
    /// The entry is durable, but it is not proven that it is committed.
    #[error(
        "entry \"{token}\" is durable but not proven to be committed ({why}); append again with idempotency key \"{idempotency_key}\", which makes it count once"
    )]
    Unproven {
        /// The newest token.
        token: Token,
        /// Store time's verdict so far, where there is one.
        outcome: Option<Outcome>,
        /// The key that makes a retry count once.
        idempotency_key: String,
        /// What is missing.
        why: String,
    },
}

impl Writer {
    /// Opens a writer: reads the clock and the parameters once.
    pub async fn open(
        log: Log,
        source: Arc<dyn ParameterSource>,
        options: WriterOptions,
        entropy: Entropy,
    ) -> Result<Self, AppendError> {
        let clock = Clock::new(&log, &options.name);
        Ok(Self { log, clock, source, options, entropy })
    }

    /// Appends `draft` and completes it: entry, descriptors, read back, proven.
    pub async fn append(&self, draft: Draft) -> Result<Receipt, AppendError> {
        let _ = (draft, &self.log, &self.clock, &self.source, &self.options, &self.entropy);
        todo!()
    }

    /// Writes the entry of `draft` and signs the URLs with which somebody else completes it.
    pub async fn begin(&self, draft: Draft) -> Result<Begun, AppendError> {
        let _ = draft;
        todo!()
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({} on {:?})", self.options.name, self.log.entries)
    }
}
