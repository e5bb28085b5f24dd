//! The threads that sort and scan.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::guarding::Guarded;
use crate::lifecycle;

/// The threads of this process: a fork leaves them behind.
pub fn pool(py: Python<'_>) -> Option<Arc<rayon::ThreadPool>> {
    static POOL: Guarded<Option<(u64, Arc<rayon::ThreadPool>)>> = Guarded::new(None);
    let generation = lifecycle::generation();
    let known = POOL.with(py, |pool, _| {
        pool.as_ref().filter(|(made_in, _)| *made_in == generation).map(|(_, pool)| Arc::clone(pool))
    });
    known.or_else(|| {
        let built =
            rayon::ThreadPoolBuilder::new().thread_name(|n| format!("ferrule-{n}")).build().ok().map(Arc::new)?;
        let mine = Arc::clone(&built);
        let before = POOL.with(py, |pool, _| pool.replace((generation, built)));
        // The threads of a pool from before the fork are not there to be ended.
        if before.as_ref().is_some_and(|(made_in, _)| *made_in != generation) {
            std::mem::forget(before);
        }
        Some(mine)
    })
}
