//! The product as a person meets it: the README's first hour, what the person then asks and changes, and that it is quiet
//! when nothing happens.

mod audit;
mod lost_index;
mod quiet;
mod readme;
mod setup;
mod story;
mod task_world;
mod tasks;
mod wishes;
