"""Where the job keeps what it finds: the tables, the questions the report asks, the comparison of two databases."""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ferrule._demo.examining import BARE_EXCEPT, MUTABLE_DEFAULT
from ferrule._demo.sources import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ferrule._demo.examining import Facts

APPLICATION_ID = 0x66657272  # "ferr": how a database of the demo is told from anybody else's

SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};

-- One row for each file that was read and parsed. `package` is the topmost folder, empty for a file beside them.
CREATE TABLE files (
    id        INTEGER PRIMARY KEY,
    path      TEXT    NOT NULL,
    package   TEXT    NOT NULL,
    lines     INTEGER NOT NULL,
    blank     INTEGER NOT NULL,
    classes   INTEGER NOT NULL
);

-- One row for each function and method. `depth` is how many blocks are inside each other at its deepest point.
CREATE TABLE functions (
    file       INTEGER NOT NULL REFERENCES files,
    line       INTEGER NOT NULL,
    name       TEXT    NOT NULL,
    lines      INTEGER NOT NULL,
    depth      INTEGER NOT NULL,
    coroutine  INTEGER NOT NULL,
    public     INTEGER NOT NULL,
    documented INTEGER NOT NULL
);

-- '{BARE_EXCEPT}', '{MUTABLE_DEFAULT}', or the mark of a comment: 'TODO', 'FIXME', 'XXX'.
CREATE TABLE findings (
    file INTEGER NOT NULL REFERENCES files,
    line INTEGER NOT NULL,
    kind TEXT    NOT NULL,
    text TEXT    NOT NULL
);

-- How often a file calls a name; a method's name has a dot before it.
CREATE TABLE names (
    file  INTEGER NOT NULL REFERENCES files,
    name  TEXT    NOT NULL,
    calls INTEGER NOT NULL
);

-- What could not be listed, read or parsed, and why.
CREATE TABLE problems (
    path   TEXT NOT NULL,
    reason TEXT NOT NULL
);
"""

ROWS = {
    "files": "SELECT path, package, lines, blank, classes FROM files",
    "functions": "SELECT path, line, name, functions.lines, depth, coroutine, public, documented"
    " FROM functions JOIN files ON files.id = file",
    "findings": "SELECT path, line, kind, text FROM findings JOIN files ON files.id = file",
    "names": "SELECT path, name, calls FROM names JOIN files ON files.id = file",
    "problems": "SELECT path, reason FROM problems",
}
"""What is compared of each table. A row is known by its file's path: the file's number depends on what came before."""


class Place(NamedTuple):
    """A place in the sources, with a figure to rank it by or words to quote."""

    path: str
    line: int
    name: str
    figure: int = 0


class Package(NamedTuple):
    """The public functions of one package, and how many of them have no docstring."""

    name: str
    functions: int
    undocumented: int


class Called(NamedTuple):
    """A name that is called, how often, and in how many files."""

    name: str
    calls: int
    files: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What the database says, for people and for JSON."""

    files: int
    lines: int
    blank: int
    functions: int
    coroutines: int
    classes: int
    calls: int
    longest: list[Place]
    deepest: list[Place]
    packages: list[Package]
    kinds: dict[str, int]
    examples: dict[str, list[Place]]
    called: list[Called]
    problems: list[Problem]


def create(path: Path) -> sqlite3.Connection:
    """Create a database with the job's tables.

    Args:
        path: A file that does not exist yet.
    """
    database = connect(path)
    database.executescript(SCHEMA)
    return database


def connect(path: Path) -> sqlite3.Connection:
    """Open a database, to be used by one thread at a time, whichever that is.

    Args:
        path: A file that `create` made, or that does not exist yet.
    """
    database = sqlite3.connect(path, check_same_thread=False)
    # Both jobs pay for the same safety: a database that a crash loses costs nothing but another run.
    database.execute("PRAGMA synchronous = OFF")
    return database


def store_facts(database: sqlite3.Connection, path: str, facts: Facts) -> None:
    """Write what was found in one file.

    Args:
        database: One that `create` made. The caller commits.
        path: The file's name in the tree.
        facts: What `examine` returned.
    """
    package, slash, _ = path.partition("/")
    file = database.execute(
        "INSERT INTO files (path, package, lines, blank, classes) VALUES (?, ?, ?, ?, ?)",
        (path, package if slash else "", facts.lines, facts.blank, facts.classes),
    ).lastrowid
    database.executemany(
        "INSERT INTO functions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [(file, *function) for function in facts.functions]
    )
    database.executemany("INSERT INTO findings VALUES (?, ?, ?, ?)", [(file, *finding) for finding in facts.findings])
    database.executemany("INSERT INTO names VALUES (?, ?, ?)", [(file, *pair) for pair in facts.called.items()])


def store_problem(database: sqlite3.Connection, problem: Problem) -> None:
    """Write down a file or folder that could not be used. The caller commits."""
    database.execute("INSERT INTO problems VALUES (?, ?)", problem)


TOP = 5
"""How many rows the lists of the longest, the deepest and so on have at most."""


