# The demo in its quick form: a complete run folder, equal at any number of threads, and its refusals.
. "$(dirname "$0")/common.inc"

# Fashion-MNIST is a package of its own; without it only the message can be tested.
expect 3 "dataset-fashion-mnist" demo --quick --run absent --data-folder /nowhere
[ ! -e absent ] || fail "a run folder was made although there is no data"
expect 2 "--seed" demo --quick --run absent --seed -1
expect 2 "--threads" demo --quick --run absent --threads many
expect 2 "--run" demo --quick --run ""
expect 2 "unknown option --fast" demo --fast
[ ! -e absent ] || fail "a run folder was made by a wrong command line"
[ "$failures" -eq 0 ] || exit 1
[ -e /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ] || exit 77

: >file
expect 3 "file" demo --quick --run file
expect 3 "file" demo --quick --run file/run

ok demo --quick --run one --threads 1
says "7 of 7 passed" out
says "one/report.html" out
says "seed 0" err
for name in report.html config.json summary.json metrics.jsonl moons.safetensors moons_path.safetensors \
  garments.safetensors garments_components.safetensors classifier.safetensors moons_curve.svg moons_density.svg \
  moons_points.svg moons_path.svg moons.png garments.png garments_path.png garments_curve.svg \
  garments_agreement.svg; do
  exists "one/$name"
done
checks=$((checks + 1))
if grep -qE '(src|href)="(https?:)?//|<script|@import|url\(' one/report.html; then
  fail "the report loads something from outside or runs a script"
fi
checks=$((checks + 1))
if grep -qvE '^\{"part":"(moons|moons_path|classifier|garments)","step":[0-9]+,.*\}$' one/metrics.jsonl; then
  fail "a line of metrics.jsonl is not what it should be"
fi

ok demo --quick --run three --threads 3 --json --quiet
says '"passed": true' out
[ ! -s err ] || fail "--quiet, and yet on stderr: $(cat err)"
for name in moons.safetensors moons_path.safetensors garments.safetensors classifier.safetensors moons_density.svg \
  moons_points.svg moons.png garments.png garments_path.png; do
  same "one/$name" "three/$name"
done

# What the demo leaves is of use to the other commands.
ok sample --weights one/moons.safetensors --n 100 --output points.npy --picture points.svg
exists points.svg
ok inspect one/garments.safetensors
finish
