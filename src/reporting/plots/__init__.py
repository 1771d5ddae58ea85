"""The charts of a report: built once as plain values (chart.py, charts.py), drawn by the page and as PNG (figure.py).

Frames come from `reporting.data`, judgments from `reporting.statistics`; `reporting.output` places the charts.
"""
