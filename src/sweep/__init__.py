"""Many runs from one command: names, one child process a job, and a ledger that survives anything."""
