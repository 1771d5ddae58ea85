"""Read run folders, sweeps and published results into tables for the report, and write what is published.

Everything read is untrusted and checked against a schema; `statistics`, `tables` and `plots` take the result.
"""
