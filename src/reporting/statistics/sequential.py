"""When a sweep with `seeds=auto` stops adding seeds: looks and levels fixed beforehand (alpha spending).

A comparison that is tested after every few seeds finds a difference that is not there more often than one that is
tested once. So the 5% of a report are spent over its looks in advance: by Pocock's spending function of Lan and DeMets
(1983, Biometrika 70), a look at n of N seeds has spent 5% x ln(1 + (e - 1) n / N). Each look is tested at what it adds
to that, which bounds the error of all looks by 5% whatever their dependence (Bonferroni).
"""

import math

LOOKS = (3, 5, 8)
"""Seeds of each architecture at each look."""


def share_of_look(look: int) -> float:
    """Return the share of the level of a report that a look, counted from 0, may spend."""
    return _spent(LOOKS[look]) - (_spent(LOOKS[look - 1]) if look else 0.0)


def _spent(n_seeds: int) -> float:
    return math.log(1 + (math.e - 1) * n_seeds / LOOKS[-1])
