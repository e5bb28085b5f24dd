"""How programs with processes end: exits, Ctrl-C, kills, forks. Nothing hangs, nothing is left."""

import collections
import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.subprocess,
    pytest.mark.timeout(120),
    pytest.mark.thread_unsafe(reason="looks at processes"),
]

LONG = 60
# FERRULE_PROCESS_EXITS=10000 for the long run: less than an hour.
EXITS = int(os.environ.get("FERRULE_PROCESS_EXITS", "16"))
HERE = str(Path(__file__).parent)


@pytest.fixture
def start(tmp_path):
    """Start programs, whose main module is a file; none outlives the test."""
    programs = []

    def start(code):
        program = tmp_path / "program.py"
        head = f"import sys; sys.path.insert(0, {HERE!r})\n"
        program.write_text(head + textwrap.dedent(code), encoding="utf-8")
        command = [sys.executable, str(program)]
        programs.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        )
        return programs[-1]

    yield start
    for program in programs:
        program.kill()
        program.communicate()


def is_alive(pid):
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def gone(pids, seconds=LONG):
    """Wait until none lives; how long that took."""
    began = time.monotonic()
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() - began < seconds, "somebody is still there"
        time.sleep(0.005)
    return time.monotonic() - began


BUSY = """
    import os, process_tasks as tasks
    from ferrule import ProcessPoolExecutor
    if __name__ == "__main__":
        executor = ProcessPoolExecutor(2)
        futures = [executor.submit(tasks.spin_in_c, 1) for _ in range(2)]
        more = [executor.submit(tasks.sleep, 600) for _ in range(5)]
        while not all(future.running() for future in futures):
            pass
        print(*executor.pids(), executor._hub.template, flush=True)
"""


def test_the_parent_killed_leaves_no_orphan(start):
    program = start(BUSY + "        futures[0].result()\n")
    pids = [int(word) for word in program.stdout.readline().split()]
    assert len(pids) >= 3
    program.kill()
    program.communicate(timeout=LONG)
    gone(pids)


@pytest.mark.parametrize(
    "wait",
    [
        "futures[0].result()",
        "with executor: futures[0].result()",
        "executor.shutdown()",
        "with executor: pass",
        "import concurrent.futures as c; c.wait(futures)",
        "list(executor.map(tasks.sleep, [600]))",
    ],
)
def test_ctrl_c_ends_the_program(start, wait):
    program = start(BUSY + f"        {wait}\n")
    pids = [int(word) for word in program.stdout.readline().split()]
    time.sleep(0.1)
    # As a terminal does it: to all of the group.
    os.killpg(program.pid, signal.SIGINT)
    errors = None
    with contextlib.suppress(subprocess.TimeoutExpired):
        _, errors = program.communicate(timeout=LONG / 2)
    if errors is None:
        # Where locks spin before they sleep, the interpreter's own waits overlook a signal that comes just then, until
        # another one comes; ours look again. On a busy machine spinning takes a tenth of a second.
        assert "c.wait" in wait
        assert sysconfig.get_config_var("Py_GIL_DISABLED")
        os.killpg(program.pid, signal.SIGINT)
        _, errors = program.communicate(timeout=LONG)
    assert program.returncode in {-signal.SIGINT, 130, 1}
    assert errors.count("KeyboardInterrupt") == 1, errors
    gone(pids)


def test_ctrl_c_can_be_survived(start):
    code = (
        BUSY
        + """
        try:
            futures[0].result()
        except KeyboardInterrupt:
            executor.kill_workers()
            executor.shutdown()
            print(all(future.cancelled() for future in more), type(futures[1].exception()).__name__)
        with ProcessPoolExecutor(1) as again:
            print(again.submit(tasks.square, 3).result(60))
    """
    )
    program = start(code)
    pids = [int(word) for word in program.stdout.readline().split()]
    time.sleep(0.1)
    os.killpg(program.pid, signal.SIGINT)
    output, errors = program.communicate(timeout=LONG)
    assert output.splitlines() == ["True WorkerDied", "9"], errors
    gone(pids)


@pytest.mark.parametrize("how", ["sys.exit(3)", "os._exit(3)", "raise SystemExit(3)", "os.kill(os.getpid(), 9)"])
def test_exits_with_busy_workers(start, how):
    code = BUSY.replace("ProcessPoolExecutor(2)", "ProcessPoolExecutor(2, on_exit='kill')") + f"        {how}\n"
    program = start(code)
    output, errors = program.communicate(timeout=LONG)
    assert program.returncode in {3, -9}, errors
    assert errors == ""
    gone([int(word) for word in output.split()])


