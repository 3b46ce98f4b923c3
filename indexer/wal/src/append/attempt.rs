//! One attempt of an append under one token.

use futures::{StreamExt as _, stream};

use super::{
    error::AppendError,
    prepared::{CompletionPart, CompletionTarget, PreparedEntry},
    session::{AppendAttempt, AppendSession},
};
use crate::{
    mutants,
    outcome::{Observation, Outcome, OutcomeDecision, is_in_time_for},
    reader::{ResolvedEntry, TOKEN_FIELD},
    token::Token,
};
use tidemark_store::{Create, StoreSecond, UserMetadata};

/// How many descriptors of one entry are put at once.
const MAX_CONCURRENT_PUTS: usize = 8;

/// How an attempt ended.
pub(super) enum AttemptOutcome {
    /// Committed, and seen in time.
    Acknowledged { token: Token, acknowledged: StoreSecond },
    /// Not proven; another token may succeed.
    Retry(UnprovenAttempt),
    /// Not proven; another token cannot succeed.
    Failed(AppendError),
}

/// Why an attempt ended before anything was acknowledged.
pub(super) enum AttemptFailure {
    /// Another token may succeed.
    Retry(UnprovenAttempt),
    /// Another token cannot succeed.
    Failed(AppendError),
}

impl From<AttemptFailure> for AttemptOutcome {
    fn from(failure: AttemptFailure) -> Self {
        match failure {
            AttemptFailure::Retry(unproven) => Self::Retry(unproven),
            AttemptFailure::Failed(error) => Self::Failed(error),
        }
    }
}

impl AttemptFailure {
    pub(super) fn error(self, prepared: &PreparedEntry) -> AppendError {
        match self {
            Self::Retry(unproven) => unproven.error(prepared),
            Self::Failed(error) => error,
        }
    }
}

/// Why an attempt was not proven.
#[derive(Debug)]
pub(super) struct UnprovenAttempt {
    token: Token,
    outcome: Option<Outcome>,
    why: String,
    /// Whether its slot counts, so that its guard, which commits it, may be there.
    is_guarded: bool,
}

/// What a read-back found that does not prove the attempt.
pub(super) struct NotVisible {
    pub(super) unproven: UnprovenAttempt,
    observations: Vec<Observation>,
    /// Whether the entry was read and is another draft's.
    is_of_another_draft: bool,
}

impl NotVisible {
    /// Whether what was read shows that the entry is not committed and never will be: it is another draft's, or one of its names is
    /// another entry's.
    fn is_ruled_out(&self) -> bool {
        let is_complete = matches!(self.unproven.outcome, Some(Outcome::Committed | Outcome::Late));
        self.is_of_another_draft || !is_complete && self.observations.iter().any(|seen| seen.evidence.is_none())
    }
}

impl UnprovenAttempt {
    pub(super) fn new(attempt: &AppendAttempt, why: impl Into<String>) -> Self {
        Self { token: attempt.token, outcome: None, why: why.into(), is_guarded: attempt.guard.is_some() }
    }

    /// Whether the entry, which a lock guards, may be committed all the same.
    pub(super) fn may_be_guarded(&self) -> bool {
        self.is_guarded
    }

    /// Which of two attempts of one append its caller has to hear of: the one that is likelier to be committed, else the later one.
    pub(super) fn or(self, later: Self) -> Self {
        if self.likelihood() <= later.likelihood() {
            return later;
        }
        let why = format!("{}; a later attempt: {}", self.why, later.why);
        Self { why, ..self }
    }

    /// The same where there may be no earlier one.
    pub(super) fn after(self, earlier: Option<Self>) -> Self {
        match earlier {
            Some(earlier) => earlier.or(self),
            None => self,
        }
    }

    /// Whether nothing rules out that the entry is committed.
    pub(super) fn may_be_committed(&self) -> bool {
        !matches!(self.outcome, Some(Outcome::Late | Outcome::Fenced))
    }

    /// A guarded entry without its guard counts for nothing.
    fn likelihood(&self) -> (bool, bool, bool) {
        (self.is_guarded, self.may_be_committed(), self.outcome == Some(Outcome::Committed))
    }

    /// The error of this attempt, where a later one failed for good: the earlier entry may be committed, and that comes first.
    pub(super) fn error_before(self, later: &AppendError, prepared: &PreparedEntry) -> AppendError {
        let why = format!("{}; a later attempt failed: {later}", self.why);
        Self { why, ..self }.error(prepared)
    }

    /// The error of this attempt, where no other token is taken because its key counts no more.
    pub(super) fn key_expired(self, prepared: &PreparedEntry) -> AppendError {
        let why = format!("the last entry is \"{}\", and {}", self.token, self.why);
        AppendError::KeyExpired { idempotency_key: prepared.key.clone(), why }
    }

    pub(super) fn error(self, prepared: &PreparedEntry) -> AppendError {
        let Self { token, outcome, why, .. } = self;
        let idempotency_key = prepared.key.clone();
        AppendError::Unproven { token, outcome, idempotency_key, why }
    }
}