def summary(database: sqlite3.Connection, *, top: int = TOP) -> Summary:
    """Ask the database for everything that the report tells.

    Args:
        database: One that holds a finished job.
        top: How many rows the lists of the longest, the deepest and so on have at most.
    """
    return summary_of([question(database, top) for question in QUESTIONS.values()])


def summary_of(answers: Iterable[dict[str, Any]]) -> Summary:
    """Put the answers to all questions together."""
    return Summary(**{name: answer for some in answers for name, answer in some.items()})


def ask_files(database: sqlite3.Connection, _: int) -> dict[str, Any]:
    """Count files, lines and classes."""
    query = "SELECT count(*), total(lines), total(blank), total(classes) FROM files"
    files, lines, blank, classes = database.execute(query).fetchone()
    return {"files": files, "lines": int(lines), "blank": int(blank), "classes": int(classes)}


def ask_functions(database: sqlite3.Connection, _: int) -> dict[str, Any]:
    """Count functions and coroutines."""
    functions, coroutines = database.execute("SELECT count(*), total(coroutine) FROM functions").fetchone()
    return {"functions": functions, "coroutines": int(coroutines)}


def ask_ranked(column: str, database: sqlite3.Connection, top: int) -> list[Place]:
    """Ask for the functions with the most of something."""
    query = (
        f"SELECT path, line, name, functions.{column} FROM functions JOIN files ON files.id = file"  # noqa: S608
        f" WHERE functions.{column} > 0 ORDER BY functions.{column} DESC, path, line, name LIMIT ?"
    )
    return [Place(*row) for row in database.execute(query, (top,))]


def ask_longest(database: sqlite3.Connection, top: int) -> dict[str, Any]:
    """Ask for the longest functions."""
    return {"longest": ask_ranked("lines", database, top)}


def ask_deepest(database: sqlite3.Connection, top: int) -> dict[str, Any]:
    """Ask for the deepest functions."""
    return {"deepest": ask_ranked("depth", database, top)}


def ask_packages(database: sqlite3.Connection, top: int) -> dict[str, Any]:
    """Ask for the packages with the most public functions that have no docstring."""
    query = (
        "SELECT package, count(*), total(NOT documented) FROM functions JOIN files ON files.id = file WHERE public"
        " GROUP BY package ORDER BY total(NOT documented) DESC, package LIMIT ?"
    )
    rows = database.execute(query, (top,))
    return {"packages": [Package(name, count, int(undocumented)) for name, count, undocumented in rows]}


def ask_findings(database: sqlite3.Connection, top: int) -> dict[str, Any]:
    """Count the findings by kind, with some examples of each."""
    query = "SELECT kind, count(*) FROM findings GROUP BY kind ORDER BY count(*) DESC, kind"
    kinds = dict(database.execute(query).fetchall())
    quoted = (
        "SELECT path, line, text FROM findings JOIN files ON files.id = file WHERE kind = ? ORDER BY path, line, text"
    )
    examples = {kind: spread([Place(*row) for row in database.execute(quoted, (kind,))], top) for kind in kinds}
    return {"kinds": kinds, "examples": examples}


def ask_called(database: sqlite3.Connection, top: int) -> dict[str, Any]:
    """Count the calls, and ask for what is called most."""
    (calls,) = database.execute("SELECT total(calls) FROM names").fetchone()
    query = "SELECT name, sum(calls), count(*) FROM names GROUP BY name ORDER BY sum(calls) DESC, name LIMIT ?"
    return {"calls": int(calls), "called": [Called(*row) for row in database.execute(query, (2 * top,))]}


def ask_problems(database: sqlite3.Connection, _: int) -> dict[str, Any]:
    """Ask for what could not be used."""
    rows = database.execute("SELECT path, reason FROM problems ORDER BY path, reason")
    return {"problems": [Problem(*row) for row in rows]}


QUESTIONS: dict[str, Callable[[sqlite3.Connection, int], dict[str, Any]]] = {
    "files": ask_files,
    "functions": ask_functions,
    "longest": ask_longest,
    "deepest": ask_deepest,
    "packages": ask_packages,
    "findings": ask_findings,
    "called": ask_called,
    "problems": ask_problems,
}
"""What the report asks, none of it depending on anything else; each is given how long its lists may be."""


def spread(places: list[Place], count: int) -> list[Place]:
    """Return at most `count` of the places, evenly spread, so that examples don't all come from one file."""
    if len(places) <= count:
        return places
    return [places[index * len(places) // count] for index in range(count)]


def compare(left: sqlite3.Connection, right: sqlite3.Connection, *, names: tuple[str, str]) -> tuple[int, list[str]]:
    """Compare two databases of the job row by row.

    Args:
        left: One database.
        right: The other.
        names: What to call them.

    Returns:
        How many rows were compared, and a line for each row that only one of them has.
    """
    compared = 0
    differences: list[str] = []
    rows: tuple[Counter[tuple[str | int, ...]], Counter[tuple[str | int, ...]]]
    for table, query in ROWS.items():
        rows = Counter(left.execute(query)), Counter(right.execute(query))
        compared += max(row.total() for row in rows)
        for name, only in zip(names, (rows[0] - rows[1], rows[1] - rows[0]), strict=True):
            differences.extend(f"{table}: only {name} has {row!r}" for row in sorted(only.elements()))
    return compared, differences
