"""Forks and exits: a child starts afresh, and a process ends cleanly whoever waits in it."""

import concurrent.futures
import itertools
import os
import subprocess
import sys
import textwrap

import pytest

# How many processes are started to be ended, several at a time. The full measure is 1000.
EXITS = int(os.environ.get("FERRULE_TEST_EXITS", "100"))
AT_A_TIME = 3
# Nothing here takes that long, unless something hangs.
LIMIT = 60

pytestmark = [
    pytest.mark.subprocess,
    pytest.mark.thread_unsafe(reason="starts interpreters of its own"),
]

# The beginning of the programs below. A child that hangs is ended by its alarm.
PRELUDE = """
import asyncio, atexit, os, signal, sys, threading, time, traceback
from ferrule._core import Line, forks, precise_ns
from ferrule._waiting import get_async

line = Line()

def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.0005)

def in_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread

def in_child(action):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.alarm(30)
        action()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.fixture
def program(python):
    """Run a program that begins with the prelude; it must end well and say nothing but what it prints."""

    def run(code):
        # A fork while threads run is what is tested; newer interpreters warn of it.
        options = ("-I", "-W", "ignore::DeprecationWarning")
        done = python(PRELUDE + textwrap.dedent(code), options=options, timeout=LIMIT)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
class TestFork:
    def test_is_counted(self, program):
        assert program("""
            before = forks()
            def child():
                assert forks() == before + 1
                assert ended(in_child(lambda: print(forks() - before))) == 0
            assert ended(in_child(child)) == 0
            assert forks() == before
        """) == "2\n"  # fmt: skip

    def test_while_a_thread_waits(self, program):
        assert program("""
            taken = []
            waiting = in_thread(lambda: taken.append(line.get()))
            until(lambda: line.waiting == 1)
            def child():
                assert line.waiting == 0
                line.put("the child's")
                assert len(line) == 1
                assert line.get(timeout=0) == "the child's"
                try:
                    line.get(timeout=0.01)
                except TimeoutError:
                    pass
                own = in_thread(lambda: line.put("between the child's threads"))
                assert line.get(timeout=30) == "between the child's threads"
                line.close()
            assert ended(in_child(child)) == 0
            assert line.waiting == 1
            line.put("the parent's")
            waiting.join(30)
            print(taken)
        """) == "[\"the parent's\"]\n"  # fmt: skip

    def test_while_threads_wait_with_deadlines_and_one_after_the_other(self, program):
        assert program("""
            taken = []
            waiting = [in_thread(lambda: taken.append(line.get(timeout=1000))) for _ in range(5)]
            until(lambda: line.waiting == 5)
            def child():
                # Those who wait here come before those of the parent, who are not there.
                results = []
                mine = [in_thread(lambda: results.append(line.get(timeout=30))) for _ in range(5)]
                until(lambda: line.waiting == 5)
                for value in range(5):
                    line.put(value)
                for each in mine:
                    each.join(30)
                assert sorted(results) == [0, 1, 2, 3, 4], results
                assert line.waiting == len(line) == 0
            assert ended(in_child(child)) == 0
            for value in range(5):
                line.put(value)
            for each in waiting:
                each.join(30)
            print(sorted(taken))
        """) == "[0, 1, 2, 3, 4]\n"  # fmt: skip

    def test_keeps_what_is_kept(self, program):
        assert program("""
            line.put(1)
            assert ended(in_child(lambda: print("child", line.get(timeout=0)))) == 0
            print("parent", line.get(timeout=0))
        """) == "child 1\nparent 1\n"  # fmt: skip

    def test_from_the_task_of_a_loop(self, program):
        assert program("""
            async def main():
                task = asyncio.create_task(get_async(line, timeout=1000))
                while not line.waiting:
                    await asyncio.sleep(0)
                def child():
                    assert line.waiting == 0
                    line.put("the child's")
                    assert line.get(timeout=0) == "the child's"
                assert ended(in_child(child)) == 0
                await asyncio.sleep(0.01)
                assert line.waiting == 1
                line.put("the parent's")
                return await task
            print(asyncio.run(main()))
        """) == "the parent's\n"  # fmt: skip

    def test_from_the_task_of_a_loop_after_the_hand_over(self, program):
        # What was handed over belongs to the parent's task: the child's copy of the task passes nothing on.
        assert program("""
            async def main():
                task = asyncio.create_task(get_async(line, timeout=1000))
                while not line.waiting:
                    await asyncio.sleep(0)
                line.put("the parent's")
                def child():
                    task.get_coro().close()
                    assert len(line) == line.waiting == 0, len(line)
                assert ended(in_child(child)) == 0
                return await task
            print(asyncio.run(main()))
        """) == "the parent's\n"  # fmt: skip

    def test_a_child_runs_a_loop_of_its_own(self, program):
        assert program("""
            async def main():
                task = asyncio.create_task(get_async(line, timeout=30))
                while not line.waiting:
                    await asyncio.sleep(0)
                line.put("here")
                return await task
            waiting = in_thread(line.get)
            until(lambda: line.waiting == 1)
            def child():
                assert asyncio.run(main()) == "here"
            assert ended(in_child(child)) == 0
            assert line.waiting == 1
            line.put(None)
        """) == ""  # fmt: skip

    def test_from_a_signal_handler_in_a_wait(self, program):
        assert program("""
            children = []
            def handle(*_):
                pid = os.fork()
                if pid:
                    children.append(pid)
                else:
                    # The child's main thread stands in no line any more: it goes to the end of its own.
                    signal.alarm(30)
                    assert line.waiting == 0
                    line.put("the child's")
            signal.signal(signal.SIGUSR1, handle)
            def interrupt():
                until(lambda: line.waiting == 1)
                os.kill(os.getpid(), signal.SIGUSR1)
                until(lambda: children)
                assert ended(children[0]) == 0
                line.put("the parent's")
            in_thread(interrupt)
            print(line.get(timeout=1000), flush=True)
            if not children:
                os._exit(0)
        """) == "the child's\nthe parent's\n"  # fmt: skip

    def test_from_a_signal_handler_in_a_wait_keeps_the_deadline(self, program):
        assert program("""
            parent = os.getpid()
            signal.signal(signal.SIGUSR1, lambda *_: children.append(os.fork()))
            children = []
            def interrupt():
                until(lambda: line.waiting == 1)
                os.kill(os.getpid(), signal.SIGUSR1)
            in_thread(interrupt)
            before = time.monotonic()
            try:
                line.get(timeout=1)
            except TimeoutError:
                assert time.monotonic() - before > 0.99
                assert line.waiting == 0
                if os.getpid() == parent:
                    assert ended(children[0]) == 0
                print("in time", flush=True)
            if os.getpid() != parent:
                os._exit(0)
        """) == "in time\nin time\n"  # fmt: skip

    def test_from_a_signal_handler_after_the_hand_over(self, program):
        assert program("""
            children = []
            def handle(*_):
                # The value is handed to the wait that this interrupts, and then there are two of it.
                line.put("the parent's")
                pid = os.fork()
                if pid:
                    children.append(pid)
            signal.signal(signal.SIGUSR1, handle)
            def interrupt():
                until(lambda: line.waiting == 1)
                os.kill(os.getpid(), signal.SIGUSR1)
            in_thread(interrupt)
            try:
                value = line.get(timeout=1)
            except TimeoutError:
                value = "nothing"
            if children:
                assert ended(children[0]) == 0
            print("parent:" if children else "child:", value, len(line), flush=True)
            if not children:
                os._exit(0)
        """) == "child: nothing 0\nparent: the parent's 0\n"  # fmt: skip

    def test_from_a_signal_handler_that_raises_in_the_child(self, program):
        assert program("""
            class Leave(Exception):
                pass
            children = []
            def handle(*_):
                line.put("the parent's")
                pid = os.fork()
                if not pid:
                    raise Leave
                children.append(pid)
            signal.signal(signal.SIGUSR1, handle)
            def interrupt():
                until(lambda: line.waiting == 1)
                os.kill(os.getpid(), signal.SIGUSR1)
            in_thread(interrupt)
            try:
                print(line.get(timeout=1000), len(line))
            except Leave:
                # What was handed over is the parent's.
                os._exit(len(line))
            assert ended(children[0]) == 0
        """) == "the parent's 0\n"  # fmt: skip

    def test_in_another_thread_makes_that_one_the_main_thread(self, program):
        assert program("""
            reading, writing = os.pipe()
            pids = []
            def fork():
                def child():
                    signal.signal(signal.SIGINT, signal.default_int_handler)
                    def tell():
                        until(lambda: line.waiting == 1)
                        os.write(writing, b"!")
                    in_thread(tell)
                    try:
                        line.get()
                    except KeyboardInterrupt:
                        print("interrupted", line.waiting)
                pids.append(in_child(child))
            line.put(0)
            line.get()
            thread = in_thread(fork)
            thread.join(30)
            assert os.read(reading, 1) == b"!"
            os.kill(pids[0], signal.SIGINT)
            assert ended(pids[0]) == 0
        """) == "interrupted 0\n"  # fmt: skip

    def test_in_another_thread_that_has_waited_before(self, program):
        # What was remembered of threads must not outlive the fork: the thread that forks had been another.
        assert program("""
            pids = []
            def fork():
                assert line.get() == "now"
                def child():
                    signal.signal(signal.SIGALRM, signal.default_int_handler)
                    signal.setitimer(signal.ITIMER_REAL, 0.2)
                    try:
                        line.get(timeout=20)
                    except KeyboardInterrupt:
                        print("interrupted")
                pids.append(in_child(child))
            thread = in_thread(fork)
            until(lambda: line.waiting == 1)
            try:
                Line().get(timeout=0.01)
            except TimeoutError:
                line.put("now")
            thread.join(30)
            assert ended(pids[0]) == 0
        """) == "interrupted\n"  # fmt: skip

    def test_under_a_manual_clock(self, program):
        assert program("""
            from ferrule.testing import manual_clock
            with manual_clock() as clock:
                outcomes = []
                def wait():
                    try:
                        line.get(timeout=100)
                    except TimeoutError:
                        outcomes.append("timed out")
                waiting = in_thread(wait)
                until(lambda: line.waiting == 1)
                start = precise_ns()
                def child():
                    # The child has a clock of its own, and turns it.
                    assert precise_ns() == start
                    mine = in_thread(wait)
                    until(lambda: line.waiting == 1)
                    clock.advance(100)
                    mine.join(30)
                    assert outcomes == ["timed out"]
                    assert precise_ns() == start + 100 * 10**9
                    clock.stop()
                    until(lambda: precise_ns() != start)
                assert ended(in_child(child)) == 0
                assert precise_ns() == start
                assert outcomes == []
                clock.advance(100)
                waiting.join(30)
                print(outcomes)
        """) == "['timed out']\n"  # fmt: skip

    def test_many_while_threads_wait_and_hand_over(self, program):
        assert program("""
            stop = False
            def work(back):
                while not stop:
                    line.put(1)
                    try:
                        back.get(timeout=0.001)
                    except TimeoutError:
                        pass
            def pass_on(back):
                while not stop:
                    try:
                        back.put(line.get(timeout=0.001))
                    except TimeoutError:
                        pass
            back = Line()
            threads = [in_thread(function, back) for function in (work, work, pass_on, pass_on)]
            def child():
                assert line.waiting == back.waiting == 0
                fresh = Line()
                for each in (line, back, fresh):
                    each.put("last")
                    while each.get(timeout=10) != "last":
                        pass
                    in_thread(each.put, "from a thread")
                    assert each.get(timeout=10) == "from a thread"
            for _ in range(15):
                assert ended(in_child(child)) == 0
            stop = True
            for each in threads:
                each.join(30)
            print("done")
        """) == "done\n"  # fmt: skip

    def test_by_multiprocessing(self, tmp_path):
        path = tmp_path / "program.py"
        path.write_text(
            PRELUDE
            + textwrap.dedent("""
            import multiprocessing
            def child(number):
                line.put(number)
                return line.get(timeout=10) + line.waiting
            if __name__ == "__main__":
                for _ in range(3):
                    in_thread(line.get)
                until(lambda: line.waiting == 3)
                with multiprocessing.get_context("fork").Pool(2) as pool:
                    print(pool.map(child, range(5)))
        """)
        )
        command = [sys.executable, "-W", "ignore::DeprecationWarning", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1, 2, 3, 4]\n", "")


class TestTheEnd:
    def test_exit_handlers_can_wait(self, program):
        assert program("""
            def handle():
                try:
                    line.get(timeout=0.01)
                except TimeoutError:
                    print("timed out")
                line.put("kept")
                print(line.get(timeout=1))
                ready.put(1)
                print(line.get(timeout=30))
            atexit.register(handle)
            ready = Line()
            def work():
                ready.get()
                line.put("from a daemon thread")
            in_thread(work)
            until(lambda: ready.waiting == 1)
        """) == "timed out\nkept\nfrom a daemon thread\n"  # fmt: skip

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_exit_handlers_can_wait_for_threads_that_wait(self, program, when):
        # Whether a handler runs before or after the interpreter's other handlers is a matter of who came first.
        assert program(f"""
            def handle():
                line.put("last words")
                thread.join(30)
                print("joined" if not thread.is_alive() else "hangs", taken)
            taken = []
            thread = in_thread(lambda: taken.append(line.get()))
            until(lambda: line.waiting == 1)
            def other():
                try:
                    Line().get(timeout=0.001)
                except TimeoutError:
                    pass
            if {when == "before"}:
                atexit.register(other)
            atexit.register(handle)
            if {when == "after"}:
                atexit.register(other)
        """) == "joined ['last words']\n"  # fmt: skip

    def test_exit_handlers_that_are_older_than_ferrule_can_wait_for_threads_that_wait(self, python):
        done = python("""
            import atexit, threading, time
            def handle():
                line.put("last words")
                thread.join(30)
                print("joined" if not thread.is_alive() else "hangs", taken)
            atexit.register(handle)
            from ferrule._core import Line
            line = Line()
            taken = []
            thread = threading.Thread(target=lambda: taken.append(line.get()), daemon=True)
            thread.start()
            while not line.waiting:
                time.sleep(0.001)
        """)
        assert (done.returncode, done.stdout, done.stderr) == (0, "joined ['last words']\n", "")

    def test_exit_handlers_that_were_run_by_hand_leave_waits_alone(self, program):
        assert program("""
            atexit._run_exitfuncs()
            taken = []
            thread = in_thread(lambda: taken.append(line.get(timeout=30)))
            until(lambda: line.waiting == 1)
            line.put(1)
            thread.join(30)
            print(taken)
        """) == "[1]\n"  # fmt: skip

    @pytest.mark.parametrize("waited_before", [False, True])
    @pytest.mark.parametrize("home", ["last", "sys.last"])
    def test_finalizers_can_wait(self, program, home, waited_before):
        assert program(f"""
            class Last:
                # What it needs it has with it: by then, modules are empty.
                def __init__(self):
                    self.line, self.write, self.time = line, os.write, time.monotonic
                def __del__(self, TimeoutError=TimeoutError):
                    before = self.time()
                    try:
                        self.line.get(timeout=0.05)
                    except TimeoutError:
                        took = self.time() - before
                        self.write(1, b"timed out in time\\n" if 0.049 < took < 30 else b"timed out\\n")
                    self.line.put(b"kept\\n")
                    self.write(1, self.line.get(timeout=1))
            line.put(1)
            if {waited_before}:
                in_thread(line.get).join(30)
                in_thread(line.put, 1)
            line.get()
            {home} = Last()
        """) == "timed out in time\nkept\n"  # fmt: skip

    def test_finalizers_can_hand_over(self, program):
        # Nobody comes back to take it, but nothing breaks.
        assert program("""
            class Last:
                def __init__(self):
                    self.line, self.write = line, os.write
                def __del__(self):
                    self.line.put(1)
                    self.line.close()
                    self.write(1, b"handed over\\n")
            sys.last = Last()
            for _ in range(3):
                in_thread(line.get)
            until(lambda: line.waiting == 3)
        """) == "handed over\n"  # fmt: skip

    def test_finalizers_can_call_what_is_decorated(self, program):
        # With arguments that are keys by themselves, and with others; what is let go has a finalizer, too.
        done = program("""
            import functools, ferrule

            class Gone:
                def __init__(self, write, name):
                    self.write, self.name = write, name
                def __del__(self):
                    self.write(1, self.name)

            # Modules are empty by then.
            def work(x, *more, Gone=Gone, write=os.write, LookupError=LookupError):
                if x == "fail":
                    raise LookupError(x)
                return Gone(write, b"-")

            class Last:
                def __init__(self, *decorated):
                    self.decorated, self.write, self.failed = decorated, os.write, LookupError
                def __del__(self):
                    for function in self.decorated:
                        for call in ((1,), (2,), ((1, 2), 3), (1,), (1,), ("fail",), ("fail", 1)):
                            try:
                                function(*call)
                            except self.failed:
                                self.write(1, b"!")
                        self.write(1, b" ")
                    self.write(1, b"done")

            decorators = [
                ferrule.timed,
                ferrule.count_calls,
                ferrule.lru_cache(maxsize=1),
                ferrule.cached(maxsize=1),
                ferrule.cached(maxsize=1, ttl=60, cache_errors={LookupError: 1}),
                ferrule.cached(cache=ferrule.Cache(1, on_evict=lambda key, value, cause: None)),
                ferrule.retry(max_attempts=1),
                ferrule.CircuitBreaker(failure_threshold=100),
                ferrule.rate_limited(1_000_000_000, burst=100),
                ferrule.enforce_types,
            ]
            sys.last = Last(*(decorate(functools.partial(work)) for decorate in decorators))
        """)
        assert done.startswith("-----!! -----!! ---!! ---!! ----!! ---!! " + 4 * "-----!! " + "done")

    def test_the_place_of_a_task_that_never_ended(self, program):
        assert program("""
            loop = asyncio.new_event_loop()
            task = loop.create_task(get_async(line, timeout=1000))
            loop.call_later(0.01, loop.stop)
            loop.run_forever()
            line.put("handed over, and never taken")
            task._log_destroy_pending = False
            loop.close()
            print(line.waiting)
        """) == "0\n"  # fmt: skip

    def test_a_manual_clock_that_is_still_in_use(self, program):
        assert program("""
            from ferrule.testing import manual_clock
            clock = manual_clock()
            clock.__enter__()
            in_thread(lambda: line.get(timeout=10))
            until(lambda: line.waiting == 1)
            print("over")
        """) == "over\n"  # fmt: skip


# What runs in daemon threads while the process ends. Each program gets a seed, so that no two are alike.
BEGINNING = """
import random
random.seed(seed)

