"""Damage files and kill commands.

python -m tests.torture 2000 300 [SEED [PART]]    so many damages and kills; PART: of names that contain it
"""

import sys
import tempfile
from pathlib import Path

from tests.torture import damage, kills

damages, deaths, seed = (int(number) for number in (*sys.argv[1:4], 0)[:3])
part = " ".join(sys.argv[4:])
with tempfile.TemporaryDirectory(prefix="torture-") as name:
    site = damage.build(Path(name) / "site")
    found = {
        "damaged files": damage.torture(site, Path(name), damages, seed, part),
        "kills": kills.torture(site, Path(name), deaths, seed, part) if deaths else {},
    }
for what, counts in found.items():
    print(f"{what}: " + ", ".join(f"{count} {end}" for end, count in counts.items()))
sys.exit(any(set(counts) - {"well", "skipped", "not reached"} for counts in found.values()))
