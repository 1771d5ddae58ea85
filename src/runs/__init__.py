"""One run, from its settings to its summary: planning, stages, evaluation, warm start, memory and disk checks.

Settings come from `cli`; a run writes its folder, which `sweep` collects and `reporting` reads.
"""
