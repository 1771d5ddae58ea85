"""Damage files and kill commands.

python -m tests.torture 2000 300 [SEED [PART]]    number of damages and kills; PART: only cases whose name contains it
"""

import sys
import tempfile
from pathlib import Path

from tests.torture import damage, kills

n_damages, n_kills, seed = (int(number) for number in (*sys.argv[1:4], 0)[:3])
part = " ".join(sys.argv[4:])
with tempfile.TemporaryDirectory(prefix="torture-") as name:
    site = damage.build_site(Path(name) / "site")
    results = {
        "damaged files": damage.torture(site, Path(name), n_damages, seed, part),
        "kills": kills.torture(site, Path(name), n_kills, seed, part) if n_kills else {},
    }
for kind, counts in results.items():
    print(f"{kind}: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
sys.exit(any(set(counts) - {"well", "skipped", "not reached"} for counts in results.values()))
