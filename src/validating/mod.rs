//! The validating room: checks that are made once and run natively.

pub mod address;
#[cfg(feature = "python")]
pub mod checks;
#[cfg(feature = "python")]
pub mod enforcing;
#[cfg(feature = "python")]
pub mod fields;
