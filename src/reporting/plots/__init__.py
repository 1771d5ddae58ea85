"""Figures of a report: PNG by matplotlib, and the same series as interactive charts of the page.

Frames come from `reporting.data`; `reporting.output` places the figures.
"""
