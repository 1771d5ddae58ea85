"""Robustness tests: damaged files, kills before file operations, and random command lines."""
