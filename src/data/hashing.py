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


def hash_numbers(*numbers: int) -> np.uint64:
    """Hash whole numbers in order; negative ones and those above 64 bits are taken modulo 2^64."""
    key = np.zeros(1, dtype=np.uint64)
    for number in numbers:
        key = splitmix64(key ^ np.uint64(number % 2**64))
    return key[0]


def shuffle_order(n: int, key: np.uint64) -> np.ndarray:
    """Return the numbers below n in an order that depends on the key: (n,) int64."""
    return np.argsort(splitmix64(splitmix64(np.arange(n, dtype=np.uint64)) ^ key), kind="stable")
