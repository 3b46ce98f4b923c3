//! One attempt of an append under one token.

use futures::{StreamExt as _, stream};

use super::{
    AppendError, LogWriter,
    draft::{CompletionPart, CompletionTarget, PreparedEntry},
    writer::StoreTime,
};
use crate::{
    LogParameters, Observation, Outcome, OutcomeDecision, ParameterSchedule, ResolvedEntry, Token, reader::TOKEN_FIELD,
};
use tidemark_store::{
    Create, Entropy, StoreSecond, UserMetadata,
    planted::{Fault, planted},
};

/// How many descriptors of one entry are put at once.
const SIDE_BY_SIDE: usize = 8;

/// An attempt: a token, and the parameters that judge it.
#[derive(Clone, Debug)]
pub(super) struct AppendAttempt {
    pub(super) token: Token,
    pub(super) schedule: ParameterSchedule,
}

/// How an attempt ended.
pub(super) enum AttemptOutcome {
    /// Committed, and seen in time.
    Proven { token: Token, acknowledged: StoreSecond },
    /// Not proven, and nothing stands in the way of another token.
    Again(UnprovenAttempt),
    /// Not proven, and another token would not help.
    Over(AppendError),
}

/// Why an attempt was not proven.
#[derive(Debug)]
pub(super) struct UnprovenAttempt {
    token: Token,
    outcome: Option<Outcome>,
    why: String,
}

/// What a look at an attempt showed that proves nothing.
pub(super) struct NotVisible {
    pub(super) missed: UnprovenAttempt,
    observations: Vec<Observation>,
}

impl AppendAttempt {
    pub(super) fn new(now: StoreTime, entropy: &Entropy) -> Self {
        Self { token: Token::new(now.second, entropy), schedule: now.schedule }
    }

    pub(super) fn parameters(&self) -> &LogParameters {
        self.schedule.at(self.token.second())
    }

    /// The second after which nothing is put any more: token + `W`, never rounded up.
    pub(super) fn ends(&self) -> StoreSecond {
        let expiry = self.parameters().expiry.as_secs();
        self.token.second().after(std::time::Duration::from_secs(expiry))
    }

    /// Whether `time` is not after token + `C`.
    fn in_bound(&self, time: StoreSecond) -> bool {
        time.since(self.token.second()) <= self.parameters().commit_bound()
    }

    pub(super) fn missed(&self, why: impl Into<String>) -> UnprovenAttempt {
        UnprovenAttempt { token: self.token, outcome: None, why: why.into() }
    }
}

impl UnprovenAttempt {
    pub(super) fn error(self, prepared: &PreparedEntry) -> AppendError {
        self.unproven(&prepared.key)
    }

    pub(super) fn unproven(self, idempotency_key: &str) -> AppendError {
        let Self { token, outcome, why } = self;
        let idempotency_key = idempotency_key.to_owned();
        AppendError::Unproven { token, outcome, idempotency_key, why }
    }
}

impl LogWriter {
    /// Entry, parts, proof, under the last of the tokens that were tried.
    pub(super) async fn attempt(&self, tried: &[AppendAttempt], prepared: &PreparedEntry) -> AttemptOutcome {
        let [earlier @ .., started] = tried else {
            unreachable!("an attempt has a token");
        };
        if let Err(missed) = self.write_entry(started, prepared).await {
            return AttemptOutcome::Again(missed);
        }
        let put = self.put_parts(started, prepared).await;
        match self.look(started, Some(prepared)).await {
            Ok(acknowledged) => AttemptOutcome::Proven { token: started.token, acknowledged },
            Err(mut unseen) => {
                if let Err(missed) = put {
                    unseen.missed.why = format!("{} ({})", unseen.missed.why, missed.why);
                }
                self.weigh(earlier, started, prepared, unseen).await
            }
        }
    }

    /// Creates the entry and makes sure that its store time fits its token.
    pub(super) async fn write_entry(
        &self,
        started: &AppendAttempt,
        prepared: &PreparedEntry,
    ) -> Result<(), UnprovenAttempt> {
        let key = started.token.to_string();
        let entries = &self.0.log.entries;
        let (body, none) = (prepared.body.clone(), UserMetadata::new());
        let created = if planted(Fault::CleanupOnUnknown) {
            entries.create(&key, body, &none).await
        } else {
            entries.create_resolved(&key, body, &none).await
        };
        match created {
            Create::Committed => {}
            Create::Lost => return Err(started.missed("another entry has the token")),
            Create::Unknown(error) => {
                if planted(Fault::CleanupOnUnknown) {
                    let _ = entries.delete(&[key]).await;
                }
                return Err(started.missed(format!("whether the entry was written is unknown: {error}")));
            }
        }
        let seen = entries.head(&key).await.map_err(|error| started.missed(error.to_string()))?;
        let time = seen.ok_or_else(|| started.missed("the entry is not there after it was written"))?.time;
        if time < started.token.second() || !started.in_bound(time) {
            let at = started.token.second();
            return Err(
                started.missed(format!("the entry's store time is {time}, too far from its token's second {at}"))
            );
        }
        Ok(())
    }

