"""The patterns room's peers: requests' dictionary and multidict's; and how many are made where there is to be one."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from ferrule._compare.harness import Figure, Room, require
from ferrule._compare.patterns import LockedMeta, SingletonMeta, looking_up, storing
from ferrule._compare.patterns import room as compared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ferrule._compare.harness import Factory

THREADS = 64


def room(*, quick: bool) -> Room:
    """Describes the rows and figures; with `quick` the threads meet less often."""
    own = compared()
    peers: Mapping[str, Mapping[str, Factory]] = {
        "dict_get": {"requests": lambda: looking_up(requests_dict()), "multidict": lambda: looking_up(multidict())},
        "dict_set": {"requests": lambda: storing(requests_dict()), "multidict": lambda: storing(multidict())},
    }
    meetings = 5 if quick else 50
    return replace(
        own,
        rows=[row.joined_by(peers.get(row.id, {})) for row in own.rows],
        figures=[instances(meetings), computations(meetings)],
    )


def requests_dict() -> Any:
    return require("requests.structures", "requests").CaseInsensitiveDict()


def multidict() -> Any:
    return require("multidict").CIMultiDict()


def most_of(meetings: int, meet: Callable[[], int]) -> int:
    """Returns the most that were made in one of so many meetings, with threads that change places all the time."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        return max(meet() for _ in range(meetings))
    finally:
        sys.setswitchinterval(interval)


def all_at_once(function: Callable[[], object]) -> None:
    gate = threading.Barrier(THREADS)

    def body() -> None:
        gate.wait()
        function()

    threads = [threading.Thread(target=body) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def instances(meetings: int) -> Figure:
    from ferrule import Singleton

    metaclasses = {
        "hand-written metaclass": SingletonMeta,
        "hand-written metaclass with a lock": LockedMeta,
        "ferrule": Singleton,
    }
    return Figure(
        id="instances",
        title=f"instances made of a singleton that {THREADS} threads ask for at once, the most in {meetings} meetings",
        unit="instances",
        goal=1.0,
        truth=1.0,
        candidates={label: partial(most_of, meetings, partial(made, meta)) for label, meta in metaclasses.items()},
    )


def made(metaclass: Any) -> int:
    count: list[None] = []

    def init(self: object) -> None:
        del self
        count.append(None)
        time.sleep(1e-4)

    all_at_once(metaclass("One", (), {"__init__": init}))
    return len(count)


def computations(meetings: int) -> Figure:
    from ferrule import lazy_property

    properties = {"functools.cached_property": cached_property, "ferrule": lazy_property}
    return Figure(
        id="computations",
        title=f"computations of a property that {THREADS} threads ask for at once, the most in {meetings} meetings",
        unit="computations",
        goal=1.0,
        truth=1.0,
        candidates={label: partial(most_of, meetings, partial(computed, kind)) for label, kind in properties.items()},
    )


def computed(kind: Any) -> int:
    count: list[None] = []

    def compute(self: object) -> int:
        del self
        count.append(None)
        time.sleep(1e-4)
        return 1

    owner: Any = type("Owner", (), {"value": kind(compute)})()
    all_at_once(lambda: owner.value)
    return len(count)
