"""How long a person waits for the dashboard over a thousand runs of a thousand epochs.

    pip install '.[dev]' && apt install chromium
    python benchmarks/dashboard.py [--runs 1000] [--epochs 1000] [--repeats 5] [--chromium PATH]

The runs are made up, with the writer of real ones, and thrown away afterwards. Then, medians of
`--repeats`, the start and the pages each on a server process of its own:

    start        from the command to the address it prints: every run has been read by then
    first page   from the address in a real browser to the rows of the table
    refresh      one run.json is replaced: what the server takes for the page's next question,
                 the changed file read, all rows of the table in the answer
    catalog      the same without a browser: reading all, and reading what changed
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from playwright.sync_api import Browser, Page, Response, sync_playwright
from verdict import verdict

from hpo.dashboard import catalog as catalogs
from hpo.dashboard.catalog import Catalog
from hpo.records.folder import read
from hpo.records.record import Cost, DataUsed, Environment, EpochRow, RunRecord, State, TestNll

FIRST_S, REFRESH_S = 2.0, 0.3
"""Aims: seconds to the first page, and of a refresh."""
STATES: tuple[State, ...] = ("complete", "complete", "pruned", "pruned", "stopped_early", "failed")


def main() -> int:
    """Measure, print, and say which aims are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "runs"
        paths = made(folder, options.runs, options.epochs)
        size = sum(path.stat().st_size for path in paths) / 2**20
        print(f"{options.runs:,} runs of {options.epochs:,} epochs, {size:,.0f} MB of run JSONs\n")
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
            seen = [watched(browser, folder, paths[-1]) for _ in range(options.repeats)]
            browser.close()
        alone = [read_alone(folder, paths[-1]) for _ in range(options.repeats)]
    medians = {name: statistics.median(each[name] for each in seen) for name in seen[0]}
    medians |= {name: statistics.median(each[name] for each in alone) for name in alone[0]}
    for name, value in medians.items():
        print(f"{name:28} {value:8.3f}")
    print()
    verdict("first page, s", medians["first page, s"], "<=", FIRST_S)
    verdict("refresh, s", medians["refresh, s"], "<=", REFRESH_S)
    return 0


def made(folder: Path, runs: int, epochs: int) -> list[Path]:
    """So many runs of a study, as they would be after a search."""
    rng = np.random.default_rng(0)
    return [
        invented(rng, trial, epochs).write(folder / "bbh" / f"trial-{trial:05d}")
        for trial in range(runs)
    ]


def watched(browser: Browser, folder: Path, changing: Path) -> dict[str, float]:
    """A new server and a new visitor: the first page, and a refresh."""
    began_s = time.perf_counter()
    with served(folder) as (process, address):
        start_s = time.perf_counter() - began_s
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        began_s = time.perf_counter()
        page.goto(address)
        page.locator("#grid .ag-row").first.wait_for()
        first_s = time.perf_counter() - began_s
        refresh_s = _refreshed(page, changing)
        memory = psutil.Process(process.pid).memory_info().rss / 2**20
        page.close()
    return {
        "start, s": start_s,
        "first page, s": first_s,
        "refresh, s": refresh_s,
        "memory of the server, MB": memory,
    }


def read_alone(folder: Path, changing: Path) -> dict[str, float]:
    """The catalog in this process, nothing known before."""
    catalogs.PAUSE_S = 0.0
    catalog = Catalog(folder)
    began_s = time.perf_counter()
    before = catalog.refresh()
    middle_s = time.perf_counter()
    _touch(changing)
    changed_s = time.perf_counter()
    catalog.refresh()
    ended_s = time.perf_counter()
    assert len(catalog.changed_since(before)) == 1
    return {
        "catalog, all read, s": middle_s - began_s,
        "catalog, one changed, s": ended_s - changed_s,
    }


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A dashboard over the folder, and its address with the token."""
    command = [sys.executable, "-m", "hpo.cli", "dashboard", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            yield process, next(found[0] for line in lines if (found := _ADDRESS.search(line)))
        finally:
            process.terminate()


_ADDRESS = re.compile(r"http://\S+token=\S+")


def _refreshed(page: Page, changing: Path) -> float:
    """Seconds that the server takes for the question that brings a changed run."""

    def brings_rows(response: Response) -> bool:
        asked = response.request.post_data or ""
        return "_dash-update-component" in response.url and '"id":"grid"' in asked and response.ok

    page.wait_for_timeout(3000)
    _touch(changing)
    with page.expect_response(lambda each: brings_rows(each) and each.status == 200) as brought:
        pass
    brought.value.finished()
    timing = brought.value.request.timing
    return float(timing["responseEnd"] - timing["requestStart"]) / 1e3


def _touch(path: Path) -> None:
    """One more epoch than there was."""
    record = read(path)
    last = record.epochs[-1]
    grown = (*record.epochs, dataclasses.replace(last, epoch=last.epoch + 1))
    dataclasses.replace(record, epochs=grown).write(path.parent)


def invented(rng: np.random.Generator, trial: int, epochs: int) -> RunRecord:
    """A run as it may have gone."""
    floor, scale = 4.2 + rng.gamma(1.5, 0.03), 20 * rng.random() + 2
    count = np.arange(1, epochs + 1)
    val = floor + 0.6 * np.exp(-count / scale) + 0.002 * rng.standard_normal(epochs)
    train = val - 0.02 * np.log1p(count / 50)
    best = int(np.argmin(val))
    params = {
        "blocks": int(rng.integers(1, 5)),
        "hidden": int(16 * rng.integers(2, 9)),
        "learning_rate": float(10 ** rng.uniform(-4, -2)),
        "activation": str(rng.choice(["silu", "gelu", "relu", "tanh"])),
    }
    rows = tuple(
        EpochRow(
            epoch=int(number),
            train_nll=float(train[number - 1]),
            val_nll=float(val[number - 1]),
            learning_rate=float(1e-3 * (1 - number / epochs)),
            seconds=float(1 + rng.random()),
            samples_per_second=float(3e4 * (1 + rng.random())),
            loss_rate=float(0.6 / scale * np.exp(-number / scale)),
        )
        for number in count
    )
    state = STATES[trial % len(STATES)]
    return RunRecord(
        study="bbh",
        trial=trial,
        state=state,
        params=params,
        flow={"kind": "spline", "bins": 16, **params},
        training={"epochs": epochs, "learning_rate": params["learning_rate"], "rate_per": "epoch"},
        data=DataUsed(path="/data/prepared", fingerprint="ab" * 32, rows={"train": 47_227}),
        environment=Environment(versions={}, device="cpu", host="node", threads=2),
        epochs=rows,
        best_epoch=best + 1,
        best_val_nll=float(val[best]),
        test=TestNll(nll=floor, error=0.014, rows=15_738) if state != "failed" else None,
        cost=Cost(parameters=20_000, flops_per_event=int(1e5 * rng.random()), seconds=1500.0),
        started="2026-05-01T12:00:00+00:00",
        updated="2026-05-01T12:30:00+00:00",
    )


if __name__ == "__main__":
    sys.exit(main())
