"""Tables of a report: the comparison and those below it.

Frames come from `reporting.data`; `reporting.output` renders the tables as Markdown and HTML.
"""
