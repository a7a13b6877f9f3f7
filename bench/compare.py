#!/usr/bin/env python3
"""Compare two sets of timings, case by case: faster, slower, same or ambiguous.

Each side is one or more files of `flowgrad bench --json` (or of the peers' scripts, which write the same form), joined by
commas: one file a run. Run both sides in turn, A B A B, on a machine that does nothing else.

    python3 bench/compare.py before1.json,before2.json,before3.json after1.json,after2.json,after3.json

The ratio is that of the smallest times, b over a, because noise only adds. A side's spread reaches from its smallest time to
the largest of its runs' smallest times; a run alone has the median instead. Within --tolerance the ratio is `same`; beyond it
`faster` or `slower` when the spreads do not overlap, and `ambiguous` when they do: more runs, or a quieter machine, would tell.
Exit code 1 with --gate when a case is slower or missing, 2 for files that cannot be used.
"""
import argparse
import json
import math
import sys


class Unusable(Exception):
    """Files that hold no timings."""


def read(paths):
    """name -> (smallest, end of the spread) in seconds over the runs of one side, and the conditions they name."""
    runs, conditions = {}, []
    for path in paths.split(","):
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            cases = {name: (float(c["min_s"]), float(c.get("median_s", c["min_s"]))) for name, c in content["cases"].items()}
        except OSError as e:
            raise Unusable(f"{path}: {e.strerror}") from e
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise Unusable(f'{path}: {{"cases": {{name: {{"min_s": seconds}}}}}} is accepted ({type(e).__name__}: {e})') from e
        wrong = [name for name, (least, _) in cases.items() if not (math.isfinite(least) and least > 0)]
        if wrong:
            raise Unusable(f"{path}: {wrong[0]}: min_s is no time above 0")
        conditions.append({k: content.get(k) for k in ("threads", "isa", "device", "cpu")})
        for name, case in cases.items():
            runs.setdefault(name, []).append(case)
    spread = {}
    for name, of_case in runs.items():
        least = [m for m, _ in of_case]
        spread[name] = (min(least), max(least) if len(least) > 1 else of_case[0][1])
    return spread, conditions


def verdict(a, b, tolerance):
    """The ratio b / a of the smallest times, and its name."""
    ratio = b[0] / a[0]
    if 1 / (1 + tolerance) <= ratio <= 1 + tolerance:
        return ratio, "same"
    if ratio < 1:
        return ratio, "faster" if b[1] < a[0] else "ambiguous"
    return ratio, "slower" if a[1] < b[0] else "ambiguous"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", help="files of the first side, joined by commas")
    parser.add_argument("b", help="files of the second side")
    parser.add_argument("--tolerance", type=float, default=0.05, help="ratios within 1 + this are the same (0.05)")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--gate", action="store_true", help="exit code 1 where a case is slower or missing")
    arguments = parser.parse_args()
    if not arguments.tolerance >= 0:
        parser.error("--tolerance: at least 0 is accepted")
    try:
        (a, of_a), (b, of_b) = read(arguments.a), read(arguments.b)
    except Unusable as e:
        print(f"compare.py: {e}", file=sys.stderr)
        return 2

    for key in of_a[0]:
        values = {str(c[key]) for c in of_a + of_b if c[key] is not None}
        if len(values) > 1:
            print(f"compare.py: the files differ in {key}: {', '.join(sorted(values))}", file=sys.stderr)
    names = [n for n in dict.fromkeys([*a, *b]) if arguments.only in n]
    width = max([len("case"), *map(len, names)])
    counts, logs = {}, []
    print(f"{'case':{width}}  {'a, ms':>10}  {'b, ms':>10}  {'b/a':>6}")
    for name in names:
        if name not in a or name not in b:
            word = "missing"
            print(f"{name:{width}}  only in {'b' if name in b else 'a'}")
        else:
            ratio, word = verdict(a[name], b[name], arguments.tolerance)
            logs.append(math.log(ratio))
            print(f"{name:{width}}  {1e3 * a[name][0]:10.4g}  {1e3 * b[name][0]:10.4g}  {ratio:6.3f}  {word}")
        counts[word] = counts.get(word, 0) + 1
    summary = ", ".join(f"{n} {word}" for word, n in sorted(counts.items())) or "no case"
    mean = f"; geometric mean of b/a {math.exp(sum(logs) / len(logs)):.3f}" if logs else ""
    print(summary + mean)
    return 1 if arguments.gate and (counts.get("slower") or counts.get("missing") or not logs) else 0


if __name__ == "__main__":
    sys.exit(main())
