"""One run, from its settings to its summary: planning, stages, evaluation, warm start, checks of memory and disk.

Settings come from `cli`; a run writes its own folder, which `sweep` collects and `reporting` reads.
"""
