//! What the product refuses, what it keeps to itself, and what it removes: each on a whole cluster.

mod definition;
mod deletion;
mod examples;
mod owners;
mod security;
mod setup;
mod stores;
mod tokens;
