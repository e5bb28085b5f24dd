"""What the tests have done in other processes; a module that is quick to load."""

import contextvars
import ctypes
import logging
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

from ferrule import PerformanceMonitor, Timer, timed

MONITOR = PerformanceMonitor()
REQUEST = contextvars.ContextVar("REQUEST", default="none")
CELL = []


def shared_names():
    """What lies in /dev/shm; not what multiprocessing has there, whoever on this machine uses it just now."""
    return {entry.name for entry in Path("/dev/shm").iterdir() if not entry.name.startswith("sem.mp-")}


def square(x):
    return x * x


def identity(x):
    return x


def pid(*_):
    return os.getpid()


def parents():
    return os.getpid(), os.getppid()


def kill_self(number=signal.SIGKILL):
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(code):
    os._exit(code)


def fault():
    # Reads where nothing is.
    sys.stderr.close()
    ctypes.string_at(0)


def fail(text):
    raise ValueError(text)


def fail_chained():
    try:
        {}["inner"]
    except KeyError as error:
        raise ValueError("outer") from error


def raise_it(error):
    raise error


def sleep(seconds, value=None):
    time.sleep(seconds)
    return value


def spin_in_c(seconds):
    # One call that never looks at signals or at the interpreter's wishes.
    del seconds
    return sum(range(10**15))


def touch(path, text="x"):
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def touch_then(path, text, what, *args):
    touch(path, text)
    return what(*args)


def kill_once(path):
    """Die at the first call, and not at the second."""
    flag = Path(path)
    if not flag.exists():
        flag.write_text("", encoding="utf-8")
        kill_self()
    return "alive"


def die_if(x, culprit):
    if x == culprit:
        kill_self()
    return x


def die_if_three(x):
    return die_if(x, 3)


def touch_slowly(path, number, flag):
    """Take a while; the 25th kills its process the first time."""
    touch(path, str(number))
    if number == 25:
        kill_once(flag)
    time.sleep(0.002)
    return number


def slowly(what, *args):
    time.sleep(0.001)
    return what(*args)


def hold_memory(size, seconds):
    block = bytearray(size)
    for place in range(0, size, 4096):
        block[place] = 1
    time.sleep(seconds)
    return len(block)


def keep_memory(size):
    CELL.append(bytearray(b"x") * size)
    return os.getpid()


def remember(value):
    CELL.append(value)


def recall():
    return list(CELL)


def refuse():
    raise RuntimeError("not today")


def request():
    return REQUEST.get()


def set_request(value):
    REQUEST.set(value)
    return REQUEST.get()


def log_something(text):
    logging.getLogger("process_tasks").warning("said: %s", text, extra={"shade": "green"})


def log_a_lock():
    logging.getLogger("process_tasks").warning("a lock", extra={"lock": threading.Lock()})


@MONITOR.timed
def measured(seconds, *, fail=False):
    time.sleep(seconds)
    with Timer("inside", monitor=MONITOR):
        pass
    if fail:
        raise ValueError("measured all the same")


@timed
def measured_by_default(x):
    return x


def measure_and_die():
    measured(0)
    kill_self()


def measured_here():
    measured(0)
    return MONITOR.stats()["measured"].count


def measured_by_a_copy(monitor):
    with monitor.timer("there"):
        pass
    return monitor


def inherit(*things):
    CELL.append(things)


def use_what_was_inherited(x):
    queue, lock, connection, event = CELL[-1]
    with lock:
        queue.put(x)
    connection.send(x)
    return event.wait(60)


def send_through(connection, value):
    connection.send(value)


def fill_shared(name, value):
    # Whoever has it loaded has a resource tracker.
    from multiprocessing import shared_memory

    memory = shared_memory.SharedMemory(name)
    memory.buf[0] = value
    memory.close()


def warn_of(text):
    warnings.warn(text, RuntimeWarning, stacklevel=1)
    return text


def main_name():
    return sys.modules["__main__"].__name__, "__mp_main__" in sys.modules


def threads():
    return threading.active_count()


def double_in_place(array):
    array *= 2
    return array


def is_writable(array):
    base = array
    while getattr(base, "base", None) is not None:
        base = base.base
    return bool(array.flags.writeable), type(getattr(base, "obj", base)).__name__


def in_a_thread(x):
    seen = []
    thread = threading.Thread(target=lambda: seen.append(x * 2))
    thread.start()
    thread.join()
    return seen[0]


def fork_and_return():
    """Fork in a task: the child comes back as if it were the worker."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return "parent" if child else "child"


def print_out(text):
    print(text)  # noqa: T201
    return len(text)


class Unpicklable:
    def __reduce__(self):
        raise TypeError("I stay here")


class BrokenInWorker:
    """Can be pickled, and can't be loaded in a worker."""

    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        return load_unless, (os.getpid(), self.where)


def load_unless(made_in, where):
    here = "maker" if os.getpid() == made_in else "other"
    if here == where:
        raise OSError(f"can't be loaded by the {here}")
    return BrokenInWorker(where)


def make(where):
    return BrokenInWorker(where)


def make_unpicklable():
    return Unpicklable()


class AwkwardError(Exception):
    """Can be pickled and not be loaded: its arguments aren't those it is made of."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def fail_awkwardly():
    raise AwkwardError(1, 2)


class HolderError(Exception):
    pass


def fail_with_a_lock():
    error = HolderError("held")
    error.lock = threading.Lock()
    raise error


class DiesWhenLoaded:
    def __reduce__(self):
        return os._exit, (7,)
