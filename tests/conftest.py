"""What the tests of several rooms share."""

import signal
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


def pytest_configure():
    """Hear Ctrl-C, in interpreters that tests start, too: what runs in the background inherits that it is ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