    /// Puts descriptors, then markers: what completes the group comes last.
    async fn put_parts(&self, started: &AppendAttempt, prepared: &PreparedEntry) -> Result<(), UnprovenAttempt> {
        let is_label = |part: &&CompletionPart| matches!(part.target, CompletionTarget::Label { .. });
        let (labels, descriptors): (Vec<&CompletionPart>, Vec<&CompletionPart>) =
            prepared.parts.iter().partition(is_label);
        for parts in [descriptors, labels] {
            // Made before they are streamed: a closure in the stream would keep the append from being spawned.
            let puts: Vec<_> = parts.into_iter().map(|part| self.put(started, part)).collect();
            let put: Vec<_> = stream::iter(puts).buffered(SIDE_BY_SIDE).collect().await;
            put.into_iter().collect::<Result<(), UnprovenAttempt>>()?;
        }
        Ok(())
    }

    /// Reads everything back as any reader does: store time at which it was seen complete and committed, in time. An
    /// entry of another draft than `prepared` proves nothing.
    pub(super) async fn look(
        &self,
        started: &AppendAttempt,
        prepared: Option<&PreparedEntry>,
    ) -> Result<StoreSecond, NotVisible> {
        let unseen = |missed| NotVisible { missed, observations: Vec::new() };
        let found = match self.0.reader.lookup(started.token, &started.schedule).await {
            Ok(Some(found)) => found,
            Ok(None) => return Err(unseen(started.missed("the entry is not there"))),
            Err(error) => return Err(unseen(started.missed(error.to_string()))),
        };
        if prepared.is_some_and(|prepared| prepared.body != found.body) {
            return Err(unseen(started.missed("the entry is another draft's")));
        }
        let outcome = found.ops.first().map(|op| op.decision.outcome);
        self.weigh_time(started, &found, outcome).await.map_err(|why| NotVisible {
            missed: UnprovenAttempt { outcome, ..started.missed(why) },
            observations: found.ops.into_iter().flat_map(|op| op.decision.observations).collect(),
        })
    }

    async fn weigh_time(
        &self,
        started: &AppendAttempt,
        found: &ResolvedEntry,
        outcome: Option<Outcome>,
    ) -> Result<StoreSecond, String> {
        if outcome != Some(Outcome::Committed) {
            return Err(missing(found));
        }
        let seen = self.seen_at(found).await?;
        if started.in_bound(seen) || planted(Fault::AcknowledgedUnseen) {
            return Ok(seen);
        }
        Err(format!("it was seen only at {seen}, after the commit bound"))
    }

    /// Store time of the read-back: what the answers say, else a probe made after it.
    async fn seen_at(&self, found: &ResolvedEntry) -> Result<StoreSecond, String> {
        match found.answered {
            Some(answered) => Ok(answered),
            None => Ok(self.0.clock.probe().await.map_err(|error| error.to_string())?.now),
        }
    }

    /// Whether another token may help. Descriptors have names that only one entry can have, so that once one of ours is
    /// there no other entry can complete them.
    async fn weigh(
        &self,
        earlier: &[AppendAttempt],
        started: &AppendAttempt,
        prepared: &PreparedEntry,
        unseen: NotVisible,
    ) -> AttemptOutcome {
        let NotVisible { missed, observations } = unseen;
        let foreign = observations.iter().find(|seen| seen.evidence.is_none() || seen.time < started.token.second());
        match foreign {
            Some(foreign) => self.occupied(earlier, started, prepared, foreign).await,
            None if prepared.may_start_again() || observations.is_empty() => AttemptOutcome::Again(missed),
            None => AttemptOutcome::Over(missed.error(prepared)),
        }
    }

    /// A key that is not this entry's may be an earlier one's of the same draft, also one that this process forgot.
    async fn occupied(
        &self,
        earlier: &[AppendAttempt],
        started: &AppendAttempt,
        prepared: &PreparedEntry,
        foreign: &Observation,
    ) -> AttemptOutcome {
        let named = self.named_by(foreign, started).await;
        let mut complete = None;
        for started in earlier.iter().rev().chain(&named) {
            match self.look(started, Some(prepared)).await {
                Ok(acknowledged) => return AttemptOutcome::Proven { token: started.token, acknowledged },
                Err(NotVisible { missed, .. })
                    if matches!(missed.outcome, Some(Outcome::Committed | Outcome::Late)) =>
                {
                    complete = Some(missed);
                }
                Err(_) => {}
            }
        }
        let (key, since, token) = (foreign.key.clone(), foreign.time, started.token);
        AttemptOutcome::Over(
            complete.map_or(AppendError::Occupied { key, since, token }, |missed| missed.error(prepared)),
        )
    }

    /// The entry that the metadata of the object names, where it names one.
    async fn named_by(&self, foreign: &Observation, started: &AppendAttempt) -> Option<AppendAttempt> {
        for store in &self.0.log.metadata {
            let found = store.get(&foreign.key, 0).await.ok().flatten();
            if let Some(token) = found.and_then(|found| found.metadata.get(TOKEN_FIELD)?.parse().ok()) {
                return Some(AppendAttempt { token, schedule: started.schedule.clone() });
            }
        }
        None
    }
}

/// What keeps an entry from being committed.
fn missing(found: &ResolvedEntry) -> String {
    let Some(OutcomeDecision { outcome, .. }) = found.ops.first().map(|op| &op.decision) else {
        return "it has no operation".to_owned();
    };
    let mut absent =
        found.ops.iter().filter(|op| op.operation.descriptor.is_some() && op.decision.observations.is_empty());
    match absent.find_map(|op| op.operation.descriptor.as_deref()) {
        Some(path) => format!("\"{path}\" is not there"),
        None => format!("it is {outcome:?}").to_lowercase(),
    }
}
