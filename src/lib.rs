//! The native half of ferrule: helpers for Python programmers, called like built-ins.
//!
//! A room's *core* is plain Rust and stands without Python; its *binding* shows the core to Python and is built with the
//! `python` feature. The module below is the table of contents of `ferrule._core`.

pub mod caching;
#[cfg(feature = "python")]
pub mod callable;
pub mod clock;
#[cfg(feature = "python")]
pub mod errors;
#[cfg(feature = "python")]
pub mod flights;
#[cfg(feature = "python")]
pub mod guarding;
pub mod iterating;
#[cfg(feature = "python")]
pub mod lifecycle;
pub mod limiting;
pub mod patterns;
#[cfg(feature = "python")]
pub mod pipelines;
pub mod pooling;
#[cfg(feature = "python")]
pub mod probing;
pub mod retrying;
pub mod scheduling;
pub mod sharing;
#[cfg(feature = "python")]
pub mod stepping;
pub mod surveying;
pub mod timing;
#[cfg(feature = "python")]
pub mod upkeep;
pub mod validating;
#[cfg(feature = "python")]
pub mod waiting;

#[cfg(feature = "python")]
#[pyo3::pymodule]
mod _core {
    #[pymodule_export]
    use crate::caching::binding::{Cache, CachedFunction, CoroutineCaching, Journey, Keys};
    #[pymodule_export]
    use crate::callable::{Shell, Wrapper};
    #[pymodule_export]
    use crate::clock::binding::{ManualClock, coarse_ns, precise_ns, seconds_from};
    #[pymodule_export]
    use crate::iterating::binding::{
        Batches, Fibonacci, Flattened, InOrder, MovingAverage, WeighedBatches, Windows, sort_plain,
    };
    #[pymodule_export]
    use crate::iterating::lines::LineReader;
    #[pymodule_export]
    use crate::lifecycle::{after_fork_in_child, forks};
    #[pymodule_export]
    use crate::limiting::binding::{Bucket, LimitedFunction, Limiter, Standing};
    #[pymodule_export]
    use crate::patterns::binding::{
        CaseInsensitiveDict, LazyProperty, Shelved, SingletonCall, Spellings, set_metaclass,
    };
    #[pymodule_export]
    use crate::pipelines::chain::Chain;
    #[pymodule_export]
    use crate::pipelines::expressions::Program;
    #[pymodule_export]
    use crate::pipelines::handing::{Handing, Worker};
    #[pymodule_export]
    use crate::pooling::binding::{Approach, Lease, Pool};
    #[pymodule_export]
    use crate::probing::{GuardedValues, Panicking, Passthrough};
    #[pymodule_export]
    use crate::retrying::binding::{
        Plan, Retrier, RetryBudget, RetryCourse, RetryTally, RetryingFunction, RetryingMethod,
    };
    #[pymodule_export]
    use crate::retrying::breaking::{BreakerFunction, CallPermit, Circuit};
    #[pymodule_export]
    use crate::scheduling::binding::Crew;
    #[pymodule_export]
    use crate::scheduling::future::FutureBase;
    #[pymodule_export]
    use crate::scheduling::pool::{Admission, ThreadPool};
    #[pymodule_export]
    use crate::scheduling::processes::hub::ProcessHub;
    #[pymodule_export]
    use crate::scheduling::processes::results::Results;
    #[pymodule_export]
    use crate::scheduling::processes::worker::{Buffers, WorkerEnd, die_with_parent, make_calls};
    #[pymodule_export]
    use crate::sharing::binding::SharedPart;
    #[pymodule_export]
    use crate::timing::binding::{CountedFunction, Recorder, Recorders, Resumptions, Stopwatch, TimedFunction, Timer};
    #[pymodule_export]
    use crate::upkeep::stop_upkeep;
    #[pymodule_export]
    use crate::validating::checks::Check;
    #[pymodule_export]
    use crate::validating::enforcing::EnforcedFunction;
    #[pymodule_export]
    use crate::validating::fields::{FieldInfo, Fields, Initializer};
    #[pymodule_export]
    use crate::waiting::Ready;
    #[pymodule_export]
    use crate::waiting::binding::{Line, Place};

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        crate::callable::publish_all(module.py())?;
        crate::iterating::binding::publish_all(module.py());
        crate::pipelines::chain::publish_all(module.py());
        crate::scheduling::processes::results::publish(module.py());
        crate::clock::calibrate();
        crate::lifecycle::install(module)
    }
}
