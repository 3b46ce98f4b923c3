//! Conditions: their types, and how one is set.
//!
//! Kubernetes' rule for setting one (`meta.SetStatusCondition` of Go's apimachinery) is in no crate that we know; it is a few lines here.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use crate::reason::Reason;

/// What a condition of a WAL is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The log is indexed and can be searched; or the WAL is suspended and can be searched.
    Ready,
    /// The pods that run are made of the present spec.
    Applied,
    /// The buckets can be used, they were probed, and the WAL owns the index.
    StorageReady,
    /// An indexer publishes, or waits for something to publish.
    Indexing,
    /// Search answers.
    SearchAvailable,
    /// The newest verified snapshot is as new as the schedule asks for.
    SnapshotCurrent,
    /// Index and archive were found to be right as lately as the schedule asks for.
    Verified,
    /// A newer release waits for approval.
    UpgradePending,
    /// The pods are not made of the present spec yet. Only there while that is so, as kstatus wants it.
    Reconciling,
    /// The pods are not made of the present spec, and will not be before a user acts. Only there while that is so.
    Stalled,
}

/// The conditions of one kind of resource.
pub trait ConditionKind: Copy + 'static {
    /// All of them, in the order in which a resource shows them.
    const ALL: &'static [Self];

    /// The condition's `type`.
    fn type_name(self) -> &'static str;
}

impl ConditionKind for ConditionType {
    const ALL: &'static [Self] = &[
        Self::Ready,
        Self::Applied,
        Self::StorageReady,
        Self::Indexing,
        Self::SearchAvailable,
        Self::SnapshotCurrent,
        Self::Verified,
        Self::UpgradePending,
        Self::Reconciling,
        Self::Stalled,
    ];

    fn type_name(self) -> &'static str {
        self.as_str()
    }
}

impl ConditionType {
    /// The condition's `type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Applied => "Applied",
            Self::StorageReady => "StorageReady",
            Self::Indexing => "Indexing",
            Self::SearchAvailable => "SearchAvailable",
            Self::SnapshotCurrent => "SnapshotCurrent",
            Self::Verified => "Verified",
            Self::UpgradePending => "UpgradePending",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }
}

/// What a condition of a task is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskConditionType {
    /// The task did what it was asked to do.
    Complete,
    /// The task did not, and will not.
    Failed,
    /// The task has not ended. Only there while that is so, as kstatus wants it.
    Reconciling,
    /// The task failed or was rejected. Only there where that is so.
    Stalled,
}

impl ConditionKind for TaskConditionType {
    const ALL: &'static [Self] = &[Self::Complete, Self::Failed, Self::Reconciling, Self::Stalled];

    fn type_name(self) -> &'static str {
        match self {
            Self::Complete => "Complete",
            Self::Failed => "Failed",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }
}

/// What a condition of a sink is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SinkConditionType {
    /// What is published is delivered, or the sink is suspended.
    Ready,
    /// The pod that runs is made of the present spec.
    Applied,
    /// The destination takes what it is sent.
    Delivering,
    /// The pod is not made of the present spec yet. Only there while that is so, as kstatus wants it.
    Reconciling,
    /// The pod is not made of the present spec, and will not be before a user acts. Only there while that is so.
    Stalled,
}

impl ConditionKind for SinkConditionType {
    const ALL: &'static [Self] = &[Self::Ready, Self::Applied, Self::Delivering, Self::Reconciling, Self::Stalled];

    fn type_name(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Applied => "Applied",
            Self::Delivering => "Delivering",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
        }
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It is not known at present.
    Unknown,
}

