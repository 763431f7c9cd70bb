"""Tables to try the guides with, of the mergers that are shipped.

    python examples/tables.py

Writes into the current folder `mergers.csv` with one row for each merger, the same in two files
with other names (`run1.parquet`, `run2.parquet`), and how many binaries were simulated for them
(`totals.csv`). Masses, `Z` and `alpha` are of the sample. All else is made up: the number of
binaries, a spin that is often exactly 0, a kick, two numbers, and masses that were rounded.
"""

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from data_prep.dataset import SAMPLE
from data_prep.stream import read_split


def main() -> None:
    """Write them."""
    parts = [read_split(SAMPLE, split) for split in ("train", "val", "test")]
    rows = np.concatenate([np.hstack([one.events, one.conditions]) for one in parts])
    rows = rows.astype(str).astype("f8")  # 0.002, which single precision does not hold, is 0.002
    m0, m1, z, alpha = rows.T
    mergers = pa.table({"Mass_0": m0, "Mass_1": m1, "Z": z, "alpha": alpha})
    spin = np.linspace(-1, 1, len(rows))
    made_up = {
        "chi_eff": np.where(abs(spin) < 0.5, 0, spin),
        "sigma_kick": np.resize([100.0, 265.0], len(rows)),
        "tau": 1 + spin**2,
        "x": 2 + spin,
        "M1": np.round(m0),
        "M2": np.round(m1),
    }
    cells = np.unique(rows[:, 2:], axis=0)
    totals = {"Z": cells[:, 0], "alpha": cells[:, 1], "simulated_binaries": [40_000] * len(cells)}
    others = mergers.rename_columns(["m1", "m2", "Z", "alpha"])

    for name, values in made_up.items():
        mergers = mergers.append_column(name, pa.array(values))
    csv.write_csv(mergers, "mergers.csv")
    parquet.write_table(others.slice(0, 40_000), "run1.parquet")
    parquet.write_table(others.slice(40_000), "run2.parquet")
    csv.write_csv(pa.table(totals), "totals.csv")
    print("mergers.csv, run1.parquet, run2.parquet, totals.csv")


if __name__ == "__main__":
    main()
