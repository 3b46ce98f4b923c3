//! Figures for Prometheus: the registry and what it collects. Names carry their units, labels take few values.

mod append;
mod gauge;
mod index;
mod pod;
mod registry;

pub(crate) use append::{AppendFigures, AppendsInFlight};
pub use registry::MetricsRegistry;
