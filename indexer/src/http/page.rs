//! The page: search, entries, entities and the state of the index, rendered here, in plain HTML.
//!
//! It takes the parameters of the API and asks the same code. Everything works without a script; the script adds a live
//! refresh and the keyboard. All of its addresses are one level deep and relative, and nothing comes from another host.

mod assets;
mod entity;
mod entry;
mod facets;
mod format;
mod frame;
mod handlers;
mod help;
mod histogram;
mod hit;
mod json;
mod relatives;
mod results;
mod search_url;
mod state;

pub(crate) use assets::asset;
pub(crate) use handlers::routes;
