"""Fuzz mvkit's readers of files and words from others; by coverage where atheris is installed, else blindly.

Each target runs in a process of its own, whose memory is limited. What an input may lead to is a value or an
MvkitError, within a second; anything else is a finding. Findings are made small and written to
``corpus/TARGET/``. Once mended, name each by its outcome (``--sort`` does); ``test_corpus.py`` replays them.

    python tests/fuzz/run.py                        all targets, a minute each
    python tests/fuzz/run.py pickle --runs 1000000
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

from sandbox import FindingError, Sandbox, limit_memory  # noqa: E402
from targets import TARGETS, Target, fresh_folder, prepare  # noqa: E402

CORPUS = HERE / "corpus"
#: Inputs grow no longer than this.
_LONGEST = 64 * 1024
#: Inputs that led somewhere new, kept as starting points where nothing measures coverage.
_MOST_KEPT = 2000
_STUCK_S = 180


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; all")
    parser.add_argument(
        "--runs", type=int, default=0, help="inputs for each target (default: as many as fit)"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each target without --runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sort", action="store_true", help="only name the inputs of corpus/ by their outcome"
    )
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        _fuzz(options.targets[0], options)
    findings = 0
    for name in options.targets or TARGETS:
        findings += _sort(name) if options.sort else _run_target(name, options)
    return 1 if findings else 0


def _run_target(name: str, options: argparse.Namespace) -> int:
    """Fuzz one target, in further processes where one dies; return the number of findings."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        began, runs, findings, seed = time.monotonic(), 0, 0, options.seed
        seconds = float("inf") if options.runs else options.seconds
        while (left := seconds - (time.monotonic() - began)) > 0 and not 0 < options.runs <= runs:
            arguments = [name, "--inside", folder, "--seed", str(seed), "--seconds", str(left)]
            arguments += ["--runs", str(options.runs - runs)] if options.runs else []
            command = [sys.executable, str(HERE / "run.py"), *arguments]
            for name_of_last in ("count", "input"):
                (Path(folder) / name_of_last).unlink(missing_ok=True)
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            problem = _watch(process, Path(folder))
            count = _count(Path(folder))
            runs, findings = runs + count["runs"], findings + count["findings"]
            if not problem:
                break
            findings += 1
            last = Path(folder) / "input"
            _keep(name, last.read_bytes() if last.exists() else b"", f"the process {problem}")
            seed += 1
            if not count["runs"]:
                break
        took = time.monotonic() - began
        print(f"{name:12} {runs:>11,} inputs in {took:6.0f} s, {findings} findings", flush=True)
    return findings


def _watch(process: subprocess.Popen[bytes], folder: Path) -> str:
    """Wait for a process; return how it died, or that it was stuck on an input; "" if it came to its end."""
    before = -1
    while True:
        try:
            code = process.wait(timeout=_STUCK_S)
        except subprocess.TimeoutExpired:
            now = _count(folder)["beat"]
            if now != before:
                before = now
                continue
            process.kill()
            process.wait()
            return f"took more than {_STUCK_S} s"
        return f"ended with {code}" if code else ""


def _count(folder: Path) -> dict[str, int]:
    try:
        counts: dict[str, int] = json.loads((folder / "count").read_text())
    except (OSError, ValueError):
        return {"runs": 0, "findings": 0, "beat": 0}
    return counts


def _fuzz(name: str, options: argparse.Namespace) -> None:
    """Fuzz one target in this process, and leave it."""
    target, base = TARGETS[name], Path(options.inside)
    atheris = _load_instrumented(target)
    warnings.simplefilter("ignore")
    prepare(name)
    seeds = target.seeds(fresh_folder(base / "seeds"))
    # Not what is a finding still: it may end this process, too.
    kept = [path for path in sorted((CORPUS / name).glob("*")) if not path.name.startswith("finding")]
    seeds += [path.read_bytes() for path in kept]
    folder = fresh_folder(base / "work")
    os.chdir(folder)
    os.environ["MVKIT_HOME"] = str(folder / "home")
    # Twice, since what is imported on first use is there then.
    _try_all(target, seeds, folder)
    _try_all(target, seeds, folder)
    sandbox = Sandbox(base, target.may_import, most_s=target.most_s, runs_code=target.runs_code)
    limit_memory()
    run = _Runner(name, target, sandbox, base, options)
    if atheris is not None:
        _fuzz_by_coverage(atheris, run, seeds, base, options.seed)
    draw, kept = random.Random(options.seed), list(seeds)
    while True:
        data = _mutate(target, draw.choice(kept), draw.choice(kept), draw)
        if run(data) == "value" and len(kept) < _MOST_KEPT:
            kept.append(data)


def _load_instrumented(target: Target) -> Any:
    """Import what a target reads with so that atheris sees its branches; None without atheris."""
    try:
        import atheris
    except ImportError:
        return None
    for large in ("torch", "pandas", "scipy"):
        importlib.import_module(large)  # or their branches would be instrumented too
    with atheris.instrument_imports(include=list(target.instrument)):
        for module in target.instrument:
            importlib.import_module(module)
    return atheris


