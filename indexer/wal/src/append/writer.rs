//! The writer: a token from store time, the entry, what completes it, and the proof.

use std::{fmt, sync::Arc};

use futures::future::try_join_all;

use super::{
    attempt::{AttemptOutcome, UnprovenAttempt},
    error::{AppendError, ConfirmError},
    prepared::{EntryDraft, EntryForm, PreparedEntry},
    receipt::AppendReceipt,
    retry::token_pauses,
    session::{AppendAttempt, AppendSession, StoreTime},
    source::ParameterSource,
    upload::CompletionUpload,
};
use crate::{datamon::DatamonPath, log::Log, reader::ResolvedEntry, token::Token};
use tidemark_store::{Entropy, StoreSecond, UrlSigner};

/// How a writer behaves.
#[derive(Clone, Debug)]
pub struct LogWriterOptions {
    /// Name of the writer: `writer` of drafts that name none. Processes that share it share its idempotency keys.
    pub name: String,
    /// Name of the clock object. One process, one name.
    pub clock: String,
    /// How many tokens one append may take before it gives up.
    pub attempts: u32,
    /// The form of its entries.
    pub form: EntryForm,
}

impl LogWriterOptions {
    /// The defaults for the only process of a writer of this name, which its clock object has too.
    pub fn named(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { clock: name.clone(), name, attempts: 4, form: EntryForm::default() }
    }
}

/// Appends to one log. Cheap to clone; clones share clock and parameters.
#[derive(Clone)]
pub struct LogWriter {
    session: Arc<AppendSession>,
    options: Arc<LogWriterOptions>,
}

/// A durable entry, and what another process must put before its end.
#[derive(Clone, Debug)]
pub struct PendingAppend {
    /// The token of the entry.
    pub token: Token,
    /// The key under which repeated appends count once.
    pub idempotency_key: String,
    /// Store time after which none of the URLs is valid any more.
    pub ends: StoreSecond,
    /// What must be put, in this order; empty when the entry completes itself.
    pub uploads: Vec<CompletionUpload>,
}

impl LogWriter {
    /// Opens a writer: probes the clock and reads the parameters once, so that a misconfiguration shows here.
    pub async fn open(
        log: Log,
        source: Arc<dyn ParameterSource>,
        options: LogWriterOptions,
        entropy: Entropy,
    ) -> Result<Self, AppendError> {
        let session = AppendSession::new(log, source, &options.clock, entropy);
        session.now().await?;
        Ok(Self { session: Arc::new(session), options: Arc::new(options) })
    }

    /// The writer's name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Appends `draft` and completes it: entry, descriptors, read back, proven.
    ///
    /// Takes a new token under the same idempotency key as often as [`LogWriterOptions::attempts`] allows. What an
    /// unsuccessful attempt wrote stays: the outcome of an unknown write is never guessed. Takes none once the log would take it for
    /// another operation, because the first one's key counts no more ([`AppendError::KeyExpired`]). A caller that repeats an append under
    /// its key has to be through within the log's idempotency retention. Of a draft with an expectation it proves no more than
    /// [`AppendProof::Undecided`].
    pub async fn append(&self, draft: EntryDraft) -> Result<AppendReceipt, AppendError> {
        let prepared = PreparedEntry::of(draft, self.options.form, self.name(), &self.session.entropy)?;
        self.append_prepared(&prepared, None).await
    }

    /// As [`Self::append`], of a draft that may have been appended with its key since the second `tried`.
    pub(super) async fn append_again(
        &self,
        draft: EntryDraft,
        tried: StoreSecond,
    ) -> Result<AppendReceipt, AppendError> {
        let prepared = PreparedEntry::of(draft, self.options.form, self.name(), &self.session.entropy)?;
        self.append_prepared(&prepared, Some(tried)).await
    }

    /// Appends drafts that the entry itself completes, as one entry.
    pub(super) async fn append_shared(&self, drafts: Vec<EntryDraft>) -> Result<AppendReceipt, AppendError> {
        self.append_prepared(&PreparedEntry::shared(drafts, self.name(), &self.session.entropy)?, None).await
    }

    /// Store time, with the log's parameters.
    pub(super) async fn now(&self) -> Result<StoreTime, AppendError> {
        self.session.now().await
    }

