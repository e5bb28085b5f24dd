//! Scheduling: a queue with standings, the future, and the crew of threads that works the queue off.

#[cfg(feature = "python")]
pub mod binding;
#[cfg(feature = "python")]
pub mod future;
#[cfg(feature = "python")]
pub mod pool;
pub mod queue;
pub mod spinning;
