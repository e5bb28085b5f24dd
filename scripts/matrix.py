"""Builds, tests and measures the package on other interpreters than the one in .venv.

    scripts/matrix.py test    every interpreter of the matrix: a virtual environment and a wheel of its own, then pytest
    scripts/matrix.py bench   the benchmarks, on an optimised interpreter, with a release build
    scripts/matrix.py install GROUP   a dependency group into this environment, without what has no wheel for it

The Makefile calls it with .venv's interpreter, whose pip and maturin serve all the others: some have no pip.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import fcntl
import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ROOT = Path(__file__).resolve().parent.parent
MATRIX = ROOT / ".matrix"
WANTED = ("3.11", "3.12", "3.13", "3.14", "3.15", "3.13t")
# Where no program says what there is: any free-threaded build will do for the last place of the matrix.
ON_PATH = ("3.11", "3.12", "3.13", "3.14", "3.15", "3.13t", "3.14t")
BENCHED = "3.14"
# The whole suite once more on free-threaded builds, each test in so many threads at once. Tests that start interpreters
# of their own would share no memory and only take longer.
THREADED = ["--parallel-threads=4", "-m", "not subprocess"]
# Properties are tried on their full number of examples by `make test`, once; here on fewer for each interpreter.
FEW = {"FERRULE_FEW_CASES": "1"}
# So many interpreters are tested side by side: much of a test's time is waiting.
SIDE_BY_SIDE = 2
# What each of them ends with.
TABLE = "=== the matrix"
# The last line of a pytest run, decorated or not: "=== 3 passed, 1 skipped in 0.12s ==="
SUMMARY = re.compile(
    r"^(=+ )?(\d+ (passed|failed|skipped|error|xfailed|xpassed|deselected|warning)|no tests ran).* in [\d.]+s"
)
# An environment that happens to be active must not lead pip, maturin or PyO3 astray.
MISLEADING = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "PYO3_PYTHON", "CARGO_TARGET_DIR", "PIP_USER")


class Failure(Exception):  # noqa: N818 - a step that failed, not an error in here
    """A step of the work that ended with a bad exit status."""


class Outcome(NamedTuple):
    """How one test run went."""

    title: str
    ok: bool
    line: str


def say(text: str) -> None:
    """Print at once, so that the log keeps the order of what happened."""
    print(text, flush=True)


def environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without what misleads, and with `extra`."""
    kept = {key: value for key, value in os.environ.items() if key not in MISLEADING}
    return kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"} | extra


def run(command: Sequence[str | Path], **extra: str) -> None:
    """Run a command in the project's folder; a bad exit status is a `Failure`."""
    words = [str(word) for word in command]
    status = subprocess.run(words, cwd=ROOT, env=environment(**extra), check=False).returncode
    if status:
        message = f"exit status {status}: {' '.join(words)}"
        raise Failure(message)


# --- the interpreters -----------------------------------------------------------------------------------------------


def describe(python: Path | str) -> str | None:
    """Return the version of an interpreter as the matrix writes it ("3.13t"), or None if it doesn't run."""
    code = (
        "import sys, sysconfig; print('%d.%d' % sys.version_info[:2], end='');"
        "print('t' if sysconfig.get_config_var('Py_GIL_DISABLED') else '')"
    )
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def interpreters(program: str, only: Sequence[str]) -> dict[str, Path]:
    """Return the interpreters to work with, by version: those that `program` prints, or else those on PATH."""
    found: dict[str, Path] = {}
    if program:
        done = subprocess.run([program, *only], stdout=subprocess.PIPE, text=True, env=environment(), check=False)
        for line in done.stdout.splitlines():
            version, _, path = line.strip().partition(" ")
            if path:
                found[version] = Path(path)
    for version in ON_PATH:
        on_path = shutil.which(f"python{version}")
        if version not in found and on_path and not (program and version not in WANTED):
            found[version] = Path(on_path)
    # A shim may be there for a version that isn't, and a name may promise another version than it runs.
    found = {version: path for version, path in found.items() if describe(path) == version}

    free_threaded = any(version.endswith("t") for version in found)
    wanted = only or [version for version in WANTED if not (version.endswith("t") and free_threaded)]
    missing = [version for version in wanted if version not in found]
    if missing:
        say(f"matrix: not on this machine, left out: {' '.join(missing)}")
    if only:
        if missing:
            message = "an interpreter that was asked for by name is missing"
            raise Failure(message)
        return {version: found[version] for version in only}
    if not found:
        message = "no interpreter found"
        raise Failure(message)
    return found