    /// A random idempotency key.
    pub(super) fn nonce(&self) -> String {
        self.session.entropy.nonce()
    }

    async fn append_prepared(
        &self,
        prepared: &PreparedEntry,
        tried_before: Option<StoreSecond>,
    ) -> Result<AppendReceipt, AppendError> {
        let session = &self.session;
        let mut first_try = FirstTry(tried_before);
        let mut pauses = token_pauses();
        let mut tried: Vec<AppendAttempt> = Vec::new();
        let mut unproven: Option<UnprovenAttempt> = None;
        loop {
            let attempt = match session.begin_attempt(prepared).await {
                Ok(attempt) => attempt,
                // An earlier entry may be durable, and the caller must hear of that first.
                Err(error) => return Err(unproven.map_or(error, |unproven| unproven.error(prepared))),
            };
            if first_try.is_forgotten(&attempt) {
                return Err(match unproven {
                    Some(unproven) => unproven.key_expired(prepared),
                    // Nothing was written under the token of `attempt`.
                    None => AppendError::KeyExpired {
                        idempotency_key: prepared.key.clone(),
                        why: "the entry that it shared with others is not proven".to_owned(),
                    },
                });
            }
            let schedule = attempt.schedule.clone();
            tried.push(attempt);
            let attempts = u32::try_from(tried.len()).unwrap_or(u32::MAX);
            match session.attempt(&tried, prepared).await {
                AttemptOutcome::Acknowledged { token, acknowledged } => {
                    let proven = AppendAttempt { token, schedule, guard: None };
                    let proof = proven.proof(acknowledged, prepared.is_conditional);
                    if !prepared.is_conditional {
                        session.refresh_labels(token, prepared.labels().collect(), &proven.schedule).await;
                    }
                    return Ok(AppendReceipt { token, op: 0, proof, attempts });
                }
                AttemptOutcome::Failed(error @ (AppendError::Lock(_) | AppendError::Fenced { .. })) => {
                    let earlier = unproven.filter(UnprovenAttempt::may_be_guarded);
                    return Err(match earlier {
                        Some(earlier) => earlier.error_before(&error, prepared),
                        None => error,
                    });
                }
                // Each earlier attempt was read, and is ruled out.
                AttemptOutcome::Failed(error @ AppendError::Occupied { .. }) => return Err(error),
                AttemptOutcome::Failed(error) => {
                    return Err(match unproven.filter(UnprovenAttempt::may_be_committed) {
                        Some(earlier) if !error.leaves_open() => earlier.error_before(&error, prepared),
                        _ => error,
                    });
                }
                AttemptOutcome::Retry(why) if attempts >= self.options.attempts || !prepared.counts_once() => {
                    return Err(why.after(unproven).error(prepared));
                }
                AttemptOutcome::Retry(why) => unproven = Some(why.after(unproven)),
            }
            self.pause(&mut pauses).await;
        }
    }

    /// Writes the entry of `draft` and signs the URLs with which another process completes it until
    /// [`PendingAppend::ends`].
    ///
    /// Nothing is acknowledged: the process that completes it calls [`LogWriter::confirm`], or leaves the outcome to the
    /// readers.
    pub async fn begin(&self, draft: EntryDraft) -> Result<PendingAppend, AppendError> {
        let session = &self.session;
        let prepared = PreparedEntry::of(draft, self.options.form, self.name(), &session.entropy)?;
        let mut pauses = token_pauses();
        let (mut attempts, mut first_try) = (0, FirstTry(None));
        let mut unproven: Option<UnprovenAttempt> = None;
        loop {
            let attempt = session.begin_attempt(&prepared).await?;
            let is_forgotten = first_try.is_forgotten(&attempt);
            if let Some(unproven) = unproven.take().filter(|_| is_forgotten) {
                return Err(unproven.key_expired(&prepared));
            }
            let base = session.lock_slot(&prepared).await?;
            match session.write_entry(&attempt, &prepared).await {
                Ok(()) => match session.guard(&attempt, &prepared, base).await {
                    Ok(attempt) => return self.pending(&attempt, prepared).await,
                    Err(failure) => return Err(failure.error(&prepared)),
                },
                Err(unproven) if attempts >= self.options.attempts || !prepared.counts_once() => {
                    return Err(unproven.error(&prepared));
                }
                Err(why) => (attempts, unproven) = (attempts + 1, Some(why)),
            }
            self.pause(&mut pauses).await;
        }
    }

