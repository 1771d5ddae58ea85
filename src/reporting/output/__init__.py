"""Write a report: one HTML page, Markdown, CSV and figures.

Tables, verdicts and figures come in; a folder that is complete or not there comes out.
"""
