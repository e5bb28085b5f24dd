"""The programs in examples/, run on the real input that they are written for, and on worse."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
LOGS = Path(os.environ.get("FERRULE_TEST_DATA", ""), "loghub")

needs_logs = pytest.mark.skipif(
    "FERRULE_TEST_DATA" not in os.environ or not LOGS.is_dir(),
    reason="FERRULE_TEST_DATA names no folder with loghub in it",
)

FORMATS = {
    "Apache": "Apache",
    "Hadoop": "log4j",
    "Mac": "syslog",
    "OpenSSH": "syslog",
    "Spark": "log4j",
    "Thunderbird": "syslog with alerts",
    "Windows": "Windows",
}


@pytest.fixture(scope="module")
def analyser():
    """The log analyser, imported from its file."""
    spec = importlib.util.spec_from_file_location("log_analyser", EXAMPLES / "log_analyser.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@needs_logs
@pytest.mark.parametrize("name", FORMATS)
def test_a_real_log(analyser, name):
    log = analyser.analyse(LOGS / f"{name}_2k.log")
    assert log.format == FORMATS[name]
    assert log.lines == 2_000
    assert log.strange < 60
    understood = log.lines - log.strange
    assert log.minutes.total() == log.sources.total() == log.shapes.total() == understood
    assert not [text for text in (*log.shapes, *log.sources, *log.minutes) if "\r" in text or "\n" in text]


@needs_logs
def test_what_is_counted_is_in_the_files(analyser):
    """The figures are those of a plain search through the bytes."""
    log = analyser.analyse(LOGS / "OpenSSH_2k.log")
    content = (LOGS / "OpenSSH_2k.log").read_bytes()
    assert log.sources == {"sshd": content.count(b" sshd[")}
    rooted = [line for line in content.splitlines() if b"]: Failed password for root from " in line]
    assert log.shapes["Failed password for root from # port # ssh#"] == len(rooted) > 100
    assert log.minutes["Dec 10 09:12"] == content.count(b"Dec 10 09:12:")
    log = analyser.analyse(LOGS / "Apache_2k.log")
    assert log.trouble == (LOGS / "Apache_2k.log").read_bytes().count(b"[error]")
    assert next(iter(log.minutes)) == "Sun Dec 04 04:47"


@needs_logs
@pytest.mark.subprocess
def test_the_whole_program_on_real_logs():
    done = run(timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count(": 2,000 lines in ") == 7
    for name in ("read lines", "understand", "shape", "file"):
        assert f"\n{name} " in done.stdout
    assert "14,000" in done.stdout


@pytest.mark.subprocess
def test_without_any_log():
    environment = {name: value for name, value in os.environ.items() if name != "FERRULE_TEST_DATA"}
    done = run(env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("log_analyser.py: error: which files?")


@pytest.mark.subprocess
def test_files_that_cannot_be_read_are_named_at_the_end(tmp_path):
    good = tmp_path / "good.log"
    good.write_text("Jan  2 03:04:05 host cron[1]: started\n", encoding="utf-8")
    done = run(tmp_path / "gone.log", good, tmp_path)
    assert done.returncode == 1
    assert "good.log: 1 lines in " in done.stdout
    assert done.stderr.splitlines() == [
        f"could not be read: {tmp_path / 'gone.log'}: No such file or directory",
        f"could not be read: {tmp_path}: Is a directory",
    ]


def test_line_ends_and_odd_bytes(analyser, tmp_path):
    path = tmp_path / "odd.log"
    path.write_bytes(
        b"Jan  2 03:04:05 host cron[1]: one\n"
        b"Jan  2 03:04:06 host cron[1]: t\xff\x00wo\r\n"
        b"Jan  2 03:05:07 host cron: failed\r"
        b"Jan  2 03:05:08 host caf\xc3\xa9[23]: one\r\n"
        b"\r\n"
        b"    at some.Stack(Trace)\n"
        b"Jan  2 03:05:09 host cron[1]: the last one has no end"
    )
    log = analyser.analyse(path)
    assert (log.lines, log.strange, log.trouble, log.format) == (7, 2, 1, "syslog")
    assert log.sources == {"cron": 4, "café": 1}
    assert log.minutes == {"Jan  2 03:04": 2, "Jan  2 03:05": 3}
    assert log.shapes["t\\xff\x00wo"] == 1
    assert log.shapes["one"] == 2
    assert log.seconds > 0


def test_what_is_told_of_odd_logs(analyser, tmp_path, capsys):
    (tmp_path / "empty.log").touch()
    (tmp_path / "other.log").write_text("what\nis this\n", encoding="utf-8")
    (tmp_path / "long.log").write_text(f"Jan  2 03:04:05 h a\x1b: {'long ' * 50}\x07\n", encoding="utf-8")
    for name in ("empty", "other", "long"):
        analyser.tell(analyser.analyse(tmp_path / f"{name}.log"))
    text = capsys.readouterr().out
    assert text.count("in no format that is known here") == 2
    assert "\x1b" not in text
    assert "\x07" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_shapes(analyser):
    assert (
        analyser.shape("took 0x1F ms from 10.0.0.1:80 at 2015-10-18, 12,5 of cafebabe")
        == "took # ms from # at #, # of #"
    )
    assert analyser.shape("a decade of facades") == "a decade of facades"


def run(*arguments, timeout=30, **kwargs):
    return subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "log_analyser.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
        **kwargs,
    )
