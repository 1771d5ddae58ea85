"""Measurements of memory, speed and numerical correctness on this machine."""
