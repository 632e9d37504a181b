"""Disturb mvkit in every way that machines do, and count how it ends: ``make faults``.

``run.py [--only CLASS ...] [--runs N] [--seed S] [--quick]`` prints a table at its end, and exits with 1 if
anything failed: a half file under a final name, other numbers, a traceback, a hang, a file left over.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import processes
from processes import INTERRUPT, KILL, ONCE, STICKY, VANISH, Ended, Fault

_SPOKEN = re.compile(r"^error: ", re.MULTILINE)
_NOISE = (
    *("Traceback", "Exception ignored", "Warning: resource_tracker", "Segmentation", "core dumped"),
    # How mvkit's entry point words what nobody expected.
    *("a fault of mvkit", "in code that is not mvkit's", "traceback:"),
)
_MOST_LINES = 3
CLASSES = ("kill", "interrupt", "full", "readonly", "vanish", "twice", "clock", "damage")


@dataclass
class Tally:
    """How often each class of fault ended how."""

    rows: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, kind: str, subject: str, outcome: str, detail: str = "") -> None:
        """Count an outcome: "clean", "right", "failure", or "known": no checksum can be, see damage.py."""
        self.rows.setdefault((kind, subject), Counter())[outcome] += 1
        if outcome == "failure":
            self.failures.append(f"{kind}: {subject}: {detail}")
            print(f"FAILURE {self.failures[-1]}", flush=True)

    def table(self) -> str:
        """Return the table as text."""
        lines = [
            f"{'fault':<12}{'of':<24}{'tried':>8}{'clean error':>13}{'right':>8}{'known':>7}{'failure':>9}"
        ]
        for (kind, subject), counts in self.rows.items():
            lines.append(f"{kind:<12}{subject:<24}{_numbers(counts)}")
        lines.append(f"{'all':<36}{_numbers(sum(self.rows.values(), Counter()))}")
        return "\n".join(lines)


def _numbers(counts: Counter[str]) -> str:
    outcomes = (counts["clean"], counts["right"], counts["known"], counts["failure"])
    return "{:>8}{:>13}{:>8}{:>7}{:>9}".format(counts.total(), *outcomes)


class Harness:
    """Runs commands undisturbed and disturbed, always in a folder of the same name."""

    def __init__(self, root: Path, url: str, tally: Tally) -> None:
        import commands

        self.commands = commands
        self.inputs, self.work = root / "inputs", root / "work"
        self.tally = tally
        self.launcher = processes.Launcher(root)
        self.environment = {
            "MVKIT_HOME": str(self.work / "home"),
            "MVKIT_CHECKPOINT_URL": url,
            "MVKIT_NEURAL_URL": url,
            "NO_PROXY": "127.0.0.1",
            "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(root / "numba")),
            "MPLCONFIGDIR": str(root / "matplotlib"),
        }
        commands.make_inputs(self.inputs)
        self.expected: dict[str, dict[str, Any]] = {}
        self.n_calls: dict[str, int] = {}
        self.seconds: dict[str, float] = {}

    def measure(self, command: Any) -> None:
        """Run a command undisturbed, twice: what it writes, how long it takes, how many calls."""
        found = []
        for _ in range(2):
            processes.remove(self.work)
            running = self.start(command)
            # The first one compiles the fits.
            ended = running.wait(timeout_s=600)
            if ended.code != 0 or ended.problem:
                raise SystemExit(f"{command.name} fails undisturbed: {ended}")
            self.launcher.learn_modules(running)
            running.clear()
            found.append(self.commands.outputs(self.work))
        if found[0] != found[1]:
            raise SystemExit(f"{command.name}: two runs differ: {difference(found[0], found[1])}")
        self.expected[command.name], self.n_calls[command.name] = found[0], ended.n_calls
        self.seconds[command.name] = ended.seconds
        print(f"{command.name}: {ended.n_calls} calls, {ended.seconds:.1f} s", flush=True)

    def start(self, command: Any, fault: Fault = Fault()) -> processes.Running:  # noqa: B008
        """Start a command."""
        words = command.line(self.work, self.inputs)
        self.work.mkdir(exist_ok=True)
        return self.launcher.start(words, self.environment, self.work, fault, command.before)

    def disturb(self, kind: str, command: Any, fault: Fault, label: str) -> None:
        """Run a command with a fault, check the files, run it again, and count the outcome."""
        processes.remove(self.work)
        running = self.start(command, fault)
        ended = running.wait(fault)
        running.clear()
        problem = ended.problem or check_end(ended, fault)
        gone = self.work.with_name(f"{self.work.name}.gone")
        for folder in (gone, self.work):
            if folder.exists() and not problem:
                problem = self.check_files(command, folder, ended, fault)
        if fault.mode == VANISH:
            processes.remove(gone)
        if not problem:
            running = self.start(command)
            again = running.wait()
            running.clear()
            if again.code != 0 or again.problem:
                problem = f"the rerun fails: {again.problem} {again.code} {again.err[-400:]}"
            found = compared(self.commands.outputs(self.work), fault)
            expected = compared(self.expected[command.name], fault)
            if not problem and found != expected:
                problem = f"after the rerun: {difference(expected, found)}"
        outcome = "failure" if problem else "right" if ended.code == 0 else "clean"
        if fault.mode in (KILL, INTERRUPT) and not problem:
            outcome = "right"
        self.tally.add(kind, command.name, outcome, f"{label} {fault}: {problem}")

    def check_files(self, command: Any, folder: Path, ended: Ended, fault: Fault) -> str:
        """Return what is wrong with files that have final names."""
        expected = self.expected[command.name]
        found = self.commands.outputs(folder)
        final = {name: value for name, value in found.items() if not is_unfinished(name)}
        for name, value in final.items():
            half = isinstance(value, str) and value.startswith("unreadable")
            may_differ = command.resumes or name.endswith("manifest.json")
            if half and not name.endswith(".jsonl"):
                return f"half a file under a final name: {name} ({value})"
            if not may_differ and name in expected and value != expected[name]:
                return f"other content under a final name: {name}"
        # Who ends by itself leaves nothing that is unfinished, but for downloads that go on.
        left = [name for name in found if is_unfinished(name) and ".part" not in name]
        if left and ended.code >= 0 and folder == self.work and fault.number != errno.EROFS:
            return f"left over: {', '.join(left)}"
        if (
            ended.code == 0
            and fault.mode != VANISH
            and (missing := [name for name in expected if name not in found and "cache/" not in name])
        ):
            return f"ended well without {', '.join(missing)}"
        return ""


def is_unfinished(name: str) -> bool:
    """Tell by its name whether a file is being written."""
    return ".tmp-" in name or ".part" in name


def compared(outputs: dict[str, Any], fault: Fault) -> dict[str, Any]:
    """Return the outputs that must be those of an undisturbed run after a rerun."""

    def is_left(name: str) -> bool:
        # `mvkit cache` tells of what killed processes leave there, and prune removes it.
        if name.startswith(("home/cache/", "home/ceilings/")) and is_unfinished(name):
            return False
        # The first lines of a log went with the folder.
        return not (fault.mode == VANISH and name.endswith(".jsonl"))

    return {name: value for name, value in outputs.items() if is_left(name)}


def check_end(ended: Ended, fault: Fault) -> str:
    """Return what is wrong with how a process ended and what it said."""
    text = ended.out + ended.err
    if ended.code == -signal.SIGKILL:
        # joblib's tracker speaks of what it clears away after the killed process.
        text = re.sub(r".*resource_tracker.*\n.*\n", "", text)
    if noise := next((word for word in _NOISE if word in text), None):
        return f"{noise}: {text[-1500:]}"
    if ended.code == -signal.SIGKILL and fault.mode == KILL:
        return ""
    if ended.code == 0:
        return ""
    if fault.mode == INTERRUPT:
        if ended.code == -signal.SIGINT and "interrupted" not in text:
            return ""  # the command itself had finished
        if ended.code != 130:
            return f"exit {ended.code} after Ctrl-C: {text[-800:]}"
        return "" if "interrupted" in ended.err or "stopped" in text else f"says nothing: {text[-300:]}"
    if ended.code not in (1, 2):
        return f"exit {ended.code}: {text[-800:]}"
    spoken = ended.err[match.start() :] if (match := _SPOKEN.search(ended.err)) else ended.err
    if not text.strip():
        return "says nothing"
    # Every output that cannot be written has an error of its own.
    if any(len(one.strip().splitlines()) > _MOST_LINES for one in _SPOKEN.split(ended.err)[1:]):
        return f"more than {_MOST_LINES} lines: {spoken}"
    if "work" not in text and CHECK_NAMES.search(text) is None:
        return f"names no file: {spoken}"
    return ""


#: Names of the files that messages may name without their folder.
CHECK_NAMES = re.compile(r"\.(h5|pt|pkl|csv|beton|safetensors|npz|json|yaml)\b")


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Return in which files two runs differ."""
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    shown = []
    for name in names[:4]:
        a, b = one.get(name), other.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            keys = [key for key in {**a, **b} if a.get(key) != b.get(key)][:3]
            shown.append(f"{name}: {[(key, a.get(key), b.get(key)) for key in keys]}")
        else:
            shown.append(
                f"{name}: {str(a)[:300]} != {str(b)[:300]}"
                if a and b
                else f"{name} {'missing' if a else 'extra'}"
            )
    return "; ".join(shown)[:1500]


