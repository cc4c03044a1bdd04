"""What can be seen of mounts, regions and processes: facts, for tools and programs.

No terminal and no command line: what is shown and how is the business of cli.
"""
