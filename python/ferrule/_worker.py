"""What runs in the processes of a `ProcessPoolExecutor`: the template that forks workers, and a worker's life.

The template is a small clean process with one thread. It loads what all workers need, once, and forks whenever it is
asked to; it sees its children end and says how. It ends with the thread that started it, and at the latest when nobody
holds the other end of its socket any more; workers end with the template.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ferrule import _core

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence

# What frames are about: `Kind` in wire.rs.
_PREPARE, _INITIALIZE, _TASK, _LEAVE, _PREPARED, _READY, _FAILED, _RETURNED, _RAISED, _EVENT = range(10)

_BORN, _GONE, _BAD = range(3)

# What every worker needs, and what a main module has loaded that starts some; the template loads it once.
_NEEDED: Final = (
    "concurrent.futures.thread",
    "logging.handlers",
    "multiprocessing.spawn",
    "pickle",
    "warnings",
    "ferrule._processes",
)


# This worker's own.
_ends: list[_core.WorkerEnd] = []

# The parent's descriptors that workers have from the template.
inherited: list[int] = []


class Preparation(NamedTuple):
    """What a worker is told first."""

    main: dict[str, Any]
    levels: dict[str | None, int]
    filters: list[Any]
    # Where, among the inherited descriptors, multiprocessing's resource tracker listens.
    tracker: int | None


class Inherited(NamedTuple):
    """A descriptor of the parent's, as an initializer's arguments bring it: what multiprocessing calls a `DupFd`."""

    place: int

    def detach(self) -> int:
        """Return a descriptor of its own for who asks."""
        return os.dup(inherited[self.place])


class Spawning:
    """Stands, while an initializer is pickled, for the process that multiprocessing would be starting.

    Queues, locks and connections can be pickled just then: they are inherited. Ours inherit by the template.
    """

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    def duplicate_for_child(self, descriptor: int) -> int:
        """Keep a descriptor for the workers and return its place."""
        self.descriptors.append(os.dup(descriptor))
        return len(self.descriptors) - 1

    def DupFd(self, place: int) -> Inherited:  # noqa: N802 - as multiprocessing calls it
        """Return what is pickled in a descriptor's stead."""
        return Inherited(place)


# For so many nanoseconds at most a batch goes on before what it has done is put where the parent finds it whatever
# becomes of this process.
_UNSAVED: Final = 1_000_000
_EVER: Final = 2**63


class Outcomes(NamedTuple):
    """What became of a batch of calls: the results up to the first that raised, and what that one raised."""

    results: list[Any]
    error: BaseException | None = None
    text: str = ""
    took: int = 0
    calls: int = 0


def run_batch(function: Callable[..., Any], batch: list[Any], *, one_each: bool, name: int) -> Outcomes:
    """Make calls one after the other, up to the first that raises: with one argument each, or with tuples of them.

    What has been done for a while is told at once, under the batch's name if it has one, and isn't in the outcomes.
    """
    results: list[Any] = []
    make_calls = _core._make_calls  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    started = _core.precise_ns()
    place, length = 0, _UNSAVED if name else _EVER
    try:
        # What is done before one raises is kept.
        while (place := make_calls(function, batch, place, results, one_each, length)) < len(batch):
            _save(name, results)
    except BaseException as error:  # noqa: BLE001 - it is the call's result
        return Outcomes(results, *told(error))
    return Outcomes(results, took=_core.precise_ns() - started, calls=place)


def _save(name: int, results: list[Any]) -> None:
    import pickle

    end = _ends[-1]
    buffers = _core.Buffers()
    try:
        text = pack(results, buffers)
    except BaseException:  # noqa: BLE001 - whoever reports the outcomes finds out which it is
        return
    end.put_out(_EVENT, 0, pickle.dumps((_DONE, (name, text)), 5), buffers)
    results.clear()


def told(error: BaseException) -> tuple[BaseException, str]:
    """Return an exception as it can travel, and its traceback as text."""
    text = "".join(traceback.format_exception(error))
    # What happened where is in the text; frames can't travel, and hold what they refer to.
    error.__traceback__ = None
    return error, text


def teach_pickle() -> None:
    """Have plain pickle treat multiprocessing's connections as multiprocessing does, not as numbers of descriptors."""
    import copyreg
    from multiprocessing import connection

    copyreg.pickle(connection.Connection, connection.reduce_connection)  # type: ignore[attr-defined]


