"""A study of many short trials under random kills and restarts of its database.

    python -m tests.stress.soak [--trials 2000] [--workers 3] [--database postgresql|sqlite]
                                [--seed 1]

Ends with a line for each thing that has to be true, and with exit code 1 if one is not.
"""

import argparse
import dataclasses
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import optuna

from .databases import File, Server
from .findings import judge
from .options import Options
from .soak import Soak, interrupted


def main():
    options = parsed()
    signal.signal(signal.SIGTERM, interrupted)
    place = Path(tempfile.mkdtemp(prefix="hpo-soak-"))
    place.chmod(0o755)  # PostgreSQL does not run as root
    try:
        missed = run(options, place)
    except KeyboardInterrupt:
        shutil.rmtree(place)
        sys.exit(130)
    if missed:
        print(f"{len(missed)} missed: all of it is in {place}")
    else:
        shutil.rmtree(place)
    sys.exit(1 if missed else 0)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in dataclasses.fields(Options):
        name = f"--{field.name.replace('_', '-')}"
        choices = ("postgresql", "sqlite") if field.name == "database" else None
        parser.add_argument(name, type=field.type, default=field.default, choices=choices)
    return Options(**vars(parser.parse_args()))


def run(options, place, say=lambda line: print(line, flush=True)):
    """Soak in the folder and give back the lines of what was missed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    in_file = options.database == "sqlite"
    database = File(place / "soak.db") if in_file else Server(place / "postgres")
    soak = None
    try:
        soak = Soak(options, place, database, say)
        soak.run()
        done = ", ".join(f"{times} x {what}" for what, times in sorted(soak.harms.done.items()))
        say(f"{options.trials} trials in {soak.minutes:.1f} minutes: {done}")
        say(f"the worker that was spared ran {soak.spared_trials} of them")
        keep(soak.readings, place / "readings.json")
        return judge(soak, say)
    finally:
        if soak is not None:
            soak.end()
        database.stop()


def keep(readings, path):
    """For whoever looks into what was missed."""
    path.write_text(json.dumps([dataclasses.asdict(one) for one in readings]))


if __name__ == "__main__":
    main()
