//! Pooling: a bounded number of resources, lent in order of arrival to threads and tasks.

#[cfg(feature = "python")]
pub mod binding;
pub mod stock;
