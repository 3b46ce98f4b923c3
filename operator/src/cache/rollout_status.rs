//! How far a Deployment is: a roll-out that is complete, stalled, paused, or cannot make pods.

use serde_json::Value;
use tidemark_crds::names;

/// How far a Deployment is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RolloutStatus {
    /// The release that its pods are of.
    pub(crate) release: Option<Box<str>>,
    /// Digest of the part of the spec that its pods are made of.
    pub(crate) spec_digest: Option<Box<str>>,
    /// Pods wanted.
    pub(crate) wanted: i32,
    /// Pods that exist.
    pub(crate) replicas: i32,
    /// Pods that are ready and have been for long enough.
    pub(crate) available: i32,
    /// Whether every pod is of the present template, and as many are available as are wanted.
    pub(crate) complete: bool,
    /// Whether the roll-out of the present template has been complete once, whatever became of its pods since.
    pub(crate) rolled_out: bool,
    /// Whether it makes no progress: for longer than its progress deadline, or because it is paused.
    pub(crate) stalled: bool,
    /// Whether a user has paused it in the middle of a roll-out.
    pub(crate) paused: bool,
    /// Why pods cannot be created, in the words of the API server.
    pub(crate) failure: Option<Box<str>>,
}

impl RolloutStatus {
    /// Whether no pod of another template is left. One that crashes later does not begin a roll-out.
    pub(crate) fn is_rolled_out(&self) -> bool {
        self.complete || self.rolled_out
    }

    /// Reads a Deployment of the API server.
    pub(super) fn read(object: &Value) -> Self {
        let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
        let count = |path: &str| i32::try_from(number(path)).unwrap_or(i32::MAX);
        let wanted = object.pointer("/spec/replicas").map_or(1, |_| count("/spec/replicas"));
        let (replicas, updated) = (count("/status/replicas"), count("/status/updatedReplicas"));
        let available = count("/status/availableReplicas");
        let observed = number("/status/observedGeneration") >= number("/metadata/generation");
        let annotation = |name: &str| object.pointer("/metadata/annotations")?.get(name)?.as_str().map(Box::from);
        let complete = observed && updated == wanted && replicas == wanted && available == wanted;
        let unfinished = updated < wanted || replicas > updated;
        let paused = object.pointer("/spec/paused").and_then(Value::as_bool) == Some(true) && unfinished;
        let progresses =
            |status, reason| condition(object, "Progressing", status).is_some_and(|c| c["reason"] == reason);
        // A pause takes the place of what the condition said before.
        let is_rolled_out = || {
            progresses("True", "NewReplicaSetAvailable")
                || updated == wanted && progresses("Unknown", "DeploymentPaused")
        };
        let is_late = || progresses("False", "ProgressDeadlineExceeded");
        Self {
            release: annotation(names::ANNOTATION_RELEASE),
            spec_digest: annotation(names::ANNOTATION_SPEC_DIGEST),
            wanted,
            replicas,
            available,
            rolled_out: observed && updated == replicas && is_rolled_out(),
            complete,
            stalled: observed && (paused || is_late()),
            paused,
            failure: condition(object, "ReplicaFailure", "True").and_then(|c| c["message"].as_str()).map(Box::from),
        }
    }
}

/// The condition of this type, if it has this status.
fn condition<'a>(object: &'a Value, kind: &str, status: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind && condition["status"] == status)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rollout(status: &Value) -> RolloutStatus {
        RolloutStatus::read(&json!({"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status}))
    }

    #[test]
    fn a_roll_out_is_complete_when_no_old_pod_is_left_and_every_new_one_is_available() {
        let status = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
        assert!(rollout(&status).complete);
        for (field, value) in
            [("observedGeneration", 1), ("replicas", 3), ("updatedReplicas", 1), ("availableReplicas", 1)]
        {
            let mut behind = status.clone();
            behind[field] = json!(value);
            assert!(!rollout(&behind).complete, "{field}");
        }
    }

    #[test]
    fn a_pod_that_crashes_after_its_roll_out_begins_none() {
        let condition = json!({"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"});
        let mut status =
            json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "conditions": [condition]});
        let rolled_out = |status: &Value| rollout(status).is_rolled_out();
        assert!(rolled_out(&status), "none of its pods is available now");
        status["replicas"] = json!(3);
        assert!(!rolled_out(&status), "a pod of another template is there");
        status["replicas"] = json!(2);
        status["observedGeneration"] = json!(1);
        assert!(!rolled_out(&status), "the template is a newer one");
    }

    #[test]
    fn a_roll_out_is_stalled_after_its_deadline_and_not_by_the_deadline_of_an_earlier_one() {
        let condition = json!({"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"});
        let mut status = json!({"observedGeneration": 2, "conditions": [condition]});
        assert!(rollout(&status).stalled);
        status["observedGeneration"] = json!(1);
        assert!(!rollout(&status).stalled);
        let getting_on = json!({"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"});
        assert!(!rollout(&json!({"observedGeneration": 2, "conditions": [getting_on]})).stalled);
    }

    #[test]
    fn a_roll_out_that_is_paused_is_stalled_and_a_pod_that_fails_while_paused_begins_none() {
        let rollout = |replicas: i32, updated: i32, available: i32, reason: &str| {
            let progressing = json!({"type": "Progressing", "status": "Unknown", "reason": reason});
            let status = json!({
                "observedGeneration": 2, "replicas": replicas, "updatedReplicas": updated,
                "availableReplicas": available, "conditions": [progressing],
            });
            let spec = json!({"replicas": 2, "paused": true});
            let rollout = RolloutStatus::read(&json!({"metadata": {"generation": 2}, "spec": spec, "status": status}));
            (rollout.paused, rollout.stalled, rollout.is_rolled_out())
        };
        assert_eq!(rollout(2, 2, 2, "DeploymentPaused"), (false, false, true));
        assert_eq!(rollout(2, 2, 1, "DeploymentPaused"), (false, false, true), "a pod has failed");
        assert_eq!(rollout(3, 2, 2, "DeploymentPaused"), (true, true, false), "a pod of another template is there");
        assert_eq!(rollout(2, 1, 2, "DeploymentPaused"), (true, true, false), "one of the new template is missing");
        assert_eq!(rollout(2, 2, 1, "DeploymentResumed"), (false, false, false), "the roll-out goes on");
    }

    #[test]
    fn refused_pods_are_reported_in_the_words_of_the_api_server() {
        let condition = json!({"type": "ReplicaFailure", "status": "True", "message": "violates PodSecurity"});
        let refused = rollout(&json!({"conditions": [condition]}));
        assert_eq!(refused.failure.as_deref(), Some("violates PodSecurity"));
    }
}
