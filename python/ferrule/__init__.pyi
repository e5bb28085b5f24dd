from ferrule import caching as caching
from ferrule import limiting as limiting
from ferrule import retrying as retrying
from ferrule import scheduling as scheduling
from ferrule import testing as testing
from ferrule import timing as timing
from ferrule._errors import AcquireTimeout as AcquireTimeout
from ferrule._errors import CircuitOpen as CircuitOpen
from ferrule._errors import DependencyCycle as DependencyCycle
from ferrule._errors import DuplicateTask as DuplicateTask
from ferrule._errors import ExecutorClosed as ExecutorClosed
from ferrule._errors import ExecutorFull as ExecutorFull
from ferrule._errors import FerruleError as FerruleError
from ferrule._errors import MissingExtra as MissingExtra
from ferrule._errors import RateLimited as RateLimited
from ferrule._errors import TaskTimeout as TaskTimeout
from ferrule._errors import UnknownDependency as UnknownDependency
from ferrule.caching import Cache as Cache
from ferrule.caching import CacheInfo as CacheInfo
from ferrule.caching import CacheStats as CacheStats
from ferrule.caching import cache as cache
from ferrule.caching import cached as cached
from ferrule.caching import lru_cache as lru_cache
from ferrule.limiting import Decision as Decision
from ferrule.limiting import LimiterStats as LimiterStats
from ferrule.limiting import RateLimiter as RateLimiter
from ferrule.limiting import gather_bounded as gather_bounded
from ferrule.limiting import rate_limited as rate_limited
from ferrule.retrying import Attempt as Attempt
from ferrule.retrying import CircuitBreaker as CircuitBreaker
from ferrule.retrying import Retry as Retry
from ferrule.retrying import RetryBudget as RetryBudget
from ferrule.retrying import RetryStats as RetryStats
from ferrule.retrying import retry as retry
from ferrule.scheduling import TaskResult as TaskResult
from ferrule.scheduling import TaskScheduler as TaskScheduler
from ferrule.scheduling import ThreadPoolExecutor as ThreadPoolExecutor
from ferrule.timing import MemoryStats as MemoryStats
from ferrule.timing import PerformanceMonitor as PerformanceMonitor
from ferrule.timing import Timer as Timer
from ferrule.timing import TimingStats as TimingStats
from ferrule.timing import count_calls as count_calls
from ferrule.timing import timed as timed

__version__: str
__all__ = [
    "AcquireTimeout",
    "Attempt",
    "Cache",
    "CacheInfo",
    "CacheStats",
    "CircuitBreaker",
    "CircuitOpen",
    "Decision",
    "DependencyCycle",
    "DuplicateTask",
    "ExecutorClosed",
    "ExecutorFull",
    "FerruleError",
    "LimiterStats",
    "MemoryStats",
    "MissingExtra",
    "PerformanceMonitor",
    "RateLimited",
    "RateLimiter",
    "Retry",
    "RetryBudget",
    "RetryStats",
    "TaskResult",
    "TaskScheduler",
    "TaskTimeout",
    "ThreadPoolExecutor",
    "Timer",
    "TimingStats",
    "UnknownDependency",
    "__version__",
    "cache",
    "cached",
    "caching",
    "count_calls",
    "gather_bounded",
    "limiting",
    "lru_cache",
    "rate_limited",
    "retry",
    "retrying",
    "scheduling",
    "testing",
    "timed",
    "timing",
]
