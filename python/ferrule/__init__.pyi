from ferrule import caching as caching
from ferrule import patterns as patterns
from ferrule import testing as testing
from ferrule import timing as timing
from ferrule import validating as validating
from ferrule._errors import FerruleError as FerruleError
from ferrule._errors import FieldTypeError as FieldTypeError
from ferrule._errors import FieldValueError as FieldValueError
from ferrule._errors import MissingExtra as MissingExtra
from ferrule.caching import Cache as Cache
from ferrule.caching import CacheInfo as CacheInfo
from ferrule.caching import CacheStats as CacheStats
from ferrule.caching import cache as cache
from ferrule.caching import cached as cached
from ferrule.caching import lru_cache as lru_cache
from ferrule.patterns import CaseInsensitiveDict as CaseInsensitiveDict
from ferrule.patterns import Plugin as Plugin
from ferrule.patterns import Registry as Registry
from ferrule.patterns import Singleton as Singleton
from ferrule.patterns import lazy_property as lazy_property
from ferrule.patterns import singleton as singleton
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
    "Cache",
    "CacheInfo",
    "CacheStats",
    "CaseInsensitiveDict",
    "Email",
    "FerruleError",
    "Field",
    "FieldTypeError",
    "FieldValueError",
    "MemoryStats",
    "MissingExtra",
    "Model",
    "OneOf",
    "Pattern",
    "PerformanceMonitor",
    "Plugin",
    "Range",
    "Registry",
    "Singleton",
    "Timer",
    "TimingStats",
    "__version__",
    "cache",
    "cached",
    "caching",
    "count_calls",
    "create_model",
    "enforce_types",
    "lazy_property",
    "lru_cache",
    "patterns",
    "singleton",
    "testing",
    "timed",
    "timing",
    "validating",
]
