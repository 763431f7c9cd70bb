"""How cost grows: with the rows of a dataset, the trials of a study, the workers of a search.

    pip install '.[dev]' && apt install chromium
    python benchmarks/scale.py [--only rows,trials,workers] [--postgres URL] [--pooler URL]
                               [--pictures docs]

Takes some eight minutes for each part. PostgreSQL is measured where `--postgres` (or HPO_STORAGE)
names one, and a pooler before it, such as PgBouncer in transaction mode, where `--pooler` does.

    rows     `hpo prepare` and a streamed epoch, each in a fresh process, for 1e5 to 1e8 rows
    trials   a study of 100 to 10,000 finished trials: its bytes, what a further trial says to the
             database and how long that takes, and every way to look at it
    workers  trials a second of 1 to 64 processes that sleep through their trials

What was measured is kept in `results/scale.json`, line by line; `--report` prints and draws it
again and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from verdict import verdict

from hpo.storage.address import VARIABLE

RESULTS = Path(__file__).resolve().parent / "results" / "scale.json"
PARTS = ("rows", "trials", "workers")
Line = Mapping[str, Any]


def main() -> None:
    options = parsed()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not options.report:
        for part in options.only:
            lines: list[Line] = []
            for line in measured(part, options):
                lines.append(line)
                keep(part, lines)
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    for part in options.only:
        print()
        {"rows": report_rows, "trials": report_trials, "workers": report_workers}[part](
            results[part]
        )
    if options.pictures:
        import scale_picture

        for part in options.only:
            scale_picture.draw(options.pictures / f"scale-{part}.png", part, results[part])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", type=words, default=list(PARTS))
    parser.add_argument("--rows", type=sizes, default=sizes("1e5,1e6,1e7,1e8"))
    parser.add_argument("--trials", type=sizes, default=sizes("1e2,1e3,1e4"))
    parser.add_argument("--workers", type=sizes, default=sizes("1,2,4,8,16,32,64"))
    parser.add_argument("--mean", type=float, default=4.0, help="workers: seconds of a trial")
    parser.add_argument("--seconds", type=float, default=12.0, help="workers: of a stint")
    parser.add_argument("--repeats", type=int, default=3, help="whose medians are given")
    parser.add_argument("--rounds", type=int, default=1, help="workers: the same of whole stints")
    parser.add_argument("--routes", type=words, help="workers: of SQLite,PostgreSQL,... only these")
    parser.add_argument("--postgres", metavar="URL", default=os.environ.get(VARIABLE))
    parser.add_argument("--pooler", metavar="URL", help="workers: a pooler of the same database")
    parser.add_argument("--folder", type=Path, help="of what is made up, until it is measured")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"no {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    return options


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def sizes(text: str) -> list[int]:
    return [int(float(word)) for word in words(text)]


def measured(part: str, options: argparse.Namespace) -> Iterator[Line]:
    # Imported here: each of the workers' processes imports this file, and not what others need.
    if part == "rows":
        import scale_rows

        yield from scale_rows.measured(options.folder, options.rows, options.repeats)
    elif part == "trials":
        import scale_trials

        yield from scale_trials.measured(
            options.folder, options.trials, options.repeats, options.postgres
        )
    else:
        import scale_workers

        with tempfile.TemporaryDirectory(prefix="scale-", dir=options.folder) as place:
            yield from scale_workers.measured(
                Path(place),
                options.workers,
                mean_s=options.mean,
                stint_s=options.seconds,
                repeats=options.rounds,
                postgres=options.postgres,
                pooler=options.pooler,
                only=options.routes,
            )


def keep(part: str, lines: Sequence[Line]) -> None:
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(known | {part: lines}, indent=1), encoding="utf-8")


# ---- tables


def report_rows(lines: Sequence[Line]) -> None:
    print(
        f"{'':>13}{'hpo prepare':>27}{'on disk':>18}{'a streamed epoch':>29}\n"
        f"{'rows':>13}{'s':>9}{'rows/s':>11}{'MB':>7}{'MB':>11}{'B/row':>7}"
        f"{'s':>10}{'rows/s':>12}{'MB':>7}"
    )
    for line in lines:
        rows = line["rows"]
        print(
            f"{rows:13,}{line['prepare_s']:9.2f}{rows / line['prepare_s']:11,.0f}"
            f"{line['prepare_mb']:7.0f}{line['bytes'] / 1e6:11,.1f}{line['bytes'] / rows:7.2f}"
            f"{line['epoch_s']:10.4f}{rows / line['epoch_s']:12,.0f}{line['stream_mb']:7.0f}"
        )
    first, last = lines[0], lines[-1]
    what = f"{first['rows']:,} -> {last['rows']:,} rows"
    verdict(
        f"peak memory of streaming, MB more, {what}",
        last["stream_mb"] - first["stream_mb"],
        "<=",
        100,
    )
    verdict(
        f"peak memory of hpo prepare, MB more, {what}",
        last["prepare_mb"] - first["prepare_mb"],
        "<=",
        100,
    )
    middle = next(line for line in lines if line["rows"] >= 1e6)
    for name, told in (("epoch_s", "seconds an epoch"), ("prepare_s", "seconds to prepare")):
        growth = (last[name] / last["rows"]) / (middle[name] / middle["rows"])
        verdict(f"{told} and row, {last['rows']:,} rows / {middle['rows']:,}", growth, "<=", 1.5)


def report_trials(lines: Sequence[Line]) -> None:
    in_databases = [line for line in lines if "database" in line]
    print(
        f"{'':11}{'':>9}{'database':>16}{'one trial more, of 8 epochs':>44}"
        f"{'a worker':>11}{'hpo':>9}\n"
        f"{'':11}{'trials':>9}{'MB':>7}{'kB/trial':>9}{'statements':>12}{'random ms':>11}"
        f"{'tpe ms':>9}{'sampler ms':>12}{'first, s':>11}{'status s':>9}"
    )
    for line in in_databases:
        print(
            f"{line['database']:11}{line['trials']:9,}{line['bytes'] / 1e6:7.1f}"
            f"{line['bytes'] / line['trials'] / 1e3:9.2f}{line['random']['statements']:12.1f}"
            f"{line['random']['ms']['whole']:11.1f}{line['tpe']['ms']['whole']:9.1f}"
            f"{line['tpe']['ms']['suggest'] - line['random']['ms']['suggest']:12.1f}"
            f"{line['random']['first_s']:11.2f}{line['status_s']:9.2f}"
        )
    print(
        f"\n{'':9}{'run JSONs':>11}{'hpo runs':>16}{'hpo export':>12}"
        f"{'dashboard: start':>18}{'first page':>12}{'refresh':>9}{'memory':>8}\n"
        f"{'trials':>9}{'MB':>11}{'best, s':>8}{'csv, s':>8}{'choice, s':>12}"
        f"{'s':>18}{'s':>12}{'s':>9}{'MB':>8}"
    )
    for line in lines:
        if "database" not in line:
            print(
                f"{line['trials']:9,}{line['bytes'] / 1e6:11.1f}{line['runs_s']:8.2f}"
                f"{line['runs_csv_s']:8.2f}{line['export_s']:12.2f}{line['start, s']:18.2f}"
                f"{line['first page, s']:12.2f}{line['refresh, s']:9.3f}"
                f"{line['memory of the server, MB']:8.0f}"
            )
    for database in dict.fromkeys(line["database"] for line in in_databases):
        judge_database([line for line in in_databases if line["database"] == database])


def judge_database(lines: Sequence[Line]) -> None:
    first, last, name = lines[0], lines[-1], lines[0]["database"]
    what = f"{last['trials']:,} trials / {first['trials']:,}"
    more = last["random"]["statements"] - first["random"]["statements"]
    verdict(f"{name}: statements of a trial, {what}, more", more, "<=", 0)
    for sampler in ("random", "tpe"):
        growth = last[sampler]["ms"]["whole"] / first[sampler]["ms"]["whole"]
        verdict(f"{name}, {sampler}: ms of a trial, {what}", growth, "<=", 1.5)
    verdict(f"{name}: hpo status at {last['trials']:,} trials, s", last["status_s"], "<=", 2)


def report_workers(lines: Sequence[Line]) -> None:
    mean_s = lines[0]["mean_s"]
    print(
        f"trials of {mean_s:g} s in the mean{'bookkeeping of a trial':>43}{'server':>20}\n"
        f"{'':11}{'workers':>8}{'trials/s':>10}{'busy':>7}{'ms':>10}{'processor':>11}"
        f"{'until claimed':>15}{'connections':>13}{'waiting':>9}"
    )
    for line in lines:
        server = (
            "-" if line["route"] == "SQLite" else f"{line['connections']:.0f}",
            "-" if line["route"] == "SQLite" else f"{line['waiting']:.2f}",
        )
        print(
            f"{line['route']:11}{line['workers']:8}{line['trials_per_s']:10.2f}"
            f"{line['busy']:7.3f}{line['ms']:10.1f}{line['cpu_ms']:11.1f}{line['claim_ms']:15.1f}"
            f"{server[0]:>13}{server[1]:>9}"
        )
    for name in ("SQLite", "PostgreSQL"):
        ours = {line["workers"]: line for line in lines if line["route"] == name}
        if not ours:
            continue
        if 8 in ours:
            verdict(f"{name}: share of the time busy, 8 workers", ours[8]["busy"], ">=", 0.95)
        most = ours[max(ours)]
        if name == "PostgreSQL":
            connections = most["connections"] / most["workers"]
            verdict(f"{name}: connections a worker, {max(ours)} workers", connections, "<=", 1.1)


if __name__ == "__main__":
    main()
