#!/usr/bin/env python3
"""Remake the figures of training that the pages of docs/ quote, or check the committed ones.

docs/figures.json holds every figure: its commands, what each seed gave, and how far a remake may lie from the mean of the
seeds. Another instruction set rounds differently, so a remake is another draw and no copy.

    python3 scripts/figures.py list
    python3 scripts/figures.py make cnf-moons --seeds 0,1,2      # run, and write docs/figures.json
    python3 scripts/figures.py check                             # remake the first seed of each and compare
    python3 scripts/figures.py table torchcfm-N-moons            # means and standard errors, Markdown

Digits need scikit-learn, handwriting the files of export_lasa.py (--data), peers torch with zuko or nflows; what is missing is
skipped, and said.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMITTED = ROOT / "docs" / "figures.json"


class Figure:
    """`commands` in order, with {seed}, {run}, {data} and {work}; `read` makes numbers of their outputs; `bounds` say how far remade
    numbers may lie from the committed mean, by how their names begin; those without a bound are quoted only."""

    def __init__(self, commands, read, bounds, seeds=(0, 1, 2), short=False, needs=()):
        self.commands, self.read, self.bounds, self.seeds = commands, read, bounds, seeds
        self.short, self.needs = short, needs

    def bound(self, name):
        return next((b for prefix, b in self.bounds.items() if name.startswith(prefix)), None)


def rows(text):
    """The rows of the Markdown tables in a text, as dictionaries."""
    head = []
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            head = []
        elif not head:
            head = cells
        elif not line.startswith("|---"):
            yield dict(zip(head, cells))


def of_couplings(outputs):
    """bench_matching: a row for each coupling."""
    values = {}
    for row in rows(outputs[0]):
        at = row["coupling"]
        values[f"{at} W2"] = float(row["W2, Euler-100"])
        values[f"{at} NPE"] = float(row["NPE"])
        for n, w2 in zip((1, 2, 4, 8), row["W2 at 1 / 2 / 4 / 8 Euler steps"].split()):
            values[f"{at} {n}-step W2"] = float(w2)
        values[f"{at} dopri5 evaluations"] = int(row["dopri5 evaluations"])
        values["data against data"] = float(row["data against data"])
    return values


def of_one_step(outputs):
    """bench_matching --one-step: W2 of the teacher, and of the others over the teacher's."""
    table = {row["sampler"]: float(row["W2"]) for row in rows(outputs[0])}
    teacher = table["teacher, 100 steps"]
    return {"teacher, 100 steps": teacher, **{f"ratio: {k}": v / teacher for k, v in table.items() if k != "teacher, 100 steps"}}


def of_analysis(name, label):
    """flowgrad analyze --json, the last command."""

    def read(outputs):
        found = next(p for p in json.loads(outputs[-1])["properties"] if p["name"] == name)
        return {label: found["value"], "standard error": found["standard_error"]}

    return read


def of_peer(label):
    """The scripts of peers: "value +- error nats"."""

    def read(outputs):
        found = re.search(r"(-?[\d.]+) \+- ([\d.]+) nats", outputs[-1])
        return {label: float(found[1]), "standard error": float(found[2])}

    return read


def of_rollouts(outputs):
    """flowgrad imitate --json and then flowgrad rollout --json, once or for several tests."""
    trained = json.loads(outputs[0])
    values = {"steps": trained["steps"], "training CPU seconds": round(trained["cpu_seconds"], 1)}
    for output in outputs[1:]:
        found = json.loads(output)
        for r in found["results"]:
            at = " ".join(w for w in (found.get("test", ""), f"{r['n_steps']} steps" if r["n_steps"] else "") if w)
            at = f", {at}" if at else ""
            values[f"success{at}"], values[f"score{at}"] = r["success"], r["score"]
            values[f"failed{at}"] = r["failures"] / r["episodes"]
            if r["left"] + r["right"]:
                values[f"left{at}"] = r["left"] / (r["left"] + r["right"])
            values[f"jerk{at}"] = r["jerk"]
            if "latency_ms" in r:
                values[f"ms a decision{at}"] = r["latency_ms"]["p50"]
    return values


