"""How far the measuring has come: a bar where tqdm is installed and a person watches, else a line for each row."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Protocol, TextIO

from ferrule._compare.harness import Silent


class Shown(Protocol):
    """Shows progress until it is closed."""

    def begin(self, title: str) -> None:
        """Notes that the row or figure of this title comes next."""

    def step(self) -> None:
        """Notes that one more round is done."""

    def close(self) -> None:
        """Takes the bar away."""


def shown(steps: int, stream: TextIO | None = None) -> Shown:
    """Returns what shows the progress over so many steps.

    Args:
        steps: how many there will be.
        stream: where it is written; `None` means standard error.
    """
    stream = sys.stderr if stream is None else stream
    if stream is None:  # an interpreter without standard streams has none
        return Silent()
    if stream.isatty():
        try:
            tqdm = importlib.import_module("tqdm")
        except ImportError:
            pass
        else:
            return _Bar(tqdm.tqdm, steps, stream)
    return _Lines(stream)


class _Lines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def begin(self, title: str) -> None:
        self._stream.write(f"{title}\n")
        self._stream.flush()

    def step(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Bar:
    def __init__(self, tqdm: Any, steps: int, stream: TextIO) -> None:
        # Its watching thread would wake up in the middle of a measurement.
        tqdm.monitor_interval = 0
        self._bar = tqdm(
            total=steps, file=stream, leave=False, unit="", bar_format="{l_bar}{bar}| {elapsed}<{remaining}"
        )

    def begin(self, title: str) -> None:
        self._bar.set_description_str(title)

    def step(self) -> None:
        self._bar.update()

    def close(self) -> None:
        self._bar.close()
