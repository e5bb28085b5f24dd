from ferrule import caching as caching
from ferrule import iterating as iterating
from ferrule import limiting as limiting
from ferrule import pipelines as pipelines
from ferrule import retrying as retrying
from ferrule import testing as testing
from ferrule import timing as timing
from ferrule._errors import AcquireTimeout as AcquireTimeout
from ferrule._errors import CircuitOpen as CircuitOpen
from ferrule._errors import FerruleError as FerruleError
from ferrule._errors import MissingExtra as MissingExtra
from ferrule._errors import RateLimited as RateLimited
from ferrule.caching import Cache as Cache
from ferrule.caching import CacheInfo as CacheInfo
from ferrule.caching import CacheStats as CacheStats
from ferrule.caching import cache as cache
from ferrule.caching import cached as cached
from ferrule.caching import lru_cache as lru_cache
from ferrule.iterating import Lines as Lines
from ferrule.iterating import batched as batched
from ferrule.iterating import batched_by as batched_by
from ferrule.iterating import chunked as chunked
from ferrule.iterating import countdown as countdown
from ferrule.iterating import fibonacci as fibonacci
from ferrule.iterating import flatten as flatten
from ferrule.iterating import inorder as inorder
from ferrule.iterating import lines as lines
from ferrule.iterating import moving_average as moving_average
from ferrule.iterating import sort as sort
from ferrule.iterating import windowed as windowed
from ferrule.limiting import Decision as Decision
from ferrule.limiting import LimiterStats as LimiterStats
from ferrule.limiting import RateLimiter as RateLimiter
from ferrule.limiting import gather_bounded as gather_bounded
from ferrule.limiting import rate_limited as rate_limited
from ferrule.pipelines import Pipeline as Pipeline
from ferrule.pipelines import StageError as StageError
from ferrule.pipelines import it as it
from ferrule.pipelines import pipeline as pipeline
from ferrule.retrying import Attempt as Attempt
from ferrule.retrying import CircuitBreaker as CircuitBreaker
from ferrule.retrying import Retry as Retry
from ferrule.retrying import RetryBudget as RetryBudget
from ferrule.retrying import RetryStats as RetryStats
from ferrule.retrying import retry as retry
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
    "FerruleError",
    "LimiterStats",
    "Lines",
    "MemoryStats",
    "MissingExtra",
    "PerformanceMonitor",
    "Pipeline",
    "RateLimited",
    "RateLimiter",
    "Retry",
    "RetryBudget",
    "RetryStats",
    "StageError",
    "Timer",
    "TimingStats",
    "__version__",
    "batched",
    "batched_by",
    "cache",
    "cached",
    "caching",
    "chunked",
    "count_calls",
    "countdown",
    "fibonacci",
    "flatten",
    "gather_bounded",
    "inorder",
    "it",
    "iterating",
    "limiting",
    "lines",
    "lru_cache",
    "moving_average",
    "pipeline",
    "pipelines",
    "rate_limited",
    "retry",
    "retrying",
    "sort",
    "testing",
    "timed",
    "timing",
    "windowed",
]
