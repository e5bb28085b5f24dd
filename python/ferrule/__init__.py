"""The helpers that every Python project writes again, native, fast and right.

Every public name can be imported from here. The rooms that they live in (`ferrule.timing`, `ferrule.testing`) are
loaded when a name of theirs is first used, so that `import ferrule` costs next to nothing.
"""

__version__ = "0.1.0"

# A public name, and the module that it lives in. The stub beside this file says the same to type checkers.
_HOMES = {
    "AcquireTimeout": "_errors",
    "Attempt": "retrying",
    "Cache": "caching",
    "CacheInfo": "caching",
    "CacheStats": "caching",
    "CaseInsensitiveDict": "patterns",
    "CircuitBreaker": "retrying",
    "CircuitOpen": "_errors",
    "Decision": "limiting",
    "DependencyCycle": "_errors",
    "DuplicateTask": "_errors",
    "Email": "validating",
    "ExecutorClosed": "_errors",
    "ExecutorFull": "_errors",
    "FerruleError": "_errors",
    "Field": "validating",
    "FieldTypeError": "_errors",
    "FieldValueError": "_errors",
    "LimiterStats": "limiting",
    "Lines": "iterating",
    "MemoryStats": "timing",
    "MissingExtra": "_errors",
    "Model": "validating",
    "OneOf": "validating",
    "Pattern": "validating",
    "PerformanceMonitor": "timing",
    "Pipeline": "pipelines",
    "Plugin": "patterns",
    "PoolClosed": "pooling",
    "PoolExhausted": "pooling",
    "PoolLeakWarning": "pooling",
    "PoolStats": "pooling",
    "PoolTimeout": "pooling",
    "Range": "validating",
    "ProcessPoolExecutor": "scheduling",
    "RateLimited": "_errors",
    "RateLimiter": "limiting",
    "Registry": "patterns",
    "ResourcePool": "pooling",
    "Retry": "retrying",
    "RetryBudget": "retrying",
    "RetryStats": "retrying",
    "Singleton": "patterns",
    "StageError": "pipelines",
    "TaskResult": "scheduling",
    "TaskScheduler": "scheduling",
    "TaskTimeout": "_errors",
    "ThreadPoolExecutor": "scheduling",
    "Timer": "timing",
    "TimingStats": "timing",
    "Transaction": "pooling",
    "UnknownDependency": "_errors",
    "WorkerDied": "_errors",
    "batched": "iterating",
    "batched_by": "iterating",
    "cache": "caching",
    "cached": "caching",
    "chunked": "iterating",
    "count_calls": "timing",
    "countdown": "iterating",
    "create_model": "validating",
    "enforce_types": "validating",
    "fibonacci": "iterating",
    "flatten": "iterating",
    "gather_bounded": "limiting",
    "inorder": "iterating",
    "it": "pipelines",
    "lazy_property": "patterns",
    "lines": "iterating",
    "lru_cache": "caching",
    "moving_average": "iterating",
    "pipeline": "pipelines",
    "rate_limited": "limiting",
    "retry": "retrying",
    "singleton": "patterns",
    "sort": "iterating",
    "timed": "timing",
    "transaction": "pooling",
    "windowed": "iterating",
}
_ROOMS = (
    "caching",
    "iterating",
    "limiting",
    "patterns",
    "pipelines",
    "pooling",
    "retrying",
    "scheduling",
    "testing",
    "timing",
    "validating",
)

__all__ = [  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll] - made from the table
    "__version__",
    *_HOMES,
    *_ROOMS,
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _HOMES:
        value = getattr(import_module(f"ferrule.{_HOMES[name]}"), name)
    elif name in _ROOMS:
        value = import_module(f"ferrule.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
