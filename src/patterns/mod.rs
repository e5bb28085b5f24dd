//! The patterns room: what there is to be one of, made once; and keys that are the same in all spellings.

#[cfg(feature = "python")]
pub mod binding;
pub mod folded;
#[cfg(feature = "python")]
pub mod making;
