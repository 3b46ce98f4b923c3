//! The Service of search.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tidemark_crds::names::{self, WalComponent};

use super::metadata::{metadata, non_empty, selector_labels};
use crate::controllers::wal::validate::ValidatedWal;

pub(super) fn build(wal: &ValidatedWal) -> Service {
    let mut metadata = metadata(wal, WalComponent::Search, WalComponent::Search.child_name(&wal.name));
    metadata.annotations = non_empty(wal.search.service.annotations.clone());
    let port = ServicePort {
        name: Some(names::PORT_NAME.to_owned()),
        port: i32::from(names::SERVICE_PORT),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(names::PORT_NAME.to_owned())),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        type_: Some(wal.search.service.r#type.as_str().to_owned()),
        selector: Some(selector_labels(wal, WalComponent::Search)),
        ports: Some(vec![port]),
        ..ServiceSpec::default()
    };
    Service { metadata, spec: Some(spec), ..Service::default() }
}