def policy(preset, head, judge, bounds, data="", more=(), **rest):
    """A policy trained from demonstrations and judged by what it does."""
    act = "flowgrad rollout --run {run} --threads 1 --json --quiet"
    return Figure([f"flowgrad imitate --preset {preset} --head {head}{data} --seed {{seed}} --threads 1 --run {{run}} --overwrite "
                   "--quiet --json", *[f"{act} {j}" for j in (judge, *more)]], of_rollouts, bounds, **rest)


def train(options, judge):
    return ["flowgrad train {options} --seed {{seed}} --threads 1 --run {{run}} --overwrite --quiet".format(options=options),
            f"flowgrad analyze --run {{run}} {judge} --n 200 --threads 1 --quiet --json"]


def density(name, options, bound, judge="", rows=100000, **more):
    """A toy density, on points that no run has seen."""
    return Figure(train(f"--data {name} {options}", f"--data {name} --seed 2026 --rows {rows} {judge}"),
                  of_analysis("above the entropy floor", "gap"), {"gap": bound}, **more)


def digits(options, bound=3.0, judge="", **more):
    return Figure([EXPORT, *train(f"--data {{work}}/digits/digits_train.npy {options}",
                                  f"--data {{work}}/digits/digits_test.npy --all-rows {judge}")],
                  of_analysis("log-likelihood", "test log-likelihood"), {"test": bound}, needs=("sklearn",), **more)


def peer(flow, package="zuko", steps=1000, **more):
    return Figure([EXPORT, f"python3 scripts/digits_peer.py {{work}}/digits --flow {flow} --steps {steps} --seed {{seed}}"],
                  of_peer("test log-likelihood"), {"test": 3.0}, needs=("sklearn", "torch", package), **more)


