//! Repositories that git made, and what is imported of them.

mod fixtures;
mod histories;
mod order;
mod refusals;
mod tags;
mod warnings;
