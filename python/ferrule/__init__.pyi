from ferrule import testing as testing
from ferrule import timing as timing
from ferrule._errors import FerruleError as FerruleError
from ferrule._errors import MissingExtra as MissingExtra
from ferrule.timing import MemoryStats as MemoryStats
from ferrule.timing import PerformanceMonitor as PerformanceMonitor
from ferrule.timing import Timer as Timer
from ferrule.timing import TimingStats as TimingStats
from ferrule.timing import count_calls as count_calls
from ferrule.timing import timed as timed

__version__: str
__all__ = [
    "FerruleError",
    "MemoryStats",
    "MissingExtra",
    "PerformanceMonitor",
    "Timer",
    "TimingStats",
    "__version__",
    "count_calls",
    "testing",
    "timed",
    "timing",
]
