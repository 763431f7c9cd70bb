"""The pictures of `benchmarks/scale.py`: cost over rows, trials and workers, logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "0.5",
)
"""Okabe & Ito's, which the colour-blind tell apart; lines differ in their markers, too."""
Line = Mapping[str, Any]


def draw(path: Path, part: str, lines: Sequence[Line]) -> None:
    """Write the picture of a part."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    for each in axes:
        each.set(xscale="log", yscale="log")
        each.grid(alpha=0.3)
    {"rows": _rows, "trials": _trials, "workers": _workers}[part](axes, lines)
    for each in axes:
        each.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(path)


def _rows(axes: Any, lines: Sequence[Line]) -> None:
    rows = [line["rows"] for line in lines]
    time, memory, disk = axes
    _plot(time, rows, [line["prepare_s"] for line in lines], "hpo prepare", BLUE, "o")
    _plot(time, rows, [line["epoch_s"] for line in lines], "a streamed epoch", ORANGE, "s")
    _proportional(time, rows, lines[-1]["prepare_s"] / rows[-1], label="proportional")
    _proportional(time, rows, lines[-1]["epoch_s"] / rows[-1])
    time.set(title="time", xlabel="rows", ylabel="seconds")
    _plot(memory, rows, [line["prepare_mb"] for line in lines], "hpo prepare", BLUE, "o")
    _plot(memory, rows, [line["stream_mb"] for line in lines], "streaming", ORANGE, "s")
    memory.plot(rows, [16e-6 * each for each in rows], ":", color=GREY, label="the rows themselves")
    memory.set(title="peak memory of the process", xlabel="rows", ylabel="MB", ylim=(1, 4e3))
    _plot(disk, rows, [line["bytes"] / 1e6 for line in lines], "prepared Parquet", GREEN, "^")
    disk.plot(rows, [32e-6 * each for each in rows], ":", color=GREY, label="four doubles a row")
    disk.set(title="on disk", xlabel="rows", ylabel="MB")


def _trials(axes: Any, lines: Sequence[Line]) -> None:
    cost, looks, size = axes
    for database, colour, marker in (("SQLite", BLUE, "o"), ("PostgreSQL", ORANGE, "s")):
        those = [line for line in lines if line.get("database") == database]
        if not those:
            continue
        trials = [line["trials"] for line in those]
        for sampler, style in (("random", "-"), ("tpe", "--")):
            label = f"{database}, {sampler}"
            ms = [line[sampler]["ms"]["whole"] for line in those]
            _plot(cost, trials, ms, label, colour, marker, style)
        status = [line["status_s"] for line in those]
        _plot(looks, trials, status, f"hpo status, {database}", colour, marker)
        if database == "SQLite":
            first = [line["random"]["first_s"] for line in those]
            _plot(looks, trials, first, "a new worker's first trial", GREY, "x")
        _plot(size, trials, [line["bytes"] / 1e6 for line in those], database, colour, marker)
    those = [line for line in lines if "database" not in line]
    trials = [line["trials"] for line in those]
    for name, label, colour, marker in (
        ("runs_s", "hpo runs --best", GREEN, "^"),
        ("export_s", "choice of hpo export", PINK, "v"),
        ("first page, s", "dashboard, first page", RED, "D"),
        ("refresh, s", "dashboard, refresh", SKY, "P"),
    ):
        _plot(looks, trials, [line[name] for line in those], label, colour, marker)
    _plot(size, trials, [line["bytes"] / 1e6 for line in those], "run JSONs", GREEN, "^")
    _proportional(looks, trials, those[-1]["refresh, s"] / trials[-1], label="proportional")
    cost.set(title="bookkeeping of one more trial", xlabel="finished trials", ylabel="milliseconds")
    cost.set_ylim(10, 1000)
    looks.set_ylim(3e-4, 20)
    looks.set(title="looking at all of them", xlabel="finished trials", ylabel="seconds")
    size.set(title="on disk", xlabel="finished trials", ylabel="MB")


def _workers(axes: Any, lines: Sequence[Line]) -> None:
    rate, cost, connections = axes
    counts = sorted({line["workers"] for line in lines})
    ideal = [count / lines[0]["mean_s"] for count in counts]
    rate.plot(counts, ideal, ":", color=GREY, label="no bookkeeping at all")
    for route, label, colour, marker in (
        ("SQLite", "ours, SQLite", BLUE, "o"),
        ("PostgreSQL", "ours, PostgreSQL", ORANGE, "s"),
        ("PgBouncer", "ours, PgBouncer", GREEN, "^"),
    ):
        those = [line for line in lines if line["route"] == route]
        if not those:
            continue

        def of(name: str, those: Sequence[Line] = those) -> list[float]:
            return [line[name] for line in those]

        _plot(rate, of("workers"), of("trials_per_s"), label, colour, marker)
        _plot(cost, of("workers"), of("ms"), label, colour, marker)
        cost.plot(of("workers"), of("cpu_ms"), "--", color=colour, lw=1)
        if route != "SQLite":
            _plot(connections, of("workers"), of("connections"), label, colour, marker)
    cost.plot([], [], "--", color=GREY, lw=1, label="of it, the processor's")
    connections.axhline(100, color=GREY, ls=":", label="PostgreSQL's default limit")
    rate.set(
        title=f"trials of {lines[0]['mean_s']:g} s", xlabel="workers", ylabel="trials / second"
    )
    cost.set(title="bookkeeping of a trial", xlabel="workers", ylabel="milliseconds")
    connections.set(
        title="the server's connections", xlabel="workers", ylabel="connections at most"
    )
    for each in axes:
        each.set_xticks(counts, [str(count) for count in counts])
        each.tick_params(axis="x", which="minor", bottom=False)


def _plot(
    axes: Any,
    x: Sequence[float],
    y: Sequence[float],
    label: str,
    colour: str,
    marker: str,
    style: str = "-",
) -> None:
    hollow = {"mfc": "white"} if style == "--" else {}
    axes.plot(x, y, style, color=colour, marker=marker, ms=5, lw=1.5, label=label, **hollow)


def _proportional(axes: Any, x: Sequence[float], each: float, label: str | None = None) -> None:
    """A line for what grows as the number does."""
    ends = [x[0], x[-1]]
    axes.plot(ends, [each * end for end in ends], ":", color=GREY, lw=1, zorder=0, label=label)
