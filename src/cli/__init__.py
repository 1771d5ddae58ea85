"""Turn a command line into validated settings, and an error into one line and an exit status.

Hydra composes the files of `conf/` with the command line; commands, `sweep` and `runs` get dataclasses from here.
Checks across several fields are in `validation`.
"""
