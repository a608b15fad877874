"""Run cases through the command line in forked children with limits, and judge what came out.

A child may hold 2 GB: ``RLIMIT_DATA`` refuses more private memory, and the peak of its resident set is compared too (the address space is
not limited, since PyTorch reserves more than it uses). It has 20 s of CPU time, and three times that
on the wall.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .case import Case

MEMORY = 2 << 30
SECONDS = 20
_LOG = re.compile(r"traceback: (\S+)\)")


@dataclass(frozen=True)
class Outcome:
    """What a case came to.

    Attributes:
        case: The case.
        code: Its exit code; negative for a signal.
        text: What it wrote.
        seconds: CPU time.
        memory: Peak of its resident set in bytes.
        faults: What must not be.
        traceback: The traceback that it kept in a file.
    """

    case: Case
    code: int
    text: str
    seconds: float
    memory: int
    faults: tuple[str, ...]
    traceback: str = ""

    @property
    def kind(self) -> str:
        """``accepted``, ``refused by name``, or a failure."""
        return "failed" if self.faults else "accepted" if self.code == 0 else "refused by name"


@dataclass
class Report:
    """Counts of outcomes by family."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failures(self) -> list[Outcome]:
        """Outcomes that must not be."""
        return [outcome for outcome in self.outcomes if outcome.faults]

    def lines(self) -> Iterator[str]:
        """A table, and every failure."""
        yield f"{'family':12} {'cases':>6} {'refused by name':>16} {'accepted':>9} {'failed':>7} {'slowest':>8} {'largest':>8}"
        for family in dict.fromkeys(outcome.case.family for outcome in self.outcomes):
            found = [outcome for outcome in self.outcomes if outcome.case.family == family]
            kinds = Counter(outcome.kind for outcome in found)
            slowest, largest = max(outcome.seconds for outcome in found), max(outcome.memory for outcome in found)
            row = f"{family:12} {len(found):6} {kinds['refused by name']:16} {kinds['accepted']:9} {kinds['failed']:7}"
            yield f"{row} {slowest:6.1f} s {largest / 1e9:5.2f} GB"
        for outcome in self.failures:
            last = outcome.text.strip().splitlines()[-1:] or [""]
            yield f"{outcome.case.family}: {outcome.case.name!r}: {', '.join(outcome.faults)} (exit {outcome.code}): {last[0][:400]}"


def judge(case: Case, code: int, text: str, seconds: float, memory: int) -> tuple[str, ...]:
    """What is wrong with an outcome."""
    faults = []
    if code not in (0, 1, 2):
        faults.append(f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")
    faults += [words for words in ("Traceback (most recent call last)", "unexpected error") if words in text]
    if memory > MEMORY:
        faults.append(f"{memory / 1e9:.1f} GB")
    if seconds > SECONDS:
        faults.append(f"{seconds:.0f} s")
    if case.whole and code:
        faults.append("a whole file is refused")
    if code == 1 and case.culprit not in text:
        faults.append(f"{case.culprit} is not named")
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text.replace("\r\n", "\n")):
        faults.append("control characters on the terminal")
    return tuple(faults)


def _child(case: Case, folder: Path, output: Path) -> None:
    """Run the command in this process, and leave it."""
    code = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS + 1, SECONDS + 2))
        resource.setrlimit(resource.RLIMIT_FSIZE, (MEMORY, MEMORY))
        os.chdir(folder)
        os.environ["JIELONG_CACHE"] = str(folder / "cache")
        handle = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        from jielong.apps.cli import app

        app(list(case.command), prog_name="jielong")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(case: Case, folder: Path) -> int:
    """Write a case's files and fork its child; the child's id."""
    (folder / "work").mkdir(parents=True)
    case.write(folder / "work")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _child(case, folder / "work", folder / "output")
    return child


def finish(case: Case, folder: Path, status: int, usage: resource.struct_rusage, late: bool) -> Outcome:
    """Judge what a child left."""
    text = (folder / "output").read_text("utf-8", "backslashreplace") if (folder / "output").exists() else ""
    code, seconds, memory = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    faults = judge(case, code, text, seconds, memory) + ("hangs",) * late
    kept = _LOG.search(text)
    log = Path(kept[1]).read_text("utf-8", "backslashreplace") if faults and kept and Path(kept[1]).is_file() else ""
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(case, code, text, seconds, memory, faults, log)


def run_all(cases: Iterable[Case], jobs: int, show: bool = False) -> Report:
    """Run cases, so many at a time."""
    report, waiting, running = Report(), iter(cases), {}
    with tempfile.TemporaryDirectory(prefix="hostile-") as root:
        number = 0
        while True:
            while len(running) < jobs and (case := next(waiting, None)) is not None:
                folder = Path(root) / str(number)
                running[start(case, folder)] = (case, folder, time.monotonic(), [])
                number += 1
            if not running:
                return report
            child, status, usage = os.wait4(-1, os.WNOHANG)
            if child:
                case, folder, _, late = running.pop(child)
                report.outcomes.append(finish(case, folder, status, usage, bool(late)))
                if show and report.outcomes[-1].faults:
                    print(list(Report([report.outcomes[-1]]).lines())[-1], flush=True)
                continue
            for child, (_, _, began, late) in running.items():
                if not late and time.monotonic() - began > 3 * SECONDS:
                    late.append(True)
                    os.killpg(child, signal.SIGKILL)
            time.sleep(0.005)
