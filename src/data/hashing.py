"""SplitMix64 (Steele et al., 2014, Fast splittable pseudorandom number generators), for orders and signatures.

Integer arithmetic gives the same numbers on every machine and version; numpy does not promise this of
`Generator.permutation`.
"""

import numpy as np


def splitmix64(values: np.ndarray) -> np.ndarray:
    """Hash uint64 values to uint64 by the finalizer of SplitMix64, a bijection."""
    z = values + np.uint64(0x9E3779B97F4A7C15)  # wraps around on purpose
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
