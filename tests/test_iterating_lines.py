"""The lines of the iterating room: those of `open`, however they are read, and chosen on bytes as on text."""

import asyncio
import gzip
import io
import itertools
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from draining import drained
from ferrule.iterating import lines

CASES = 200 if os.environ.get("FERRULE_FEW_CASES") else 10_000
# Files from this size on are read ahead by threads.
LARGE = 2 << 20
BLOCK = 256 << 10


def opened(path, *, encoding="utf-8", newline=None, **options):
    """The lines of `open`, less their ends."""
    with Path(path).open(encoding=encoding, newline=newline, **options) as file:
        found = list(file)
    ends = (newline,) if newline else ("\r\n", "\n", "\r")
    for place, line in enumerate(found):
        for end in ends:
            if line.endswith(end):
                found[place] = line[: -len(end)]
                break
    return found


TEXTS = [
    b"",
    b"\n",
    b"one",
    b"one\n",
    b"one\ntwo",
    b"one\r\ntwo\rthree\n\r\r\n",
    b"\r",
    b"nul\0inside\n\0\n",
    "é\r\nü\n日本\u2028still\x0b\x0c\x85".encode(),
    b"x" * 700_000 + b"\ny\r\n" + b"z" * 300_000,
    b"a\r\n" * 200_000,
    (b"y" * 262_143 + b"\r\n") * 3,
    (b"y" * 262_142 + b"\r\n") * 3,
]


