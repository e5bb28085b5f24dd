//! Iterating: batches, windows and averages, flattening and sorting, and lines that are chosen before they are made.

pub mod ahead;
pub mod averaging;
#[cfg(feature = "python")]
pub mod binding;
pub mod choosing;
#[cfg(feature = "python")]
pub mod crew;
pub mod ends;
#[cfg(feature = "python")]
pub mod lines;
pub mod ordering;
pub mod scanning;
