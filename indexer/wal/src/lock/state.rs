//! What a lock's chain holds: one record a slot, and its transactions as pure functions.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemark_store::{ChainState, InvariantViolation, StateExtensions, StoreSecond};

use super::{
    error::LockRejected,
    limits::{GrantTerms, InvalidGrant, MAX_COMMIT_SECONDS, whole_seconds},
    name::LockName,
};
use crate::token::Token;

/// Fenced commits that a state names: the newest ones.
const MAX_FENCED: usize = 32;

/// What a holder asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRequest {
    /// Who holds the lock: the name under which a person finds it.
    pub holder: String,
    /// What for.
    pub purpose: Option<String>,
    /// How long after the grant, or its last renewal, others may contend.
    pub ttl: Duration,
    /// How long after its slot a guarded commit may still be completed.
    pub complete_within: Duration,
}

impl GrantRequest {
    /// How long a grant lasts without a renewal, unless the caller says.
    pub const TTL: Duration = Duration::from_secs(30);
    /// How long after its slot a guarded commit may be completed, unless the caller says.
    pub const COMPLETE_WITHIN: Duration = Duration::from_secs(10);

    /// A request of `holder` with the defaults.
    pub fn of(holder: impl Into<String>) -> Self {
        Self { holder: holder.into(), purpose: None, ttl: Self::TTL, complete_within: Self::COMPLETE_WITHIN }
    }

    /// Refused where a holder, a purpose or a span is beyond its limit.
    pub fn check(&self) -> Result<(), InvalidGrant> {
        let Self { holder, purpose, ttl, complete_within } = self;
        let (ttl_seconds, complete_within_seconds) = (whole_seconds(*ttl), whole_seconds(*complete_within));
        GrantTerms { holder, purpose: purpose.as_deref(), ttl_seconds, complete_within_seconds }.check()
    }
}

/// By when a guarded commit is complete and visible, as far as the log's parameters say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitSpan {
    /// How long what is put at the end of what the grant allows takes until it is there.
    pub(crate) margin: Duration,
    /// Nothing completes it in time later than this after its slot, whatever the grant allows.
    pub(crate) limit: Duration,
    /// How long after that it is visible.
    pub(crate) visible: Duration,
}

impl CommitSpan {
    /// Seconds from the slot's store time until a commit that may be completed within so many seconds is visible.
    fn seconds(self, complete_within_seconds: u64) -> u64 {
        let Self { margin, limit, visible } = self;
        let complete = complete_within_seconds.saturating_add(whole_seconds(margin)).min(whole_seconds(limit));
        complete.saturating_add(whole_seconds(visible))
    }
}

/// A grant: its holder has the lock until the next grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LockGrant {
    /// The number of its slot.
    pub number: u64,
    /// Who holds the lock.
    pub holder: String,
    /// What for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub purpose: Option<String>,
    /// Seconds after the grant, or its last renewal, from which others may contend.
    pub ttl_seconds: u64,
    /// Seconds after its slot within which a guarded commit may be completed.
    pub complete_within_seconds: u64,
    /// Store time of its slot; absent in that slot itself.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<StoreSecond>,
}

/// A guarded commit that counts: its slot has no later grant and no release before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuardedCommit {
    /// The entry.
    pub token: Token,
    /// Its slot.
    pub slot: u64,
    /// Seconds from its slot's store time to `until`.
    pub within_seconds: u64,
    /// What completes it is visible by then; absent in its own slot.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<StoreSecond>,
}

/// A guarded commit that does not count: its grant was overtaken or released before its slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FencedCommit {
    /// The entry.
    pub token: Token,
    /// Its slot.
    pub slot: u64,
    /// The grant under which it was appended.
    pub grant: u64,
    /// The lock's newest grant at its slot: a later one, or the same if that was released.
    pub by: u64,
}

/// What a slot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", deny_unknown_fields)]
pub enum LockEvent {
    /// The grant of this number.
    Grant,
    /// The holder gave the lock up.
    Release,
    /// A guarded commit of an entry.
    Commit {
        /// The entry.
        token: Token,
        /// The grant that its writer holds, as it believes.
        grant: u64,
    },
}

/// The state of a lock: `<log>/.tidemark/locks/{name}/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LockState {
    /// The lock.
    pub name: LockName,
    /// The number of this record.
    pub slot: u64,
    /// What this slot is.
    pub event: LockEvent,
    /// The newest grant.
    pub grant: LockGrant,
    /// Whether its holder gave it up.
    #[serde(default)]
    pub released: bool,
    /// The newest commit that counts.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub commit: Option<GuardedCommit>,
    /// What completes an earlier commit is visible by then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub earlier_until: Option<StoreSecond>,
    /// The newest commits that do not count.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub fenced: Vec<FencedCommit>,
    /// What later versions have added.
    #[serde(skip_serializing_if = "StateExtensions::is_empty", default)]
    pub ext: StateExtensions,
}

impl LockState {
    /// What completes any commit of the slots so far is visible by then; `None` if there was none.
    pub fn commits_until(&self) -> Option<StoreSecond> {
        self.earlier_until.max(self.commit.as_ref().and_then(|commit| commit.until))
    }

    /// The commit that this slot is, if it does not count.
    pub fn fenced_here(&self) -> Option<&FencedCommit> {
        self.fenced.iter().find(|fenced| fenced.slot == self.slot)
    }

    /// Whether somebody holds the lock, be it expired or not.
    pub fn is_held(&self) -> bool {
        !self.released
    }

