#!/usr/bin/env python3
"""Write the LASA handwriting motions as .npy rows for `flowgrad train --data`.

lasa.npz holds one array (7 demonstrations, 2, 1000 points) for each of 30 motions. Two kinds of rows come of it, both centred and
scaled by one number so that their largest coordinate is 2:

    <motion>_points.npy    (7000, 2)     where the pen is
    <motion>_paths.npy     (700, 2 K)    whole motions of K points, x and y in turn, each from its own offset in time

    python3 scripts/export_lasa.py lasa.npz data/ --motion Angle
    flowgrad train --model spline --data data/Angle_points.npy
"""
import argparse
import pathlib

import numpy as np

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("archive", type=pathlib.Path, help="lasa.npz")
parser.add_argument("folder", type=pathlib.Path, help="where to write")
parser.add_argument("--motion", action="append", help="a motion by its name; may be repeated (default: all)")
parser.add_argument("--points", type=int, default=16, help="K, points of a path (default 16)")
arguments = parser.parse_args()

motions = np.load(arguments.archive)
unknown = set(arguments.motion or []) - set(motions.files)
if unknown:
    parser.error(f"no motion {', '.join(sorted(unknown))}; there are {', '.join(sorted(motions.files))}")
arguments.folder.mkdir(parents=True, exist_ok=True)
for name in arguments.motion or sorted(motions.files):
    paths = np.moveaxis(motions[name], 1, 2)  # (demonstrations, points, 2)
    paths = paths - paths.reshape(-1, 2).mean(0)
    paths = 2 * paths / np.abs(paths).max()
    np.save(arguments.folder / f"{name}_points.npy", paths.reshape(-1, 2).astype(np.float32))
    step = paths.shape[1] // 100
    offsets = np.arange(100) * step // 10  # up to a tenth of a motion
    last = paths.shape[1] - 1
    rows = []
    for path in paths:
        for offset in offsets:
            at = np.linspace(offset, last - (offsets[-1] - offset), arguments.points).round().astype(int)
            rows.append(path[at].reshape(-1))
    np.save(arguments.folder / f"{name}_paths.npy", np.array(rows, np.float32))
    print(f"{name}: {paths.shape[0] * paths.shape[1]} points, {len(rows)} paths of {arguments.points} points")
