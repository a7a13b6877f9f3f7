# A training that was paused and continued ends with the same bits as one that was not, at any number of threads.
. "$(dirname "$0")/common.inc"

go() { # <run> <options...>
  run=$1
  shift
  ok train --model realnvp --set n_flows=2 --set hidden=16 --steps 20 --batch-size 32 --ema 0.9 --warm-up 3 \
    --weight-decay 0.01 --accumulate 2 --run "$run" "$@"
}
ok sample --model planar --n 150 --seed 3 --output rows.npy
for data in moons rows.npy; do
  name=${data%.npy}
  go whole-$name --data $data --threads 1
  for threads in 1 3; do
    go parts-$name-$threads --data $data --threads $threads --pause-at 10
    ok train --run parts-$name-$threads --resume --threads $threads
    says "continuing after step 10" err
    same whole-$name/weights.safetensors parts-$name-$threads/weights.safetensors
    ok sample --run whole-$name --raw-weights --n 50 --output a.npy
    ok sample --run parts-$name-$threads --raw-weights --n 50 --output b.npy
    same a.npy b.npy
    # Times differ from run to run; everything else of a row does not.
    sed 's/,"seconds".*//' whole-$name/metrics.jsonl >a
    sed 's/,"seconds".*//' parts-$name-$threads/metrics.jsonl >b
    same a b
  done
done
# Other models draw random numbers in the loss.
for model in "cnf --set hidden=8 --set solver=rk4 --set n_steps=2" "cnf --set hidden=8" "flow_matching --set hidden=8 --set time_dim=8" \
  "diffusion --set hidden=8 --set n_timesteps=5"; do
  rm -rf a b
  ok train --model $model --data circles --steps 8 --batch-size 16 --run a
  ok train --model $model --data circles --steps 8 --batch-size 16 --run b --pause-at 3
  ok train --run b --resume
  same a/weights.safetensors b/weights.safetensors
done
# A constant rate does not know how long it is for, so fewer steps are as good as a pause.
rm -rf a b
ok train --model planar --data rings --schedule constant --steps 8 --run a
ok train --model planar --data rings --schedule constant --steps 5 --run b
ok train --run b --resume --steps 8
same a/weights.safetensors b/weights.safetensors
# What does not belong together is refused, and the run stays as it was.
cp -r b before
expect 3 "n_flows" train --run b --resume --set n_flows=3
expect 3 "another configuration" train --run b --resume --batch-size 7
expect 3 "--batch-size: 7 given; the run in b was started with 256" train --run b --resume --batch-size 7
expect 3 "--seed: 4 given" train --run b --resume --seed 4
expect 3 "--model: realnvp given" train --run b --resume --model realnvp
expect 3 "--data: circles given" train --run b --resume --data circles
expect 3 "--dtype: float64 given" train --run b --resume --dtype float64
expect 3 "--set: n_flows=3 given" train --run b --resume --set n_flows=3
expect 3 "--ema: 0.9 given" train --run b --resume --ema 0.9
expect 3 "--weights: a given; the run in b was started with none" train --run b --resume --weights a
expect 2 "--steps: 5 given; the run in b has done 8" train --run b --resume --steps 5
expect 3 "holds a training run already" train --model planar --data rings --run b
expect 3 "holds no checkpoint" train --run nothing --resume
[ ! -e nothing ] || fail "a folder was made"
for f in config.json metrics.jsonl weights.safetensors checkpoints/step-00000008.safetensors; do same b/$f before/$f; done
# However --resume is written, the run's own configuration is the start, and a file wins over it.
ok train --model planar --data rings --schedule constant --steps 5 --run c
ok train --run c --resume=true --steps 6
printf 'steps = 7\n' >more.toml
ok train --run c --resume --config more.toml
printf 'steps = 8\nrun = c\nresume = true\n' >more.toml
ok train --config more.toml
same c/weights.safetensors a/weights.safetensors
expect 2 "--data: none given" train --run c --resume --resume=false --overwrite --model planar
# Texts stay texts, though they look like numbers.
f="--model flow_matching --set hidden=8 --set time_dim=8 --data moons --batch-size 16 --steps 4"
ok train $f --run 1.50
ok train $f --teacher 1.50 --pairs 64 --run taught --pause-at 2
says '"teacher": "1.50"' taught/config.json
says '"steps": 4,' taught/config.json
ok train --run taught --resume
# The conditions belong to the data.
ok sample --model planar --n 60 --seed 4 --output c1.npy
ok sample --model planar --n 60 --seed 5 --output c2.npy
ok train --model flow_matching --set hidden=8 --set time_dim=8 --data c1.npy --condition c1.npy --batch-size 16 --steps 4 \
  --pause-at 2 --run told
expect 3 "--condition: c2.npy given; the run in told was started with c1.npy" train --run told --resume --condition c2.npy
ok train --run told --resume
# A run that is done already says so, and writes its results again.
rm -rf done
cp -r b done
rm done/report.html
ok train --run done --resume
says "all 8 steps are done already" err
! grep -q 'loss' err || fail "a loss where nothing was trained"
exists done/report.html
same done/weights.safetensors b/weights.safetensors
rm done/config.json
expect 3 "done/config.json" train --run done --resume
printf '{' >done/config.json
expect 3 "--resume: done/config.json: not JSON" train --run done --resume
# A run that lost patience has ended.
ok train --model planar --data rings --learning-rate 0.5 --patience 2 --validate-every 5 --steps 400 --run patient
says "no better validation in the last 2" err
step=$(tail -n 1 patient/metrics.jsonl)
cp patient/weights.safetensors ended
ok train --run patient --resume
says "no better validation in the last 2" err
same patient/weights.safetensors ended
[ "$(tail -n 1 patient/metrics.jsonl)" = "$step" ] || fail "a run without patience went on"
expect 2 "--pause-at: 3 given; the run in b has done 8" train --run b --resume --pause-at 3
# What a run that is overwritten left must not pass for the new one's.
cp -r b anew
rm anew/metrics.jsonl
"$flowgrad" train --model planar --data rings --steps 100000000 --log-every 1 --run anew --overwrite >/dev/null 2>&1 &
pid=$!
wait_for_rows anew/metrics.jsonl 1
kill $pid
wait $pid || true
for f in weights.safetensors report.html; do [ ! -e anew/$f ] || fail "anew/$f is of the run before"; done
# One process at a time.
"$flowgrad" train --model planar --data rings --steps 100000000 --batch-size 16 --log-every 1 --run busy >/dev/null 2>&1 &
pid=$!
wait_for_rows busy/metrics.jsonl 1
expect 3 "busy: another process writes there" train --model planar --data rings --run busy --overwrite --steps 3
kill $pid
rc=0
wait $pid || rc=$?
[ $rc -eq 143 ] || fail "the busy run ended with $rc"
ok train --model planar --data rings --run busy --overwrite --steps 3
# A flipped bit in the newest checkpoint: the one before it is used, and said so.
newest=$(ls b/checkpoints/* | tail -n 1)
printf '\377' | dd of="$newest" bs=1 seek=1000 conv=notrunc 2>/dev/null
ok train --run b --resume --steps 9
says "the checkpoint before it is used" err
for f in b/checkpoints/*; do printf '\377\376' | dd of="$f" bs=1 seek=1000 conv=notrunc 2>/dev/null; done
expect 3 "none of 2 files can be used" train --run b --resume --steps 10
finish
