from ferrule import caching as caching
from ferrule import pooling as pooling
from ferrule import retrying as retrying
from ferrule import testing as testing
from ferrule import timing as timing
from ferrule._errors import FerruleError as FerruleError
from ferrule._errors import MissingExtra as MissingExtra
from ferrule.caching import Cache as Cache
from ferrule.caching import CacheInfo as CacheInfo
from ferrule.caching import CacheStats as CacheStats
from ferrule.caching import cache as cache
from ferrule.caching import cached as cached
from ferrule.caching import lru_cache as lru_cache
from ferrule.pooling import PoolClosed as PoolClosed
from ferrule.pooling import PoolExhausted as PoolExhausted
from ferrule.pooling import PoolLeakWarning as PoolLeakWarning
from ferrule.pooling import PoolStats as PoolStats
from ferrule.pooling import PoolTimeout as PoolTimeout
from ferrule.pooling import ResourcePool as ResourcePool
from ferrule.pooling import Transaction as Transaction
from ferrule.pooling import transaction as transaction
from ferrule.retrying import Retry as Retry
from ferrule.retrying import RetryBudget as RetryBudget
from ferrule.timing import MemoryStats as MemoryStats
from ferrule.timing import PerformanceMonitor as PerformanceMonitor
from ferrule.timing import Timer as Timer
from ferrule.timing import TimingStats as TimingStats
from ferrule.timing import count_calls as count_calls
from ferrule.timing import timed as timed

__version__: str
__all__ = [
    "Cache",
    "CacheInfo",
    "CacheStats",
    "FerruleError",
    "MemoryStats",
    "MissingExtra",
    "PerformanceMonitor",
    "PoolClosed",
    "PoolExhausted",
    "PoolLeakWarning",
    "PoolStats",
    "PoolTimeout",
    "ResourcePool",
    "Retry",
    "RetryBudget",
    "Timer",
    "TimingStats",
    "Transaction",
    "__version__",
    "cache",
    "cached",
    "caching",
    "count_calls",
    "lru_cache",
    "pooling",
    "retrying",
    "testing",
    "timed",
    "timing",
    "transaction",
]
