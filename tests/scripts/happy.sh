# Every model through init, inspect, sample, eval, grad and a short training.
. "$(dirname "$0")/common.inc"

small() {
  case $1 in
    planar) echo "--set=n_flows=3" ;;
    realnvp | spline) echo "--set=n_flows=2 --set=hidden=8" ;;
    cnf) echo "--set=hidden=8 --set=solver=rk4 --set=n_steps=3" ;;
    flow_matching | consistency | score) echo "--set=time_dim=8 --set=hidden=16" ;;
    diffusion) echo "--set=hidden=16 --set=n_timesteps=8" ;;
  esac
}
int64 steps.npy 0 1 2 3 4 5 6 7
# Times of 0 for eight rows: float64 zeros.
{ printf '\223NUMPY\1\0\166\0%-117s\n' "{'descr': '<f8', 'fortran_order': False, 'shape': (8,), }"
  head -c 64 /dev/zero; } >times.npy

for model in planar realnvp spline cnf flow_matching consistency score diffusion; do
  o=$(small $model)
  ok init --model $model $o --output $model.safetensors
  ok init --model $model $o --output again.safetensors
  same $model.safetensors again.safetensors
  ok init --model $model $o --seed 1 --output other.safetensors
  differ $model.safetensors other.safetensors
  ok init --model $model $o --dtype float64 --output double.safetensors
  ok inspect $model.safetensors
  says "present, all verified" out
  ok inspect --json $model.safetensors
  ok inspect --model $model $o
  says "quantities:" out
  ok inspect --weights $model.safetensors --json --model $model
  ok inspect --model $model $o --graph --dot graph.dot
  says "leaf" out
  exists graph.dot
  ok sample --weights $model.safetensors --n 8 --output x.npy --picture x.svg
  exists x.svg
  ok sample --weights $model.safetensors --n 8 --output x1.npy --threads 3
  same x.npy x1.npy
  ok sample --weights double.safetensors --n 8 --output x2.npy --dtype float64
  ok inspect x2.npy
  says "float64" out
  case $model in
    planar | realnvp | spline | cnf)
      for q in forward inverse log_prob log_det loss; do
        ok eval --weights $model.safetensors --quantity $q --input x.npy --output $q.npy
        says "$q" out
      done
      ok grad --weights $model.safetensors --quantity log_prob --input x.npy --output lp.safetensors
      ;;
    flow_matching)
      ok eval --weights $model.safetensors --quantity loss --input x.npy --output loss.npy --json
      ok eval --weights $model.safetensors --quantity generate --noise x.npy --n-steps 4 --solver rk4 --output g.npy
      ok eval --weights $model.safetensors --quantity log_prob --input x.npy --n-steps 4 --output lp.npy
      ok grad --weights $model.safetensors --quantity log_prob --input x.npy --n-steps 4 --output lp.safetensors
      ;;
    consistency)
      ok eval --weights $model.safetensors --quantity end_point --input x.npy --time times.npy --output e.npy
      ok eval --weights $model.safetensors --quantity generate --noise x.npy --output g.npy
      ;;
    score)
      ok eval --weights $model.safetensors --quantity noise_prediction --input x.npy --time times.npy --output e.npy
      ok eval --weights $model.safetensors --quantity velocity --input x.npy --time times.npy --output v.npy
      ok eval --weights $model.safetensors --quantity generate --noise x.npy --n-steps 4 --solver heun --output g.npy
      ;;
    diffusion)
      ok eval --weights $model.safetensors --quantity noise_prediction --input x.npy --time steps.npy --output e.npy
      ok eval --weights $model.safetensors --quantity loss --input x.npy --noise x.npy --time steps.npy --output l.npy
      ok eval --weights $model.safetensors --quantity generate --n 3 --solver ddim --n-steps 4 --output g.npy
      ;;
  esac
  ok grad --weights $model.safetensors --input x.npy --output g.safetensors
  ok grad --weights $model.safetensors --input x.npy --output g3.safetensors --threads 3 --json
  same g.safetensors g3.safetensors
  ok inspect g.safetensors
  ok train --model $model $o --data moons --steps 6 --batch-size 16 --ema 0.9 --run runs/$model --seed 5 --quiet
  for f in config.json metrics.jsonl report.html weights.safetensors; do exists runs/$model/$f; done
  ok sample --run runs/$model --n 8 --output a.npy
  ok sample --weights runs/$model/weights.safetensors --n 8 --output b.npy
  same a.npy b.npy # both the averaged weights
  ok sample --run runs/$model --raw-weights --n 8 --output c.npy
  differ a.npy c.npy
  ok inspect runs/$model
  says "optimizer." out
done

# The main program of a newcomer, with defaults.
ok train --model planar --data 8gaussians --steps 3
exists runs/planar-8gaussians/report.html
says "seed 0" err
says "step 3/3" err
ok train --model planar --data 8gaussians --steps 3 --overwrite --json --quiet
says '"status":"finished"' out
[ ! -s err ] || fail "--quiet is not quiet"

