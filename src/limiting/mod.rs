//! Limiting: so many in so much time, for threads and event loops alike.

#[cfg(feature = "python")]
pub mod binding;
pub mod gcra;
#[cfg(feature = "python")]
mod queue;