def kills(harness: Harness, chosen: list[Any], n_runs: int, draw: random.Random, mode: int) -> None:
    """Kill or interrupt at random calls (two of three) and at random moments."""
    kind = "kill" if mode == KILL else "interrupt"
    for number in range(n_runs):
        command = chosen[number % len(chosen)]
        calls = harness.n_calls[command.name]
        if number // len(chosen) % 3 == 2:
            fault = Fault(mode, after_s=draw.uniform(0, harness.seconds[command.name]))
        else:
            fault = Fault(mode, draw.randint(1, calls), torn=draw.random() < 0.5)
        harness.disturb(kind, command, fault, "")


def points(n_calls: int, every: int, sample: int, draw: random.Random) -> list[int]:
    """Return the first calls, and a sample of the others."""
    rest = range(every + 1, n_calls + 1)
    return [*range(1, min(every, n_calls) + 1), *sorted(draw.sample(rest, min(sample, len(rest))))]


def full(harness: Harness, chosen: list[Any], n_runs: int, draw: random.Random) -> None:
    """Let the disk be full from every call on, or at one alone; other errors at some."""
    for command in chosen:
        calls = harness.n_calls[command.name]
        for call in points(calls, n_runs, n_runs // 2, draw):
            fault = Fault(STICKY, call, errno.ENOSPC, torn=draw.random() < 0.5)
            harness.disturb("disk full", command, fault, "")
        for number in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            for call in points(calls, 0, max(1, n_runs // 4), draw):
                fault = Fault(ONCE, call, number, torn=draw.random() < 0.5)
                harness.disturb("one error", command, fault, errno.errorcode[number])


def readonly(harness: Harness, chosen: list[Any], n_runs: int, draw: random.Random) -> None:
    """Make the file system read-only from a call on."""
    for command in chosen:
        for call in points(harness.n_calls[command.name], 1, n_runs, draw):
            harness.disturb("read-only", command, Fault(STICKY, call, errno.EROFS), "")


def vanish(harness: Harness, chosen: list[Any], n_runs: int, draw: random.Random) -> None:
    """Let the folder vanish at a call."""
    for command in chosen:
        for call in points(harness.n_calls[command.name], 1, n_runs, draw):
            harness.disturb("vanishes", command, Fault(VANISH, call), "")


def twice(harness: Harness, chosen: list[Any], n_runs: int, draw: random.Random) -> None:
    """Start the same two or three times at once."""
    for number in range(n_runs * len(chosen)):
        command = chosen[number % len(chosen)]
        processes.remove(harness.work)
        started = []
        for _ in range(draw.choice((2, 2, 3))):
            started.append(harness.start(command))
            time.sleep(draw.uniform(0, harness.seconds[command.name]) * draw.choice((0, 0.5)))
        ends = [one.wait() for one in started]
        for one in started:
            one.clear()
        problem = next((end.problem or check_end(end, Fault()) for end in ends), "")
        if not problem and all(end.code for end in ends):
            problem = f"nobody succeeds: {ends[0].err}"
        found = harness.commands.outputs(harness.work)
        if not problem and found != harness.expected[command.name]:
            problem = difference(harness.expected[command.name], found)
        outcome = "failure" if problem else "clean" if any(end.code for end in ends) else "right"
        harness.tally.add("at once", command.name, outcome, problem)


def clock(harness: Harness, chosen: list[Any], n_runs: int, draw: random.Random) -> None:
    """Let the wall clock run backwards, or stand in 1970 or 2107; files come from the future."""
    now = int(time.time())
    settings = [
        Fault(clock_step_s=10),
        Fault(clock_shift_s=-now + 86400 * 365),
        Fault(clock_shift_s=4_323_000_000 - now),
    ]
    for command in chosen:
        for number in range(min(n_runs, 3)):
            harness.disturb("clock", command, settings[number], "")
        for moment in (0, 4_323_000_000):
            processes.remove(harness.work)
            first = harness.start(command).wait()
            for path in harness.work.rglob("*"):
                os.utime(path, (moment, moment))
            second = harness.start(command).wait()
            found = harness.commands.outputs(harness.work)
            problem = (
                "" if first.code == second.code == 0 else f"{first.code} {second.code} {second.err[-500:]}"
            )
            if not problem and found != harness.expected[command.name]:
                problem = difference(harness.expected[command.name], found)
            harness.tally.add("file times", command.name, "failure" if problem else "right", problem)


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """Serve a checkpoint and a pickle from another process, so that this one keeps a single thread."""
    child = os.fork()
    if child == 0:
        _serve(root)
    try:
        while not (root / "url").exists():
            time.sleep(0.01)
        yield (root / "url").read_text()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _serve(root: Path) -> None:
    import importlib.util

    import commands

    path = commands.TESTS / "servers" / "faulty.py"
    spec = importlib.util.spec_from_file_location("mvkit_faulty_server", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.MOST_REQUESTS = 10**9
    with module.running() as server:
        server.put(f"{commands.CHECKPOINT}.pt", commands.checkpoint_bytes())
        (root / "url.tmp").write_text(server.url)
        (root / "url.tmp").rename(root / "url")
        while not (root / "inputs" / commands.PUBLISHED).exists():
            time.sleep(0.05)
        time.sleep(0.2)
        server.put(commands.PUBLISHED, (root / "inputs" / commands.PUBLISHED).read_bytes())
        while True:
            time.sleep(60)
            server.seen.clear()


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=CLASSES)
    parser.add_argument("--command", action="append", help="names of commands, see commands.py")
    parser.add_argument("--runs", type=int, help="how often, for every class (default: as make faults)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a few of each")
    parser.add_argument("--root", type=Path)
    options = parser.parse_args()
    root = options.root or Path(
        os.environ.get("MVKIT_FAULTS_ROOT") or tempfile.mkdtemp(prefix="mvkit-faults-")
    )
    os.environ["MVKIT_FAULTS_ROOT"] = str(root)
    root.mkdir(exist_ok=True)
    processes.preload(root)
    # Also in the background of a shell, which lets programs there ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    tally = Tally()
    classes = options.only or list(CLASSES)
    draw = random.Random(options.seed)

    def runs(usual: int, quick: int) -> int:
        return options.runs or (quick if options.quick else usual)

    try:
        with serving(root) as url:
            harness = Harness(root, url, tally)
            import damage

            names = options.command or None
            chosen = [one for one in harness.commands.COMMANDS if names is None or one.name in names]
            if set(classes) - {"damage"}:
                for command in chosen:
                    harness.measure(command)
            steps: dict[str, Callable[[], None]] = {
                "kill": lambda: kills(harness, chosen, runs(165, 4), draw, KILL),
                "interrupt": lambda: kills(harness, chosen, runs(110, 2), draw, INTERRUPT),
                "full": lambda: full(harness, chosen, runs(50, 1), draw),
                "readonly": lambda: readonly(harness, chosen, runs(4, 1), draw),
                "vanish": lambda: vanish(harness, chosen, runs(4, 1), draw),
                "twice": lambda: twice(harness, chosen, runs(3, 1), draw),
                "clock": lambda: clock(harness, chosen, runs(3, 1), draw),
                "damage": lambda: damage.damage(root, harness, tally, runs(300, 4), draw),
            }
            for name in classes:
                steps[name]()
                print(f"-- {name} done after {time.monotonic() - began:.0f} s", flush=True)
    except KeyboardInterrupt:
        print("stopped: the table is of what was tried until then")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print()
    print("\n".join(tally.failures))
    print(tally.table())
    print(f"seed {options.seed}, {time.monotonic() - began:.0f} s")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