impl AppendSession {
    /// Writes the entry and its parts, and reads them back, under the last of the tokens that were tried.
    pub(super) async fn attempt(&self, tried: &[AppendAttempt], prepared: &PreparedEntry) -> AttemptOutcome {
        let [earlier @ .., attempt] = tried else {
            unreachable!("an attempt has a token");
        };
        let base = match self.lock_slot(prepared).await {
            Ok(base) => base,
            Err(error) => return AttemptOutcome::Failed(error),
        };
        if let Err(unproven) = self.write_entry(attempt, prepared).await {
            return AttemptOutcome::Retry(unproven);
        }
        let guarded = match self.guard(attempt, prepared, base).await {
            Ok(guarded) => guarded,
            Err(failure) => return failure.into(),
        };
        let attempt = &guarded;
        let put = self.put_parts(attempt, prepared).await;
        match self.read_back(attempt, prepared).await {
            Ok(acknowledged) => AttemptOutcome::Acknowledged { token: attempt.token, acknowledged },
            Err(mut not_visible) => {
                if let Err(unproven) = put {
                    not_visible.unproven.why = format!("{} ({})", not_visible.unproven.why, unproven.why);
                }
                self.decide_retry(earlier, attempt, prepared, not_visible).await
            }
        }
    }

    /// Creates the entry and makes sure that its store time fits its token.
    pub(super) async fn write_entry(
        &self,
        attempt: &AppendAttempt,
        prepared: &PreparedEntry,
    ) -> Result<(), UnprovenAttempt> {
        let key = attempt.token.to_string();
        let entries = &self.log.entries;
        let (body, none) = (prepared.body(attempt.token), UserMetadata::new());
        // After its expiry nothing can complete it any more, and readers may have passed its token by.
        let within = attempt.parameters().expiry;
        match entries.create_resolved_within(&key, body, &none, within).await {
            Create::Committed => {}
            Create::Lost => return Err(UnprovenAttempt::new(attempt, "another entry has the token")),
            Create::Unknown(error) => {
                return Err(UnprovenAttempt::new(
                    attempt,
                    format!("whether the entry was written is unknown: {error}"),
                ));
            }
        }
        let seen = entries.head(&key).await.map_err(|error| UnprovenAttempt::new(attempt, error.to_string()))?;
        let time = seen.ok_or_else(|| UnprovenAttempt::new(attempt, "the entry is absent after it was written"))?.time;
        if time < attempt.token.second() || !attempt.in_bound(time) {
            let at = attempt.token.second();
            return Err(UnprovenAttempt::new(
                attempt,
                format!("the entry's store time is {time}, too far from its token's second {at}"),
            ));
        }
        Ok(())
    }

    /// Puts descriptors, then markers: what completes the group comes last.
    async fn put_parts(&self, attempt: &AppendAttempt, prepared: &PreparedEntry) -> Result<(), UnprovenAttempt> {
        let is_label = |part: &&CompletionPart| matches!(part.target, CompletionTarget::Label { .. });
        let (labels, descriptors): (Vec<&CompletionPart>, Vec<&CompletionPart>) =
            prepared.parts.iter().partition(is_label);
        for parts in [descriptors, labels] {
            // Collected before they are streamed: with a closure in the stream the future would not be `Send`.
            let puts: Vec<_> = parts.into_iter().map(|part| self.put(attempt, part)).collect();
            let put: Vec<_> = stream::iter(puts).buffered(MAX_CONCURRENT_PUTS).collect().await;
            let put: Result<(), String> = put.into_iter().collect();
            put.map_err(|why| UnprovenAttempt::new(attempt, why))?;
        }
        Ok(())
    }

    /// Reads everything back as any reader does: store time at which it was seen complete and committed, in time. An
    /// entry of another draft than `prepared` proves nothing.
    pub(super) async fn read_back(
        &self,
        attempt: &AppendAttempt,
        prepared: &PreparedEntry,
    ) -> Result<StoreSecond, NotVisible> {
        let not_visible = |unproven| NotVisible { unproven, observations: Vec::new(), is_of_another_draft: false };
        let found = match self.reader.lookup(attempt.token, &attempt.schedule).await {
            Ok(Some(found)) => found,
            Ok(None) => return Err(not_visible(UnprovenAttempt::new(attempt, "the entry is absent"))),
            Err(error) => return Err(not_visible(UnprovenAttempt::new(attempt, error.to_string()))),
        };
        match &found.body {
            None => return Err(not_visible(UnprovenAttempt::new(attempt, "the entry cannot be read"))),
            Some(body) if *body != prepared.body(attempt.token) => {
                let unproven = UnprovenAttempt::new(attempt, "the entry is another draft's");
                return Err(NotVisible { is_of_another_draft: true, ..not_visible(unproven) });
            }
            Some(_) => {}
        }
        let outcome = found.ops.first().map(|op| op.decision.outcome);
        self.check_visibility(attempt, &found, outcome).await.map_err(|why| NotVisible {
            unproven: UnprovenAttempt { outcome, ..UnprovenAttempt::new(attempt, why) },
            observations: found.ops.into_iter().flat_map(|op| op.decision.observations).collect(),
            is_of_another_draft: false,
        })
    }

