"""Interfaces to the machine: device, processes, signals, files, log."""