impl ConditionStatus {
    /// The condition's `status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Sets a condition, and says whether anything but `observedGeneration` changed.
///
/// `lastTransitionTime` moves to `now` only when the status changes. A condition that is the same already keeps every
/// byte but its `observedGeneration`, so that setting it again writes nothing. The conditions stay in the order of
/// [`ConditionKind::ALL`], after those that are not ours.
pub fn set_condition<K: ConditionKind>(
    conditions: &mut Vec<Condition>,
    kind: K,
    status: ConditionStatus,
    reason: Reason,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> bool {
    let wanted = Condition {
        type_: kind.type_name().to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: Time(now),
    };
    let present = conditions.iter_mut().find(|condition| condition.type_ == wanted.type_);
    let changed = if let Some(present) = present {
        replace(present, wanted)
    } else {
        conditions.push(wanted);
        true
    };
    conditions.sort_by_key(|condition| K::ALL.iter().position(|kind| kind.type_name() == condition.type_));
    changed
}

/// Removes a condition that is only there while it holds.
pub fn remove_condition<K: ConditionKind>(conditions: &mut Vec<Condition>, kind: K) {
    conditions.retain(|condition| condition.type_ != kind.type_name());
}

fn replace(present: &mut Condition, wanted: Condition) -> bool {
    let same =
        (&present.status, &present.reason, &present.message) == (&wanted.status, &wanted.reason, &wanted.message);
    let since = if present.status == wanted.status {
        present.last_transition_time.clone()
    } else {
        wanted.last_transition_time.clone()
    };
    *present = Condition { last_transition_time: since, ..wanted };
    !same
}

/// The condition of this type, if it is there.
pub fn condition<K: ConditionKind>(conditions: &[Condition], kind: K) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == kind.type_name())
}

/// Whether the condition is there and `True`.
pub fn is_true<K: ConditionKind>(conditions: &[Condition], kind: K) -> bool {
    condition(conditions, kind).is_some_and(|condition| condition.status == ConditionStatus::True.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn set(
        conditions: &mut Vec<Condition>,
        status: bool,
        reason: Reason,
        message: &str,
        generation: i64,
        now: i64,
    ) -> bool {
        set_condition(conditions, ConditionType::Ready, status.into(), reason, message, Some(generation), at(now))
    }

    #[test]
    fn a_transition_time_moves_with_the_status_only() {
        let mut conditions = Vec::new();
        assert!(set(&mut conditions, false, Reason::Starting, "pods start", 1, 10));
        assert!(set(&mut conditions, false, Reason::BucketMissing, "no bucket", 1, 20));
        assert_eq!(conditions[0].last_transition_time, Time(at(10)));
        assert!(set(&mut conditions, true, Reason::Ready, "", 1, 30));
        assert_eq!(conditions[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn setting_the_same_again_changes_nothing() {
        let mut conditions = Vec::new();
        set(&mut conditions, true, Reason::Ready, "all well", 1, 10);
        let before = conditions.clone();
        assert!(!set(&mut conditions, true, Reason::Ready, "all well", 1, 99));
        assert_eq!(conditions, before);
    }

    #[test]
    fn the_observed_generation_follows_without_being_a_change_of_its_own() {
        let mut conditions = Vec::new();
        set(&mut conditions, true, Reason::Ready, "", 1, 10);
        assert!(!set(&mut conditions, true, Reason::Ready, "", 2, 20));
        assert_eq!(conditions[0].observed_generation, Some(2));
        assert_eq!(conditions[0].last_transition_time, Time(at(10)));
    }

    #[test]
    fn conditions_stand_in_one_order_and_foreign_ones_stay() {
        let mut conditions = Vec::new();
        for kind in [ConditionType::UpgradePending, ConditionType::Indexing, ConditionType::Ready] {
            set_condition(&mut conditions, kind, ConditionStatus::True, Reason::CaughtUp, "", None, at(1));
        }
        let foreign = Condition { type_: "Theirs".to_owned(), ..conditions[0].clone() };
        conditions.push(foreign);
        set(&mut conditions, true, Reason::Ready, "", 1, 2);
        let order: Vec<_> = conditions.iter().map(|condition| condition.type_.as_str()).collect();
        assert_eq!(order, ["Theirs", "Ready", "Indexing", "UpgradePending"]);
        assert!(is_true(&conditions, ConditionType::Indexing) && !is_true(&conditions, ConditionType::StorageReady));
    }
}
