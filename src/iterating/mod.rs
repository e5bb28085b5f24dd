//! Iterating: batches, windows and averages, flattening and sorting, and lines that are chosen before they are made.

pub mod averaging;
#[cfg(feature = "python")]
pub mod binding;
#[cfg(feature = "python")]
pub mod lines;
pub mod ordering;
pub mod scanning;
