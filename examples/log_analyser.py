"""Read log files of several systems and tell what is in them: when, from whom, how much trouble, what over and over.

    python examples/log_analyser.py /var/log/syslog access.log

Every line goes through three small functions, each of them timed, and the report at the end shows what they cost. The
format is found out file by file; lines that don't have it are counted, and bytes that are no UTF-8 are kept as escapes.
"""
# ruff: noqa: INP001, T201 - a program of one file, and it prints

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ferrule import PerformanceMonitor, Timer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# A minute is kept as it is written: nothing here needs to know what year a line without one is from.
SYSLOG = r"(?P<minute>\w{3} +\d+ \d\d:\d\d):\d\d (?P<host>\S+) (?P<source>[^\[:]+)(\[\d+\])?: (?P<message>.*)"
FORMATS = {
    "Apache": r"\[(?P<minute>\w{3} \w{3} \d\d \d\d:\d\d):\d\d \d{4}\] \[(?P<level>\w+)\] (?P<message>.*)",
    "log4j": r"(?P<minute>\S+ \d\d:\d\d):\d\d(,\d+)? (?P<level>[A-Z]+) (\[.+?\] )?(?P<source>[\w.$]+): (?P<message>.*)",
    "Windows": r"(?P<minute>\S+ \d\d:\d\d):\d\d, (?P<level>\w+) +(?P<source>\w+) +(?P<message>.*)",
    "syslog": SYSLOG,
    "syslog with alerts": rf"\S+ \d+ \d{{4}}\.\d\d\.\d\d \S+ {SYSLOG}",
}
PATTERNS = {name: re.compile(pattern) for name, pattern in FORMATS.items()}
TROUBLE = re.compile(
    r"\b(alert|crit\w*|denied|err\w*|exception\w*|fail\w*|fatal|invalid|refused|timed out|warn\w*)\b", re.IGNORECASE
)
VARIABLE = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+([.:,/-]\d+)*", re.IGNORECASE)
SAMPLE = 50

monitor = PerformanceMonitor()


class Entry(NamedTuple):
    """One line, understood."""

    minute: str
    source: str
    message: str
    trouble: bool


@dataclass
class Log:
    """What is known of one file."""

    path: Path
    format: str
    seconds: float = 0.0
    lines: int = 0
    strange: int = 0
    trouble: int = 0
    minutes: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)


@monitor.timed("read lines")
def lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file without their ends, be they LF, CRLF or a lone CR; odd bytes become escapes."""
    with path.open(encoding="utf-8", errors="backslashreplace") as file:
        for line in file:
            yield line.rstrip("\n")


@monitor.timed("understand")
def understand(line: str, pattern: re.Pattern[str]) -> Entry | None:
    """Take a line apart; `None` if it does not have the format."""
    match = pattern.fullmatch(line)
    if match is None:
        return None
    found = match.groupdict()
    trouble = TROUBLE.search(f"{found.get('level', '')} {found['message']}")
    return Entry(found["minute"], found.get("source") or "(no name)", found["message"], trouble is not None)


@monitor.timed("shape")
def shape(message: str) -> str:
    """Return a message with its numbers, addresses and times blotted out, so that its like can be counted."""
    return VARIABLE.sub("#", message)


def analyse(path: Path) -> Log:
    """Read one file and count what is in it."""
    with Timer("file", monitor=monitor) as timer:
        stream = lines(path)
        first = list(islice(stream, SAMPLE))
        log = Log(path, format_of(first))
        pattern = PATTERNS[log.format]
        for line in chain(first, stream):
            log.lines += 1
            entry = understand(line, pattern)
            if entry is None:
                log.strange += 1
                continue
            log.trouble += entry.trouble
            log.minutes[entry.minute] += 1
            log.sources[entry.source] += 1
            log.shapes[shape(entry.message)] += 1
    log.seconds = timer.elapsed
    return log


def format_of(sample: Iterable[str]) -> str:
    """Return the name of the format that most of some lines have."""
    return max(PATTERNS, key=lambda name: sum(PATTERNS[name].fullmatch(line) is not None for line in sample))


def tell(log: Log) -> None:
    """Print what is known of one file."""
    print(f"{shortened(log.path.name, 60)}: {log.lines:,} lines in {log.seconds:.3f} s")
    if not log.minutes:
        print("  in no format that is known here\n")
        return
    busiest, most = log.minutes.most_common(1)[0]
    understood = log.lines - log.strange
    print(f"  format   {log.format}, and {log.strange:,} lines in none" if log.strange else f"  format   {log.format}")
    print(f"  when     {next(iter(log.minutes))} to {list(log.minutes)[-1]}, busiest {busiest} ({most:,} lines)")
    print(f"  trouble  {log.trouble:,} lines speak of it, {log.trouble / understood:.0%}")
    for source, count in log.sources.most_common(3):
        print(f"  {count:>6,} from {shortened(source, 85)}")
    for message, count in log.shapes.most_common(3):
        print(f"  {count:>6,} like {shortened(message, 85)}")
    print()


def shortened(text: str, width: int) -> str:
    """Return the text in one line of at most `width` characters, without control characters."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def main(argv: Sequence[str] | None = None) -> int:
    """Analyse the files of the command line; return 1 if one of them could not be read, otherwise 0."""
    parser = argparse.ArgumentParser(description="Tell what is in log files, and what the telling took.")
    parser.add_argument("paths", metavar="PATH", nargs="*", type=Path, help="a log file (left out: those of the tests)")
    paths = parser.parse_args(argv).paths or sample_logs()
    if not paths:
        parser.error("which files? (without any, the tests' logs are taken from the folder in FERRULE_TEST_DATA)")
    unread: list[str] = []
    for path in paths:
        try:
            tell(analyse(path))
        except OSError as error:
            unread.append(f"{shortened(str(path), 200)}: {error.strerror}")
    print(monitor.report())
    for line in unread:
        print(f"could not be read: {line}", file=sys.stderr)
    return 1 if unread else 0


def sample_logs() -> list[Path]:
    """Return the real logs that the project's tests use, where there are any."""
    data = os.environ.get("FERRULE_TEST_DATA")
    return sorted(Path(data, "loghub").glob("*.log")) if data else []


if __name__ == "__main__":
    raise SystemExit(main())
