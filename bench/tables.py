#!/usr/bin/env python3
"""Write the tables of docs/performance.md and docs/performance_kernels.md from the runs in docs/performance/.

    python3 bench/tables.py            # rewrites the page between its marks
    python3 bench/tables.py --check    # fails where the page is not what the runs say
    python3 bench/tables.py --join ours-1.json ours-2.json ... > docs/performance/MACHINE/flowgrad-1-thread.json

A mark on the page names a table and the folder of the machine whose runs it shows. Of `flowgrad bench` and its peers a file there
is several runs of one program joined by --join: of every case the smallest minimum and the median of the medians. Files of kernels
come from bench/beside_torch.py, of products from bench_matmul --json, of overhead from bench_overhead --json.
"""
import argparse
import json
import math
import pathlib
import re
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "docs/performance.md", ROOT / "docs/performance_kernels.md"]
RUNS = ROOT / "docs/performance"
MARKED = re.compile(r"(<!-- made by bench/tables.py: (\w+)((?: \w+)*) -->\n).*?(<!-- end -->\n)", re.DOTALL)
MACHINES = {"zen5": "Zen 5", "zen3": "Zen 3", "emerald_rapids": "Emerald Rapids"}
# What a case should reach at least, by the first part of its name: PyTorch's smallest time over ours.
FLOORS = {"matmul": 0.95, "elementwise": 0.9, "reduce": 0.9}
GOALS = {"autograd/chain/1000x8": 8, "planar/train/d2_b128": 10, "cnf/train_rk4x10_hutchinson/d2_b128": 10,
         "realnvp/train/d2_b1024": 1.5, "flow_matching/generate100/b1": 2.5, "vla/train/b8_224": 1.2, "vla/train/b32_64": 1.2}


def join(paths):
    runs = [content(p) for p in paths]
    for path, run in zip(paths, runs):
        if run.get("cases", {}).keys() != runs[0].get("cases", {}).keys() or not run.get("cases"):
            sys.exit(f"tables.py: {path} has no cases or others than {paths[0]}; runs of the same cases can be joined")
        if not all("min_s" in c and "median_s" in c for c in run["cases"].values()):
            sys.exit(f"tables.py: {path} has cases without times")
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


def content(path):
    """Of a file of runs; what is wrong with it ends this script."""
    try:
        return json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError) as e:
        sys.exit(f"tables.py: {path}: {e.strerror if isinstance(e, OSError) else e}")


def read(machine, name):
    """None where that was not measured."""
    path = RUNS / machine / f"{name}.json"
    return content(path) if path.exists() else None


def needed(machine, name):
    return content(RUNS / machine / f"{name}.json")


def threads(n):
    return f"{n} thread{'s' * (n > 1)}"


def row(cells):
    return "| " + " | ".join(cells) + " |"


def rows_of(heads, body):
    return [row(heads), "|" + "---|" * len(heads), *map(row, body)]


def ratio_of(peer, ours, name):
    return peer["cases"][name]["min_s"] / ours["cases"][name]["min_s"] if name in peer["cases"] else None


def cases_table(machine):
    ours = {n: needed(machine, f"flowgrad-{n}-thread") for n in (1, 2)}
    peers = [(who, n, read(machine, f"{who}-{n}-thread")) for n in (1, 2) for who in ("torch", "compiled", "jax")]
    peers = [p for p in peers if p[2]]
    title = {"torch": "PyTorch", "compiled": "torch.compile", "jax": "JAX jit"}
    body = []
    for name in ours[1]["cases"]:
        ratios = [ratio_of(peer, ours[n], name) for _, n, peer in peers]
        body.append([name] + [digits(ours[n]["cases"][name]["min_s"] * 1e3) for n in (1, 2)]
                    + [f"{r:.2f}" if r else "" for r in ratios])
    means = []
    for _, n, peer in peers:
        logs = [math.log(ratio_of(peer, ours[n], c)) for c in peer["cases"] if c.split("/")[0] not in FLOORS]
        means.append(f"{math.exp(statistics.mean(logs)):.2f}")
    body.append(["geometric mean of models and chain", "", ""] + means)
    heads = ["case", "ours, ms, 1 thread", "2 threads"] + [f"{title[who]} / ours, {threads(n)}" for who, n, _ in peers]
    lines = rows_of(heads, body)
    missed = [f"{c} {ratio_of(peer, ours[n], c):.2f} of {title[who]} at {threads(n)}"
              for who, n, peer in peers for c in peer["cases"]
              if ratio_of(peer, ours[n], c) < FLOORS.get(c.split("/")[0], 1)]
    runs = sorted({f["runs"] for f in [*ours.values(), *(p[2] for p in peers)]})
    return lines + ["", f"Runs a side: {' to '.join(str(r) for r in runs)}. Below its floor (1; 0.95 for products, 0.90 for elementwise functions and "
                    f"reductions): {'; '.join(missed) or 'none'}."]


