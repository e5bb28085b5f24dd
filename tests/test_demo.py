"""The demo: what it finds, that both of its jobs find the same, and what it makes of files that nobody can read."""

import ast
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import tokenize
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferrule._demo import contest, examining, job, plain, sources, storing, telling
from ferrule._demo.command import main
from ferrule.scheduling import TaskResult, WorkerDied

# CPython counts the depth of trees in one place for all threads, and gets it wrong where these tests run in several.
PARSER = threading.Lock()

GOOD = '''\
"""A module."""


class Shop:
    def sell(self, basket=[], *, notes={}, limit=10):
        # TODO count the money
        for item in basket:
            if item:
                with open(item) as file:
                    print(file.read(), print(len(item)))
            elif limit:
                pass
            else:
                pass
        try:
            self.close()
        except:
            pass

    def close(self):
        """Close."""

        def _inner():
            return lambda: print()

    async def _deliver(self):
        text = """
        # FIXME this is text and no comment
        """
        return (
            "one"
            # XXX between two strings
            "two"
        )


def undocumented(a, b=list(), /): ...
'''

BAD = {
    "bad_bytes.py": (b"x = 1\ny = '\xff\xfe'\n", "cannot be decoded"),
    "bad_bytes_late.py": (b"x = 1\n" * 5_000 + b"# \xe9\n", "cannot be decoded as utf-8"),
    "bad_coding.py": (b"# coding: klingon\nx = 1\n", "unknown encoding: klingon"),
    "bad_codec.py": (b"# coding: rot13\nx = 1\n", "cannot be decoded"),
    "bad_bom.py": (b"\xef\xbb\xbf# coding: latin-1\nx = 1\n", "cannot be decoded: encoding problem: utf-8"),
    "bad_syntax.py": (b"x = (1\nif:\n", "cannot be parsed: line 1"),
    "bad_escape.py": (b"# coding: raw_unicode_escape\nx = '\\ud800'\n", "cannot be parsed"),
    "nul.py": (b"x = 1\0\n", "cannot be parsed: it holds NUL bytes"),
    "python2.py": (b"print 'hello'\n", "cannot be parsed: line 1"),
    "too_deep.py": (b"x = " + b"-" * 100_000 + b"1\n", "cannot be parsed: it is nested too deeply"),
    "too_deep_calls.py": (b"x = f" + b"()" * 100_000 + b"\n", "cannot be parsed: it is nested too deeply"),
    "too_large.py": (b"#" * (sources.LARGEST + 1), "is larger than 8,388,608 bytes"),
}


@pytest.fixture
def tree(tmp_path):
    """A folder with good files in several places and codings, and everything that is left out."""
    root = tmp_path / "tree"
    for folder in ("pack/sub", "__pycache__", "site-packages/other", "pack/dist-packages", "folder.py"):
        (root / folder).mkdir(parents=True)
    (root / "good.py").write_text(GOOD, encoding="utf-8")
    (root / "empty.py").touch()
    (root / "pack" / "latin.py").write_bytes(b"# coding: latin-1\n# TODO \xe9t\xe9\ndef caf\xe9(): caf\xe9()\n")
    (root / "pack" / "windows.py").write_bytes(b"\xef\xbb\xbfx = 1\r\n\r\n# XXX caf\xc3\xa9\r\n")
    (root / "pack" / "macintosh.py").write_bytes(b"x = 1\r# FIXME\ry = 2\r")
    (root / "pack" / "sub" / "warns.py").write_text("x = '\\d'\nassert (x, 'always')\nx is 1\n", encoding="utf-8")
    (root / "folder.py" / "inside.py").write_text("open('f')\n", encoding="utf-8")
    for left_out in ("__pycache__", "site-packages/other", "pack/dist-packages"):
        (root / left_out / "left_out.py").write_text("never()\n", encoding="utf-8")
    (root / "notes.txt").write_text("no Python", encoding="utf-8")
    return root