    /// The same of an entry that was read: store time at which it was seen, or what is missing.
    pub(super) async fn check_visibility(
        &self,
        attempt: &AppendAttempt,
        found: &ResolvedEntry,
        outcome: Option<Outcome>,
    ) -> Result<StoreSecond, String> {
        if outcome != Some(Outcome::Committed) {
            return Err(what_is_missing(found));
        }
        let seen = self.seen_at(found).await?;
        // Also where it is an earlier attempt's: what its guard allows stands in the guard.
        let guard = found.ops.first().and_then(|op| op.decision.guard.as_ref());
        let in_guard = guard.is_none_or(|guard| seen <= guard.until);
        if mutants::seen_in_time(attempt.in_bound(seen) && in_guard) {
            return Ok(seen);
        }
        Err(format!("it was seen only at {seen}, after the commit bound"))
    }

    /// Store time of the read-back: what the answers say, else a probe made after it.
    async fn seen_at(&self, found: &ResolvedEntry) -> Result<StoreSecond, String> {
        match found.answered {
            Some(answered) => Ok(answered),
            None => Ok(self.clock.probe().await.map_err(|error| error.to_string())?.now),
        }
    }

    /// Whether another token may help. Descriptors have names that only one entry can have, so that once one of ours is
    /// there no other entry can complete them.
    async fn decide_retry(
        &self,
        earlier: &[AppendAttempt],
        attempt: &AppendAttempt,
        prepared: &PreparedEntry,
        not_visible: NotVisible,
    ) -> AttemptOutcome {
        let NotVisible { unproven, observations, .. } = not_visible;
        let foreign = observations
            .iter()
            .find(|seen| seen.evidence.is_none() || !is_in_time_for(attempt.parameters(), attempt.token, seen));
        match foreign {
            Some(foreign) => self.occupied(earlier, attempt, prepared, foreign).await,
            None if prepared.allows_another_token() || observations.is_empty() => AttemptOutcome::Retry(unproven),
            None => AttemptOutcome::Failed(unproven.error(prepared)),
        }
    }

    /// A key that is not this entry's may be an earlier one's of the same draft, also one that this process forgot. It is another
    /// update's only if each of those was read and is ruled out.
    async fn occupied(
        &self,
        earlier: &[AppendAttempt],
        attempt: &AppendAttempt,
        prepared: &PreparedEntry,
        foreign: &Observation,
    ) -> AttemptOutcome {
        let named = match self.named_by(foreign, attempt).await {
            Ok(named) => named,
            Err(why) => return AttemptOutcome::Failed(UnprovenAttempt::new(attempt, why).error(prepared)),
        };
        let mut open: Option<UnprovenAttempt> = None;
        for attempt in earlier.iter().rev().chain(&named) {
            match self.read_back(attempt, prepared).await {
                Ok(acknowledged) => return AttemptOutcome::Acknowledged { token: attempt.token, acknowledged },
                Err(not_visible) if not_visible.is_ruled_out() => {}
                Err(NotVisible { unproven, .. }) => open = Some(unproven.after(open)),
            }
        }
        let (key, since, token) = (foreign.key.clone(), foreign.time, attempt.token);
        AttemptOutcome::Failed(
            open.map_or(AppendError::Occupied { key, since, token }, |unproven| unproven.error(prepared)),
        )
    }

    /// The entry that the metadata of the object names, where it names one; or why that is not known.
    async fn named_by(&self, foreign: &Observation, attempt: &AppendAttempt) -> Result<Option<AppendAttempt>, String> {
        let mut failed = None;
        for store in &self.log.metadata {
            match store.get(&foreign.key, 0).await {
                Ok(found) => {
                    if let Some(token) = found.and_then(|found| found.metadata.get(TOKEN_FIELD)?.parse().ok()) {
                        return Ok(Some(AppendAttempt { token, schedule: attempt.schedule.clone(), guard: None }));
                    }
                }
                Err(error) => failed = Some(format!("whose \"{}\" is cannot be read: {error}", foreign.key)),
            }
        }
        failed.map_or(Ok(None), Err)
    }
}

/// What keeps an entry from being committed.
fn what_is_missing(found: &ResolvedEntry) -> String {
    let Some(OutcomeDecision { outcome, .. }) = found.ops.first().map(|op| &op.decision) else {
        return "it has no operation".to_owned();
    };
    let mut absent =
        found.ops.iter().filter(|op| op.operation.descriptor.is_some() && op.decision.observations.is_empty());
    match absent.find_map(|op| op.operation.descriptor.as_deref()) {
        Some(path) => format!("\"{path}\" is absent"),
        None => format!("it is {outcome:?}").to_lowercase(),
    }
}