def pack(value: object, buffers: _core.Buffers, *, inherits: bool = False) -> bytes:
    """Pickle what plain pickle doesn't: with multiprocessing's reducers, or cloudpickle where it is installed.

    Args:
        value: What is pickled.
        buffers: Gathers what travels beside it.
        inherits: Whether those who load it inherit what can only be inherited: then multiprocessing comes first.

    Raises:
        Exception: What plain pickle raises, where nothing helps.
    """
    import io
    import pickle

    try:
        if inherits:
            stream = io.BytesIO()
            _dump_as_multiprocessing(stream, value, buffers)
            return stream.getvalue()
        return pickle.dumps(value, 5, buffer_callback=buffers)
    except Exception:
        for dump in _other_ways():
            buffers.clear()
            stream = io.BytesIO()
            with contextlib.suppress(Exception):
                dump(stream, value, buffers)
                return stream.getvalue()
        buffers.clear()
        raise


def _other_ways() -> list[Callable[[Any, object, Any], None]]:
    ways: list[Callable[[Any, object, Any], None]] = []
    reduction = sys.modules.get("multiprocessing.reduction")
    if reduction is not None:
        ways.append(_dump_as_multiprocessing)
    try:
        import cloudpickle  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return ways

    base: Any = cloudpickle.Pickler

    class Pickler(base):  # type: ignore[misc]
        """Sends what the main module has a name for by that name: workers have that module, under the same name."""

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, (FunctionType, type)) and _is_main_s(obj):
                return NotImplemented
            above: Any = super()
            return above.reducer_override(obj)

    ways.append(lambda stream, value, buffers: Pickler(stream, 5, buffer_callback=buffers).dump(value))
    return ways


def _is_main_s(thing: Any) -> bool:
    if thing.__module__ not in {"__main__", "__mp_main__"}:
        return False
    found: object = sys.modules[thing.__module__]
    for name in thing.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is thing


def _dump_as_multiprocessing(stream: Any, value: object, buffers: Any) -> None:
    from multiprocessing.reduction import ForkingPickler

    # It takes what `Pickler` takes, by position, whatever its stub says.
    make: Any = ForkingPickler
    make(stream, 5, True, buffers).dump(value)


# -- the template -----------------------------------------------------------------------------------------------------


def template(  # noqa: C901, PLR0912, PLR0915 - one life, told from its beginning to its end
    parent: int,
    beside: int,
    preload: Sequence[str],
    path: Sequence[str],
) -> None:
    """Live as the template: the socket is standard input, `parent` the process that started this one."""
    # Ctrl-C is the parent's; its thread had all signals blocked.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if _core._die_with_parent() != parent:  # noqa: SLF001
        os._exit(1)
    import select
    import socket
    import struct

    control = socket.socket(fileno=os.dup(0))
    _open_nothing_as_input()
    sys.path[:] = path
    pack_message = struct.Struct("<qqq").pack
    children: dict[int, int] = {}

    def say(what: int, name: int, value: int, text: bytes = b"", descriptors: Sequence[int] = ()) -> None:
        socket.send_fds(control, [pack_message(what, name, value) + text], list(descriptors))

    for module in preload:
        try:
            __import__(module)
        except BaseException:  # noqa: BLE001 - the parent says it
            text = f"preload: {module!r} can't be imported\n{traceback.format_exc()}"
            say(_BAD, 0, 0, text.encode("utf-8", "replace")[:4000])
            os._exit(1)
    for module in _NEEDED:
        __import__(module)
    teach_pickle()

    bell, ring = os.pipe()
    for end in (bell, ring):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, _hear_nothing)
    signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(bell, select.POLLIN)
    me = os.getpid()
    while True:
        ready = dict(poll.poll())
        if bell in ready:
            with contextlib.suppress(BlockingIOError):
                while os.read(bell, 512):
                    pass
        _reap(children, say)
        if control.fileno() not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(control, 8, 16)
        if not message:
            os._exit(0)
        name = int.from_bytes(message, "little")
        if name == 0:
            inherited.extend(descriptors)
            continue
        try:
            pid = os.fork()
        except OSError:
            for descriptor in descriptors:
                os.close(descriptor)
            say(_GONE, name, 1)
            continue
        if pid == 0:
            code = 1
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                os.close(bell)
                os.close(ring)
                code = work(descriptors, me, beside=beside)
            except BaseException:  # noqa: BLE001 - it must not become a second template
                traceback.print_exc()
            finally:
                os._exit(code)
        children[pid] = name
        for descriptor in descriptors:
            os.close(descriptor)
        process = os.pidfd_open(pid)
        say(_BORN, name, pid, descriptors=[process])
        os.close(process)


def _open_nothing_as_input() -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _reap(children: dict[int, int], say: Callable[[int, int, int], None]) -> None:
    while children:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        name = children.pop(pid, None)
        if name is not None:
            say(_GONE, name, os.waitstatus_to_exitcode(status))


