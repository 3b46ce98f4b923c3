//! What a named consumer of an index's changes has acknowledged: the state of its chain, and its transactions as pure functions.

use std::fmt;

use serde::{Deserialize, Serialize};
use tidemark_store::{ChainState, InvariantViolation, StateExtensions, StoreSecond};

use crate::{
    error::TransactionRejected,
    identity::{IndexId, LogId},
    manifest::LeaseHolder,
    names::Generation,
};

/// The longest name of a consumer, in characters.
const MAX_NAME_CHARS: usize = 40;

/// The name of a consumer: a letter, then letters, digits and hyphens, all in lower case, and no hyphen at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConsumerName(String);

/// Why a text is no name of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" names no consumer; nothing was read; use at most {MAX_NAME_CHARS} lower-case letters, digits and hyphens, a letter first and \
     no hyphen last"
)]
pub struct InvalidConsumerName(String);

impl ConsumerName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for ConsumerName {
    type Err = InvalidConsumerName;

    fn from_str(text: &str) -> Result<Self, InvalidConsumerName> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_name = text.len() <= MAX_NAME_CHARS
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && !text.ends_with('-')
            && text.bytes().all(is_plain);
        let shown = || InvalidConsumerName(text.chars().take(80).collect());
        is_name.then(|| Self(text.to_owned())).ok_or_else(shown)
    }
}

impl TryFrom<String> for ConsumerName {
    type Error = InvalidConsumerName;

    fn try_from(text: String) -> Result<Self, InvalidConsumerName> {
        text.parse()
    }
}

impl From<ConsumerName> for String {
    fn from(name: ConsumerName) -> Self {
        name.0
    }
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place in the changes of an index: after the record `seq` of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsumerPosition {
    /// The generation.
    pub generation: Generation,
    /// The seq of the last record before the place; 0 before the first one.
    pub seq: u64,
}

impl ConsumerPosition {
    /// Whether this place is `other` or lies behind it. A later generation that keeps positions keeps seqs too.
    fn is_at_or_after(&self, other: &Self) -> bool {
        self.generation >= other.generation && self.seq >= other.seq
    }
}

impl fmt::Display for ConsumerPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.generation, self.seq)
    }
}

/// What a consumer has done with the changes up to a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerProgress {
    /// Every record up to it was delivered, dead-lettered or left out by the filter.
    pub acknowledged: ConsumerPosition,
    /// How many records were delivered since the consumer was made.
    pub delivered: u64,
    /// How many were put aside as dead letters.
    pub dead_lettered: u64,
}

/// The state of a consumer's chain: `<index>/consumers/{name}/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsumerState {
    /// The log whose records the index holds: a folder that was copied from the index of another one is refused.
    pub log: LogId,
    /// The index: one that was begun again under the same URL numbers its records from 1, so its changes are not those that were acknowledged.
    pub index: IndexId,
    /// The consumer: a folder that was copied or renamed is refused.
    pub name: ConsumerName,
    /// The number of the process that holds the consumer; a higher one fences every lower one.
    pub epoch: u64,
    /// That process; absent once it has released the consumer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub holder: Option<LeaseHolder>,
    /// Where the consumer began.
    pub start: ConsumerPosition,
    /// Every record up to it was delivered, dead-lettered or left out by the filter.
    pub acknowledged: ConsumerPosition,
    /// How many records were delivered. A record that was delivered twice counts once.
    pub delivered: u64,
    /// How many were put aside as dead letters.
    pub dead_lettered: u64,
    /// What later versions have added.
    #[serde(skip_serializing_if = "StateExtensions::is_empty", default)]
    pub ext: StateExtensions,
}

impl ChainState for ConsumerState {
    type Rejection = TransactionRejected;

    const FORMAT: u32 = 1;

    fn extensions(&self) -> &StateExtensions {
        &self.ext
    }

    fn apply_store_time(&mut self, recorded: StoreSecond) {
        if let Some(holder) = &mut self.holder {
            holder.since.get_or_insert(recorded);
        }
    }

    fn check_state(&self) -> Result<(), InvariantViolation> {
        let is_sound = self.acknowledged.is_at_or_after(&self.start);
        InvariantViolation::unless(is_sound, "a consumer is never before its start", || {
            format!("{} before {}", self.acknowledged, self.start)
        })
    }

