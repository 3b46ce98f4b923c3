//! Container images as OCI archives, written without a daemon or a registry.
//!
//! The same content gives the same bytes: entries are sorted, owned by root and dated 1970.

mod archive;
mod layer;

pub use archive::Image;
pub use layer::Layer;