# -- a worker ---------------------------------------------------------------------------------------------------------


def _hear_nothing(*_: object) -> None:
    """Handle a signal that only wakes, and Ctrl-C in workers, which is the parent's.

    Not by `SIG_IGN`, which programs that they start would inherit.
    """


def work(descriptors: Sequence[int], template_pid: int, *, beside: int) -> int:
    """Live as a worker."""
    import atexit

    signal.signal(signal.SIGINT, _hear_nothing)
    if _core._die_with_parent() != template_pid:  # noqa: SLF001
        return 1
    handlers: Any = atexit
    # Exit handlers of the template's are not the worker's.
    handlers._clear()  # noqa: SLF001
    end = _core.WorkerEnd(descriptors[0], descriptors[1], beside)
    _ends.append(end)
    try:
        _serve(end)
    finally:
        _leave(handlers._run_exitfuncs)  # noqa: SLF001
        end.flush_out()
    return 0


def _leave(run_exit_functions: Callable[[], None]) -> None:
    import threading

    with contextlib.suppress(Exception):
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            util._exit_function()  # noqa: SLF001
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
    with contextlib.suppress(BaseException):
        run_exit_functions()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _serve(end: _core.WorkerEnd) -> None:  # noqa: C901 - the hot loop
    import pickle
    from contextvars import Context
    from functools import partial

    modules = sys.modules
    loads, dumps, receive, put_out = pickle.loads, pickle.dumps, end.receive, end.put_out
    while (frame := receive()) is not None:
        kind, number, text, buffers = frame
        del frame
        if kind == _TASK:
            try:
                function, args, kwargs, variables = loads(text, buffers=buffers)
                # The arguments live as long as somebody refers to them, and so does the memory that they came in.
                del text, buffers
                here = Context()
                if variables:
                    here.run(_restore, variables)
                result = here.run(function, *args, **kwargs) if kwargs else here.run(function, *args)
                del function, args, kwargs, variables, here
                if "ferrule.timing" in modules:
                    _send_timings(end)
            except BaseException as error:  # noqa: BLE001 - it is the task's result
                _send_timings(end)
                _report(end, number, error)
                # The exception's frames held all of this.
                del error
                function = args = kwargs = variables = None
                continue
            given = _core.Buffers()
            try:
                answer = dumps(result, 5, buffer_callback=given)
            except BaseException:  # noqa: BLE001 - another way may do it
                _report_hard(end, number, result, given)
            else:
                put_out(_RETURNED, number, answer, given)
            del result
        elif kind == _PREPARE:
            if not _say_failure(end, "the main module can't be loaded", partial(_prepare, end, text)):
                return
            put_out(_PREPARED, 0, b"", at_once=True)
        elif kind == _INITIALIZE:
            if not _say_failure(end, "the initializer failed", partial(_initialize, text)):
                return
            put_out(_READY, 0, b"", at_once=True)
        else:
            return


def _restore(variables: Sequence[tuple[str, str, bytes]]) -> None:
    import pickle
    from importlib import import_module

    for module, name, value in variables:
        getattr(import_module(module), name).set(pickle.loads(value))  # noqa: S301 - from the parent


def _report(end: _core.WorkerEnd, number: int, error: BaseException) -> None:
    """Send what a task raised; where that can't be pickled, what can be said of it."""
    buffers = _core.Buffers()
    error, text = told(error)
    try:
        answer = pack((error, text), buffers)
        # What can be pickled may be impossible to load, and the parent would know neither what it was.
    except BaseException as problem:  # noqa: BLE001
        buffers.clear()
        instead = RuntimeError(
            f"a {type(error).__qualname__} was raised that can't be pickled ({problem}): {_shown(error)}"
        )
        answer = pack((instead, text), buffers)
    end.put_out(_RAISED, number, answer, buffers)


def _shown(value: object) -> str:
    try:
        return repr(value)[:1000]
    except Exception:  # noqa: BLE001 - somebody's own
        return f"<{type(value).__qualname__}>"


def _report_hard(end: _core.WorkerEnd, number: int, result: object, buffers: _core.Buffers) -> None:
    """Send a result that plain pickle doesn't take."""
    buffers.clear()
    try:
        answer = pack(result, buffers)
    except BaseException as problem:  # noqa: BLE001 - it is the task's result
        if isinstance(result, Outcomes) and len(result.results) > 0:
            _report_some(end, number, result)
        else:
            _report(end, number, problem)
        return
    end.put_out(_RETURNED, number, answer, buffers)