    /// The next grant. `judged` is the slot at which the present grant was seen to be expired; a lock that nobody holds needs none.
    pub(crate) fn grant(
        before: Option<&Self>,
        name: &LockName,
        request: &GrantRequest,
        judged: Option<u64>,
    ) -> Result<Self, LockRejected> {
        if let Some(before) = before
            && before.is_held()
            && judged != Some(before.slot)
        {
            let LockGrant { holder, number, .. } = before.grant.clone();
            return Err(LockRejected::Held { lock: name.clone(), holder, grant: number });
        }
        let slot = before.map_or(1, |before| before.slot.saturating_add(1));
        let grant = LockGrant {
            number: slot,
            holder: request.holder.clone(),
            purpose: request.purpose.clone(),
            ttl_seconds: whole_seconds(request.ttl),
            complete_within_seconds: whole_seconds(request.complete_within),
            since: None,
        };
        let event = LockEvent::Grant;
        Ok(match before {
            Some(before) => Self { slot, event, grant, released: false, ..before.clone() },
            None => Self {
                name: name.clone(),
                slot,
                event,
                grant,
                released: false,
                commit: None,
                earlier_until: None,
                fenced: Vec::new(),
                ext: StateExtensions::NONE,
            },
        })
    }

    /// The release of `grant`; `None` if it was released.
    pub(crate) fn release(&self, grant: u64) -> Result<Option<Self>, LockRejected> {
        match self.require_held(grant) {
            Ok(()) => Ok(Some(Self { event: LockEvent::Release, released: true, ..self.next() })),
            Err(LockRejected::Released { .. }) => Ok(None),
            Err(rejected) => Err(rejected),
        }
    }

    /// The guarded commit of `token` under `grant`: it takes the slot whether it counts or not.
    pub(crate) fn commit(&self, token: Token, grant: u64, span: CommitSpan) -> Result<Self, LockRejected> {
        let mut next = Self { event: LockEvent::Commit { token, grant }, ..self.next() };
        match self.require_held(grant) {
            Err(rejected @ LockRejected::NoSuchGrant { .. }) => return Err(rejected),
            Err(_) => {
                next.fenced.insert(0, FencedCommit { token, slot: next.slot, grant, by: self.grant.number });
                next.fenced.truncate(MAX_FENCED);
            }
            Ok(()) => {
                next.earlier_until = self.commits_until();
                let within_seconds = span.seconds(self.grant.complete_within_seconds);
                next.commit = Some(GuardedCommit { token, slot: next.slot, within_seconds, until: None });
            }
        }
        Ok(next)
    }

    /// Refused unless `grant` is the newest and was not released.
    pub(crate) fn require_held(&self, grant: u64) -> Result<(), LockRejected> {
        let lock = self.name.clone();
        match grant.cmp(&self.grant.number) {
            std::cmp::Ordering::Greater => Err(LockRejected::NoSuchGrant { lock, grant }),
            std::cmp::Ordering::Less => {
                let LockGrant { number: by, holder, .. } = self.grant.clone();
                Err(LockRejected::Overtaken { lock, grant, by, holder })
            }
            std::cmp::Ordering::Equal if self.released => Err(LockRejected::Released { lock, grant }),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }

    fn next(&self) -> Self {
        Self { slot: self.slot.saturating_add(1), ..self.clone() }
    }
}

impl ChainState for LockState {
    type Rejection = LockRejected;

    const FORMAT: u32 = 1;

    fn extensions(&self) -> &StateExtensions {
        &self.ext
    }

    fn apply_store_time(&mut self, recorded: StoreSecond) {
        self.grant.since.get_or_insert(recorded);
        if let Some(commit) = &mut self.commit {
            let until = recorded.after(Duration::from_secs(commit.within_seconds));
            commit.until.get_or_insert(until);
        }
    }

    fn check_state(&self) -> Result<(), InvariantViolation> {
        let slots = self.fenced.iter().map(|fenced| fenced.slot);
        let newest = slots.chain(self.commit.as_ref().map(|commit| commit.slot)).fold(self.grant.number, u64::max);
        InvariantViolation::unless((1..=self.slot).contains(&newest), "nothing is of a later slot", || {
            format!("slot {newest} in slot {}", self.slot)
        })?;
        let LockGrant { holder, purpose, ttl_seconds, complete_within_seconds, .. } = &self.grant;
        let (ttl_seconds, complete_within_seconds) = (*ttl_seconds, *complete_within_seconds);
        GrantTerms { holder, purpose: purpose.as_deref(), ttl_seconds, complete_within_seconds }.check().or_else(
            |invalid| InvariantViolation::unless(false, "a grant is within its limits", || invalid.to_string()),
        )?;
        let within = self.commit.as_ref().map_or(0, |commit| commit.within_seconds);
        InvariantViolation::unless(within <= MAX_COMMIT_SECONDS, "a commit is completed within its limit", || {
            format!("{within} s, more than {MAX_COMMIT_SECONDS}")
        })?;
        let is_own = (self.event == LockEvent::Grant) == (self.grant.number == self.slot);
        InvariantViolation::unless(is_own, "a grant has the number of its slot", || {
            format!("{:?} of grant {} in slot {}", self.event, self.grant.number, self.slot)
        })
    }

    fn check_transition(&self, before: &Self) -> Result<(), InvariantViolation> {
        InvariantViolation::unless(self.name == before.name, "a lock keeps its name", || {
            format!("{} after {}", self.name, before.name)
        })?;
        InvariantViolation::unless(self.slot == before.slot.saturating_add(1), "slots have no gap", || {
            format!("{} after {}", self.slot, before.slot)
        })?;
        InvariantViolation::unless(before.grant.number <= self.grant.number, "grants ascend", || {
            format!("{} after {}", self.grant.number, before.grant.number)
        })?;
        let (bound, earlier) = (self.commits_until(), before.commits_until());
        InvariantViolation::unless(bound == earlier, "the bound of earlier commits stays", || {
            format!("{bound:?} after {earlier:?}")
        })
    }
}