# Rows of a file, with and without conditions.
ok sample --model planar --n 60 --seed 3 --output rows.npy
ok train --model realnvp --set n_flows=2 --set hidden=8 --data rows.npy --condition rows.npy --batch-size 20 --steps 5 --run c
ok sample --run c --condition rows.npy --output d.npy
says "(60, 2)" out
ok train --model flow_matching --set time_dim=8 --set hidden=8 --data rows.npy --condition rows.npy \
  --condition-dropout 0.1 --batch-size 20 --steps 5 --run d
ok sample --run d --class all --n 2 --guidance 2 --output d.npy
says "(4, 2)" out
ok sample --run d --class 1 --n 3 --output d.npy
# A student learns from its teacher's pairs; resuming makes the same pairs again.
ok train --model flow_matching --set time_dim=8 --set hidden=8 --data moons --teacher runs/flow_matching --pairs 50 \
  --batch-size 20 --steps 6 --run student
says "50 pairs of runs/flow_matching" out
ok train --model flow_matching --set time_dim=8 --set hidden=8 --data moons --teacher runs/flow_matching --pairs 50 \
  --batch-size 20 --steps 6 --pause-at 3 --run resumed
ok train --run resumed --resume
same student/weights.safetensors resumed/weights.safetensors
ok train --model consistency --set time_dim=8 --set hidden=8 --data rows.npy --condition rows.npy --teacher d --pairs 30 \
  --batch-size 20 --steps 3 --run few
ok sample --run few --condition rows.npy --n-steps 2 --output d.npy
# A policy that sees and reads. zeros <file> <type> <shape> <bytes>: a .npy file.
zeros() {
  { printf '\223NUMPY\1\0\166\0%-117s\n' "{'descr': '<$2', 'fortran_order': False, 'shape': ($3), }"
    head -c "$4" /dev/zero; } >"$1"
}
zeros images.npy f4 "3, 3, 9, 9" 2916
zeros tokens.npy i8 "3, 4" 96
zeros robot.npy f4 "3, 2" 24
zeros t.npy f4 "3," 12
seen="--images images.npy --tokens tokens.npy --robot robot.npy"
ok init --model flow_vla --set hidden=16 --set height=9 --set width=9 --set robot_dim=2 --set horizon=1 --output vla.safetensors
ok sample --weights vla.safetensors $seen --output a.npy
says "(3, 2)" out
ok sample --weights vla.safetensors $seen --output b.npy --threads 3
same a.npy b.npy
ok eval --weights vla.safetensors --quantity condition $seen --output c.npy
says "(3, 128)" out
ok eval --weights vla.safetensors --quantity velocity --input a.npy --time t.npy $seen --output v.npy
ok eval --weights vla.safetensors --quantity velocity --input a.npy --time t.npy --condition c.npy --output w.npy
same v.npy w.npy
ok eval --weights vla.safetensors --quantity generate $seen --noise a.npy --n-steps 3 --output g.npy
for q in loss training_loss; do
  ok eval --weights vla.safetensors --quantity $q --input a.npy --noise a.npy --time t.npy $seen --output l.npy
  ok grad --weights vla.safetensors --quantity $q --input a.npy $seen --output g.safetensors
done
ok inspect --weights vla.safetensors --model flow_vla --graph
# The tutorial's robot, and a run that goes on where it was paused.
robot="--model flow_vla --set hidden=16 --set height=9 --set width=9 --set horizon=1 --set action_dim=7 --set vocabulary=10000"
ok train $robot --data tutorial-robot@9 --batch-size 8 --steps 4 --run seen
says "32000 items" out
ok train $robot --data tutorial-robot@9 --batch-size 8 --steps 4 --pause-at 2 --run seen_on
ok train --run seen_on --resume
same seen/weights.safetensors seen_on/weights.safetensors
# Sequences of two levels, from rows and their conditions.
ok train --model hierarchical --set hidden=16 --set time_dim=8 --set latent_dim=4 --set decoder_hidden=8 --set action_dim=1 \
  --set sequence_length=2 --data rows.npy --condition rows.npy --batch-size 20 --steps 5 --run levels
ok sample --run levels --condition rows.npy --output d.npy
says "(60, 2, 1)" out
ok eval --run levels --quantity loss --input rows.npy --condition rows.npy --output l.npy
ok eval --run levels --quantity jerk --condition rows.npy --output j.npy
says "(60,)" out
ok analyze --run levels --n 60
# float64 and the reference kernels.
ok train --model planar --data rings --steps 3 --dtype float64 --backend reference --run e
ok eval --run e --dtype float64 --quantity log_prob --input rows.npy --output f64.npy
says "float64" out
# The steps of a solve.
ok trace solve --model cnf --n-samples 20
says "error ratio" out
ok trace solve --model cnf --input rows.npy --rtol 1e-3 --atol 1e-3 --json
says '"success": true' out
ok trace solve --model flow_matching --set hidden=8 --set time_dim=8 --n-samples 5 --n-steps 3 --output steps.csv
says "3 steps, 3 accepted, 12 evaluations" out
[ "$(wc -l <steps.csv)" -eq 4 ] || fail "steps.csv has not a line for each step"
ok trace solve --run d --condition rows.npy --input rows.npy --solver heun --n-steps 2 --output steps.json
exists steps.json
expect 1 "raise max_steps" trace solve --model cnf --max-steps 1 --output part.csv
exists part.csv
ok --help
ok --version
for c in train sample inspect eval grad init trace; do
  ok $c --help
  says "[0]" out
done
finish
