"""The measurements behind every claim: ferrule, pure Python and the installed peers, interleaved in one process.

`python -m benches [ROOM ...]`. Each `bench_<room>.py` has a `room(*, quick)` that describes what is measured.
"""