def test_at_the_end_of_the_program_all_is_done(start, tmp_path):
    code = """
        import os, process_tasks as tasks
        from ferrule import ProcessPoolExecutor
        if __name__ == "__main__":
            executor = ProcessPoolExecutor(2)
            for number in range(20):
                executor.submit(tasks.touch, {path!r}, str(number))
            executor.map(tasks.touch, [{path!r}] * 100)
    """.format(path=str(tmp_path / "done"))
    program = start(code)
    _, errors = program.communicate(timeout=LONG)
    assert (program.returncode, errors) == (0, "")
    assert len((tmp_path / "done").read_text(encoding="utf-8").split()) == 120


def test_an_executor_in_a_cycle_or_at_module_level_ends(start):
    code = """
        import process_tasks as tasks
        from ferrule import ProcessPoolExecutor
        class Holder: pass
        if __name__ == "__main__":
            holder = Holder()
            holder.executor = ProcessPoolExecutor(1)
            holder.me = holder
            print(holder.executor.submit(tasks.square, 3).result(60))
    """
    program = start(code)
    output, errors = program.communicate(timeout=LONG)
    assert (output, program.returncode, errors) == ("9\n", 0, "")


def test_a_forked_child_has_workers_of_its_own(start):
    code = """
        import os, process_tasks as tasks
        from ferrule import ProcessPoolExecutor
        if __name__ == "__main__":
            executor = ProcessPoolExecutor(2)
            slow = executor.submit(tasks.sleep, 1, "done")
            before = executor.submit(tasks.pid).result(60)
            child = os.fork()
            if child == 0:
                try:
                    slow.result(60)
                except RuntimeError as error:
                    told = "belongs to the process" in str(error)
                other = executor.submit(tasks.pid).result(60)
                executor.shutdown()
                os._exit(0 if told and other != before else 1)
            assert os.waitpid(child, 0)[1] == 0
            print(slow.result(60), executor.submit(tasks.square, 4).result(60))
            executor.shutdown()
    """
    program = start(code)
    output, errors = program.communicate(timeout=LONG)
    assert (output, program.returncode) == ("done 16\n", 0), errors


def test_a_forked_child_that_lives_on_keeps_no_worker_alive(start):
    code = """
        import os, time, process_tasks as tasks
        from ferrule import ProcessPoolExecutor
        if __name__ == "__main__":
            executor = ProcessPoolExecutor(1)
            executor.submit(tasks.square, 4).result(60)
            pids = [*executor.pids(), executor._hub.template]
            child = os.fork()
            if child == 0:
                os.close(1), os.close(2)
                time.sleep(600)
            print(child, *pids, flush=True)
            os.kill(os.getpid(), 9)
    """
    program = start(code)
    output, _ = program.communicate(timeout=LONG)
    child, *pids = (int(word) for word in output.split())
    try:
        gone(pids)
    finally:
        os.kill(child, signal.SIGKILL)


# How programs end whose workers are busy, starting, or just about to end themselves.
LEAVING = {
    "": 0,
    "sys.exit(3)": 3,
    "os._exit(3)": 3,
    "raise SystemExit(3)": 3,
    "executor.shutdown(wait=False)": 0,
    "executor.kill_workers()": 0,
    "del executor, futures": 0,
    "threading.Thread(target=executor.submit, args=(tasks.square, 2)).start()": 0,
}


@pytest.mark.timeout(120 + EXITS)
def test_many_exits(tmp_path):
    programs = []
    for number, end in enumerate(LEAVING):
        program = tmp_path / f"program{number}.py"
        program.write_text(
            textwrap.dedent(
                f"""
                import sys; sys.path.insert(0, {HERE!r})
                import os, random, threading, time, process_tasks as tasks
                from ferrule import ProcessPoolExecutor
                if __name__ == "__main__":
                    policy = sys.argv[1]
                    executor = ProcessPoolExecutor(2, on_exit=policy)
                    length = 600 if policy == "kill" else 0.01
                    futures = [executor.submit(tasks.sleep, length * random.random()) for _ in range(10)]
                    time.sleep(random.random() / 5)
                    print("left", flush=True)
                    {end or "pass"}
                """
            ),
            encoding="utf-8",
        )
        programs.append((program, LEAVING[end]))

    def leave(number):
        program, status = programs[number % len(programs)]
        policy = ["kill", "cancel", "drain"][number // len(programs) % 3]
        if policy == "kill" and "shutdown" in program.read_text(encoding="utf-8"):
            # It waits for what runs, whatever the policy says of the end.
            policy = "cancel"
        command = [sys.executable, str(program), policy]
        run = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
        return run.returncode == status, run.stdout, run.stderr

    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as executor:
        outcomes = collections.Counter(executor.map(leave, range(EXITS)))
    assert outcomes == {(True, "left\n", ""): EXITS}