class TestLines:
    @pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
    @pytest.mark.parametrize("number", range(len(TEXTS)))
    def test_they_are_those_of_open(self, tmp_path, number, newline):
        path = tmp_path / "text"
        path.write_bytes(TEXTS[number])
        expected = opened(path, newline=newline)
        assert list(lines(path, newline=newline)) == expected
        assert list(lines(io.BytesIO(TEXTS[number]), newline=newline)) == expected
        assert list(lines(path, newline=newline, encoding="utf-8-sig")) == expected
        with path.open(encoding="utf-8", newline=newline) as text:
            assert list(lines(text, newline=newline)) == expected

    @given(st.text(alphabet="a\r\n é", max_size=30), st.sampled_from([None, "\n", "\r", "\r\n"]))
    @settings(deadline=None)
    def test_any_text_is_cut_like_open_cuts_it(self, text, newline):
        data = text.encode()
        wrapper = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline=newline or "")
        ends = (newline,) if newline else ("\r\n", "\n", "\r")
        expected = []
        for line in wrapper:
            end = next((end for end in ends if line.endswith(end)), "")
            expected.append(line[: len(line) - len(end)])
        assert list(lines(io.BytesIO(data), newline=newline)) == expected

    def test_odd_bytes_name_their_line_and_the_rest_comes(self):
        found, errors = drained(lines(io.BytesIO(b"one\ntwo \xff\nthree\n\xc3\nfive")))
        assert found == ["one", "three", "five"]
        assert [error.__notes__[0].partition(" of ")[0] for error in errors] == ["in line 2", "in line 4"]
        assert all(isinstance(error, UnicodeDecodeError) for error in errors)

    @pytest.mark.parametrize("errors", ["replace", "ignore", "backslashreplace", "surrogateescape"])
    def test_other_ways_with_odd_bytes_are_those_of_open(self, tmp_path, errors):
        data = b"ER\xffROR\nERROR\n\xe2\x82\nfine \xff\n"
        path = tmp_path / "odd"
        path.write_bytes(data)
        expected = opened(path, errors=errors)
        assert list(lines(path, errors=errors)) == expected
        for needle in ("ERROR", "\\xff", "\ufffd", "\udcff"):
            wanted = [line for line in expected if needle in line]
            assert list(lines(path, errors=errors).containing(needle)) == wanted

    @pytest.mark.parametrize("wide", [False, True])
    @given(
        text=st.text(alphabet="ab\n\r \t\u00a0é", max_size=60),
        needle=st.text(alphabet="ab \n", max_size=2),
        strip=st.booleans(),
    )
    @settings(deadline=None)
    def test_choosing_on_bytes_is_choosing_on_text(self, wide, text, needle, strip):
        text = text + ("日" if wide else "")
        expected = [line.strip() if strip else line for line in re.split("\r\n|\r|\n", text)]
        if expected and not re.split("\r\n|\r|\n", text)[-1]:
            expected.pop()
        source = lines(io.BytesIO(text.encode()), strip=strip)
        assert list(source.containing(needle)) == [line for line in expected if needle in line]

    @pytest.mark.parametrize("pattern", ["ERROR", r"E\w+R 5", r"(?i)error", r"^$", r"a|ERROR 7", r"x\sERR", r"日"])
    def test_patterns_are_those_of_re(self, pattern):
        text = "x ERROR 5\nerror\n\nERROR 7 日\nx\x1cERR\na"
        found = list(lines(io.BytesIO(text.encode())).matching(pattern))
        assert found == [line for line in text.split("\n") if re.search(pattern, line)]

    @pytest.mark.parametrize("sep", [None, ",", "é"])
    @pytest.mark.parametrize("index", [0, 1, -1, -2])
    def test_fields_are_those_of_split(self, sep, index):
        text = "a,b c\u00a0d\n,x é y\nü,é é\n  two  words  "
        expected, missing = [], 0
        for line in text.split("\n"):
            try:
                expected.append(line.split(sep)[index])
            except IndexError:
                missing += 1
        found, errors = drained(lines(io.BytesIO(text.encode())).split_field(index, sep))
        assert found == expected
        assert len(errors) == missing
        assert all("there is no field" in str(error) for error in errors)

    def test_steps_are_taken_in_the_order_in_which_they_are_written(self):
        source = io.BytesIO(b"ok ERROR\nERROR ok\n")
        assert list(lines(source).split_field(0).containing("ERROR")) == ["ERROR"]

    def test_begun_lines_are_not_chosen_from_any_more(self):
        source = lines(io.BytesIO(b"a\nb"))
        chosen = source.containing("a")
        with pytest.raises(ValueError, match="have been taken over"):
            next(source)
        assert next(chosen) == "a"
        with pytest.raises(ValueError, match="have been begun"):
            chosen.containing("b")

    def test_gzip_and_text_and_chunks(self, tmp_path):
        path = tmp_path / "log.gz"
        path.write_bytes(gzip.compress(b"one\ntwo\nthree"))
        assert list(lines(path).chunked(2)) == [["one", "two"], ["three"]]
        assert list(lines(io.StringIO("é\nx")).containing("x")) == ["x"]
        assert list(lines(io.BytesIO("é\n".encode("latin-1")), encoding="latin-1")) == ["é"]
        assert list(lines(io.BytesIO("é\n".encode("utf-16")), encoding="utf-16")) == ["é"]

    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
    def test_a_line_that_is_too_long_is_an_error(self, encoding):
        data = b"ok\n" + b"x" * 1_000_000
        source = lines(io.BytesIO(data), max_line=100, encoding=encoding)
        assert next(source) == "ok"
        with pytest.raises(ValueError, match=r"line 2 of .* is longer than max_line"):
            next(source)
        assert next(source, None) is None
        assert list(lines(io.BytesIO(b"abc\nabcd\r\n"), max_line=4)) == ["abc", "abcd"]

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"newline": "x"}, ValueError),
            ({"encoding": "klingon"}, LookupError),
            ({"errors": "klingon"}, LookupError),
            ({"max_line": 0}, ValueError),
            ({"encoding": None}, TypeError),
        ],
    )
    def test_bad_arguments_are_refused(self, arguments, error):
        with pytest.raises(error):
            lines(io.BytesIO(), **arguments)
        with pytest.raises(FileNotFoundError):
            lines("no such file")
        with pytest.raises(TypeError, match="source must be a path or a file object"):
            lines(3)

    def test_a_read_that_raises_is_heard_and_can_be_gone_on_from(self):
        class Flaky(io.BytesIO):
            failed = False

            def read(self, size=-1):
                if size and not self.failed:
                    self.failed = True
                    raise OSError("not now")
                return super().read(size)

        found, errors = drained(lines(Flaky(b"a\nb")))
        assert (found, [str(error) for error in errors]) == (["a", "b"], ["not now"])

    def test_a_file_is_closed_at_the_end_and_before(self, tmp_path):
        path = tmp_path / "text"
        path.write_bytes(b"a\nb\n" * 100_000)
        source = lines(path)
        next(source)
        source.close()
        assert next(source, None) is None
        with lines(path) as source:
            assert sum(1 for _ in source) == 200_000
        mine = io.BytesIO(b"a")
        assert list(lines(mine)) == ["a"]
        assert not mine.closed

    def test_a_file_that_shrinks_ends_sooner(self, tmp_path):
        path = tmp_path / "text"
        path.write_bytes(b"line\n" * 200_000)
        source = lines(path)
        assert next(source) == "line"
        os.truncate(path, 0)
        assert all(line in ("line", "") for line in source)

    def test_async_for_gives_the_same(self, tmp_path):
        path = tmp_path / "text"
        path.write_bytes(b"line\n" * 50_000 + b"end")

        async def count():
            found = [line async for line in lines(path)]
            async for line in lines(path):
                assert line == "line"
                break
            return found

        assert asyncio.run(count()) == ["line"] * 50_000 + ["end"]

    def test_async_for_goes_the_slow_way_too(self):
        async def found(source):
            return [line async for line in source]

        text = "é\n" * 1_000
        assert asyncio.run(found(lines(io.StringIO(text)))) == ["é"] * 1_000
        assert asyncio.run(found(lines(io.BytesIO(text.encode("latin-1")), encoding="latin-1"))) == ["é"] * 1_000
        with pytest.raises(UnicodeDecodeError) as raised:
            asyncio.run(found(lines(io.BytesIO(b"a\n\xff\n"))))
        assert raised.value.__notes__[0].startswith("in line 2 of")

    @pytest.mark.subprocess
    def test_a_loop_does_not_wait_for_a_pipe_that_stays_silent(self, python, tmp_path):
        done = python(
            """
            import asyncio, os, sys
            from ferrule import lines
            os.mkfifo(sys.argv[1])
            keep = os.open(sys.argv[1], os.O_RDWR)
            os.write(keep, b"first\\nsec")
            found = []
            async def read():
                async for line in lines(sys.argv[1]):
                    found.append(line)
            async def main():
                task = asyncio.ensure_future(read())
                while not found:
                    await asyncio.sleep(0.01)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                return task.cancelled()
            print(asyncio.run(main()), found)
            """,
            tmp_path / "fifo",
        )
        assert done.stdout == "True ['first']\n", done.stderr
        assert done.stderr == ""

    @pytest.mark.subprocess
    def test_standard_input_and_ctrl_c_in_a_read_that_blocks(self, python, tmp_path):
        done = python(
            """
            import os, signal, sys, threading
            from ferrule import lines
            os.mkfifo(sys.argv[1])
            keep = os.open(sys.argv[1], os.O_RDWR)
            os.write(keep, b"first\\nsec")
            source = lines(sys.argv[1])
            assert next(source) == "first"
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                next(source)
            except KeyboardInterrupt:
                os.write(keep, b"ond\\n")
                assert next(source) == "second"
                assert list(lines(sys.stdin.buffer)) == []
                print("heard")
            """,
            tmp_path / "fifo",
        )
        assert done.stdout == "heard\n", done.stderr


