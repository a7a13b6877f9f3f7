#!/usr/bin/env python3
"""Write scikit-learn's handwritten digits (1,797 images of 8x8, levels 0 to 16) as .npy rows for `flowgrad train --data`.

The levels are dequantised by uniform noise and mapped to the line: y = (level + u) / 17, x = logit(a + (1 - 2a) y) with
a = 0.01. A log-likelihood of x becomes bits per dimension of the levels by the mean of log |dx/dy|, which is printed.

    python3 scripts/export_digits.py data/    # needs scikit-learn
    flowgrad train --model spline --set dim=64 --data data/digits_train.npy --steps 3000
    flowgrad analyze --run runs/spline-digits_train --data data/digits_test.npy --all-rows
"""
import argparse
import pathlib

import numpy as np

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=pathlib.Path, help="where to write digits_{train,test}{,_class}.npy")
parser.add_argument("--seed", type=int, default=0, help="of the order of the rows and the noise (default 0)")
parser.add_argument("--test", type=int, default=360, help="rows of the test set (default 360)")
arguments = parser.parse_args()

from sklearn.datasets import load_digits  # after the arguments, so that --help needs nothing

digits = load_digits()
rng = np.random.default_rng(arguments.seed)
order = rng.permutation(len(digits.data))
levels = digits.data[order]
a = 0.01
squeezed = a + (1 - 2 * a) * (levels + rng.random(levels.shape)) / 17
x = np.log(squeezed) - np.log1p(-squeezed)
slope = np.log(1 - 2 * a) - np.log(squeezed) - np.log1p(-squeezed)  # log |dx/dy|
classes = np.eye(10)[digits.target[order]]

arguments.folder.mkdir(parents=True, exist_ok=True)
for name, rows in (("train", slice(arguments.test, None)), ("test", slice(0, arguments.test))):
    np.save(arguments.folder / f"digits_{name}.npy", x[rows].astype(np.float32))
    np.save(arguments.folder / f"digits_{name}_class.npy", classes[rows].astype(np.float32))
    print(f"{name}: {len(x[rows])} rows; log p(levels) = log p(x) + {slope[rows].sum(1).mean():.3f} - 64 log 17 nats")
