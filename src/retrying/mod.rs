//! Retrying: another attempt, after a while, within limits; and the breaker that says when not even to try.

#[cfg(feature = "python")]
pub mod binding;
#[cfg(feature = "python")]
pub mod breaking;
pub mod budget;
pub mod circuit;

pub mod schedule;
