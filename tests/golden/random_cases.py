"""What the scripts of random cases share: their options, and the run of a test program on the cases of a seed."""
import argparse
import os
import subprocess
import sys


def agrees(program, tag, variable, path):
    """Whether the program's test cases of that tag pass, told by an environment variable where the cases are."""
    return subprocess.run([program, tag], env=os.environ | {variable: str(path)}).returncode == 0


def main(description, metavar, seeds, cases, run):
    """run(program, seed, cases) for each seed says whether all agree; the exit code is 1 where one does not."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("program", metavar=metavar)
    parser.add_argument("--seeds", default=seeds, type=lambda text: [int(s) for s in text.split(",")])
    parser.add_argument("--cases", type=int, default=cases, help=f"for each seed ({cases})")
    given = parser.parse_args()
    sys.exit(0 if all([run(given.program, seed, given.cases) for seed in given.seeds]) else 1)
