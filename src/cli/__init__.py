"""From a command line to validated settings, and from an error to one line and an exit status.

Hydra composes the files of `conf/` with the words of a command line; commands, `sweep` and `runs` take dataclasses from
here. Checks that concern several fields are in `validation`.
"""
