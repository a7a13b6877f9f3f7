#!/usr/bin/env python3
"""Write the table of docs/performance.md from the runs in docs/performance/.

    python3 bench/tables.py            # rewrites the page between its marks
    python3 bench/tables.py --check    # fails where the page is not what the runs say
    python3 bench/tables.py --join ours-1.json ours-2.json ... > docs/performance/ours-1-thread.json

A file there is several runs of one program joined by --join: of every case the smallest minimum and the median of the medians.
"""
import argparse
import json
import math
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/performance.md"
RUNS = ROOT / "docs/performance"
BEGIN, END = "<!-- made by bench/tables.py -->\n", "<!-- end -->\n"
KERNELS = ("matmul", "elementwise", "reduce")


def join(paths):
    runs = [json.loads(pathlib.Path(p).read_text()) for p in paths]
    joined = {key: value for key, value in runs[0].items() if key != "cases"}
    joined["runs"] = len(runs)
    joined["cases"] = {}
    for name in runs[0]["cases"]:
        of_case = [r["cases"][name] for r in runs]
        joined["cases"][name] = {"min_s": min(c["min_s"] for c in of_case),
                                 "median_s": statistics.median(c["median_s"] for c in of_case)}
    return joined


def digits(x, n=3):
    return f"{x:.{max(0, n - 1 - math.floor(math.log10(x)))}f}" if x < 1000 else f"{x:.0f}"


def table():
    files = {(who, n): json.loads((RUNS / f"{who}-{n}-thread.json").read_text())
             for who in ("flowgrad", "torch", "jax") for n in (1, 2) if (RUNS / f"{who}-{n}-thread.json").exists()}
    peers = [("torch", 1), ("jax", 1), ("torch", 2)]
    peers = [p for p in peers if p in files]
    title = {"torch": "PyTorch", "jax": "JAX jit"}

    def ratio(peer, name):
        theirs = files[peer]["cases"].get(name)
        return theirs["min_s"] / files["flowgrad", peer[1]]["cases"][name]["min_s"] if theirs else None

    lines = ["| case | ours, ms, 1 thread | 2 threads | " + " | ".join(
        f"{title[who]} / ours, {n} thread{'s' * (n > 1)}" for who, n in peers) + " |",
        "|---|---|---|" + "---|" * len(peers)]
    for name in files["flowgrad", 1]["cases"]:
        ours = [digits(files["flowgrad", n]["cases"][name]["min_s"] * 1e3) for n in (1, 2)]
        ratios = [ratio(p, name) for p in peers]
        lines.append(f"| {name} | " + " | ".join(ours + [f"{r:.2f}" if r else "" for r in ratios]) + " |")
    means = []
    for p in peers:
        logs = [math.log(ratio(p, c)) for c in files[p]["cases"]
                if c in files["flowgrad", p[1]]["cases"] and c.split("/")[0] not in KERNELS]
        means.append(f"{math.exp(statistics.mean(logs)):.2f}")
    lines.append("| geometric mean of models and chain | | | " + " | ".join(means) + " |")
    runs = sorted({f["runs"] for f in files.values()})
    lines.append("")
    lines.append(f"Runs a side: {' to '.join(str(r) for r in runs)}.")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 where the page differs")
    parser.add_argument("--join", nargs="+", metavar="RUN.json", help="print these runs as one file")
    arguments = parser.parse_args()
    if arguments.join:
        print(json.dumps(join(arguments.join), indent=1))
        return
    page = PAGE.read_text()
    head, rest = page.split(BEGIN)
    old, tail = rest.split(END)
    new = "\n" + table() + "\n"
    if arguments.check:
        sys.exit(f"{PAGE.relative_to(ROOT)} is not what docs/performance says: python3 bench/tables.py" if old != new else 0)
    PAGE.write_text(head + BEGIN + new + END + tail)


if __name__ == "__main__":
    main()
