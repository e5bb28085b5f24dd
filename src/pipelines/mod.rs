//! Pipelines: stages in one loop, what they ask written as expressions, and work handed to other threads.
//!
//! All of it is about Python objects, so there is no core apart.

pub mod chain;
pub mod expressions;
pub mod handing;
