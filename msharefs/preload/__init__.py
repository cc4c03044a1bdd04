"""mshare run: a program that knows nothing of mshare gets its shared memory from a region.

The C sources here become a library that the program is started with (LD_PRELOAD); it puts
large shared mappings into the region. The Python modules build it, start the program and
give ranges back that no process has attached any more. They talk to a mount as any program
would and import nothing of the daemon's side.
"""
