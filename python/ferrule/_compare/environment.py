"""Which interpreter and which machine a measurement was made on."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from ferrule._compare.results import Interpreter, Machine


def this_interpreter() -> Interpreter:
    """Describes the interpreter that runs this."""
    optimised, evidence = profile_guided(sysconfig.get_config_vars())
    lock_is_on: Any = getattr(sys, "_is_gil_enabled", lambda: True)
    jit: Any = getattr(sys, "_jit", None)
    return Interpreter(
        implementation=platform.python_implementation(),
        version=platform.python_version(),
        optimised=optimised,
        evidence=evidence,
        link_time=link_time(sysconfig.get_config_vars()),
        free_threaded=bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        lock=bool(lock_is_on()),
        debug=hasattr(sys, "gettotalrefcount"),
        jit=jit is not None and bool(jit.is_enabled()),
    )


def profile_guided(config: dict[str, Any]) -> tuple[bool | None, str]:
    """Tells from the recorded build configuration whether the interpreter was optimised with a profile.

    Args:
        config: the variables of `sysconfig`.

    Returns:
        Whether it was, `None` when nothing is recorded; and what that is concluded from.
    """
    arguments = config.get("CONFIG_ARGS")
    if arguments is None:
        return None, "the build's arguments are not recorded"
    if "--enable-optimizations" in arguments:
        return True, "configured with --enable-optimizations"
    # configure sets both flags, whether or not they are used. Debian builds with the profile and then takes the flags
    # that only fit its own build tree out of the record, --enable-optimizations among them: half of the pair is left.
    if config.get("PGO_PROF_GEN_FLAG") and not config.get("PGO_PROF_USE_FLAG"):
        return True, "inferred: the record's profile flags were taken out after the build, as Debian does"
    return False, "configured without --enable-optimizations"


def link_time(config: dict[str, Any]) -> bool | None:
    """Tells whether link-time optimisation is declared in the recorded build configuration; `None` when nothing is."""
    arguments = config.get("CONFIG_ARGS")
    if arguments is None:
        return None
    if "--with-lto" in arguments or "-flto" in arguments:
        return "--with-lto=no" not in arguments
    return None if profile_guided(config)[1].startswith("inferred") else False


def this_machine() -> Machine:
    """Describes the machine that runs this: its processor, the cores this process may use, its system."""
    # "6.12.3-distribution" says more of who packaged the kernel than of how it behaves.
    release = ".".join(platform.release().split("-")[0].split(".")[:2])
    return Machine(
        cpu=_processor(),
        cores=_usable_cores(),
        system=" ".join(filter(None, (platform.system(), release, platform.machine()))),
    )


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _processor() -> str:
    """Names the processor as well as the system can."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() in {"model name", "cpu model"} and value.strip():
                return value.strip()
    except OSError:
        pass
    sysctl = shutil.which("sysctl")
    if platform.system() == "Darwin" and sysctl is not None:
        asked = subprocess.run(  # noqa: S603  # the system's own tool with fixed arguments
            [sysctl, "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.stdout.strip():
            return asked.stdout.strip()
    return platform.processor() or platform.machine() or "unknown processor"
