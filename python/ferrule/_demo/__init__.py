"""The demo: one job over real sources, done with ferrule and in plain Python side by side.

The job reads a tree of Python files and keeps what it finds in SQLite. Its parts are *find*, *read* (a stream of
lines), *parse*, *examine*, *store* and *report*. Two modules hold the whole job, written to be read next to each other:

* `plain`: the way it is written by hand, with a `perf_counter` decorator, lists of samples and counters;
* `job`: the way it is written with ferrule.

What has nothing to do with ferrule is shared: `sources` (where the files are, how they are opened and parsed),
`examining` (what is looked for) and `storing` (the tables, the questions, the comparison). `contest` runs both jobs on
the same files, `telling` prints what came out, and `command` is the command line.
"""