def in_daemon(function, *arguments):
    def run():
        try:
            function(*arguments)
        except RuntimeError as error:
            assert str(error) == "the line is closed", error
    in_thread(run)
"""
BUSY = {
    # Waits that never end, with a deadline and without.
    "parked": """
        for _ in range(4):
            in_daemon(line.get)
            in_daemon(lambda: line.get(timeout=1000))
        until(lambda: line.waiting == 8)
    """,
    # Deadlines that pass just now.
    "expiring": """
        def wait(seed):
            chance = random.Random(seed)
            while True:
                try:
                    line.get(timeout=chance.random() / 1000)
                except TimeoutError:
                    pass
        for number in range(6):
            in_daemon(wait, seed + number)
        time.sleep(random.random() / 100)
    """,
    # Values that are handed over just now.
    "handed": """
        other = Line()
        def pass_on(here, there):
            while True:
                there.put(here.get())
        for _ in range(3):
            in_daemon(pass_on, line, other)
            in_daemon(pass_on, other, line)
        for value in range(4):
            line.put(value)
        time.sleep(random.random() / 100)
    """,
    # Loops whose tasks wait, time out, are handed values and are cancelled.
    "tasks": """
        async def use(chance):
            while True:
                task = asyncio.ensure_future(get_async(line, timeout=chance.random() / 1000))
                if chance.random() < 0.2:
                    await asyncio.sleep(0)
                    task.cancel()
                try:
                    await task
                except (TimeoutError, asyncio.CancelledError):
                    pass
                except RuntimeError:
                    return
        async def main(seed):
            await asyncio.gather(*(use(random.Random(seed + number)) for number in range(5)))
        def put():
            while True:
                line.put(1)
                if len(line) > 100:
                    time.sleep(0.0001)
        in_daemon(lambda: asyncio.run(main(seed)))
        in_daemon(lambda: asyncio.run(main(seed + 1)))
        in_daemon(put)
        in_daemon(lambda: line.get(timeout=1000))
        time.sleep(0.02 + random.random() / 100)
    """,
}

ENDINGS = {
    "falling off": "",
    "sys.exit": "sys.exit(0)",
    "exception": "raise LookupError('the end')",
    "exit handler": "atexit.register(lambda: (line.put(1), time.sleep(0.001), line.put(2), line.close()))",
    "hand-over": "for _ in range(20): line.put(1)",
}


def end_one(number, busy, ending):
    """Run a program to its end; return what was wrong with that, if anything."""
    code = [f"seed = {number}", PRELUDE, BEGINNING, textwrap.dedent(BUSY[busy]), ENDINGS[ending]]
    try:
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(code)],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{busy}, {ending}: hangs"
    expected, said = (1, "LookupError: the end") if ending == "exception" else (0, "")
    last = done.stderr.strip().rpartition("\n")[2]
    if done.returncode == expected and last == said and done.stderr.count("Traceback") == expected:
        return None
    return f"{busy}, {ending}: exit status {done.returncode}, {done.stderr[-500:]!r}"


@pytest.mark.slow
@pytest.mark.timeout(60 + 3 * EXITS)
def test_processes_end_cleanly_whoever_waits_in_them():
    kinds = itertools.islice(itertools.cycle(itertools.product(BUSY, ENDINGS)), EXITS)
    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as executor:
        ends = [executor.submit(end_one, number, *kind) for number, kind in enumerate(kinds)]
        wrong = [end.result() for end in ends]
    assert [each for each in wrong if each] == []
    assert len(wrong) == EXITS
