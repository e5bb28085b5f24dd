"""What the tests of several rooms share."""

import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
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


@pytest.fixture(scope="session")
def sdist(tmp_path_factory):
    """Fetch a source distribution: the newest whose tests are known here, for the next may ask for something else."""

    def fetch(name, newest):
        folder = tmp_path_factory.mktemp("sdist")
        pythons = [sys.executable, *filter(None, (shutil.which("python3"), shutil.which("python")))]
        command = ["-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name, "--dest", str(folder)]
        command.append(f"{name}<={newest}")
        for python in pythons:
            done = subprocess.run([python, *command], capture_output=True, text=True, timeout=90, check=False)
            if done.returncode == 0:
                break
        else:
            pytest.skip(f"the sdist of {name} can't be had: {done.stderr.strip().rpartition(chr(10))[2]}")
        archive = next(folder.glob("*.tar.gz"))
        with tarfile.open(archive) as content:
            content.extractall(folder, filter="data")
        return folder / archive.name.removesuffix(".tar.gz")

    return fetch


def pytest_configure():
    """Hear Ctrl-C, in interpreters that tests start, too: what runs in the background inherits that it is ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
