"""Sweeps: many runs from one command, one child process per job, with job records on disk."""
