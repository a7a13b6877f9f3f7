# Bad command lines and configurations: exit code 2, one line on stderr that names what is wrong and what is
# accepted, nothing on stdout, no file made. Each line: words of the message @ arguments.
. "$(dirname "$0")/common.inc"
table=$(dirname "$flowgrad")/bad_usage.$$
trap 'rm -rf "$table" "$table.d"' EXIT
mkdir "$table.d"
cat >"$table" <<'END'
a command is needed@
did you mean train?@trian
did you mean eval?@evaluate
did you mean sample?@smaple --n 3
did you mean inspect?@inspct
unknown command@xyzzyxyzzyxyzzy
accepted are@Train
unknown command@""
unknown option@--seed 3 train
unknown option@-x
unknown option@-h
did you mean --steps?@train --stesp 5
did you mean --learning-rate?@train --learning_rate 1
did you mean --batch-size?@train --batchsize 4
did you mean --output?@init --model planar --ouput w.safetensors
unknown option@init --model planar --output w.safetensors -q
unknown option@init --model planar --output w.safetensors --no-such-thing=3
unexpected argument@init --model planar --output w.safetensors extra
unexpected argument@train moons
unexpected argument@inspect a.npy b.npy
--seed: one value@init --model planar --output w.safetensors --seed
--output: one value@init --model planar --output
--set: one value@init --model planar --output w.safetensors --set
--steps@train --steps --model planar
the option "--quiet" follows@train --run --quiet
the option "--seed" follows@init --model planar --output --seed 3
--output is required@init --model planar
--output is required@sample --model planar
--output is required@eval --model planar --quantity forward
--quantity is required@eval --model planar --output x.npy
--output is required@grad --model planar
--model: none given@init --output w.safetensors
--model: none given@eval --quantity log_prob --output y.npy
--model: none given@grad --output y.safetensors
--model: none given@sample --output y.npy
--model: none given@train --data moons
FILE: none given@inspect
did you mean "realnvp"?@init --model realnvpp --output w.safetensors
did you mean "planar"?@init --model Planar --output w.safetensors
accepted are planar@init --model 3 --output w.safetensors
unknown model@train --model resnet50000 --data moons
unknown model@sample --model "" --model nothing-at-all --output x.npy
unknown model@inspect --model nothing-at-all
did you mean "dim"?@init --model planar --set dimm=3 --output w.safetensors
did you mean "n_flows"?@init --model planar --set n-flows=3 --output w.safetensors
unknown key@init --model planar --set hidden=3 --output w.safetensors
unknown key@inspect --model cnf --set n_flows=3
unknown key@train --model planar --set steps=3 --data moons
KEY=VALUE is accepted@init --model planar --set dim --output w.safetensors
KEY=VALUE is accepted@init --model planar --set =3 --output w.safetensors
KEY=VALUE is accepted@init --model planar --set "" --output w.safetensors
KEY=VALUE is accepted@train --model planar --set dim:2 --data moons
an integer from 1@init --model planar --set dim=0 --output w.safetensors
an integer from 1@init --model planar --set dim=-3 --output w.safetensors
an integer from 1@init --model planar --set dim=2.5 --output w.safetensors
an integer from 1@init --model planar --set dim=two --output w.safetensors
an integer from 1@init --model planar --set dim= --output w.safetensors
an integer from 1@init --model planar --set dim=99999999999999999999 --output w.safetensors
an integer from 1@init --model planar --set "dim=2 " --output w.safetensors
n_flows@init --model planar --set n_flows=0 --output w.safetensors
n_flows@init --model realnvp --set n_flows=0 --output w.safetensors
hidden@init --model realnvp --set hidden=0 --output w.safetensors
dim@init --model realnvp --set dim=1 --output w.safetensors
log_scale_bound@init --model realnvp --set log_scale_bound=-1 --output w.safetensors
log_scale_bound@init --model realnvp --set log_scale_bound=nan --output w.safetensors
log_scale_bound@init --model realnvp --set log_scale_bound=inf --output w.safetensors
condition_dim@init --model realnvp --set condition_dim=-1 --output w.safetensors
permute@init --model realnvp --set permute=yes --output w.safetensors
actnorm@init --model realnvp --set actnorm=1 --output w.safetensors
trace@init --model cnf --set trace=approximate --output w.safetensors
probe@init --model cnf --set probe=uniform --output w.safetensors
solver@init --model cnf --set solver=rk5 --output w.safetensors
n_steps@init --model cnf --set n_steps=0 --output w.safetensors
n_steps = 7 given with solver dopri5@init --model cnf --set n_steps=7 --output w.safetensors
rtol@init --model cnf --set rtol=-1 --output w.safetensors
redraw_probe@init --model cnf --set trace=exact --set redraw_probe=true --output w.safetensors
even numbers@init --model flow_matching --set time_dim=7 --output w.safetensors
time_dim@init --model flow_matching --set time_dim=2 --output w.safetensors
time_scale@init --model flow_matching --set time_scale=0 --output w.safetensors
time_law@init --model flow_matching --set time_law=gaussian --output w.safetensors
action_dim@init --model flow_matching --set action_dim=0 --output w.safetensors
n_timesteps@init --model diffusion --set n_timesteps=0 --output w.safetensors
schedule@init --model diffusion --set schedule=cosine --output w.safetensors
variance@init --model diffusion --set variance=learned --output w.safetensors
preset@init --model flow_vla --set preset=large --output w.safetensors
nothing to see@train --model flow_vla --data moons
images and words@train --model flow_matching --set action_dim=7 --data tutorial-robot@9
from 8 to 1024@train --model flow_vla --data tutorial-robot@4
from 8 to 1024@train --model flow_vla --data tutorial-noise@big
rows of 7 given@train --model flow_vla --data tutorial-robot
integer from 8@init --model flow_vla --set height=7 --output w.safetensors
at least 9@init --model flow_vla --set height=8 --output w.safetensors
pad_id = 64@init --model flow_vla --set pad_id=64 --output w.safetensors
noise_correlation@init --model hierarchical --set noise_correlation=2 --output w.safetensors
--images: none given@eval --model flow_vla --quantity condition --output y.npy
--images: given@eval --model planar --quantity sample --images x.npy --output y.npy
--condition: given@eval --model flow_vla --quantity condition --condition x.npy --images x.npy --tokens x.npy --output y.npy
--input: none given@eval --model flow_vla --quantity loss --images x.npy --tokens x.npy --output y.npy
--guidance@eval --model hierarchical --quantity loss --guidance 2 --input x.npy --output y.npy
state_dim@init --model diffusion --set state_dim=-1 --output w.safetensors
--seed@init --model planar --output w.safetensors --seed -1
--seed@init --model planar --output w.safetensors --seed 1.5
--seed@init --model planar --output w.safetensors --seed abc
--seed@init --model planar --output w.safetensors --seed 18446744073709551616
--seed@init --model planar --output w.safetensors --seed 0x10
--seed@init --model planar --output w.safetensors --seed ""
--seed@init --model planar --output w.safetensors --seed +1
from 0 to 1024@init --model planar --output w.safetensors --threads 1025
from 0 to 1024@init --model planar --output w.safetensors --threads -1
from 0 to 1024@init --model planar --output w.safetensors --threads all
float32 and float64 are accepted@init --model planar --output w.safetensors --dtype float16
float32 and float64 are accepted@train --model planar --data moons --dtype double
cpu and cuda are accepted@init --model planar --output w.safetensors --device gpu
cpu and cuda are accepted@train --model planar --data moons --device cuda:0
fast and reference are accepted@init --model planar --output w.safetensors --backend blas
true and false are accepted@init --model planar --output w.safetensors --quiet=maybe
true and false are accepted@init --model planar --output w.safetensors --json=2
ends in .safetensors@init --model planar --output w.npy
ends in .safetensors@init --model planar --output w
ends in .safetensors@init --model planar --output ""
ends in .safetensors@grad --model planar --output g.npz
ends in .npy@eval --model planar --quantity forward --output y.txt
ends in .npy@sample --model planar --output y
ends in .svg or .png@sample --model planar --output y.npy --picture y.jpg
ends in .dot or .gv@inspect --model planar --dot graph.pdf
did you mean "log_prob"?@eval --model planar --quantity logprob --output y.npy
it has forward@eval --model planar --quantity velocity --output y.npy
it has velocity@eval --model flow_matching --quantity inverse --output y.npy
it has noise_prediction@eval --model diffusion --quantity inverse --output y.npy
needs an array for input@eval --model planar --quantity forward --output y.npy
needs an array for time@eval --model flow_matching --quantity velocity --input x.npy --output y.npy
needs an array for input@grad --model planar --output y.safetensors
needs an array for input@grad --model diffusion --output y.safetensors
--quantity: model planar@eval --model planar --quantity nothing-like-it --output y.npy
--input: none given@eval --model planar --quantity forward --output y.npy
--time: none given@eval --model diffusion --quantity noise_prediction --input x.npy --output y.npy
--input: given@eval --model planar --quantity sample --input x.npy --output y.npy
--input: given@eval --model flow_matching --quantity generate --input x.npy --output y.npy
--time: given@eval --model planar --quantity log_prob --input x.npy --time t.npy --output y.npy
--noise: given@eval --model realnvp --quantity loss --input x.npy --noise x.npy --output y.npy
--probe-noise: given@eval --model planar --quantity log_prob --input x.npy --probe-noise x.npy --output y.npy
--step-noise: given@eval --model flow_matching --quantity generate --step-noise x.npy --output y.npy
--step-noise: given@eval --model diffusion --quantity generate --solver ddim --step-noise x.npy --output y.npy
--n: given@eval --model planar --quantity forward --input x.npy --n 3 --output y.npy
--n-steps: given@eval --model flow_matching --quantity velocity --input x.npy --time x.npy --n-steps 3 --output y.npy
--solver: given@grad --model flow_matching --input x.npy --solver rk4 --output y.safetensors
--guidance: given@eval --model flow_matching --quantity loss --input x.npy --guidance 2 --output y.npy
--set: model planar: unknown key@init --model planar --set hidden=3 --output w.safetensors
--model: unknown model@init --model nothing --output w.safetensors
--peak-memory: given with@bench --peak-memory
--verify-only; one case@bench --only planar/train/d2_b128 --peak-memory --verify-only
"-1" given; a number from 0 to 3600@bench --budget -1
from 0 to 1024@bench --threads 5000
baseline, avx2 and avx512 are accepted@bench --isa sse
--only: no case@bench --only nothing-like-it
ends in .json@bench --json x.txt
unexpected argument@bench planar
unknown option@demo --steps 3
unknown key "model"@demo --config "$c/c14.toml" --run demo
loss, log_prob and training_loss are accepted@grad --model planar --quantity inverse --output y.safetensors
no quantity "log_prob"@grad --model diffusion --quantity log_prob --output y.safetensors
guidance@sample --model planar --guidance 2 --output y.npy
--guidance@sample --model planar --guidance -1 --output y.npy
--guidance@sample --model planar --guidance nan --output y.npy
guidance@sample --model flow_matching --guidance 2 --output y.npy
n_steps@sample --model planar --n-steps 5 --output y.npy
--n-steps@sample --model cnf --n-steps -5 --output y.npy
--n-steps@sample --model cnf --n-steps 1e3 --output y.npy
solver@sample --model planar --solver rk4 --output y.npy
solver@sample --model cnf --solver rk5 --output y.npy
n_steps = 5 given with solver dopri5@sample --model cnf --solver dopri5 --n-steps 5 --output y.npy
what@trace --model cnf
solve are accepted@trace steps --model cnf
whose solves are not traced@trace solve --model realnvp
--solver@trace solve --model cnf --solver
dopri8@trace solve --model cnf --solver dopri8
--n-steps: given with solver dopri5@trace solve --model cnf --solver dopri5 --n-steps 5
--rtol: given with solver rk4@trace solve --model cnf --n-steps 5 --rtol 1e-3
--n-samples: given with --input@trace solve --model cnf --input x.npy --n-samples 5
ends in .csv or .json@trace solve --model cnf --output steps.txt
solver@sample --model flow_matching --solver ddim --output y.npy
solver@sample --model diffusion --solver rk4 --output y.npy
steps given@sample --model diffusion --n-steps 7 --output y.npy
--n:@sample --model planar --n 0 --output y.npy
--n:@sample --model planar --n 10000001 --output y.npy
--n:@sample --model planar --n -4 --output y.npy
--class@sample --model planar --class 1 --output y.npy
--class@sample --model flow_matching --set condition_dim=3 --class 3 --output y.npy
--class@sample --model flow_matching --set condition_dim=3 --class -1 --output y.npy
--class@sample --model flow_matching --set condition_dim=3 --class shirt --output y.npy
--class: given with --condition@sample --model flow_matching --class 1 --condition c.npy --output y.npy
--picture@sample --model planar --set dim=3 --output y.npy --picture y.svg
--picture@sample --model planar --output y.npy --picture y.png
--picture@sample --model planar --set dim=16 --output y.npy --picture y.svg
--data: none given@train --model planar
did you mean "moons"?@train --model planar --data moon
did you mean "fashion-mnist"?@train --model planar --data fashion_mnist
.npy files are accepted@train --model planar --data rows.csv
--data-folder@train --model planar --data moons --data-folder x
--condition@train --model realnvp --data moons --condition c.npy
--condition-dropout@train --model planar --data moons --condition-dropout 0.1
--condition-dropout@train --model planar --data moons --condition-dropout 1
--steps: "0" given; a whole number from 1@train --model planar --data moons --steps 0
--steps@train --model planar --data moons --steps 1e3
--steps@train --model planar --data moons --steps 9999999999999
--batch-size@train --model planar --data moons --batch-size 0
--batch-size@train --model planar --data moons --batch-size=-3
--accumulate@train --model planar --data moons --accumulate 0
above 0@train --model planar --data moons --learning-rate 0
--learning-rate@train --model planar --data moons --learning-rate -1
--learning-rate@train --model planar --data moons --learning-rate nan
--learning-rate@train --model planar --data moons --learning-rate inf
--learning-rate@train --model planar --data moons --learning-rate fast
--learning-rate@train --model planar --data moons --learning-rate 1e400
--learning-rate@train --model planar --data moons --learning-rate 0,001
one-cycle@train --model planar --data moons --schedule onecycle
constant, cosine and one-cycle are accepted@train --model planar --data moons --schedule step
--warm-up@train --model planar --data moons --warm-up -1
--weight-decay@train --model planar --data moons --weight-decay -0.1
--clip@train --model planar --data moons --clip -1
from 0 to below 1@train --model planar --data moons --ema 1
--ema@train --model planar --data moons --ema -0.5
--patience@train --model planar --data moons --patience -1
--checkpoint-every@train --model planar --data moons --checkpoint-every -1
--validate-every@train --model planar --data moons --validate-every x
--log-every@train --model planar --data moons --log-every 2.0
--pause-at@train --model planar --data moons --pause-at -2
--resume: no run given@train --model planar --data moons --resume
--overwrite: given with --resume@train --model planar --data moons --run x --resume --overwrite
--preset: given with --resume@train --run x --resume --preset realnvp
the data needs 2@train --model planar --set dim=3 --data moons
the data needs 2@train --model flow_matching --set action_dim=7 --data moons
the data needs 0@train --model flow_matching --set condition_dim=7 --data moons
--graph: on given for the CPU@train --model planar --data moons --graph on
--graph: on given for the CPU@imitate --task fork --demonstrations 5 --graph on
--pairs: 5 given without --teacher@train --model planar --data moons --pairs 5
head=regression given; --head decides it@imitate --task fork --set head=regression
state_dim=3 given; --task decides it@imitate --task fork --set state_dim=3
--condition: none given; flow_matching takes rows of 3@sample --model flow_matching --set condition_dim=3 --output y.npy
--model: unknown model@train --model realnvpp --data moons
a probe given with trace exact@eval --model cnf --set trace=exact --quantity log_prob --input "$c/x.npy" --probe-noise "$c/x.npy" --output y.npy
--batch-size: 7 given without --graph@inspect --model planar --batch-size 7
--images: given for planar@sample --model planar --images x.npy --output y.npy
--n-steps: given for a demonstrator@rollout --task fork --demonstrator expert --n-steps 3
--execute: 3 given with --ensemble@rollout --task fork --demonstrator expert --ensemble --execute 3
c0.toml:1@init --config "$c/c0.toml" --output w.safetensors
did you mean "steps"?@train --config "$c/c1.toml" --data moons
c2.toml:2@init --config "$c/c2.toml" --output w.safetensors
given twice@init --config "$c/c3.toml" --output w.safetensors
unknown section@init --config "$c/c4.toml" --output w.safetensors
no end@init --config "$c/c5.toml" --output w.safetensors
after the value@init --config "$c/c6.toml" --output w.safetensors
key "dim" is given twice@train --config "$c/c18.json" --data moons
not JSON@init --config "$c/c7.json" --output w.safetensors
"model" is array@init --config "$c/c8.json" --output w.safetensors
--seed@init --config "$c/c9.toml" --output w.safetensors
true and false are accepted@init --config "$c/c10.toml" --output w.safetensors
unknown key "config"@init --config "$c/c11.toml" --output w.safetensors
unknown key "print-config"@init --config "$c/c12.toml" --output w.safetensors
name = value, [section] or a comment@init --config "$c/c13.toml" --output w.safetensors
unknown key "hidden"@init --config "$c/c14.toml" --output w.safetensors
unknown key "dim"@train --config "$c/c15.toml" --data moons
c16.toml:1@init --config "$c/c16.toml" --output w.safetensors
value@init --config "$c/c17.toml" --output w.safetensors
unknown key "hidden"@demo --config "$c/c19.toml" --run demo
unknown section "set"@bench --config "$c/c20.toml"
without a NUL@init --config "$c/c21.toml" --output w.safetensors
--weights: w.safetensors given beside "x.npy"@inspect --weights w.safetensors x.npy
--all-rows: given with --data moons@analyze --model planar --data moons --all-rows
(0, 2) given; the mean of at least one row@grad --model planar --input "$c/none.npy" --output g.safetensors
(0, 2) given; the mean of at least one row@grad --model planar --quantity log_prob --input "$c/none.npy" --output g.safetensors
END
c=$table.d
(cd "$c" && "$flowgrad" sample --model planar --n 4 --output x.npy --quiet)
printf 'model planar\n' >"$c/c0.toml"
printf 'model = planar\nstpes = 3\n' >"$c/c1.toml"
printf 'model = planar\ncolour = 3\n' >"$c/c2.toml"
printf 'model = planar\nmodel = cnf\n' >"$c/c3.toml"
printf 'model = planar\n[optimiser]\nx = 1\n' >"$c/c4.toml"
printf 'model = "planar\n' >"$c/c5.toml"
printf 'model = "planar" "cnf"\n' >"$c/c6.toml"
printf '{"model": planar}' >"$c/c7.json"
printf '{"model": ["planar"]}' >"$c/c8.json"
printf 'model = planar\nseed = -4\n' >"$c/c9.toml"
printf 'model = planar\nquiet = 3\n' >"$c/c10.toml"
printf 'model = planar\nconfig = other\n' >"$c/c11.toml"
printf 'model = planar\nprint-config = true\n' >"$c/c12.toml"
printf '[set\ndim = 3\n' >"$c/c13.toml"
printf 'model = planar\n[set]\nhidden = 3\n' >"$c/c14.toml"
printf 'model = planar\n[train]\ndim = 3\n' >"$c/c15.toml"
printf '\000\001\002\377\n' >"$c/c16.toml"
printf 'model = [planar]\n' >"$c/c17.toml"
printf '{"model": "planar", "set": {"dim": 2, "dim": 3}}' >"$c/c18.json"
printf 'hidden = 3\n' >"$c/c19.toml"
printf '[set]\nhidden = 3\n' >"$c/c20.toml"
printf 'model = "pla\000nar"\n' >"$c/c21.toml"
zeros "$c/none.npy" 0 "(0, 2)"

