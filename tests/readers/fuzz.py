"""`python -m tests.readers.fuzz`: every reader in turn under atheris, which steers by coverage, for a share of a time.

Begins from the kept corpus and each reader's sample; goes on in build/fuzz/READER, which a later run takes up. What
breaks a reader stays as build/fuzz/READER/crash-*: copy it to tests/readers/corpus/READER, where `make test` tries it.
Writes the number of inputs to build/counts/fuzz.json.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.counts import write_counts

BUILD = Path(__file__).resolve().parents[2] / "build" / "fuzz"
LONGEST_INPUT = 32_768
"""Bytes; every sample is shorter."""
MOST_MEMORY_MB = 2048
SLOWEST_INPUT_S = 20


def main() -> int:
    """Fuzz; return 0, or 1 if a reader broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.readers.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, metavar="N", help="of all readers together (default: 600)")
    parser.add_argument("--readers", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        fuzz(options.child, options.seconds)
    names = options.readers or names_of_readers()
    tried, broken = {}, []
    for name in names:
        tried[name], right = run(name, max(1, options.seconds // len(names)))
        broken += [] if right else [name]
        print(f"{name}: {tried[name]:,} inputs{'' if right else ', BROKEN'}", flush=True)
    write_counts("fuzz", f"make fuzz FUZZ_SECONDS={options.seconds}", tried, len(broken))
    print(f"{sum(tried.values()):,} inputs, {len(broken)} readers broken {' '.join(broken)}".strip())
    return 1 if broken else 0


def names_of_readers() -> list[str]:
    """Return the names without importing what is to be instrumented."""
    text = Path(__file__).with_name("readers.py").read_text(encoding="utf-8")
    return re.findall(r'^    "([\w-]+)": Reader\(', text, re.MULTILINE)


def run(name: str, seconds: int) -> tuple[int, bool]:
    """Fuzz one reader in a process of its own, which libFuzzer ends; return the inputs and whether none broke it."""
    command = [sys.executable, "-m", "tests.readers.fuzz", "--child", name, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    found = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    if done.returncode or found is None:
        print(done.stderr[-6000:], file=sys.stderr)
    return int(found[1]) if found else 0, done.returncode == 0 and found is not None


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one reader in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=["export", "runtime", "integrations", "pickle", "zipfile", "numpy.lib"]):
        from tests.readers.readers import CORPUS, READERS, attempt
    own, reader = BUILD / name, READERS[name]
    own.mkdir(parents=True, exist_ok=True)
    (own / "sample").write_bytes(reader.sample())
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"), "package")
    folder.mkdir()

    def once(content: bytes) -> None:
        attempt(reader, folder, content)

    limits = f"-max_total_time={seconds} -max_len={LONGEST_INPUT} -rss_limit_mb={MOST_MEMORY_MB}".split()
    limits += [f"-timeout={SLOWEST_INPUT_S}", "-print_final_stats=1", f"-artifact_prefix={own}/"]
    kept = [str(path) for path in (own, CORPUS / name) if path.is_dir()]
    atheris.Setup([sys.argv[0], *limits, *kept], once)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
