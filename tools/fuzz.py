"""Fuzzes a file format: `python tools/fuzz.py checkpoint --seconds 600`. Without a target, lists them.

Under Atheris (pip install atheris), if it is there, coverage guides the search; else whole files are mutated at random.
Bytes that bring a target down are written to build/fuzz/.
"""

import argparse
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))


def main() -> None:
    """Fuzz the target that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    from fuzz_targets import TARGETS

    if arguments.target not in TARGETS:
        sys.exit(f"targets: {', '.join(TARGETS)}")
    try:
        import atheris
    except ImportError:
        _mutate(arguments.target, arguments.seconds, arguments.seed)
    else:
        _guided(atheris, arguments.target, arguments.seconds, arguments.seed)


def _mutate(target: str, seconds: int, seed: int) -> None:
    from fuzz_targets import TARGETS
    from mutate import mutated

    draw, whole, count = random.Random(seed), TARGETS[target].seed(), 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        _try(target, mutated(whole, draw))
        count += 1
    print(f"{target}: {count} inputs, nothing found")


def _guided(atheris: object, target: str, seconds: int, seed: int) -> None:
    from fuzz_targets import TARGETS

    corpus = ROOT / "build" / "fuzz" / target.replace(" ", "-")
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "seed").write_bytes(TARGETS[target].seed())
    atheris.instrument_all()
    atheris.Setup(
        [sys.argv[0], str(corpus), f"-max_total_time={seconds}", f"-seed={seed + 1}"],
        lambda content: _try(target, content),
    )
    atheris.Fuzz()


def _try(target: str, content: bytes) -> None:
    from fuzz_targets import check

    try:
        check(target, content)
    except Exception:
        found = ROOT / "build" / "fuzz" / f"found-{target.replace(' ', '-')}"
        found.parent.mkdir(parents=True, exist_ok=True)
        found.write_bytes(content)
        print(f"found: {found}", file=sys.stderr)
        raise


if __name__ == "__main__":
    main()
