//! Container images as OCI archives, written without a daemon or a registry, and what they are made of.
//!
//! The same content gives the same bytes: entries are sorted, owned by root and dated 1970; the list of parts has no date.

mod archive;
mod layer;
mod sbom;

pub use archive::ImageArchive;
pub use layer::ImageLayer;
pub use sbom::BillOfMaterials;