    fn check_transition(&self, before: &Self) -> Result<(), InvariantViolation> {
        let kept = |state: &Self| (state.log.clone(), state.index.clone(), state.name.clone(), state.start.clone());
        InvariantViolation::unless(
            kept(self) == kept(before),
            "a consumer keeps its log, its index, its name and its start",
            || format!("{self:?} after {before:?}"),
        )?;
        let is_forward = self.acknowledged.is_at_or_after(&before.acknowledged)
            && self.epoch >= before.epoch
            && self.delivered >= before.delivered
            && self.dead_lettered >= before.dead_lettered;
        InvariantViolation::unless(is_forward, "nothing of a consumer goes back", || {
            format!("{self:?} after {before:?}")
        })?;
        // A holder that comes is of a higher epoch; one of the same epoch may only go.
        let keeps = self.epoch > before.epoch || self.holder.is_none() || self.holder == before.holder;
        InvariantViolation::unless(keeps, "an epoch has one holder", || {
            format!("{:?} after {:?} in epoch {}", self.holder, before.holder, self.epoch)
        })
    }
}

impl ConsumerState {
    /// The first state, of a consumer that begins at `start`.
    pub(crate) fn new(log: LogId, index: IndexId, name: ConsumerName, start: ConsumerPosition) -> Self {
        let acknowledged = start.clone();
        Self {
            log,
            index,
            name,
            epoch: 0,
            holder: None,
            start,
            acknowledged,
            delivered: 0,
            dead_lettered: 0,
            ext: StateExtensions::NONE,
        }
    }

    /// What was done so far.
    pub fn progress(&self) -> ConsumerProgress {
        let Self { acknowledged, delivered, dead_lettered, .. } = self;
        ConsumerProgress { acknowledged: acknowledged.clone(), delivered: *delivered, dead_lettered: *dead_lettered }
    }

    /// Refused unless the state is of this consumer of this index of this log.
    pub(crate) fn require(&self, log: &LogId, index: &IndexId, name: &ConsumerName) -> Result<(), TransactionRejected> {
        if (&self.log, &self.name) != (log, name) {
            return Err(TransactionRejected::AnotherConsumer {
                name: name.to_string(),
                log: log.clone(),
                found: self.name.to_string(),
                found_log: self.log.clone(),
            });
        }
        if self.index != *index {
            let (index, found) = (index.clone(), self.index.clone());
            return Err(TransactionRejected::ConsumerOfEarlierIndex { name: name.to_string(), index, found });
        }
        Ok(())
    }

    /// The next epoch, of `holder`, who saw epoch `saw`. Every earlier holder is fenced.
    pub(crate) fn claim(&self, saw: u64, holder: LeaseHolder) -> Result<Self, TransactionRejected> {
        self.require_epoch(saw)?;
        Ok(Self { epoch: self.epoch.saturating_add(1), holder: Some(holder), ..self.clone() })
    }

    /// With the progress of the holder of `epoch`; `None` if that is known.
    pub(crate) fn acknowledge(
        &self,
        epoch: u64,
        progress: &ConsumerProgress,
    ) -> Result<Option<Self>, TransactionRejected> {
        self.require_epoch(epoch)?;
        let ConsumerProgress { acknowledged, delivered, dead_lettered } = progress.clone();
        let next = Self { acknowledged, delivered, dead_lettered, ..self.clone() };
        Ok(Some(next).filter(|next| next != self))
    }

    /// Without a holder, so that the next one need not wait; `None` if that is so.
    pub(crate) fn release(&self, epoch: u64) -> Result<Option<Self>, TransactionRejected> {
        self.require_epoch(epoch)?;
        Ok(self.holder.is_some().then(|| Self { holder: None, ..self.clone() }))
    }

