//! Pods of any owner and controller: a [`PodPlan`] says what a pod is for, one builder makes its template.

mod container;
mod mounted_volume;
mod pod_spec;

pub(crate) use self::{
    container::http_probe,
    mounted_volume::{MountedVolume, claimed, config_map, scratch, secret},
    pod_spec::{PodPlan, PodSpread},
};
