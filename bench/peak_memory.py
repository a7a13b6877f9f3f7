#!/usr/bin/env python3
"""Peak memory of training steps beside PyTorch's: growth of the resident set in three steps after set-up.

Every case runs in a process of its own on both sides. The peer is a file with CASES, a dictionary from the names of `flowgrad
bench` to functions that set up and return a step.

    python3 bench/peak_memory.py --flowgrad build/release/bin/flowgrad --peer torch_peer.py
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from arguments import number

PEER = """
import importlib.util, pathlib, sys
import torch
spec = importlib.util.spec_from_file_location("peer", sys.argv[1])
peer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peer)
torch.set_num_threads(int(sys.argv[3]))
step = peer.CASES[sys.argv[2]]()
def resident(key):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key + ":"))
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
for _ in range(3):
    step()
print(1024 * max(0, resident("VmHWM") - before))
"""


def ours(program, name, threads):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "case.json"
        subprocess.run([program, "bench", "--only", name, "--peak-memory", "--threads", str(threads), "--json", path], check=True,
                       stdout=subprocess.DEVNULL)
        return json.loads(path.read_text())["cases"][name]["peak_bytes"]


def theirs(script, name, threads):
    done = subprocess.run([sys.executable, "-c", PEER, script, name, str(threads)], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flowgrad", required=True, help="the program")
    parser.add_argument("--peer", required=True, help="the peer's file")
    parser.add_argument("--only", default="train", help="cases whose name contains this (train)")
    parser.add_argument("--threads", type=number(int, 1), default=1)
    a = parser.parse_args()
    if not pathlib.Path(a.peer).is_file():
        parser.error(f"--peer: {a.peer} is no file")
    try:
        listed = subprocess.run([a.flowgrad, "bench", "--list"], check=True, capture_output=True, text=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as e:
        parser.error(f"--flowgrad: {e}")
    chosen = [name for name in listed if a.only in name]
    if not chosen:
        parser.error(f"--only: no case's name contains {a.only}")
    failed = False
    print("| case | ours, MiB | PyTorch, MiB | ratio |\n|---|---|---|---|")
    for name in chosen:
        try:
            x, y = ours(a.flowgrad, name, a.threads), theirs(a.peer, name, a.threads)
        except subprocess.CalledProcessError as e:
            print(f"| {name} | no figure: {(e.stderr or str(e)).strip().splitlines()[-1]} | | |")
            failed = True
            continue
        print(f"| {name} | {x / 2**20:.2f} | {y / 2**20:.2f} | {y / max(x, 1):.2f} |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
