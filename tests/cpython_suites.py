"""CPython's own tests of its executors, with ours in place of theirs."""

import importlib.util
import textwrap

import pytest


def passes(run, program, module, left_out, least):
    """Have a program run one module of the tests, and see to it that enough of them were run and all have passed."""
    spec = (
        None if importlib.util.find_spec("test") is None else importlib.util.find_spec("test.test_concurrent_futures")
    )
    if spec is None:
        pytest.skip("this interpreter comes without CPython's package `test`")
    if not spec.submodule_search_locations:
        pytest.skip("these tests are a package from CPython 3.12 on")
    done = run(textwrap.dedent(program).format(module=module, left_out=set(left_out)))
    assert done.returncode == 0, done.stderr[-6000:]
    ran = int(done.stdout.split("RAN ")[1].split()[0])
    assert ran >= least, done.stderr[-3000:]
