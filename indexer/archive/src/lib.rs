#![doc = include_str!("../README.md")]

mod avro;
mod checked_object;
mod columns;
mod data_file;
mod error;
mod extension;
mod leaks;
mod location;
mod manifest;
mod manifest_list;
mod metadata;
mod names;
mod row;
mod row_decoder;
mod row_encoder;
#[cfg(test)]
mod row_tests;
mod table;
mod table_files;
mod table_rows;
mod tasks;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod token_range;
mod verify;
mod version_chain;
mod version_files;

pub use error::{ArchiveDamage, ArchiveError, RowRejected};
pub use leaks::DeletedLeaks;
pub use metadata::{TableTotals, TableVersion};
pub use row::ArchiveRow;
pub use table::ArchiveTable;
pub use verify::TableReport;
