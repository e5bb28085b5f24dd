//! The timing room: what is measured, and how it is kept.

#[cfg(feature = "python")]
pub mod binding;
pub mod histogram;
