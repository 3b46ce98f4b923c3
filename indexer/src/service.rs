//! What a process runs: the indexer, the search service, or everything on a local folder.
//!
//! Each service opens its stores, starts its tasks and supervises them: a task that ends on its own ends the process,
//! and a stop that was asked for ends them in order.

mod dev;
mod error;
mod indexing;
mod opening;
mod removal;
mod serving;
mod stores;
mod supervise;
mod waiting;

pub use dev::{DevOptions, DevService};
pub use error::ServiceError;
pub use indexing::{IndexOptions, IndexService};
pub(crate) use opening::fit_log;
pub use opening::{Asked, cache_options};
pub use serving::{ServeOptions, ServeService};
pub use stores::{Opened, StoreRequestCounts, Stores, StoresSettings, Use};
pub use waiting::Patience;