    fn require_epoch(&self, epoch: u64) -> Result<(), TransactionRejected> {
        if self.epoch == epoch {
            return Ok(());
        }
        Err(TransactionRejected::ConsumerFenced { name: self.name.to_string(), epoch, by: self.epoch })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::WriterIdentity;

    fn name() -> ConsumerName {
        "orders".parse().unwrap()
    }

    fn log() -> LogId {
        LogId("log".to_owned())
    }

    fn index() -> IndexId {
        IndexId("index".to_owned())
    }

    fn at(generation: u64, seq: u64) -> ConsumerPosition {
        ConsumerPosition { generation: Generation::numbered(generation), seq }
    }

    fn holder(identity: &str) -> LeaseHolder {
        LeaseHolder { identity: WriterIdentity(identity.to_owned()), heartbeat: identity.to_owned(), since: None }
    }

    /// What a chain makes of a step: refused by an invariant, or dated.
    fn appended(before: &ConsumerState, mut next: ConsumerState) -> Result<ConsumerState, InvariantViolation> {
        next.check_state().and_then(|()| next.check_transition(before))?;
        next.apply_store_time(StoreSecond::from_unix(77));
        Ok(next)
    }

    fn claimed(by: &str) -> ConsumerState {
        let first = ConsumerState::new(log(), index(), name(), at(1, 3));
        appended(&first, first.claim(0, holder(by)).unwrap()).unwrap()
    }

    fn progress(generation: u64, seq: u64, delivered: u64) -> ConsumerProgress {
        ConsumerProgress { acknowledged: at(generation, seq), delivered, dead_lettered: 0 }
    }

    #[test]
    fn names_are_those_of_resources() {
        for text in ["a", "orders-search", "a1", &"a".repeat(MAX_NAME_CHARS)] {
            assert_eq!(text.parse::<ConsumerName>().unwrap().as_str(), text);
        }
        let long = "a".repeat(MAX_NAME_CHARS + 1);
        for text in ["", "1a", "-a", "a-", "A", "a/b", "a.b", "ä", "a b", &long] {
            assert!(text.parse::<ConsumerName>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_claim_fences_the_holder_before_it() {
        let first = claimed("a");
        let second = appended(&first, first.claim(1, holder("b")).unwrap()).unwrap();
        let fenced = Err(TransactionRejected::ConsumerFenced { name: "orders".to_owned(), epoch: 1, by: 2 });
        assert_eq!(second.acknowledge(1, &progress(1, 9, 1)), fenced);
        assert_eq!(second.release(1), fenced);
        assert!(first.claim(0, holder("b")).is_err(), "it saw another state");
        assert_eq!(second.acknowledged, at(1, 3), "a claim moves nothing");
        let released = appended(&second, second.release(2).unwrap().unwrap()).unwrap();
        assert_eq!((released.holder.clone(), released.release(2)), (None, Ok(None)));
    }

    #[test]
    fn another_consumer_is_refused() {
        let state = claimed("a");
        assert_eq!(state.require(&log(), &index(), &name()), Ok(()));
        let (other_log, other_name) = (LogId("b".to_owned()), "other".parse().unwrap());
        for refused in [state.require(&other_log, &index(), &name()), state.require(&log(), &index(), &other_name)] {
            assert!(matches!(refused, Err(TransactionRejected::AnotherConsumer { .. })), "{refused:?}");
        }
        let refused = state.require(&log(), &IndexId("begun again".to_owned()), &name());
        assert!(matches!(refused, Err(TransactionRejected::ConsumerOfEarlierIndex { .. })), "{refused:?}");
    }

    #[test]
    fn an_epoch_has_one_holder() {
        let first = claimed("a");
        let stolen = ConsumerState { holder: Some(holder("b")), ..first.clone() };
        assert_eq!(appended(&first, stolen).unwrap_err().invariant, "an epoch has one holder");
    }

    proptest! {
        #[test]
        fn a_position_never_goes_back(steps in prop::collection::vec((1u64..4, 0u64..20, 0u64..20), 1..40)) {
            let mut state = claimed("a");
            for (generation, seq, delivered) in steps {
                let progress = progress(generation, seq, delivered);
                let Some(next) = state.acknowledge(1, &progress).unwrap() else { continue };
                let is_forward = generation >= state.acknowledged.generation.number()
                    && seq >= state.acknowledged.seq
                    && delivered >= state.delivered;
                match appended(&state, next) {
                    Ok(next) => {
                        prop_assert!(is_forward, "{state:?} {progress:?}");
                        state = next;
                    }
                    Err(_) => prop_assert!(!is_forward, "{state:?} {progress:?}"),
                }
            }
        }

        #[test]
        fn a_state_reads_as_it_was_written(generation in 1u64..9, seq in 3u64..1 << 40, delivered: u64, held: bool) {
            let mut state = claimed("a");
            state = state.acknowledge(1, &progress(generation, seq, delivered)).unwrap().unwrap();
            if !held {
                state = state.release(1).unwrap().unwrap();
            }
            let text = serde_json::to_string(&state).unwrap();
            prop_assert_eq!(serde_json::from_str::<ConsumerState>(&text).unwrap(), state);
        }

        #[test]
        fn any_text_is_a_name_or_refused(text in "\\PC{0,50}") {
            if let Ok(name) = text.parse::<ConsumerName>() {
                prop_assert_eq!(name.as_str(), text);
            }
        }
    }
}
