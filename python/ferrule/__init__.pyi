from ferrule import caching as caching
from ferrule import iterating as iterating
from ferrule import limiting as limiting
from ferrule import patterns as patterns
from ferrule import pipelines as pipelines
from ferrule import pooling as pooling
from ferrule import retrying as retrying
from ferrule import scheduling as scheduling
from ferrule import testing as testing
from ferrule import timing as timing
from ferrule import validating as validating
from ferrule._errors import AcquireTimeout as AcquireTimeout
from ferrule._errors import CircuitOpen as CircuitOpen
from ferrule._errors import DependencyCycle as DependencyCycle
from ferrule._errors import DuplicateTask as DuplicateTask
from ferrule._errors import ExecutorClosed as ExecutorClosed
from ferrule._errors import ExecutorFull as ExecutorFull
from ferrule._errors import FerruleError as FerruleError
from ferrule._errors import FieldTypeError as FieldTypeError
from ferrule._errors import FieldValueError as FieldValueError
from ferrule._errors import MissingExtra as MissingExtra
from ferrule._errors import RateLimited as RateLimited
from ferrule._errors import TaskTimeout as TaskTimeout
from ferrule._errors import UnknownDependency as UnknownDependency
from ferrule._errors import WorkerDied as WorkerDied
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
from ferrule.patterns import CaseInsensitiveDict as CaseInsensitiveDict
from ferrule.patterns import Plugin as Plugin
from ferrule.patterns import Registry as Registry
from ferrule.patterns import Singleton as Singleton
from ferrule.patterns import lazy_property as lazy_property
from ferrule.patterns import singleton as singleton
from ferrule.pipelines import Pipeline as Pipeline
from ferrule.pipelines import StageError as StageError
from ferrule.pipelines import it as it
from ferrule.pipelines import pipeline as pipeline
from ferrule.pooling import PoolClosed as PoolClosed
from ferrule.pooling import PoolExhausted as PoolExhausted
from ferrule.pooling import PoolLeakWarning as PoolLeakWarning
from ferrule.pooling import PoolStats as PoolStats
from ferrule.pooling import PoolTimeout as PoolTimeout
from ferrule.pooling import ResourcePool as ResourcePool
from ferrule.pooling import Transaction as Transaction
from ferrule.pooling import transaction as transaction
from ferrule.retrying import Attempt as Attempt
from ferrule.retrying import CircuitBreaker as CircuitBreaker
from ferrule.retrying import Retry as Retry
from ferrule.retrying import RetryBudget as RetryBudget
from ferrule.retrying import RetryStats as RetryStats
from ferrule.retrying import retry as retry
from ferrule.scheduling import ProcessPoolExecutor as ProcessPoolExecutor
from ferrule.scheduling import TaskResult as TaskResult
from ferrule.scheduling import TaskScheduler as TaskScheduler
from ferrule.scheduling import ThreadPoolExecutor as ThreadPoolExecutor
from ferrule.timing import MemoryStats as MemoryStats
from ferrule.timing import PerformanceMonitor as PerformanceMonitor
from ferrule.timing import Timer as Timer
from ferrule.timing import TimingStats as TimingStats
from ferrule.timing import count_calls as count_calls
from ferrule.timing import timed as timed
from ferrule.validating import Email as Email
from ferrule.validating import Field as Field
from ferrule.validating import Model as Model
from ferrule.validating import OneOf as OneOf
from ferrule.validating import Pattern as Pattern
from ferrule.validating import Range as Range
from ferrule.validating import create_model as create_model
from ferrule.validating import enforce_types as enforce_types

__version__: str
__all__ = [
    "AcquireTimeout",
    "Attempt",
    "Cache",
    "CacheInfo",
    "CacheStats",
    "CaseInsensitiveDict",
    "CircuitBreaker",
    "CircuitOpen",
    "Decision",
    "DependencyCycle",
    "DuplicateTask",
    "Email",
    "ExecutorClosed",
    "ExecutorFull",
    "FerruleError",
    "Field",
    "FieldTypeError",
    "FieldValueError",
    "LimiterStats",
    "Lines",
    "MemoryStats",
    "MissingExtra",
    "Model",
    "OneOf",
    "Pattern",
    "PerformanceMonitor",
    "Pipeline",
    "Plugin",
    "PoolClosed",
    "PoolExhausted",
    "PoolLeakWarning",
    "PoolStats",
    "PoolTimeout",
    "Range",
    "RateLimited",
    "RateLimiter",
    "Registry",
    "ResourcePool",
    "Retry",
    "RetryBudget",
    "RetryStats",
    "Singleton",
    "StageError",
    "TaskResult",
    "TaskScheduler",
    "TaskTimeout",
    "ThreadPoolExecutor",
    "Timer",
    "TimingStats",
    "Transaction",
    "UnknownDependency",
    "__version__",
    "batched",
    "batched_by",
    "cache",
    "cached",
    "caching",
    "chunked",
    "count_calls",
    "countdown",
    "create_model",
    "enforce_types",
    "fibonacci",
    "flatten",
    "gather_bounded",
    "inorder",
    "it",
    "iterating",
    "lazy_property",
    "limiting",
    "lines",
    "lru_cache",
    "moving_average",
    "patterns",
    "pipeline",
    "pipelines",
    "pooling",
    "rate_limited",
    "retry",
    "retrying",
    "scheduling",
    "singleton",
    "sort",
    "testing",
    "timed",
    "timing",
    "transaction",
    "validating",
    "windowed",
]
