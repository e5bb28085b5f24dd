"""What the tests of several rooms share."""

import subprocess
import sys
import sysconfig
import textwrap

import pytest


@pytest.fixture(scope="session")
def python():
    """Run code in a fresh interpreter that takes nothing from this one's environment, and return what became of it."""
    # -I ignores PYTHON_GIL, too.
    threads = ["-Xgil=0"] if sysconfig.get_config_var("Py_GIL_DISABLED") and not sys._is_gil_enabled() else []

    def run(code, *arguments, options=("-I",), timeout=60):
        command = [sys.executable, *options, *threads, "-c", textwrap.dedent(code), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    return run
