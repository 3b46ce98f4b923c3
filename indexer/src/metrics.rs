//! Figures for Prometheus: the registry and what it collects. Names carry their units, labels take few values.

mod gauge;
mod index;
mod pod;
mod registry;

pub use registry::MetricsRegistry;
