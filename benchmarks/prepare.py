"""Time and peak memory of `data_prep.preparation.prepare` on a large table.

    python benchmarks/prepare.py [--gb SIZE] [--layout LAYOUT] [--folder FOLDER]

Writes a table of SEVN's 35 columns of that size (as CSV) into a temporary folder and prepares it
in a fresh process. The aim is a peak below 400 MB for 1 GB of CSV; it does not grow with the table.
The layouts h5 and cosmic.h5 are of that size as HDF5, which pandas writes: the same table as one
dataset of records, and COSMIC's own file, whose bpp is joined with its initC (below 600 MB). They
need pandas and tables, which come with the extra `dev`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from stream import own_peak_mb
from verdict import verdict

from data_prep.preparation.prepare import prepare

BLOCK_ROWS = 100_000
LAYOUTS = ("csv", "h5", "cosmic.h5")
TEXTS = ("name", "channel", "subchannel", "EventsAll", "Events", "EventsPlus", "EventsSimple")
NUMBERS = (
    "BWorldtime Mass_0 Radius_0 Zams_0 Mass_1 Radius_1 Zams_1 Semimajor Eccentricity GWtime "
    "Mzams_0 Mzams_1 Semimajor_ini Eccentricity_ini"
).split()
CODES = ("ID Phase_0 Phase_1 CE NSt NSu collisions CEb CEa SMTa").split()


def main() -> None:
    """Write the table, prepare it in a process of its own, print what that took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--layout", choices=LAYOUTS, default="csv")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    with tempfile.TemporaryDirectory(prefix="prepare-benchmark-", dir=options.folder) as folder:
        source = Path(folder) / f"mergers.{options.layout}"
        writer = write_hdf5 if options.layout.endswith("h5") else write
        rows = writer(source, options.gb * 1e9)
        print(f"{rows:,} rows, {source.stat().st_size / 1e6:,.0f} MB of {options.layout}")
        subprocess.run([sys.executable, __file__, "--measure", str(source)], check=True)


def write(path: Path, csv_bytes: float) -> int:
    """The table, block by block; returns its rows."""
    block = draw(np.random.default_rng(0))
    text = pa.BufferOutputStream()
    pa_csv.write_csv(block, text, pa_csv.WriteOptions(include_header=False))
    body = text.getvalue().to_pybytes()
    blocks = max(1, round(csv_bytes / len(body)))
    with path.open("wb") as file:
        file.write((",".join(block.column_names) + "\n").encode())
        for _ in range(blocks):
            file.write(body)
    return blocks * block.num_rows


def write_hdf5(path: Path, size: float) -> int:
    """The table, or COSMIC's, appended by pandas until the file has that size."""
    import pandas as pd

    rng, rows = np.random.default_rng(0), 0
    with pd.HDFStore(path, "w") as store:
        while path.stat().st_size < size:
            if path.name.endswith("cosmic.h5"):
                for key, table in draw_cosmic(rng, rows).items():
                    store.append(key, table.to_pandas(), index=False)
            else:
                store.append("mergers", draw(rng).to_pandas(), min_itemsize=8, index=False)
            rows += BLOCK_ROWS
            store.flush()
    return rows


def draw_cosmic(rng: np.random.Generator, before: int) -> dict[str, pa.Table]:
    """Four rows for each binary: its birth, then black holes that come nearer, and merge."""
    binaries = BLOCK_ROWS // 4
    number = before // 4 + np.arange(binaries)
    step = np.tile(np.arange(4), binaries)
    bpp = {"bin_num": np.repeat(number, 4), "tphys": 3.0 * step, "evol_type": step + 1}
    for star in "12":
        bpp[f"mass_{star}"] = np.repeat(5.7 + rng.gamma(2.0, 5.0, binaries), 4)
        bpp[f"kstar_{star}"] = np.where(step == 0, 1, 14)
    bpp |= {"sep": 10.0 / (1 + step), "ecc": np.zeros(BLOCK_ROWS)}
    bpp |= {name: rng.random(BLOCK_ROWS) for name in ("porb", "RRLO_1", "RRLO_2", "aj_1", "aj_2")}
    initial = {name: rng.random(binaries) for name in ("mass_1", "mass_2", "natal_kick_1", "phi_1")}
    initial["metallicity"] = rng.choice([0.0001, 0.0002, 0.001, 0.006, 0.02], binaries)
    initial["alpha1_0"] = rng.choice([0.5, 1.0, 3.0, 5.0], binaries)
    return {"bpp": pa.table(bpp), "initC": pa.table({"bin_num": number, **initial})}


def draw(rng: np.random.Generator) -> pa.Table:
    """Rows that take about as many bytes as SEVN's."""
    columns: dict[str, object] = {name: 5.7 + rng.gamma(2.0, 5.0, BLOCK_ROWS) for name in NUMBERS}
    columns |= {name: rng.integers(0, 8, BLOCK_ROWS) for name in CODES}
    columns |= {name: rng.choice(["CE:RLO", "SMT", "I", "II"], BLOCK_ROWS) for name in TEXTS}
    columns |= {name: np.full(BLOCK_ROWS, 6) for name in ("RemnantType_0", "RemnantType_1")}
    columns["Z"] = rng.choice([0.0001, 0.0002, 0.001, 0.006, 0.02], BLOCK_ROWS)
    columns["alpha"] = rng.choice([0.5, 1.0, 3.0, 5.0], BLOCK_ROWS)
    return pa.table(columns)


def measure(source: Path) -> None:
    """Prepare in this process; print seconds, bytes and the peak memory."""
    start = time.perf_counter()
    hdf5 = source.suffix == ".h5"
    where = None if source.name.endswith("cosmic.h5") else 'channel != "II"'
    dataset = prepare([source], source.parent / "prepared", where=where)
    seconds = time.perf_counter() - start
    kept = sum(dataset.rows.values())
    print(f"{seconds:.1f} s, {dataset.bytes_after / kept:.2f} bytes a row of {kept:,} kept")
    verdict("peak memory, MB", own_peak_mb(), "<", 600 if hdf5 else 400)


if __name__ == "__main__":
    main()