def _fuzz_by_coverage(atheris: Any, run: _Runner, seeds: list[bytes], base: Path, seed: int) -> None:
    corpus = fresh_folder(base / "corpus")
    for number, data in enumerate(seeds):
        (corpus / f"{number:04d}").write_bytes(data)
    arguments = [
        sys.argv[0],
        f"-seed={seed + 1}",
        f"-max_len={_LONGEST}",
        "-rss_limit_mb=0",
        "-timeout=0",
        "-verbosity=0",
        str(corpus),
    ]
    options: dict[str, Any] = {}
    target = run.target
    if target.mutate is not None:
        kept = list(seeds)

        def mutate(data: bytes, most: int, number: int) -> bytes:
            draw = random.Random(number)
            if draw.random() < 0.15:
                return bytes(atheris.Mutate(data, most))
            if draw.random() < 0.01 and len(kept) < _MOST_KEPT:
                kept.append(data)
            return target.mutate(data, draw.choice(kept), draw)[:most]  # type: ignore[misc]

        options["custom_mutator"] = mutate
    atheris.Setup(arguments, lambda data: run(data) and None, **options)
    atheris.Fuzz()


class _Runner:
    """Runs inputs, keeps findings, and ends the process when time or number are reached."""

    def __init__(
        self, name: str, target: Target, sandbox: Sandbox, base: Path, options: argparse.Namespace
    ) -> None:
        self.name, self.target, self.sandbox, self.base = name, target, sandbox, base
        self.folder = base / "work"
        self._most = options.runs or float("inf")
        self._end = float("inf") if options.runs else time.monotonic() + options.seconds
        self._runs, self._keys = 0, set[str]()
        self._input = (base / "input").open("wb", buffering=0)

    def __call__(self, data: bytes) -> str:
        self._input.seek(0)
        self._input.truncate()
        self._input.write(data)
        self._runs += 1
        if self._runs % 64 == 1:
            self._write_count()
        try:
            outcome = self._read(data)
        except FindingError as finding:
            outcome = ""
            if finding.key not in self._keys:
                self._keys.add(finding.key)
                _keep(self.name, _made_small(data, finding.key, self._read), str(finding))
        if self._runs >= self._most or time.monotonic() > self._end:
            self._write_count()
            sys.stderr.flush()
            os._exit(0)
        return outcome

    def _read(self, data: bytes) -> str:
        from mvkit.errors import MvkitError

        return self.sandbox.run(lambda: self.target.read(data, self.folder), MvkitError)

    def _write_count(self) -> None:
        count = {"runs": self._runs, "findings": len(self._keys), "beat": time.monotonic_ns()}
        (self.base / "count").write_text(json.dumps(count))


def _try_all(target: Target, seeds: list[bytes], folder: Path) -> None:
    from mvkit.errors import MvkitError

    for seed in seeds:
        try:
            target.read(seed, folder)
        except MvkitError:
            pass
        except Exception as error:  # noqa: BLE001
            print(f"a seed: {error!r}", file=sys.stderr)


def _mutate(target: Target, data: bytes, other: bytes, draw: random.Random) -> bytes:
    """Change an input at random."""
    if target.mutate is not None and draw.random() < 0.85:
        return target.mutate(data, other, draw)[:_LONGEST]
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        at = draw.randrange(len(changed) + 1)
        kind = draw.random()
        if kind < 0.5 and changed:
            changed[at % len(changed)] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
        elif kind < 0.65:
            changed[at:at] = draw.randbytes(draw.randrange(1, 9))
        elif kind < 0.8:
            del changed[at : at + draw.randrange(1, 33)]
        elif kind < 0.9 and other:
            start = draw.randrange(len(other))
            changed[at:at] = other[start : start + draw.randrange(1, 257)]
        else:
            width = draw.choice((2, 4, 8))
            number = draw.choice(
                (0, 1, (1 << 8 * width - 1) - 1, (1 << 8 * width) - 1, draw.getrandbits(8 * width))
            )
            changed[at : at + width] = number.to_bytes(width, draw.choice(("little", "big")))
    return bytes(changed[:_LONGEST])


def _made_small(data: bytes, key: str, read: Callable[[bytes], str], most_s: float = 10.0) -> bytes:
    """Return an input with parts left out, as long as the same finding remains."""
    end, size = time.monotonic() + most_s, len(data)
    while size >= 1:
        start = 0
        while start < len(data):
            if time.monotonic() > end:
                return data
            shorter = data[:start] + data[start + size :]
            try:
                read(shorter)
            except FindingError as finding:
                if finding.key == key:
                    data = shorter
                    continue
            start += size
        size //= 2
    return data


def _keep(name: str, data: bytes, what: str) -> None:
    path = CORPUS / name / f"finding-{hashlib.sha256(data).hexdigest()[:8]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    print(f"finding {path.relative_to(HERE)}: {what}", file=sys.stderr, flush=True)


def _sort(name: str) -> int:
    """Name the inputs of a target's corpus by their outcomes; return how many are findings still."""
    from mvkit.errors import MvkitError

    findings = 0
    with tempfile.TemporaryDirectory() as folder:
        prepare(name)
        TARGETS[name].seeds(fresh_folder(Path(folder) / "seeds"))
        for path in sorted((CORPUS / name).glob("*")):
            data, work = path.read_bytes(), fresh_folder(Path(folder) / "work")
            try:
                TARGETS[name].read(data, work)
                outcome = "value"
            except MvkitError as error:
                outcome = type(error).__name__
            except Exception as error:  # noqa: BLE001
                findings, outcome = findings + 1, "finding"
                print(f"{path}: {error!r}")
            path.rename(path.with_name(f"{outcome}-{hashlib.sha256(data).hexdigest()[:8]}"))
    return findings


if __name__ == "__main__":
    sys.exit(main())
