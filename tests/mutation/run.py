#!/usr/bin/env python3
"""Plants each bug of mutants.py in a copy of the project and sees whether the tests of the kernels notice.

usage: tests/mutation/run.py SCRATCH [--checker] [--only TEXT] [--jobs N] [--report FILE.md]

SCRATCH is a folder to build in; it may be a former one, then little is compiled again. A mutant is caught when
its tests fail on the emulator in the usual order of threads, or in reverse or random order, or (--checker) in the
build that watches every access. By hand and before releases: it takes about an hour.
"""
import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mutants import MUTANTS

SOURCE = Path(__file__).resolve().parents[2]
KERNELS = "flowgrad/kernels/cuda"
LIMIT_S = 600


def copy_tree(to):
    """Copies what git knows, and leaves alone what is equal, so that a second run compiles little."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=SOURCE, check=True,
                           capture_output=True, text=True).stdout.splitlines()
    for name in names:
        a, b = SOURCE / name, to / name
        if not a.is_file() or (b.is_file() and b.read_bytes() == a.read_bytes()):
            continue
        b.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(a, b)


def program_of(tests):
    """The test program of "tag" or "room/tag", and the cases that it runs on the device."""
    room, _, tag = tests.rpartition("/")
    if not room:
        return "test_gpu", f"[{tag}]~[nightly]"
    return f"test_{room}", f"[{tag}][device]~[nightly],[{tag}][device_only]~[nightly]"


def build(to, preset, tests, jobs):
    target = program_of(tests)[0]
    return subprocess.run(["cmake", "--build", f"build/{preset}", "--target", target, "-j", str(jobs)], cwd=to,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def passes(to, preset, tests, order):
    program, cases = program_of(tests)
    try:
        return subprocess.run([f"build/{preset}/tests/{program}", cases], cwd=to, timeout=LIMIT_S,
                              env={**os.environ, "FLOWGRAD_EMULATOR_ORDER": order, "FLOWGRAD_TEST_DEVICE": "cuda"},
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except subprocess.TimeoutExpired:
        return False  # it hangs, and somebody notices


def judge(to, presets, tests, jobs):
    """Who caught the mutant, or "survived", or "does not compile"."""
    for preset in presets:
        if build(to, preset, tests, jobs).returncode != 0:
            return "does not compile"
        for order in ["forward", "reverse", "random"] if preset == "emulated" else ["forward"]:
            if not passes(to, preset, tests, order):
                return "checker" if preset != "emulated" else order
    return "survived"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--checker", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--report", type=Path)
    a = parser.parse_args()
    presets = ["emulated"] + (["emulated-checker"] if a.checker else [])
    a.scratch.mkdir(parents=True, exist_ok=True)
    copy_tree(a.scratch)
    for preset in presets:
        subprocess.run(["cmake", "--preset", preset, "-DFLOWGRAD_BASELINE_ONLY=ON"], cwd=a.scratch, check=True,
                       stdout=subprocess.DEVNULL)
    chosen = [(i, m) for i, m in enumerate(MUTANTS) if a.only in m[0]]
    for tests in sorted({m[3] for _, m in chosen}):
        verdict = judge(a.scratch, presets, tests, a.jobs)
        if verdict != "survived":
            sys.exit(f"the kernels as they are: {tests}: {verdict}")
    rows, caught = [], 0
    for number, (name, old, new, tests) in chosen:
        path = a.scratch / KERNELS / name
        text = path.read_text()
        if text.count(old) != 1:
            sys.exit(f"mutants.py: number {number}: {text.count(old)} places in {name}; exactly one is accepted")
        start = time.monotonic()
        path.write_text(text.replace(old, new))
        try:
            verdict = judge(a.scratch, presets, tests, a.jobs)
        finally:
            path.write_text(text)
        if verdict == "does not compile":
            sys.exit(f"mutants.py: number {number} does not compile")
        caught += verdict != "survived"
        line = f"{number:3} {name:24} {verdict:9} {time.monotonic() - start:5.0f} s  {' '.join(old.split())[:60]}"
        print(line, flush=True)
        rows.append((number, name, " ".join(old.split()), " ".join(new.split()), verdict))
    print(f"{caught} of {len(rows)} caught")
    if a.report:
        cell = lambda s: "`" + (s if len(s) <= 70 else s[:67] + "...").replace("|", "\\|") + "`" if s else "(removed)"
        a.report.write_text("| | file | text | becomes | noticed in order |\n|---|---|---|---|---|\n" + "".join(
            f"| {n} | {f} | {cell(o)} | {cell(w)} | {v} |\n" for n, f, o, w, v in rows))
    return 0 if caught >= 0.9 * len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