EXPORT = "python3 scripts/export_digits.py {work}/digits"
MATCHING = "bench_matching --threads 1 --seed {seed}"
W2 = {"I W2": 0.6, "OT W2": 0.4, "I NPE": 0.8, "OT NPE": 0.1, "I dopri5": 30, "OT dopri5": 18, "OT 1-step": 0.4}
RATIO = {"ratio: reflow": 0.2, "ratio: consistency": 0.3}
FIVE = (0, 1, 2, 3, 4)
FIGURES = {
    # Seconds each, and part of every run of ctest.
    "short-cnf-moons": density("moons", "--preset cnf --set rtol=1e-3 --set atol=1e-3 --steps 60", 0.03,
                               rows=10000, seeds=(0,), short=True),
    "short-affine-8gaussians": density("8gaussians", "--preset realnvp --steps 150", 0.1, rows=10000, seeds=(0,), short=True),
    "short-torchcfm-N-8gaussians": Figure(
        [f"{MATCHING} --tasks N->8gaussians --sizes 256x500 --points 500"], of_couplings,
        {"I W2": 0.5, "OT W2": 0.4, "OT NPE": 0.1, "OT 1-step": 0.5}, (0,), True),
    # Minutes each.
    "cnf-moons": density("moons", "--preset cnf", 0.02, "--set rtol=1e-5 --set atol=1e-5"),
    "affine-8gaussians": density("8gaussians", "--preset realnvp", 0.04),
    "zuko-affine-8gaussians": Figure(["python3 scripts/toy_zuko.py --seed {seed}"], of_peer("gap"),
                                     {"gap": 0.04}, needs=("torch", "zuko")),
    **{f"torchcfm-{task.replace('->', '-')}": Figure([f"{MATCHING} --tasks {task}"], of_couplings, W2, FIVE)
       for task in ("N->8gaussians", "moons->8gaussians", "N->moons")},
    "one-step-8gaussians": Figure([f"{MATCHING} --one-step --tasks N->8gaussians --sizes 256x8000"], of_one_step, RATIO, FIVE),
    "one-step-moons": Figure([f"{MATCHING} --one-step --tasks N->moons --sizes 256x4000"], of_one_step, RATIO, FIVE),
    "digits-realnvp": digits("--preset digits-realnvp", seeds=(0,)),
    "digits-spline": digits("--preset digits-spline", seeds=(0,)),
    "digits-cnf": digits("--preset digits-cnf --steps 100", judge="--set trace=exact", seeds=(0,)),
    "digits-cnf-1000": digits("--preset digits-cnf", judge="--set trace=exact", seeds=(0,)),
    "digits-glow": digits("--preset digits-glow", seeds=(0,)),
    "peer-digits-realnvp": peer("realnvp", seeds=(0,)),
    "peer-digits-spline": peer("spline", seeds=(0,)),
    "peer-digits-cnf": peer("cnf", steps=100, seeds=(0,)),
    "peer-digits-glow": peer("glow", "nflows", seeds=(0,)),
    "lasa-angle": Figure(train("--preset handwriting --data {data}/Angle_points.npy", "--data {data}/Angle_points.npy --seed 0"),
                         of_analysis("log-likelihood", "log-likelihood"), {"log": 0.1}, (0,), needs=("Angle_points.npy",)),
    # Policies: ten minutes and less each.
    "pusht-flow-short": policy("pusht", "flow --steps 5000", "--episodes 100 --n-steps 5 --n-steps 10", {"score": 0.1},
                               data=" --data {data}/pusht.npz", seeds=(0,), needs=("pusht.npz",)),
    **{f"pusht-{head}": policy("pusht", head, f"--episodes 200 --latency 200 {steps}", {"score": 0.06},
                               data=" --data {data}/pusht.npz", seeds=(0, 1, 2), needs=("pusht.npz",))
       for head, steps in (("flow", "--n-steps 1 --n-steps 2 --n-steps 5 --n-steps 10"), ("diffusion", "--n-steps 0 --n-steps 10"),
                           ("regression", ""), ("cvae", ""), ("mip", ""))},
    # Steps that take every head about as long; of four learning rates the one that did best on another seed and other episodes.
    **{f"fork-{head}": policy("fork", f"{head} --steps {steps} --learning-rate {rate}", "--episodes 500 --seed 1000",
                              {"success": bound}, seeds=FIVE)
       for head, steps, rate, bound in (("flow", 10000, "8e-3", 0.1), ("diffusion", 15000, "4e-3", 0.2),
                                        ("regression", 14000, "1e-3", 0.25), ("cvae", 7500, "8e-3", 0.15), ("mip", 6500, "2e-3", 0.2))},
    "tabletop-flow": policy("tabletop", "flow", "--episodes 200 --seed 1000",
                            {"success, words swapped, original": 0.05, "success, unseen": 0.25, "success": 0.1},
                            more=[f"--episodes 200 --seed 1000 {t}" for t in (
                                "--n-steps 1 --n-steps 2 --n-steps 4", "--split wording", "--split pair", "--counterfactual told",
                                "--counterfactual original")]),
}


def missing(figure, arguments):
    """What a figure needs and is not here: files of the data folder, Python packages, the benchmark program."""
    files = [n for n in figure.needs if n.endswith((".npy", ".npz"))]
    absent = [n for n in files if not (arguments.data / n).is_file()]
    absent += [n for n in figure.needs if n not in files and importlib.util.find_spec(n) is None]
    programs = {c.split()[0] for c in figure.commands} - {"python3"}
    return absent + [p for p in programs if not (arguments.bin / p).is_file()]


