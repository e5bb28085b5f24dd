"""`python -m ferrule`: its commands, its help, and that it loads no more than it needs."""

import subprocess
import sys

import pytest

import ferrule
from ferrule import __main__ as command_line
from ferrule.__main__ import main

pytestmark = pytest.mark.filterwarnings("ignore:'ferrule.__main__' found in sys.modules:RuntimeWarning")


def test_no_command_is_answered_with_help(capsys):
    assert main([]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    for word in ("usage: python -m ferrule", "demo", "compare", "--version", "COMMAND --help"):
        assert word in errors


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "usage: python -m ferrule" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ferrule {ferrule.__version__}\n"


@pytest.mark.parametrize("arguments", [["dance"], ["dance", "--help"], ["--loud"], ["--loud", "demo"]])
def test_what_is_unknown(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize(("command", "home"), [("demo", "ferrule._demo.command"), ("compare", "ferrule._compare")])
def test_a_command_gets_the_rest_and_gives_the_status(command, home, monkeypatch):
    given = []

    class Module:
        @staticmethod
        def main(argv):
            given.append(argv)
            return 41

    monkeypatch.setitem(sys.modules, home, Module)
    rest = ["--help", "-x", "demo", "--", "--version", ""]
    assert main([command, *rest]) == 41
    monkeypatch.setattr(sys, "argv", ["ferrule", command, "a"])
    assert main() == 41
    assert given == [rest, ["a"]]


@pytest.mark.parametrize("command", ["demo", "compare"])
def test_commands_have_their_own_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: python -m ferrule {command}" in capsys.readouterr().out


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "main", interrupted)
    assert command_line.run() == 130
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.mark.subprocess
class TestAsAProgram:
    @staticmethod
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def test_it_runs(self):
        done = self.run("-m", "ferrule", "--version")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"ferrule {ferrule.__version__}\n", "")
        done = self.run("-m", "ferrule")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("usage: python -m ferrule")

    def test_a_command_loads_only_what_is_its_own(self):
        program = (
            "import sys; from ferrule.__main__ import main; main([]);"
            "print([name for name in sys.modules if name.startswith('ferrule.')])"
        )
        done = self.run("-c", program)
        assert done.stdout == "['ferrule.__main__']\n"
