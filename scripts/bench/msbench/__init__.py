"""The bench: one frame (frame.py) in which everything that is measured is a table of rows and columns.

How a row is added:

- **A goal beside one peer** (`goals`): a Goal in tables/figures.py, and a function of tables/measures.py that gives a Figure of
  its name, named in GROUPS. Both sides are measured in turns.
- **Something about every kind of memory** (`memory`): a Row in tables/memory.py, and its samples in `_measured`
  under its name; probes/share.c does what is timed.
- **A kind of memory**, or another plane of ours: a context manager in ways.py, named in WAYS.
- **A control operation** (`control`): its step in probes/latency.c, and its words in OPERATIONS of tables/control.py.
- **Something that grows** (`growth`): a Row in tables/growth.py, and its values by count in the function of that table.
- **A table of its own**: a module of tables/ with `measure(site, effort) -> list[Table]`, named in TABLES of main.py; a mark
  `<!-- bench: NAME --> <!-- bench: end -->` in docs/performance.md shows it there, PICTURES of plots.py draws it.

How much is measured, quickly and as a whole, is effort.py's. site.py makes mounts and runs probes, and takes all of it away again. A figure that
cannot be had is a Cell with the reason (`missing`), never a number.
"""