def goals_table(*machines):
    heads, columns = ["case", "goal"], []
    for machine in machines:
        for n in (1, 2):
            heads.append(f"{MACHINES[machine]}, {threads(n)}")
            ours, torch = (needed(machine, f"{who}-{n}-thread") for who in ("flowgrad", "torch"))
            columns.append([f"{ratio_of(torch, ours, name):.2f}" for name in GOALS])
    return rows_of(heads, [[name, f"{goal:g}", *ratios] for (name, goal), ratios in zip(GOALS.items(), zip(*columns))])


def kernels_table(machine):
    files = [(1, needed(machine, "kernels-1-thread")), (2, read(machine, "kernels-2-thread"))]
    files = [(n, f) for n, f in files if f]
    body = [[name, digits(min(case["ours_s"]) * 1e3)] + [f"{f['cases'][name]['ratio']:.2f}" for _, f in files]
            for name, case in files[0][1]["cases"].items()]
    return rows_of(["kernel", "ours, ms, 1 thread"] + [f"PyTorch / ours, {threads(n)}" for n, _ in files], body)


def products_table(machine):
    lines = []
    for n in (1, 2):
        runs = read(machine, f"products-{n}-thread")
        if runs is None:
            continue
        rows = runs["rows"]
        sizes = list(dict.fromkeys(r["size"] for r in rows))
        impls = list(dict.fromkeys(r["impl"] for r in rows))
        rate = {(r["impl"], r["size"]): r["gflops"] for r in rows}
        paired = {r["size"]: r["percent_of_peer"] for r in rows if r["impl"] == "flowgrad"}
        lines += rows_of([f"GFLOP/s, {threads(n)}"] + sizes,
                         [[impl] + [digits(rate[impl, size]) if rate.get((impl, size)) else "" for size in sizes] for impl in impls]
                         + [[f"flowgrad, % of {impls[0]} in turn"] + [f"{paired[size]:.0f}" if paired.get(size) else "" for size in sizes]])
        lines.append("")
    return lines[:-1]


def overhead_table(machine):
    runs = needed(machine, "overhead")
    body = [[r["operation"]] + [f"{r[part + '_ns']:.0f}" for part in ("plain", "recorded", "backward")] for r in runs["rows"]]
    return rows_of([f"nanoseconds, {runs['numbers']} numbers", "no tape", "recorded", "backward node"], body)


TABLES = {"cases": cases_table, "goals": goals_table, "kernels": kernels_table, "products": products_table, "overhead": overhead_table}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 where the page differs")
    parser.add_argument("--join", nargs="+", metavar="RUN.json", help="print these runs as one file")
    arguments = parser.parse_args()
    if arguments.join:
        print(json.dumps(join(arguments.join), indent=1))
        return
    old = {page: page.read_text() for page in PAGES}
    if unmarked := TABLES.keys() - {mark[1] for text in old.values() for mark in MARKED.findall(text)}:
        sys.exit(f"{', '.join(str(page.relative_to(ROOT)) for page in PAGES)} have no mark for: {', '.join(sorted(unmarked))}")
    for page, text in old.items():
        made = MARKED.sub(lambda m: m[1] + "\n" + "\n".join(TABLES[m[2]](*m[3].split())) + "\n\n" + m[4], text)
        if not arguments.check:
            page.write_text(made)
        elif made != text:
            sys.exit(f"{page.relative_to(ROOT)} is not what docs/performance says: python3 bench/tables.py")


if __name__ == "__main__":
    main()
