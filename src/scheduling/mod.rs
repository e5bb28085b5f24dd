//! Scheduling: a queue with standings, the future, the crew of threads that works the queue off, and the hub of processes.

#[cfg(feature = "python")]
pub mod binding;
#[cfg(feature = "python")]
pub mod future;
#[cfg(feature = "python")]
pub mod pool;
pub mod processes;
pub mod queue;
pub mod spinning;