@pytest.fixture
def bad_tree(tree):
    """The same, with every kind of bad file."""
    for name, (content, _) in BAD.items():
        (tree / name).write_bytes(content)
    (tree / "dangling.py").symlink_to(tree / "nowhere.py")
    (tree / "loop.py").symlink_to(tree / "loop.py")
    (tree / "up").symlink_to(tree, target_is_directory=True)
    (tree / "pack" / "up").symlink_to("..", target_is_directory=True)
    os.mkfifo(tree / "pipe.py")
    return tree


def demo(*arguments, timeout=100, options=(), **kwargs):
    """Run the demo as a user would."""
    return subprocess.run(
        [sys.executable, *options, "-m", "ferrule", "demo", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
        **kwargs,
    )


def facts_of(text):
    source = examining.look_over(text.splitlines(keepends=True))
    with PARSER:
        tree = ast.parse(text)
    return examining.examine(
        source,
        tree,
        function=examining.function_of,
        called=examining.called_name,
        branches=examining.branches_of,
    )


class TestWhatIsFound:
    def test_functions(self):
        functions = {function.name: function for function in facts_of(GOOD).functions}
        assert list(functions) == [
            "Shop.sell",
            "Shop.close",
            "Shop.close.<locals>._inner",
            "Shop._deliver",
            "undocumented",
        ]
        sell = functions["Shop.sell"]
        assert (sell.line, sell.lines, sell.depth, sell.coroutine, sell.public, sell.documented) == (5, 14, 3, 0, 1, 0)
        assert functions["Shop.close"].documented
        assert functions["Shop._deliver"].coroutine
        assert [name for name, function in functions.items() if function.public] == [
            "Shop.sell",
            "Shop.close",
            "undocumented",
        ]

    def test_findings(self):
        assert facts_of(GOOD).findings == [
            (5, "mutable default", "Shop.sell(basket=[])"),
            (5, "mutable default", "Shop.sell(notes={})"),
            (6, "TODO", "# TODO count the money"),
            (17, "bare except", "Shop.sell"),
            (32, "XXX", "# XXX between two strings"),
            (37, "mutable default", "undocumented(b=list())"),
        ]

    def test_calls_and_totals(self):
        facts = facts_of(GOOD)
        assert facts.called == {"open": 1, "print": 3, "len": 1, ".read": 1, ".close": 1, "list": 1}
        assert (facts.lines, facts.blank, facts.classes) == (37, 7, 1)

    def test_unnamed_calls_are_looked_at_and_not_kept(self):
        assert facts_of("f()()\n(lambda: 1)()\nd[0](1)\na.b.c()\n").called == {"f": 1, ".c": 1}

    @pytest.mark.parametrize(
        ("body", "depth"),
        [
            ("pass", 0),
            ("if a: pass", 1),
            ("if a: pass\nelif b: pass\nelif c: pass\nelse: pass", 1),
            ("if a: pass\nelif b:\n  if c: pass", 2),
            ("if a: pass\nelse:\n  if b: pass", 2),
            ("try:\n  for x in y: pass\nexcept E:\n  while a:\n    with b: pass\nfinally: pass", 3),
            ("try: pass\nexcept* E:\n  if a: pass", 2),
            ("match a:\n  case 1:\n    if b: pass\n  case _: pass", 2),
            ("for x in y: pass\nelse:\n  if a: pass", 2),
            ("async for x in y:\n  async with z: pass", 2),
            ("if a:\n  def inner():\n    if b:\n      if c: pass", 1),
            ("if a:\n  class Inner:\n    if b: pass", 1),
        ],
    )
    def test_depth(self, body, depth):
        function = facts_of("async def f():\n" + textwrap.indent(body, "  ") + "\n").functions[0]
        assert function.depth == depth

    @given(st.lists(st.sampled_from(["if a:", "for a in b:", "while a:", "with a:"]), max_size=15))
    def test_depth_is_that_of_the_indentation(self, blocks):
        lines = ["def f():", *(" " * level + block for level, block in enumerate(blocks, 1))]
        lines.append(" " * (len(blocks) + 1) + "pass\n")
        assert facts_of("\n".join(lines)).functions[0].depth == len(blocks)

    def test_bare_except_says_where(self):
        bare = "try: f()\nexcept: pass\n"
        text = f"{bare}class A:\n{textwrap.indent(bare, '  ')}  def g(self):\n{textwrap.indent(bare, '    ')}"
        assert [finding.text for finding in facts_of(text).findings] == ["", "A", "A.g"]

    def test_every_kind_of_default(self):
        text = "def f(a, b=[], /, c={1}, *d, e, g={}, h=(), i=None, j=x.deque(), k=[a for a in b], **l): pass\n"
        text += "f = lambda a=[]: a\n"  # a lambda is no function of the report
        found = [finding.text for finding in facts_of(text).findings]
        assert found == ["f(b=[])", "f(c={1})", "f(g={})", "f(j=x.deque())", "f(k=[a for a in b])"]

    def test_marks_are_those_of_the_tokenizer(self):
        """What is found in a real module is what a slow and sure way finds."""
        path = Path(ast.__file__).with_name("inspect.py")
        with tokenize.open(path) as file:
            text = file.read()
        starts = {number for number, line in enumerate(text.splitlines(), 1) if line.lstrip().startswith("#")}
        slow = [
            token.start[0]
            for token in tokenize.generate_tokens(iter(text.splitlines(keepends=True)).__next__)
            if token.type == tokenize.COMMENT and token.start[0] in starts and examining.MARK.search(token.string)
        ]
        fast = [finding.line for finding in facts_of(text).findings if finding.kind in ("TODO", "FIXME", "XXX")]
        assert fast == slow

    def test_depth_of_the_tree_is_no_limit(self):
        """The parser has limits of its own; what it lets through is examined."""
        assert facts_of("x = " + "-" * 150 + "f()\n").called == {"f": 1}
        assert facts_of("".join(" " * n + "if a:\n" for n in range(90)) + " " * 90 + "f()\n").called == {"f": 1}


class TestWhereSourcesAre:
    def test_sorted_and_without_what_is_left_out(self, tree):
        found = sources.python_files(tree)
        names = [sources.name_in(tree, path) for path in found.files]
        assert names == [
            "empty.py",
            "folder.py/inside.py",
            "good.py",
            "pack/latin.py",
            "pack/macintosh.py",
            "pack/sub/warns.py",
            "pack/windows.py",
        ]
        assert found.problems == []
        assert found.first(2).files == found.files[:2]
        assert found.first(None) == found

    def test_links_to_folders_are_not_followed(self, bad_tree):
        names = [sources.name_in(bad_tree, path) for path in sources.python_files(bad_tree).files]
        assert not [name for name in names if "up" in name]
        assert {"dangling.py", "loop.py", "pipe.py"} < set(names)

    def test_a_link_as_the_path_is_followed(self, tree, tmp_path):
        link = tmp_path / "link"
        link.symlink_to(tree, target_is_directory=True)
        assert len(sources.python_files(link).files) == 7

    def test_left_out_folders_can_be_asked_for(self, tree):
        assert len(sources.python_files(tree / "site-packages").files) == 1

    def test_a_folder_that_cannot_be_listed_is_a_problem(self, tree, monkeypatch):
        real = os.scandir

        def scandir(path):
            if os.fspath(path).endswith("sub"):
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        found = sources.python_files(tree)
        assert found.problems == [("pack/sub", "cannot be listed: Permission denied")]
        assert len(found.files) == 6

    def test_a_file_that_is_gone(self, tmp_path):
        with pytest.raises(sources.UnreadableError, match=r"^cannot be read: No such file or directory$"):
            read(tmp_path / "gone.py")

    def test_a_file_without_permission(self, tree, monkeypatch):
        def refuse(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(tokenize, "open", refuse)
        with pytest.raises(sources.UnreadableError, match=r"^cannot be read: Permission denied$"):
            read(tree / "good.py")

    @pytest.mark.parametrize("name", BAD)
    def test_reasons(self, name, tmp_path):
        content, reason = BAD[name]
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(sources.UnreadableError) as caught:
            read(path)
        assert reason in str(caught.value)
        assert str(tmp_path) not in str(caught.value)

    @given(st.binary(max_size=200))
    def test_any_bytes_are_read_or_refused(self, tmp_path_factory, content):
        path = tmp_path_factory.getbasetemp() / f"any_bytes_{threading.get_ident()}.py"
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                text = read(path)
            except sources.UnreadableError:
                return
            facts_of(text)

    @given(st.text(st.characters(codec=None)))
    def test_printable(self, text):
        shown = sources.printable(text)
        assert shown.isprintable()
        shown.encode()
        if text.isprintable():
            assert shown == text


def read(path):
    with sources.opened(path) as file:
        text = file.read()
    with PARSER:
        sources.tree_of(text)
    return text


class TestBothJobs:
    def test_nothing_is_different(self, bad_tree, capsys, tmp_path):
        facts = tmp_path / "facts.json"
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what the parser warns of in other people's sources is not ours
            assert main([str(bad_tree), "--json", str(facts)]) == 0
        text, errors = capsys.readouterr()
        assert errors == ""
        assert "Traceback" not in text
        assert "Both found the same" in text
        facts = json.loads(facts.read_text(encoding="utf-8"))
        assert facts["differences"] == []
        assert facts["files"] == 7
        assert facts["files_found"] == facts["files_taken"] == 7 + len(BAD) + 3
        problems = {problem["path"]: problem["reason"] for problem in facts["problems"]}
        assert set(problems) == {*BAD, "dangling.py", "loop.py", "pipe.py"}
        assert problems["pipe.py"] == "is not a regular file"
        assert problems["dangling.py"] == "cannot be read: No such file or directory"
        tail = text[text.index("could not be used; the rest is complete") :]
        for name in problems:
            assert f"\n  {name}\n      " in tail

    def test_a_good_tree_has_no_problems(self, tree, capsys):
        assert main([str(tree)]) == 0
        assert "could not be used" not in capsys.readouterr().out

    def test_a_single_file(self, tree, capsys):
        assert main([str(tree / "good.py")]) == 0
        text = capsys.readouterr().out
        assert "\n1 file; " in text
        assert "37 lines (7 blank), 1 class, 5 functions (1 coroutine), 8 calls" in text
        assert "3 blocks inside each other  good.py:5  Shop.sell" in text
        assert "(top level)  2 of  3  67%" in text

    def test_names_that_cannot_be_printed(self, tmp_path, capsys):
        folder = tmp_path / "odd"
        folder.mkdir()
        for name in (b"\xff.py", b"new\nline.py", b"\x1b[31m.py", b"\xc3\xa9.py"):
            Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(
                b"def f(): # \x1b[31m\n  # TODO \x1b[31m\n  ("
            )
        assert main([str(folder)]) == 0
        text = capsys.readouterr().out
        for name in (r"\udcff.py", r"new\nline.py", r"\x1b[31m.py", "é.py"):
            assert f"  {name}\n" in text
        assert "\x1b" not in text

    def test_a_difference_is_told(self, tree, capsys, monkeypatch):
        real = job.store

        def store(database, path, facts):
            if path == "good.py":
                facts = facts._replace(functions=facts.functions[1:], lines=facts.lines + 1)
            real(database, path, facts)

        monkeypatch.setattr(job, "store", store)
        assert main([str(tree)]) == 1
        text = capsys.readouterr().out
        assert "DIFFERENT: " in text
        assert "files: only plain Python has ('good.py', '', 37, 7, 1)" in text
        assert "files: only ferrule has ('good.py', '', 38, 7, 1)" in text
        assert "functions: only plain Python has ('good.py', 5, 'Shop.sell', 14, 3, 0, 1, 0)" in text
        assert "Both found the same" not in text

    def test_many_differences_are_cut_short_in_the_report_and_whole_in_json(self, tmp_path, capsys, monkeypatch):
        folder = tmp_path / "many"
        folder.mkdir()
        for number in range(40):
            (folder / f"f{number}.py").write_text(f"def f{number}(): pass\n", encoding="utf-8")
        monkeypatch.setattr(plain, "function", lambda node, name: examining.function_of(node, f"{name}_"))
        assert main([str(folder), "--json", str(tmp_path / "f.json")]) == 1
        assert "and 70 more" in capsys.readouterr().out
        facts = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
        assert len([line for line in facts["differences"] if line.startswith("functions: ")]) == 80
        assert "times measured as 'function': 0 and 40" in facts["differences"]

    def test_a_lost_file_a_lost_call_and_another_answer_are_differences(self, tree, capsys, monkeypatch):
        monkeypatch.setattr(plain, "find", lambda path: sources.python_files(path).first(3))
        monkeypatch.setattr(plain, "called", lambda call: None)
        monkeypatch.setattr(plain, "report", lambda database: storing.summary(database, top=1))
        assert main([str(tree)]) == 1
        text = capsys.readouterr().out
        assert "find: 3 files and 7, not the same" in text
        monkeypatch.undo()
        monkeypatch.setattr(plain, "report", lambda database: storing.summary(database, top=1))
        assert main([str(tree)]) == 1
        assert "report: the two do not say the same" in capsys.readouterr().out
        monkeypatch.undo()
        monkeypatch.setattr(plain, "called", examining.called_name)
        assert main([str(tree)]) == 1
        assert "calls looked at: 0 and 10" in capsys.readouterr().out

    def test_a_file_that_changes_meanwhile_is_named(self, tree, capsys, monkeypatch):
        real = plain.work

        def work(files, root, database):
            real(files, root, database)
            (tree / "good.py").write_text("x = 1\n", encoding="utf-8")

        monkeypatch.setattr(plain, "work", work)
        assert main([str(tree)]) == 1
        assert "changed while the demo ran: good.py" in capsys.readouterr().out

    def test_twice_in_one_process_starts_over(self, tree, capsys):
        for _ in range(2):
            assert main([str(tree)]) == 0
            assert job.called.call_count == plain.counts["called"] == 10
            assert job.monitor.stats()["parse"].count == len(plain.samples["parse"]) == 7
        capsys.readouterr()

    def test_both_are_measured_alike(self, bad_tree, capsys):
        assert main([str(bad_tree)]) == 0
        capsys.readouterr()
        by_hand, native = plain.measured(), job.measured()
        by_hand.pop("cost")
        assert (
            by_hand.keys()
            == native.keys()
            == {"find", "lines", "read", "parse", "function", "examine", "store"}
            | {
                "commit",
                "report",
            }
        )
        assert {name: one.times for name, one in by_hand.items()} == {name: one.times for name, one in native.items()}
        stats = job.monitor.stats()
        assert stats["read"].errors == stats["lines"].errors
        assert stats["read"].errors + stats["parse"].errors == len(BAD) + 3
        assert stats["read"].count == 7 + len(BAD) + 3
        assert native["lines"].total <= native["read"].total

    def test_who_begins_changes(self, tree, monkeypatch, capsys):
        order = []
        monkeypatch.setattr(contest, "BATCH", 2)
        monkeypatch.setattr(plain, "work", lambda *_: order.append("plain"))
        monkeypatch.setattr(job, "work", lambda *_: order.append("job"))
        assert main([str(tree)]) == 0
        assert order == ["plain", "job", "job", "plain"] * 2
        capsys.readouterr()


class TestTheReport:
    def test_it_is_no_wider_than_it_should_be(self, bad_tree, capsys):
        long = bad_tree / ("very_" * 30 + "long.py")
        long.write_text(GOOD.replace("Shop", "Shop" * 40).replace("money", "money " * 40), encoding="utf-8")
        broken = bad_tree / ("very_" * 30 + "broken.py")
        broken.write_text("(", encoding="utf-8")
        assert main([str(bad_tree)]) == 0
        text = capsys.readouterr().out
        before, _, rest = text.partition("Timing, by ferrule\n")
        _, _, after = rest.partition("\n\n")
        wide = [line for line in (before + after).splitlines() if len(line) > 100]
        assert wide == [f"  {broken.name}"]  # the name of a bad file is never cut off
        assert not [line for line in text.splitlines() if line != line.rstrip()]

    def test_it_says_what_was_measured(self, tree, capsys):
        assert main([str(tree)]) == 0
        text = capsys.readouterr().out
        for part in ("find", "read", "parse", "examine", "store", "report", "whole"):
            assert f"\n  {part} " in text
        assert job.monitor.report().rstrip() in text
        for what in ("calls timed", "lines timed", "calls counted", "together", "of the whole"):
            assert f"\n  {what} " in text

    def test_an_empty_file_is_enough(self, tmp_path, capsys):
        (tmp_path / "empty.py").touch()
        assert main([str(tmp_path)]) == 0
        text = capsys.readouterr().out
        assert "Longest functions" not in text  # there are none, and an empty list says nothing
        assert "0 lines (0 blank), 0 classes, 0 functions (0 coroutines), 0 calls" in text

    def test_only_bad_files(self, tmp_path, capsys):
        (tmp_path / "bad.py").write_text("(", encoding="utf-8")
        assert main([str(tmp_path)]) == 0
        assert "1 could not be used" in capsys.readouterr().out

    def test_tables(self):
        assert telling.table([("a", "1"), ("bbb", "22")], "<>") == ["a     1", "bbb  22"]
        assert telling.table([], "") == []

    def test_examples_are_spread(self):
        places = [storing.Place(str(number), 1, "x") for number in range(10)]
        assert [place.path for place in storing.spread(places, 3)] == ["0", "3", "6"]
        assert storing.spread(places, 20) == places


class TestTheCommandLine:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["{}/nowhere"], "PATH does not exist: "),
            (["{}/nowhere.py"], "PATH does not exist: "),
            (["{}/empty"], "PATH holds no Python file (*.py): "),
            (["{}/notes.txt"], "PATH holds no Python file (*.py): "),
            (["{}/dangling.py"], "PATH does not exist: "),
            (["{}", "--limit", "0"], "argument --limit: must be a whole number of at least 1, not '0'"),
            (["{}", "--limit", "-3"], "argument --limit: must be a whole number of at least 1, not '-3'"),
            (["{}", "--limit", "few"], "argument --limit: must be a whole number of at least 1, not 'few'"),
            (["{}", "--database", "{}"], "argument --database: is a folder: "),
            (["{}", "--json", "{}/nowhere/f.json"], "argument --json: there is no folder "),
            (["{}", "--database", "{}/notes.txt"], "notes.txt is there, and no database of the demo; it is left as it"),
            (
                ["{}", "--database", "{}/other.db"],
                "other.db is there, and no database of the demo; it is left as it is",
            ),
            (["{}", "--database", "{}/x", "--json", "{}/x"], "name the same file"),
            (["{}", "--json", "{}/x", "--timeline", "{}/x"], "--json and --timeline name the same file"),
            (["{}", "--timeline", "{}"], "argument --timeline: is a folder: "),
            (["{}", "--colour"], "unrecognized arguments: --colour"),
        ],
    )
    def test_wrong_arguments(self, arguments, message, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        (tmp_path / "good.py").touch()
        (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
        (tmp_path / "dangling.py").symlink_to("nowhere.py")
        other = sqlite3.connect(tmp_path / "other.db")
        other.execute("CREATE TABLE mine (a)")
        other.commit()
        other.close()
        with pytest.raises(SystemExit) as caught:
            main([argument.format(tmp_path) for argument in arguments])
        assert caught.value.code == 2
        output, errors = capsys.readouterr()
        assert output == ""
        assert message in errors
        assert errors.startswith("usage: python -m ferrule demo ")
        assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"
        assert (tmp_path / "other.db").stat().st_size > 100

    def test_a_folder_that_cannot_be_listed_is_why_there_is_nothing(self, tmp_path, capsys, monkeypatch):
        def scandir(path):
            raise PermissionError(13, "Permission denied", os.fspath(path))

        monkeypatch.setattr(os, "scandir", scandir)
        with pytest.raises(SystemExit):
            main([str(tmp_path)])
        assert "holds no Python file (*.py): " in (errors := capsys.readouterr().err)
        assert errors.endswith("; . cannot be listed: Permission denied\n")

    def test_limit(self, tree, capsys):
        assert main([str(tree), "--limit", "3"]) == 0
        assert "the first 3 of 7 files; " in capsys.readouterr().out
        assert main([str(tree), "--limit", "300"]) == 0
        assert "\n7 files; " in capsys.readouterr().out

    def test_the_database_is_kept_and_replaced(self, tree, tmp_path, capsys):
        kept = tmp_path / "kept.db"
        kept.touch()
        assert main([str(tree), "--limit", "2", "--database", str(kept)]) == 0
        assert main([str(tree), "--database", str(kept)]) == 0
        capsys.readouterr()
        database = sqlite3.connect(kept)
        try:
            assert database.execute("SELECT count(*) FROM files").fetchone() == (7,)
            query = "SELECT name, lines FROM functions ORDER BY lines DESC LIMIT 1"
            assert database.execute(query).fetchone() == ("Shop.sell", 14)
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        finally:
            database.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.db", "tree"]

    def test_the_questions_are_asked_at_once_and_drawn(self, tree, tmp_path, capsys):
        picture, facts = tmp_path / "questions.html", tmp_path / "facts.json"
        assert main([str(tree), "--timeline", str(picture), "--json", str(facts)]) == 0
        assert f"drawn in {picture}" in capsys.readouterr().out
        answers = json.loads(facts.read_text(encoding="utf-8"))["answers"]
        assert set(answers) == set(storing.QUESTIONS)
        drawn = picture.read_text(encoding="utf-8")
        assert drawn.startswith("<!doctype html>")
        assert all(name in drawn for name in answers)
        assert all(answer["worker"] in drawn for answer in answers.values())

    def test_a_question_that_fails_is_told(self, tree, capsys, monkeypatch):
        real = storing.QUESTIONS["called"]

        def question(database, top):
            if threading.current_thread() is not threading.main_thread():
                database.execute("no SQL")
            return real(database, top)

        monkeypatch.setitem(storing.QUESTIONS, "called", question)
        with pytest.raises(SystemExit) as caught:
            main([str(tree)])
        assert caught.value.code == 2
        assert 'near "no": syntax error' in capsys.readouterr().err

    def test_nothing_is_left_behind(self, tree, tmp_path, capsys, monkeypatch):
        here = tmp_path / "temporary"
        here.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(here))
        assert main([str(tree)]) == 0
        capsys.readouterr()
        assert list(here.iterdir()) == []

    def test_what_cannot_be_written_is_said(self, tree, tmp_path, capsys):
        full = Path("/dev/full")
        if not full.exists():
            pytest.skip("there is no /dev/full here")
        with pytest.raises(SystemExit) as caught:
            main([str(tree), "--json", str(full)])
        assert caught.value.code == 2
        assert "cannot write: " in capsys.readouterr().err

    def test_a_progress_bar_for_a_terminal(self, tree, capsys, monkeypatch):
        bars = []

        class Bar:
            def __init__(self, **options):
                self.options = options
                self.done = 0
                bars.append(self)

            def update(self, more):
                self.done += more

            def close(self):
                self.closed = True

        fake = type(sys)("tqdm")
        fake.tqdm = Bar
        monkeypatch.setitem(sys.modules, "tqdm", fake)
        assert main([str(tree)]) == 0
        assert bars == []
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        assert main([str(tree)]) == 0
        assert [(bar.options["total"], bar.done, bar.closed) for bar in bars] == [(7, 7, True)]
        monkeypatch.setitem(sys.modules, "tqdm", None)  # the extra is not there
        assert main([str(tree)]) == 0
        capsys.readouterr()


@pytest.mark.subprocess
class TestAsAProgram:
    def test_bad_files_with_warnings_as_errors(self, bad_tree):
        done = demo(bad_tree, options=["-W", "error", "-X", "dev"])
        assert (done.returncode, done.stderr) == (0, "")
        assert "Traceback" not in done.stdout
        assert "Both found the same" in done.stdout

    def test_an_output_that_knows_only_ascii(self, bad_tree):
        done = demo(bad_tree, env={**os.environ, "PYTHONIOENCODING": "ascii"})
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.isascii()

    def test_a_wrong_path(self, tmp_path):
        done = demo(tmp_path / "nowhere")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines()[-1].startswith("python -m ferrule demo: error: PATH does not exist: ")

    def test_a_reader_who_leaves_early(self, bad_tree):
        with subprocess.Popen(
            [sys.executable, "-m", "ferrule", "demo", str(bad_tree)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as program:
            program.stdout.close()
            assert program.wait(60) == 1
            assert program.stderr.read() == b""

    def test_ctrl_c_leaves_nothing_behind(self, tmp_path):
        with subprocess.Popen(
            [sys.executable, "-m", "ferrule", "demo"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        ) as program:
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob("ferrule-demo-*/ferrule.sqlite")):
                assert program.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            program.send_signal(signal.SIGINT)
            output, errors = program.communicate(timeout=60)
        assert (program.returncode, output, errors) == (130, b"", b"interrupted\n")
        assert list(tmp_path.iterdir()) == []

    def test_the_beginning_of_the_standard_library(self, tmp_path):
        facts = tmp_path / "facts.json"
        done = demo("--limit", "60", "--json", facts)
        assert (done.returncode, done.stderr) == (0, "")
        facts = json.loads(facts.read_text(encoding="utf-8"))
        assert facts["files_taken"] == 60
        assert facts["functions"] > 1_000
        assert facts["longest"][0]["figure"] > 100
        assert facts["rows_compared"] > 2_000

    def test_many_files_are_examined_in_processes(self, tmp_path):
        facts, picture = tmp_path / "facts.json", tmp_path / "job.html"
        options = ["-W", "error", "-X", "dev"]
        done = demo("--limit", job.FEW + 8, "--json", facts, "--timeline", picture, options=options)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Both found the same" in done.stdout
        facts = json.loads(facts.read_text(encoding="utf-8"))
        assert facts["workers"] >= 1
        # Nothing that was measured there is lost.
        assert facts["seconds"]["measured"]["ferrule"]["parse"]["times"] == facts["files_taken"]
        drawn = picture.read_text(encoding="utf-8")
        assert drawn.count("process ") >= facts["workers"]
        assert all(name in drawn for name in storing.QUESTIONS)

    def test_a_file_that_ends_its_process_is_a_problem_like_others(self, tree):
        with contextlib.closing(storing.create(tree / "database")) as database:
            died = TaskResult("a.py", "error", error=WorkerDied("a.py", -11, 11))
            job.keep(database, "a.py", died)
            assert database.execute("SELECT path FROM problems").fetchall() == [("a.py",)]
            with pytest.raises(ZeroDivisionError):
                job.keep(database, "b.py", TaskResult("b.py", "error", error=ZeroDivisionError()))

    @pytest.mark.slow
    @pytest.mark.timeout(420)
    def test_the_whole_standard_library(self, tmp_path):
        facts = tmp_path / "facts.json"
        done = demo("--json", facts, timeout=400)
        assert (done.returncode, done.stderr) == (0, "")
        facts = json.loads(facts.read_text(encoding="utf-8"))
        assert facts["files"] + len(facts["problems"]) == facts["files_found"] > 500
        assert facts["calls"] > 100_000
        assert facts["seconds"]["measured"]["ferrule"]["function"]["times"] == facts["functions"]