def remake(name, figure, seed, arguments):
    """The numbers of one seed; those of an earlier run in the same work folder are kept."""
    folder = arguments.work / f"{name}-{seed}"
    done = folder / "values.json"
    if done.is_file():
        return json.loads(done.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    outputs, before = [], os.times()
    for command in figure.commands:
        words = [w.format(seed=seed, run=folder / "run", data=arguments.data, work=arguments.work) for w in command.split()]
        words[0] = sys.executable if words[0] == "python3" else str(arguments.bin / words[0])
        outputs.append(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    values = {**figure.read(outputs), "CPU seconds": round(spent, 1)}
    done.write_text(json.dumps(values))
    return values


def mean_and_error(values):
    mean = statistics.fmean(values)
    return mean, statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def check(name, figure, committed, values):
    """Lines of what lies outside its bound."""
    wrong = []
    for label, value in values.items():
        bound = figure.bound(label)
        if bound is None:
            continue
        mean, _ = mean_and_error([v[label] for v in committed["seeds"].values()])
        verdict = "ok" if abs(value - mean) <= bound else "OUTSIDE"
        print(f"  {label}: {value:.4g}, committed {mean:.4g}, bound {bound:g}: {verdict}", flush=True)
        if verdict != "ok":
            wrong.append(f"{name}: {label} is outside its bound")
    return wrong


def read_committed():
    return json.loads(COMMITTED.read_text()) if COMMITTED.is_file() else {}


def commit(name, figure, seed, values):
    all_of_them = read_committed()  # anew, for another process may have written
    seeds = {**all_of_them.get(name, {}).get("seeds", {}), str(seed): values}
    commands = [" ".join(c.split()) for c in figure.commands]
    all_of_them[name] = {"commands": commands, "bounds": figure.bounds, "seeds": dict(sorted(seeds.items(), key=lambda s: int(s[0])))}
    ordered = {n: all_of_them[n] for n in FIGURES if n in all_of_them}
    COMMITTED.write_text(json.dumps(ordered, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("list", "make", "check", "table"))
    parser.add_argument("names", nargs="*", metavar="FIGURE", help="figures (default: all that are not short)")
    parser.add_argument("--short", action="store_true", help="the short ones")
    parser.add_argument("--seeds", help="as 0,1,2 (default: all of the figure; check: the first)")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin", help="where flowgrad and bench_matching are")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "data", help="of export_lasa.py and of pusht.npz")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "runs/figures", help="runs and values so far")
    a = parser.parse_intermixed_args()
    a.work, a.data = a.work.resolve(), a.data.resolve()
    unknown = set(a.names) - set(FIGURES)
    if unknown:
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    figures = {n: f for n, f in FIGURES.items() if n in a.names or (not a.names and f.short == a.short)}
    committed = read_committed()
    wrong, skipped = [], []
    for name, figure in figures.items():
        if a.what == "list":
            print(f"{name}: {len(committed.get(name, {}).get('seeds', {}))} seeds; " + " && ".join(figure.commands))
            continue
        if a.what != "make" and name not in committed:
            print(f"{name}: skipped, nothing is committed yet")
            skipped.append(name)
            continue
        if a.what == "table":
            seeds = list(committed[name]["seeds"].values())
            for label in seeds[0]:
                mean, error = mean_and_error([v[label] for v in seeds])
                print(f"| {name} | {label} | {mean:.3f}" + (f" +- {error:.3f} |" if error else " |"))
            continue
        absent = missing(figure, a)
        if absent:
            print(f"{name}: skipped, without {', '.join(absent)}", flush=True)
            skipped.append(name)
            continue
        seeds = [int(s) for s in a.seeds.split(",")] if a.seeds else figure.seeds[: 1 if a.what == "check" else None]
        for seed in seeds:
            print(f"{name}, seed {seed}", flush=True)
            values = remake(name, figure, seed, a)
            if a.what == "check":
                wrong += check(name, figure, committed[name], values)
                continue
            commit(name, figure, seed, values)
    if wrong:
        sys.exit("wrong: " + "; ".join(wrong))
    if a.what == "check" and len(skipped) == len(figures):
        sys.exit(77)


if __name__ == "__main__":
    main()
