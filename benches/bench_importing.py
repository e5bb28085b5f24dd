"""What `import ferrule` costs every program that has it, in interpreters started for the purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

from ferrule._compare.harness import Figure, Finding, Room, UnavailableError

TIMED_IMPORT = """
import sys
from time import perf_counter
start = perf_counter()
try:
    {statement}
except ModuleNotFoundError as error:
    sys.exit(f"{{error.name}} is not installed")
print((perf_counter() - start) * 1000)
"""

MODULES_BROUGHT = """
import json, sys
before = set(sys.modules)
import ferrule
print(json.dumps(sorted(set(sys.modules) - before)))
"""

# The two are dear, and a program that doesn't use them needn't pay; the others are extras.
UNWELCOME = {
    "asyncio",
    "matplotlib",
    "multiprocessing",
    "opentelemetry",
    "prometheus_client",
    "tqdm",
}


def room(*, quick: bool) -> Room:
    """Describes the figures."""
    times = 3 if quick else 25
    return Room(
        name="importing",
        rows=[],
        figures=[
            Figure(
                id="import_time",
                title=f"import time, the best of {times} fresh interpreters",
                unit="ms",
                goal=10.0,
                candidates={
                    "ferrule": partial(best_import, "import ferrule", times),
                    "ferrule, with timed at hand": partial(best_import, "from ferrule import timed", times),
                    "typing, for scale": partial(best_import, "import typing", times),
                    "asyncio, for scale": partial(best_import, "import asyncio", times),
                    "codetiming": partial(best_import, "import codetiming", times),
                    "prometheus_client": partial(best_import, "import prometheus_client", times),
                    "opentelemetry": partial(best_import, "import opentelemetry.sdk.metrics", times),
                },
            ),
            Figure(
                id="import_brings",
                title="dear modules and extras that import ferrule brings in",
                unit="modules",
                goal=0,
                candidates={"ferrule": unwelcome_modules},
            ),
        ],
    )


def best_import(statement: str, times: int) -> float:
    """Returns the milliseconds of the quickest import; the first interpreter of all only writes the bytecode."""
    return min([float(fresh(TIMED_IMPORT.format(statement=statement))) for _ in range(times + 1)][1:])


def unwelcome_modules() -> Finding:
    """Counts the modules that `import ferrule` should not bring."""
    brought = {name.partition(".")[0] for name in json.loads(fresh(MODULES_BROUGHT))}
    unwelcome = sorted(brought & UNWELCOME)
    return Finding(len(unwelcome), ", ".join(unwelcome))


def fresh(program: str) -> str:
    """Runs a program in an interpreter of its own and returns what it prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"
        if reason.endswith("is not installed"):
            raise UnavailableError(reason)
        raise RuntimeError(reason)
    return done.stdout