def logs():
    """The files of real logs, where there are some."""
    folder = os.environ.get("FERRULE_TEST_DATA")
    found = sorted(path for path in Path(folder).rglob("*") if path.is_file()) if folder else []
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason="FERRULE_TEST_DATA names no folder with logs"))]
    return [pytest.param(path, id=path.name) for path in found]


@pytest.mark.parametrize("path", logs())
class TestLogs:
    @pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
    @pytest.mark.parametrize(
        ("encoding", "errors"),
        [
            ("utf-8", "strict"),
            ("utf-8", "replace"),
            ("utf-8", "ignore"),
            ("utf-8", "backslashreplace"),
            ("utf-8", "surrogateescape"),
            ("utf-8-sig", "replace"),
            ("latin-1", "strict"),
            ("ascii", "namereplace"),
            ("ascii", "replace"),
            ("cp1252", "replace"),
            ("utf-16", "replace"),
        ],
    )
    def test_they_are_read_as_open_reads_them(self, path, encoding, errors, newline):
        options = {"encoding": encoding, "errors": errors, "newline": newline}
        try:
            expected = opened(path, **options)
        except (UnicodeError, TypeError) as error:  # an error handler that doesn't decode is a TypeError
            with lines(path, **options) as source, pytest.raises(type(error)):
                list(source)
            return
        assert list(lines(path, **options)) == expected

    @pytest.mark.parametrize("errors", ["replace", "surrogateescape"])
    def test_they_are_chosen_as_text_is(self, path, errors):
        expected = opened(path, errors=errors)
        assert list(lines(path, errors=errors).containing("error")) == [line for line in expected if "error" in line]
        assert list(lines(path, strip=True, errors=errors)) == [line.strip() for line in expected]
        wanted = [line for line in expected if re.search(r"\d+:\d+", line)]
        assert list(lines(path, errors=errors).matching(r"\d+:\d+")) == wanted
        fields = [line.split()[0] for line in wanted]
        assert list(lines(path, errors=errors).matching(r"\d+:\d+").split_field(0)) == fields

    def test_any_source_will_do(self, path, tmp_path):
        expected = opened(path, errors="replace")
        data = path.read_bytes()
        packed = tmp_path / "log.gz"
        packed.write_bytes(gzip.compress(data))
        assert list(lines(packed, errors="replace")) == expected
        assert list(lines(str(path), errors="replace")) == expected
        assert list(lines(io.BytesIO(data), errors="replace")) == expected
        with path.open("rb") as file:
            assert list(lines(file, errors="replace")) == expected
        with path.open("rb", buffering=0) as file:
            assert list(lines(file, errors="replace")) == expected
            assert not file.closed
        with path.open(encoding="utf-8", errors="replace") as file:
            assert list(lines(file)) == expected

    @pytest.mark.subprocess
    def test_standard_input_is_a_source(self, path, python):
        code = """
            import io, os, sys, threading
            from ferrule import lines
            data = open(sys.argv[1], "rb").read()
            outer, inner = os.pipe()
            os.dup2(outer, 0)
            def feed():
                with open(inner, "wb") as file:
                    file.write(data)
            thread = threading.Thread(target=feed)
            thread.start()
            found = list(lines(sys.stdin.buffer, errors="replace"))
            thread.join()
            with open(sys.argv[1], encoding="utf-8", errors="replace") as file:
                assert found == [line.removesuffix("\\n") for line in file]
        """
        done = python(code, path)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file of several pieces, with ends of all kinds at their edges, and a line over several of them."""
    path = tmp_path_factory.mktemp("large") / "text"
    with path.open("wb") as file:
        for number in itertools.count():
            place = file.tell()
            if place > LARGE + 3 * BLOCK:
                break
            end = [b"\n", b"\r\n", b"\r", "é\n".encode()][number % 4]
            left = -place % BLOCK
            # Some ends lie across the edge of a block.
            length = left - 1 if 1 < left < 100 else 7 * (number % 11)
            file.write((b"ERROR " if number % 20 == 0 else b"") + b"x" * max(length - 6, 0) + end)
        file.write(b"z" * 3 * BLOCK + b"\nlast ERROR")
    return path


class TestLargeFiles:
    """Files that threads read ahead of what is taken."""

    @pytest.mark.parametrize("newline", [None, "\n", "\r", "\r\n"])
    def test_they_are_those_of_open(self, large, newline):
        expected = opened(large, newline=newline)
        assert list(lines(large, newline=newline)) == expected
        assert list(lines(large, newline=newline).containing("ERROR")) == [line for line in expected if "ERROR" in line]
        assert list(lines(large, newline=newline, strip=True)) == [line.strip() for line in expected]

    def test_positions_are_those_of_the_file(self, large):
        data = large.read_bytes()
        expected = opened(large)
        source = lines(large)
        for count in (0, 1, 4_000, 9_000, 20_000):
            found = source.position()[1]
            for _ in range(count - found):
                next(source)
            place, number = source.position()
            assert number == count
            rest = io.TextIOWrapper(io.BytesIO(data[place:]), encoding="utf-8").readline()
            assert rest.removesuffix("\n") == expected[count]

    def test_odd_bytes_name_their_line(self, tmp_path):
        path = tmp_path / "odd"
        content = [b"line %d" % number for number in range(300_000)]
        odd = [7, 100_000, 250_000, 299_999]
        for number in odd:
            content[number] += b"\xff"
        path.write_bytes(b"\n".join(content))
        assert path.stat().st_size > LARGE
        found, errors = drained(iter(lines(path)))
        assert len(found) == 300_000 - len(odd)
        assert [int(re.search(r"in line (\d+)", error.__notes__[0])[1]) - 1 for error in errors] == odd

    def test_a_line_that_is_too_long_is_an_error(self, tmp_path):
        path = tmp_path / "long"
        path.write_bytes(b"ok\n" * 400_000 + b"x" * (3 << 20))
        found, errors = drained(iter(lines(path, max_line=1 << 20)))
        assert len(found) == 400_000
        assert [str(error) for error in errors] == [f"line 400001 of {str(path)!r} is longer than max_line"]

    def test_one_that_shrinks_ends_sooner(self, tmp_path):
        path = tmp_path / "text"
        path.write_bytes(b"line\n" * 2_000_000)
        source = lines(path)
        assert next(source) == "line"
        os.truncate(path, 0)
        assert sum(1 for line in source if line == "line") < 2_000_000

    def test_one_that_grows_is_read_to_its_end(self, tmp_path):
        path = tmp_path / "text"
        path.write_bytes(b"line\n" * 500_000)
        source = lines(path)
        assert next(source) == "line"
        with path.open("ab") as file:
            file.write(b"more\n" * 100)
        found = list(source)
        assert found.count("line") == 499_999
        assert found.count("more") == 100

    def test_closing_in_the_middle_is_the_end(self, large):
        for _ in range(20):
            with lines(large) as source:
                next(source)
            assert next(source, None) is None

    @pytest.mark.subprocess
    def test_a_forked_child_goes_on_reading(self, large, python):
        done = python(
            """
            import os, sys, warnings
            warnings.simplefilter("ignore")
            from ferrule import lines
            expected = list(lines(sys.argv[1]))
            source = lines(sys.argv[1])
            begun = [next(source) for _ in range(100)]
            child = os.fork()
            found = begun + list(source)
            if child == 0:
                os._exit(found != expected)
            assert found == expected
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            """,
            large,
        )
        assert done.returncode == 0, done.stderr


class Pieces(io.RawIOBase):
    """A binary file that gives what it has in pieces of given lengths."""

    def __init__(self, data, lengths):
        self.data = data
        self.lengths = itertools.cycle(lengths)
        self.place = 0

    def readable(self):
        return True

    def read(self, size=-1):
        if not size:
            return b""
        piece = self.data[self.place : self.place + min(size, next(self.lengths))]
        self.place += len(piece)
        return piece


PARTS = [b"a", b"b ", b"\n", b"\r", b"\r\n", "é".encode(), "日".encode(), b"\0", b"\xff"]


class TestBoundaries:
    @pytest.mark.timeout(420)
    @given(
        st.lists(st.sampled_from(PARTS), max_size=30),
        st.lists(st.integers(1, 5), min_size=1, max_size=4),
        st.sampled_from([None, "\n", "\r", "\r\n"]),
        st.sampled_from(["strict", "replace", "surrogateescape"]),
    )
    @settings(max_examples=CASES, deadline=None)
    def test_where_pieces_end_makes_no_difference(self, parts, lengths, newline, errors):
        data = b"".join(parts)
        whole = drained(iter(lines(io.BytesIO(data), newline=newline, errors=errors)))
        found = drained(iter(lines(Pieces(data, lengths), newline=newline, errors=errors)))
        assert found[0] == whole[0]
        assert [str(error) for error in found[1]] == [str(error) for error in whole[1]]
        kept = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape", newline=newline or "")
        ends = (newline,) if newline else ("\r\n", "\n", "\r")
        expected = []
        for line in kept:
            end = next((end for end in ends if line.endswith(end)), "")
            expected.append(line[: len(line) - len(end)].encode(errors="surrogateescape"))
        if errors == "strict":
            # Every line comes, or is named by an error.
            assert found[0] == [line.decode() for line in expected if line.isascii() or decodable(line)]
            assert len(found[1]) == len(expected) - len(found[0])
        else:
            assert found[0] == [line.decode(errors=errors) for line in expected]


def decodable(line):
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
