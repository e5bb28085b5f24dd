//! The caching room: entries, their keys, and who computes them.

#[cfg(feature = "python")]
pub mod binding;
#[cfg(feature = "python")]
pub mod keys;
#[cfg(feature = "python")]
pub mod plan;
pub mod shelf;
#[cfg(feature = "python")]
pub mod store;
