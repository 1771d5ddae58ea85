"""Statistics for few seeds: which architecture is best, which differ, which are unstable, and how many seeds decide.

`comparison.py` compares architectures in one headline and corrects over all headlines of a report; `sample_size.py`
finds how many seeds decide a difference. All functions are pure; the tests come from scipy.
"""
