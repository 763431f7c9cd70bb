"""The emulator's density as one file of numbers, and how to read it without any network.

python examples/table_density.py EMULATOR [TABLE.npz]
"""

import sys
import time

import numpy as np

from models import ArrayFlow, PopulationModel, Table


def main(folder: str, path: str = "table.npz", points: int = 32, condition_points: int = 8) -> None:
    flow = ArrayFlow.load(folder)
    # A small one, for a look: the default has twice the points, and is refused if it is poor.
    Table.of(flow, points=points, condition_points=condition_points, largest_error=1.0).save(path)
    table = Table.load(path)
    print(f"{path}: integral {table.integral:.3f}, ln p to {table.rms_error:.3f} rms")

    middle = {name: np.sqrt(low * high) for name, (low, high) in flow.domain.items()}
    data = {"mass_1": np.linspace(5, 50, 100_000), "mass_2": np.full(100_000, 5.0)}
    for what in (flow, table):
        model = PopulationModel(what)
        start_s = time.perf_counter()
        model(data, **middle)
        print(f"{type(what).__name__}: {time.perf_counter() - start_s:.2f} s for 100,000 densities")


if __name__ == "__main__":
    main(sys.argv[1], *sys.argv[2:3])
