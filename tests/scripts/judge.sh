# verify and analyze: verdicts, exit codes, JSON, the data of a run.
. "$(dirname "$0")/common.inc"

ok verify --model planar --set n_flows=2
says "round trip, float64" out
says "0 failed" out
says "1 round trip, float64: passed" err
ok verify --model flow_matching --set hidden=8 --set time_dim=8 --rows 8 --quiet
says "has no inverse" out
# A model that rightly falls short ends with 1, and says by how much.
expect 1 - verify --model diffusion --set hidden=8 --set schedule=linear --quiet
says "FAILED" out
expect 1 - verify --model diffusion --set hidden=8 --set schedule=linear --quiet --json
says '"outcome":"FAILED"' out
says '"demanded":0.02' out

ok train --model realnvp --set hidden=8 --set n_flows=2 --data moons --steps 20 --run run --quiet
exists run/report.html
says "exp(log p) on a grid" run/report.html
ok verify --run run --quiet
says "floor 2.3939" out
ok analyze --run run --n 200 --quiet
says "log-likelihood" out
says "the floor is 2.3939" out
says "data against data" out
ok analyze --run run --data moons --rows 700 --seed 3 --n 200 --quiet
says "700 held-out rows" out
ok analyze --run run --n 200 --quiet --json
says '"name":"Wasserstein-2"' out
ok train --model flow_matching --set hidden=8 --set time_dim=8 --data moons --steps 5 --run field --quiet
says "from noise to data" field/report.html
says "Sample quality against function evaluations" field/report.html
ok train --model realnvp --set hidden=8 --set n_flows=2 --data moons --steps 5 --spectral-norm 0.5 --run bound --quiet
# Rows of a file with classes: a classifier judges, or all rows are compared.
ok sample --weights run/weights.safetensors --n 400 --output rows.npy --quiet
ok analyze --run run --data rows.npy --all-rows --n 100 --quiet
says "400 held-out rows" out
# A run knows its data, conditions and the seed of its split.
ok train --model realnvp --set hidden=8 --set n_flows=2 --data rows.npy --condition rows.npy --seed 5 --steps 5 \
  --batch-size 32 --run told --quiet
ok verify --run told --quiet
says "on 40 rows" out
ok analyze --run told --n 20 --quiet
says "40 held-out rows" out
expect 2 "without conditions" verify --run told --data rows.npy --quiet
expect 2 "does not take a condition" train --model planar --data rows.npy --condition rows.npy --run none --quiet

expect 2 "--data: none given" analyze --model planar
expect 2 "nowhere" verify --model planar --data nowhere
expect 2 "planar" verify --model planer
expect 2 "--rows" verify --model planar --rows 3
expect 2 "--spectral-norm" train --model planar --data moons --spectral-norm -1

finish
