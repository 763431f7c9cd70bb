"""Fuzzing that is led by which lines an input reaches, with atheris: `make fuzz` runs it.

    python -m tests.fuzz.guided TARGET --minutes 5     attack one reader
    python -m tests.fuzz.guided --list                 the names of all
    python -m tests.fuzz.guided TARGET crash-3f2a...   give it one input again

What reached something new is kept in `.fuzz/TARGET` and gone on from the next time. An input that
is refused other than in a sentence, takes more than ten seconds or two gigabytes ends it: it is
written there as crash-, timeout- or oom-. Put it into the ordinary tests as an `@example`.
"""

import argparse
import re
import sys
from pathlib import Path

TIMEOUT_S, MEMORY_MB = 10, 2048
LONGEST = 20_000
"""Bytes of an input: enough for every seed but the largest, and short enough to be quick."""
OURS = ["data_prep", "models", "hpo", "tomllib"]
"""Packages whose lines are watched."""


def main(arguments):
    chosen = _parser().parse_args(arguments)
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install -e '.[fuzz]'")
    with atheris.instrument_imports(include=OURS, enable_loader_override=False):
        from tests.fuzz import targets

    if chosen.list:
        print(*targets.TARGETS, sep="\n")
        return
    if chosen.target not in targets.TARGETS:
        sys.exit(f"there is no target {chosen.target!r}: choose from {', '.join(targets.TARGETS)}")
    target = targets.TARGETS[chosen.target]
    options = options_of(chosen, (*target.seeds, *target.refused))
    atheris.Setup([sys.argv[0], *options], lambda content: targets.once(chosen.target, content))
    atheris.Fuzz()


def options_of(chosen, seeds):
    """What libFuzzer is told; the corpus with its seeds and words is made on the way."""
    limits = [f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MB}"]
    if chosen.inputs:
        return [*limits, *map(str, chosen.inputs)]
    folder = Path(".fuzz") / chosen.target
    corpus, words = folder / "corpus", folder / "words"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    found = sorted({word for seed in seeds for word in re.findall(rb"[A-Za-z_]\w{2,40}", seed)})
    words.write_text("".join(f'"{word.decode()}"\n' for word in found[:500]))
    return [
        *limits,
        f"-max_len={max(LONGEST, *map(len, seeds))}",
        f"-max_total_time={round(60 * chosen.minutes)}",
        f"-dict={words}",
        f"-artifact_prefix={folder}/",
        str(corpus),
    ]


def _parser():
    parser = argparse.ArgumentParser(prog="guided", description=__doc__.split("\n")[0])
    parser.add_argument("target", nargs="?")
    parser.add_argument("inputs", nargs="*", type=Path)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--list", action="store_true")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