def _report_some(end: _core.WorkerEnd, number: int, batch: Outcomes) -> None:
    """Send a batch's results up to the first that can't be pickled."""
    buffers = _core.Buffers()
    good: list[Any] = []
    for result in batch.results:
        try:
            pack(result, buffers)
        except BaseException as problem:  # noqa: BLE001 - it is the call's result
            batch = Outcomes(good, *told(problem))
            break
        good.append(result)
    buffers.clear()
    try:
        answer = pack(batch, buffers)
    except BaseException as problem:  # noqa: BLE001 - it is the task's result
        _report(end, number, problem)
        return
    end.put_out(_RETURNED, number, answer, buffers)


def _say_failure(end: _core.WorkerEnd, what: str, action: Callable[[], None]) -> bool:
    try:
        action()
    except BaseException:  # noqa: BLE001 - the parent says it
        text = f"{what}:\n{traceback.format_exc()}"
        end.put_out(_FAILED, 0, text.encode("utf-8", "replace"), at_once=True)
        return False
    return True


def _initialize(text: bytes) -> None:
    import pickle

    if text:
        initializer, args = pickle.loads(text)  # noqa: S301 - from the parent
        initializer(*args)


def _prepare(end: _core.WorkerEnd, text: bytes) -> None:
    import pickle
    from multiprocessing import process, resource_tracker, spawn

    preparation: Preparation = pickle.loads(text)  # noqa: S301 - from the parent
    if preparation.tracker is not None:
        # Shared memory is registered with the parent's: one of a worker's own would remove it when the worker goes.
        tracker: Any = vars(resource_tracker)["_resource_tracker"]
        tracker._fd = inherited[preparation.tracker]  # noqa: SLF001

    me: Any = process.current_process()
    # A main module that starts processes as it is imported would start them for ever: multiprocessing says so then.
    me._inheriting = True  # noqa: SLF001
    try:
        spawn.prepare(preparation.main)
    finally:
        del me._inheriting  # noqa: SLF001
    _forward_warnings(end, preparation.filters)
    _forward_logs(end, preparation.levels)
    # What was measured while the main module was imported, it has measured itself.
    _gather_from_now()


# -- what is told to the parent ---------------------------------------------------------------------------------------


def _gather_from_now() -> None:
    timing = sys.modules.get("ferrule.timing")
    if timing is not None:
        timing.begin_gathering()


class _Unused(Warning):
    """Nobody's."""


_LOG: Final = "log"
_WARNING: Final = "warning"
_TIMINGS: Final = "timings"
_DONE: Final = "done"


def _tell(end: _core.WorkerEnd, what: str, value: object, *, at_once: bool = True) -> None:
    import pickle

    end.put_out(_EVENT, 0, pickle.dumps((what, value), 5), at_once=at_once)


def _send_timings(end: _core.WorkerEnd) -> None:
    """Send home what was measured; it goes before the task's result, so that who has that has this, too."""
    timing = sys.modules.get("ferrule.timing")
    if timing is not None:
        found = timing.gathered()
        if found:
            _tell(end, _TIMINGS, found, at_once=False)


def _forward_logs(end: _core.WorkerEnd, levels: dict[str | None, int]) -> None:
    import logging
    from logging.handlers import QueueHandler

    class Forwarder(QueueHandler):
        """Hands records to the parent's loggers of the same names."""

        def enqueue(self, record: logging.LogRecord) -> None:
            fields = record.__dict__
            try:
                _tell(end, _LOG, fields)
            except Exception:  # noqa: BLE001 - whatever somebody's fields hold
                _tell(end, _LOG, {name: _plain(value) for name, value in fields.items()})

    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    # What the main module has set up, the parent has set up, too: there each record is handled, and only there.
    root = logging.getLogger()
    for logger in [root, *logging.root.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger):
            logger.handlers[:] = [handler for handler in logger.handlers if isinstance(handler, logging.NullHandler)]
            logger.propagate = True
    root.addHandler(Forwarder(None))  # type: ignore[arg-type, unused-ignore]


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, type(None))) else _shown(value)


def _forward_warnings(end: _core.WorkerEnd, filters: list[Any]) -> None:
    import pickle
    import warnings

    def show(  # noqa: PLR0917 - as `warnings` calls it
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: object = None,
        line: str | None = None,
    ) -> None:
        del file, line
        try:
            value = pickle.dumps((message, category))
        except Exception:  # noqa: BLE001 - whatever somebody's warning holds
            value = pickle.dumps((str(message), UserWarning))
        _tell(end, _WARNING, (value, filename, lineno))

    warnings.showwarning = show
    if filters:
        warnings.filters[:] = filters  # type: ignore[index, unused-ignore]
        # One more, so that what was found out by the old ones is forgotten.
        warnings.simplefilter("default", _Unused, append=True)
