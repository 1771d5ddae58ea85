"""Filters that clean documents or drop them before a corpus is split; one filter per file.

Documents come from `data.sources`. `data.preparation` applies the filters in order and counts what each one drops.
"""