# --- environments ---------------------------------------------------------------------------------------------------


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group of pyproject.toml."""
    groups: dict[str, list[Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    found: list[str] = []
    for entry in groups[name]:
        found += [entry] if isinstance(entry, str) else group(entry["include-group"])
    return found


def pip(python: Path, *arguments: str | Path) -> list[str | Path]:
    """Return the command with which this environment's pip installs into `python`'s environment."""
    return [sys.executable, "-m", "pip", "--quiet", "--python", python, "install", *arguments]


def install_tolerantly(python: Path, requirements: Iterable[str]) -> list[str]:
    """Install what has a wheel for `python`, one requirement at a time; return those that have none."""
    missing: list[str] = []
    for requirement in requirements:
        command = [str(word) for word in pip(python, "--only-binary", ":all:", requirement)]
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode == 0:
            continue
        # Impossible is what has a wheel itself, and needs something that has none.
        is_missing = "No matching distribution" in done.stderr or "ResolutionImpossible" in done.stderr
        if not is_missing or "onnection" in done.stderr:
            message = f"can't install {requirement}:\n{done.stderr}"
            raise Failure(message)
        missing.append(requirement)
    return missing


def prepare(folder: Path, base: Path, strict: Sequence[str], tolerant: Sequence[str]) -> Path:
    """Make (or keep) an environment of `base` in `folder`, with the groups in it; return its interpreter."""
    python = folder / "bin" / "python"
    requirements = {
        "strict": [requirement for name in strict for requirement in group(name)],
        "tolerant": [requirement for name in tolerant for requirement in group(name)],
    }
    wanted = hashlib.sha256(json.dumps([str(base), requirements]).encode()).hexdigest()
    stamp = folder / ".installed.json"
    state: dict[str, Any] = json.loads(stamp.read_text()) if stamp.exists() else {}
    if state.get("wanted") != wanted or describe(python) is None:
        shutil.rmtree(folder, ignore_errors=True)
        run([base, "-m", "venv", "--without-pip", folder])
        if requirements["strict"]:
            # Wheels only: pip then takes an older release where the newest has none for this interpreter.
            run(pip(python, "--only-binary", ":all:", *requirements["strict"]))
        state = {"wanted": wanted, "missing": install_tolerantly(python, requirements["tolerant"])}
        stamp.write_text(json.dumps(state))
    if state["missing"]:
        say(f"no wheel for this interpreter, left out: {', '.join(state['missing'])}")
    return python


def build(python: Path, version: str, profile: Sequence[str], target: str, cargo_flags: str) -> None:
    """Build the wheel for `python` and install it into its environment, one at a time: a build takes all processors."""
    with (MATRIX / "building").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_alone(python, version, profile, target, cargo_flags)


def build_alone(python: Path, version: str, profile: Sequence[str], target: str, cargo_flags: str) -> None:
    """Build the wheel for `python` and install it."""
    wheels = python.parent.parent / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    extra = {"PYO3_PYTHON": str(python)}
    if version == "3.13t":
        # PyO3 supports free-threaded builds from 3.14 on; this one serves the tests, and only them.
        extra["UNSAFE_PYO3_SKIP_VERSION_CHECK"] = "1"
    maturin = Path(sys.executable).parent / "maturin"
    places = ["--interpreter", str(python), "--target-dir", f"target/{target}", "--out", str(wheels)]
    options = ["--quiet", "--auditwheel", "skip", *profile, *cargo_flags.split()]
    run([maturin, "build", *places, *options], **extra)
    (wheel,) = wheels.glob("*.whl")
    run(pip(python, "--no-deps", "--force-reinstall", wheel))


# --- the commands ---------------------------------------------------------------------------------------------------


def pytest(title: str, python: Path, arguments: Sequence[str], **extra: str) -> Outcome:
    """Run pytest, showing its output as it comes; keep its summary line."""
    say(f"\n--- pytest, {title}")
    cache = python.parent.parent / "pytest_cache"
    command = [str(python), "-m", "pytest", "-o", f"cache_dir={cache}", *arguments]
    line = ""
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "errors": "replace"}
    with subprocess.Popen(command, cwd=ROOT, env=environment(**extra), text=True, **streams) as process:
        for output in process.stdout or ():
            print(output, end="", flush=True)
            if SUMMARY.match(output):
                line = output.strip()
    status = process.returncode
    return Outcome(title, status == 0, line or f"pytest ended with status {status} and no summary")


def test(arguments: argparse.Namespace) -> None:
    """Build and test on each interpreter, then show a table of what came out."""
    found = interpreters(arguments.pythons, arguments.only.split())
    if len(found) == 1:
        ((version, base),) = found.items()
        table = [(outcome.ok, f"{outcome.title:16}  {outcome.line}") for outcome in test_one(version, base, arguments)]
    else:
        table = test_side_by_side(list(found), arguments)
    say(f"\n{TABLE}")
    for _, line in table:
        say(line)
    failed = [line.split("  ")[0] for ok, line in table if not ok]
    if failed:
        message = f"failed on: {'; '.join(failed)}"
        raise Failure(message)


def test_one(version: str, base: Path, arguments: argparse.Namespace) -> list[Outcome]:
    """Build and test on one interpreter."""
    started = time.monotonic()
    say(f"\n=== {version}: {subprocess.check_output([base, '-VV'], text=True).strip()}")
    free_threaded = version.endswith("t")
    try:
        groups = ["test", "threads"] if free_threaded else ["test"]
        python = prepare(MATRIX / version, base, groups, ["extras"])
        build(python, version, ["--profile", "matrix"], f"matrix-{version}", arguments.cargo_flags)
    except Failure as failure:
        say(f"matrix: {version}: {failure}")
        return [Outcome(version, ok=False, line="not built")]
    say(f"ready after {time.monotonic() - started:.0f} s")
    outcomes = [pytest(version, python, arguments.rest, **FEW)]
    if free_threaded:
        options = [*THREADED, *arguments.rest]
        outcomes.append(pytest(f"{version}, in threads", python, options, **FEW, PYTHON_GIL="0"))
    return outcomes


def test_side_by_side(versions: Sequence[str], arguments: argparse.Namespace) -> list[tuple[bool, str]]:
    """Test each version in a process of its own, a few at a time; tell of one after the other, as it goes."""
    said: dict[str, queue.SimpleQueue[str | None]] = {version: queue.SimpleQueue() for version in versions}

    def follow(version: str) -> int:
        command = [sys.executable, __file__, "test", f"--pythons={arguments.pythons}", f"--only={version}"]
        command += [f"--cargo-flags={arguments.cargo_flags}", "--", *arguments.rest]
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "errors": "replace"}
        try:
            with subprocess.Popen(command, env=environment(), text=True, **streams) as process:
                for line in process.stdout or ():
                    said[version].put(line)
            return process.returncode
        finally:
            said[version].put(None)

    table: list[tuple[bool, str]] = []
    with concurrent.futures.ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        for version, following in [(version, pool.submit(follow, version)) for version in versions]:
            lines: list[str] = []
            while (line := said[version].get()) is not None:
                if lines or line.startswith(TABLE):
                    lines.append(line.rstrip())
                elif line.strip() or not lines:
                    print(line, end="", flush=True)
            ok = following.result() == 0
            told = [line for line in lines[1:] if line.startswith("matrix: ")]
            rows = [line for line in lines[1:] if line not in told]
            failed = {title for line in told for title in line.partition("failed on: ")[2].split("; ")}
            # One that ended badly without saying which run failed has failed in all of them.
            bad = {row for row in rows if row.split("  ")[0] in failed} or (set() if ok else set(rows))
            table += [(row not in bad, row) for row in rows] or [(False, f"{version:16}  ended without a table")]
    return table


def bench(arguments: argparse.Namespace) -> None:
    """Run the benchmarks on one interpreter, by default the optimised one, with a release build and the peers."""
    wanted = arguments.only or BENCHED
    try:
        version, base = wanted, interpreters(arguments.pythons, [wanted])[wanted]
    except Failure:
        if arguments.only:
            raise
        version, base = describe(sys.executable) or "python", Path(sys.executable)
        say(f"bench: measuring on {base} instead")
    python = prepare(MATRIX / f"bench-{version}", base, [], ["peers"])
    build(python, version, ["--release"], f"bench-{version}", arguments.cargo_flags)
    # Some peers would bring the lock back.
    extra = {"PYTHON_GIL": "0"} if version.endswith("t") else {}
    run([python, "-m", "benches", *arguments.rest], **extra)


def install(arguments: argparse.Namespace) -> None:
    """Install a group into this environment, as far as there are wheels."""
    missing = install_tolerantly(Path(sys.executable), group(arguments.group))
    if missing:
        say(f"no wheel for this interpreter, left out: {', '.join(missing)}")


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for command in (test, bench):
        sub = commands.add_parser(command.__name__, help=command.__doc__)
        sub.add_argument("--pythons", default="", help="a program that prints VERSION PATH for each interpreter")
        sub.add_argument("--only", default="", help="the versions to take, separated by spaces")
        sub.add_argument("--cargo-flags", default="", help="further options for the build")
        sub.add_argument("rest", nargs="*", help="further options for pytest or the benchmarks, after --")
        sub.set_defaults(command=command)
    sub = commands.add_parser("install", help=install.__doc__)
    sub.add_argument("group")
    sub.set_defaults(command=install)
    arguments = parser.parse_args()
    try:
        arguments.command(arguments)
    except Failure as failure:
        sys.stdout.flush()
        print(f"matrix: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