# A message of one line; the seed may be told before it.
lines=0
while IFS=@ read -r words arguments; do
  lines=$((lines + 1))
  eval "set -- $arguments"
  rc=0
  "$flowgrad" "$@" >"$c/out" 2>"$c/err" </dev/null || rc=$?
  grep -v '^seed [0-9]*$' "$c/err" >"$c/message" || true
  checks=$((checks + 5))
  [ $rc -eq 2 ] || fail "exit code $rc: $arguments"
  [ "$(wc -l <"$c/message")" -eq 1 ] || fail "not one line: $arguments"
  grep -qF -e "$words" "$c/message" || fail "no \"$words\": $arguments"
  [ ! -s "$c/out" ] || fail "output: $arguments"
  [ -z "$(ls -A .)" ] || { fail "a file was made: $arguments: $(ls -A .)"; rm -rf ./*; }
  [ $failures -eq 0 ] || tail -n 2 "$c/err"
done <"$table"
# Before anything is written.
for threads in abc 0 -3; do
  rc=0
  FLOWGRAD_NUM_THREADS=$threads "$flowgrad" train --model planar --data moons --steps 2 --run r >"$c/out" 2>"$c/err" || rc=$?
  checks=$((checks + 2))
  [ $rc -eq 2 ] && grep -q "FLOWGRAD_NUM_THREADS: .*$threads.* given" "$c/err" || { fail "exit code $rc: $threads threads"; cat "$c/err"; }
  [ -z "$(ls -A .)" ] || { fail "a file was made: $threads threads"; rm -rf ./*; }
done
echo "$lines command lines"
[ $lines -ge 120 ] || fail "fewer than 120 command lines"
finish