    async fn pending(&self, attempt: &AppendAttempt, prepared: PreparedEntry) -> Result<PendingAppend, AppendError> {
        let uploads = try_join_all(prepared.parts.iter().map(|part| self.session.upload(attempt, part))).await;
        Ok(PendingAppend {
            token: attempt.token,
            ends: attempt.ends(),
            uploads: uploads.map_err(|error| UnprovenAttempt::new(attempt, error.to_string()).error(&prepared))?,
            idempotency_key: prepared.key,
        })
    }

    /// Reads back an entry that [`LogWriter::begin`] wrote, of whichever writer, and another process completed. Acknowledges it if it is
    /// proven, and then updates the labels that it moved. An entry with an expectation stays [`AppendProof::Undecided`].
    pub async fn confirm(&self, token: Token) -> Result<AppendReceipt, ConfirmError> {
        let session = &self.session;
        let now = session.now().await.map_err(|error| ConfirmError::Time(error.to_string()))?;
        let attempt = AppendAttempt { token, schedule: now.schedule, guard: None };
        let unproven = |outcome, why| ConfirmError::Unproven { token, outcome, why };
        let found = session.reader.lookup(token, &attempt.schedule).await;
        let found = found.map_err(|error| unproven(None, error.to_string()))?.ok_or(ConfirmError::Absent { token })?;
        let outcome = found.ops.first().map(|op| op.decision.outcome);
        let seen = session.check_visibility(&attempt, &found, outcome).await.map_err(|why| unproven(outcome, why))?;
        let is_conditional = found.intent.as_ref().is_ok_and(|intent| intent.expect.is_some());
        if !is_conditional {
            session.refresh_labels(token, moved_labels(&found), &attempt.schedule).await;
        }
        Ok(AppendReceipt { token, op: 0, proof: attempt.proof(seen, is_conditional), attempts: 1 })
    }

    /// Updates the keys of the labels that an entry with an expectation moved, of which an index says that it is committed. They are caches
    /// for Datamon's clients: after a failure the next writer updates them.
    pub async fn refresh_committed(&self, token: Token) -> Result<(), ConfirmError> {
        let session = &self.session;
        let failed = |error: String| ConfirmError::Time(error);
        let schedule = session.now().await.map_err(|error| failed(error.to_string()))?.schedule;
        let found = session.reader.lookup(token, &schedule).await.map_err(|error| failed(error.to_string()))?;
        let found = found.ok_or(ConfirmError::Absent { token })?;
        session.refresh_labels(token, moved_labels(&found), &schedule).await;
        Ok(())
    }

    /// Whether another process can complete what [`LogWriter::begin`] writes with nothing but a URL.
    pub fn has_signed_urls(&self) -> bool {
        let Log { metadata, .. } = &self.session.log;
        metadata.iter().all(|store| UrlSigner::of(store).has_urls())
    }

    /// Waits before the next token, and has the clock probed for it.
    async fn pause(&self, pauses: &mut impl Iterator<Item = std::time::Duration>) {
        self.session.forget_parameters().await;
        if let Some(pause) = pauses.next() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// The second of the first token under which an append was tried, once there is one.
struct FirstTry(Option<StoreSecond>);

impl FirstTry {
    /// Whether the key of the first try, which may be committed, would not count for `attempt`. The first attempt becomes that try.
    fn is_forgotten(&mut self, attempt: &AppendAttempt) -> bool {
        let second = attempt.token.second();
        !attempt.schedule.retains_key(*self.0.get_or_insert(second), second)
    }
}

/// The labels that an entry moves.
fn moved_labels(found: &ResolvedEntry) -> Vec<(&str, &str)> {
    let moved = found.ops.iter().filter_map(|op| match &op.path {
        DatamonPath::Label { repo, label } => Some((repo.as_str(), label.as_str())),
        _ => None,
    });
    moved.collect()
}

impl fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogWriter(\"{}\" on {:?})", self.name(), self.session.log.entries)
    }
}
