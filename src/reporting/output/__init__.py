"""Write a report: one HTML page, Markdown, CSV and figures.

Tables, verdicts and figures come in; files come out, each written atomically.
"""
