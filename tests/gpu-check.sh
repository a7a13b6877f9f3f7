#!/bin/sh
# ./run gpu-check: builds for the device found here, tests it, measures it, and writes
# docs/hardware.md. The table is written only when every test has passed.
set -eu
cd "$(dirname "$0")/.."
build=build/cuda
out=$build/gpu-check
commit=${FLOWGRAD_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || echo unknown)}

device=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -1) || true
if [ -z "$device" ]; then
  echo "run: nvidia-smi finds no device here; docs/hardware.md keeps what it says" >&2
  exit 77
fi
echo "run: building $build for $device" >&2
cmake --preset cuda -DFLOWGRAD_DOCS=OFF -DFLOWGRAD_CUBLAS=ON >&2
cmake --build --preset cuda >&2
mkdir -p "$out"

# check <name> <ctest options...>: one stage of the tests, and its line for the table.
: >"$out/tests"
check() {
  name=$1
  shift
  if ctest --test-dir $build --output-on-failure --no-tests=error -j "$(nproc)" "$@" >"$out/$name.log" 2>&1
  then :; else
    cat "$out/$name.log" >&2
    echo "run: $name failed; docs/hardware.md is left as it was" >&2
    exit 1
  fi
  echo "| $name | $(sed -n 's/^100% tests passed.* out of \([0-9]*\)$/\1/p' "$out/$name.log") passed |" >>"$out/tests"
  tail -3 "$out/$name.log" >&2
}
check "instructions" -R '^gpu\.(ptx|warp|sm90|tagged)_test'
check "kernels" -L '^gpu$' -E '^gpu\.(ptx|warp|sm90|tagged)_test'
check "operations, models, trainer, command" -L '^device$'

bench="--device cuda --budget ${FLOWGRAD_BUDGET:-0.5}"
$build/bin/bench_matmul $bench --markdown "$out/matmul.md" --bars docs/hardware-ladder.svg \
  --roofline docs/hardware-roofline.svg --json "$out/matmul.json" >&2
$build/bin/bench_memory $bench --markdown "$out/memory.md" --json "$out/memory.json" >&2
$build/bin/bench_network $bench --markdown "$out/network.md" --json "$out/network.json" >&2
$build/bin/flowgrad bench $bench --json "$out/models.json" >"$out/models.txt"
cat "$out/models.txt" >&2

cat >"$out/hardware.md" <<TEXT
# On a device

Written by \`./run gpu-check\`, which builds for the device, runs every test that can compute on it, checks each kernel against
float64 and for equal bits in two runs, and only then times it.

| | |
|---|---|
| device, driver | $device |
| date, commit | $(date -u +%Y-%m-%d), $commit |
| compilers | $(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/nvcc \1/p'), $(c++ --version | head -1) |

| tests | |
|---|---|
$(cat "$out/tests")

## Matrix products

"flowgrad" is what \`matmul\` runs; the numbered rows are the [ladder](../flowgrad/kernels/cuda/ladder/ladder.h). "limit" is the
share of the measured rate of float32 multiply-adds outside the matrix units, "peer" the share of cuBLAS's rate for operands and
sums of the same kind. For bf16 both sides round float32 operands first. "local bytes" are a thread's spills and stack.

$(cat "$out/matmul.md")

![rates of the ladder](hardware-ladder.svg)

![rate over intensity](hardware-roofline.svg)

## Kernels bounded by memory

"limit" is the share of the rate of a plain device copy.

$(cat "$out/memory.md")

## Convolutions and LSTMs

"limit" is that of the matrix products.

$(cat "$out/network.md")

## Training steps, solves and samplers

\`\`\`text
$(cat "$out/models.txt")
\`\`\`
TEXT
mv "$out/hardware.md" docs/hardware.md
echo "run: wrote docs/hardware.md" >&2
