"""Hard use, made small: damaged files, kills at every file operation, and command lines that nobody would write."""
