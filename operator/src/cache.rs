//! What exists: the children and pods of every WAL, task and sink, from watches that select objects with Tidemark's labels.
//!
//! An object is kept as little more than its JSON text, without status and bookkeeping, so that ten thousand WALs fit into a
//! small pod. Reading costs no request.

mod active_attempt;
mod data_pod;
mod job_pod;
mod job_status;
mod namespaced_name;
mod object_cache;
mod owned_object;
mod rollout_status;
mod sink_pod;
mod watch;

pub(crate) use self::{
    active_attempt::{ActiveAttempt, active_attempts, writing_attempt},
    data_pod::{DataPod, PodEviction, PodTrouble},
    job_pod::{ContainerExit, JobPod, PodDisruption},
    job_status::{ANNOTATION_WAL_GENERATION, JobEnd},
    namespaced_name::{NamespacedName, is_older},
    object_cache::{ObjectCache, OwnedObjects},
    owned_object::{ChildKind, OwnedObject},
    rollout_status::RolloutStatus,
    sink_pod::SinkPod,
    watch::watch,
};
