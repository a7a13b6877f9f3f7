# Policies: a paused training ends with the same bits, acting has the same bits at any number of threads and rows, and what does
# not belong together is refused.
. "$(dirname "$0")/common.inc"

small="--demonstrations 8 --batch-size 32 --steps 12 --set hidden=16 --set time_dim=8 --set n_timesteps=5"
go() { # <run> <options...>
  run=$1
  shift
  ok imitate --task fork $small --run "$run" --quiet "$@"
}
for head in flow diffusion regression cvae mip; do
  go whole-$head --head $head --threads 1
  go parts-$head --head $head --threads 2 --pause-at 5
  ok imitate --run parts-$head --resume --threads 2 --quiet
  same whole-$head/weights.safetensors parts-$head/weights.safetensors
  ok rollout --run whole-$head --episodes 6 --json --quiet --threads 1 --lockstep 1
  cp out a
  ok rollout --run whole-$head --episodes 6 --json --quiet --threads 2
  same a out
done
ok imitate --task tabletop --encoder tiny --draws 2 --set auxiliary=1 --set word_dropout=0.1 --demonstrations 3 --batch-size 8 \
  --set hidden=16 --steps 4 --run eyes --quiet --threads 1
ok imitate --task tabletop --encoder tiny --draws 2 --set auxiliary=1 --set word_dropout=0.1 --demonstrations 3 --batch-size 8 \
  --set hidden=16 --steps 4 --run eyes-2 --quiet --threads 2 --pause-at 2
ok imitate --run eyes-2 --resume --quiet
same eyes/weights.safetensors eyes-2/weights.safetensors
ok rollout --run eyes --episodes 2 --split wording --quiet
ok rollout --run eyes --episodes 2 --counterfactual told --quiet --json
says '"task":"tabletop"' out

# Evaluations on the way leave no trace in the weights, stand in the metrics, go on after a pause, and tell the best weights.
go seen-flow --head flow --threads 2 --evaluate-every 4 --evaluate-episodes 3 --json
says '"success":' out
same seen-flow/weights.safetensors whole-flow/weights.safetensors
[ "$(grep -c '"measures":{"jerk":.*"score":.*"success":' seen-flow/metrics.jsonl)" = 3 ] || fail "not 3 evaluations"
! grep -q measures whole-flow/metrics.jsonl || fail "evaluated unasked"
go seen-parts --head flow --evaluate-every 4 --evaluate-episodes 3 --pause-at 5
ok imitate --run seen-parts --resume --quiet
same seen-parts/weights.safetensors whole-flow/weights.safetensors
for run in seen-flow seen-parts; do grep -o '"measures".*' $run/metrics.jsonl >$run.txt; done
same seen-flow.txt seen-parts.txt
go best-flow --head flow --evaluate-every 4 --evaluate-episodes 3 --keep-best
says "weights.safetensors of step" out
exists best-flow/best.safetensors
sed -n 's/.*"validation":\([-0-9.e]*\),.*/\1/p' best-flow/metrics.jsonl | sort -g | head -1 >least.txt
best=$(sed -n "s/.*\"step\":\([0-9]*\),.*\"validation\":$(cat least.txt),.*/\1/p" best-flow/metrics.jsonl | head -1)
says "of step $best" out
ok rollout --run best-flow --episodes 6 --json --quiet
cp out a
ok rollout --run best-flow/weights.safetensors --episodes 6 --json --quiet
sed 's/best-flow\/weights.safetensors/best-flow/' out >b
same a b
go best-flow --head flow --overwrite
[ ! -e best-flow/best.safetensors ] || fail "an earlier best is left"
# A signal amid an evaluation, of hours here, ends it: saved, and continued, beginning with it, to the same bits and rows. The
# second is the last evaluation.
rows() { sed 's/"seconds.*_seconds":[^,}]*//' "$1/metrics.jsonl"; }
for every in 6 12; do
  go seen-$every --head flow --evaluate-every $every --evaluate-episodes 3
  "$flowgrad" imitate --task fork $small --head flow --run cut-$every --evaluate-every $every --evaluate-episodes 100000 --quiet \
    >out 2>err &
  pid=$!
  wait_for_rows cut-$every/metrics.jsonl $((every - 1))
  sleep 0.5
  kill -s INT $pid
  rc=0
  wait $pid || rc=$?
  checks=$((checks + 1))
  [ $rc -eq 130 ] || fail "SIGINT amid an evaluation ended with $rc"
  says "--resume continues" err
  [ "$(cat cut-$every/metrics.jsonl | wc -l)" = $((every - 1)) ] || fail "a row of an evaluation that was cut short"
  ok imitate --run cut-$every --resume --evaluate-episodes 3 --quiet
  same cut-$every/weights.safetensors whole-flow/weights.safetensors
  rows cut-$every >a
  rows seen-$every >b
  same a b
done
expect 2 "--evaluate-every N asks" imitate --task fork $small --keep-best --run x

# Steps, latencies apart from results, delays, ensembles, experts.
ok rollout --run whole-flow --episodes 3 --n-steps 1 --n-steps 2 --latency 5 --json --quiet
says '"n_steps":2' out
says '"p99"' out
ok rollout --run whole-flow --episodes 3 --execute 2 --delay 1 --quiet
ok rollout --run whole-flow --episodes 3 --execute 4 --delay 2 --realtime 5 --latency 5 --json --quiet --threads 1
says '"realtime":5.0' out
ok rollout --run whole-flow --episodes 3 --ensemble --quiet
ok rollout --task fork --demonstrator expert --episodes 5 --json --quiet
says '"success":1.0' out
ok compare --run whole-flow --run parts-flow --run whole-mip --episodes 4 --report page.html --quiet --json
says '"paired"' out
exists page.html
says '<animate' page.html
says 'evaluate-every' page.html
ok compare --run seen-flow --run whole-mip --n-steps 1 --n-steps 3 --episodes 4 --report page.html --quiet --json
says '"evaluations":3' out
says '3 evaluations' out
says 'equal compute' page.html
says 'against evaluations' page.html
ok compare --run whole-diffusion --n-steps 0 --n-steps 3 --episodes 2 --quiet
says 'evaluations, DDPM' out
says '3 evaluations, DDIM' out
# One method is one command but for the seed.
go other-seed --head flow --seed 1
go wider --head flow --batch-size 16
go student --teacher whole-flow --threads 1
go student-b --teacher other-seed --seed 1
go paused --head flow --pause-at 5
ok compare --run whole-flow --run other-seed --run wider --run student --run student-b --run paused \
  --run whole-flow/weights.safetensors --episodes 2 --quiet --json
grep -o '"label":"[^"]*"' out >labels.txt
: >labels-b.txt
for rest in "batch-size 32, distill-steps none, from a run folder, steps 12" "batch-size 16, distill-steps none, from a run folder, steps 12" \
  "batch-size 32, distill-steps 1, from a run folder, steps 12" "batch-size 32, distill-steps none, from a run folder, steps 5 of 12" \
  "from lone weights"; do
  echo "\"label\":\"flow, $rest\"" >>labels-b.txt
done
same labels.txt labels-b.txt
expect 2 "whole-flow/ given twice" compare --run whole-flow --run whole-flow/
expect 2 "--n-steps" compare --run whole-mip --n-steps -1
expect 2 "2 given twice" compare --run whole-flow --n-steps 2 --n-steps 2
expect 2 "0 and 10 are the same" compare --run whole-mip --run whole-flow --n-steps 0 --n-steps 10
grep -q success err && fail "compare lets a policy act before it looked at all of them"
ok compare --run whole-flow --episodes 4 --quiet
says 'flow' out

# The page of a run, of one that draws nothing, of a demonstrator.
ok rollout --run seen-flow --episodes 4 --n-steps 1 --n-steps 2 --report page.html --quiet
for words in "Episode 0" "might have done" "Pairwise projections" "Learning curve: success" "Gradient norm" "<animate"; do
  says "$words" page.html
done
cp page.html first.html
ok rollout --run seen-flow --episodes 4 --n-steps 1 --n-steps 2 --report page.html --quiet --threads 1 --lockstep 1
same page.html first.html
ok rollout --run whole-regression/weights.safetensors --episodes 2 --report page.html --quiet
says "draws nothing" page.html
ok rollout --task fork --demonstrator expert --episodes 2 --report page.html --quiet
says "each a single answer" page.html
ok rollout --run eyes --episodes 1 --report page.html --quiet
expect 2 "--report" rollout --run whole-flow --report page.txt

# A student of fewer steps, paused or not.
go student-2 --teacher whole-flow --threads 2 --pause-at 5
ok imitate --run student-2 --resume --quiet
same student/weights.safetensors student-2/weights.safetensors
! cmp -s student/weights.safetensors whole-flow/weights.safetensors || fail "the student learned nothing"
ok rollout --run student --episodes 3 --n-steps 1 --quiet

# Chunks for what was seen, off the loop: the same for any rows beside them and any number of threads.
zeros state.npy 42 "(3, 14)"
zeros one-state.npy 14 "(1, 14)"
zeros robot.npy 2 "(1, 2)"
ok sample --run whole-flow --state state.npy --robot robot.npy --n-steps 2 --output chunks.npy --json --threads 1
says '"shape": [3, 8, 2]' out
ok sample --weights whole-flow/weights.safetensors --state state.npy --robot robot.npy --n-steps 2 --output again.npy --quiet --threads 2
same chunks.npy again.npy
ok sample --run whole-flow --state one-state.npy --robot robot.npy --n 3 --n-steps 2 --output again.npy --quiet
same chunks.npy again.npy
ok sample --run whole-regression --state one-state.npy --robot robot.npy --n 3 --output again.npy
zeros images.npy 6912 "(1, 3, 48, 48)"
int64 tokens.npy 1 2 3 4 5 6 7 8 9 10 11 12
sed "s/(12,), /(1, 12)/" tokens.npy >words.npy
ok sample --run eyes --images images.npy --tokens words.npy --robot robot.npy --n 5 --output again.npy
says "(5, 8, 2)" out
expect 2 "--state: none given; this policy gets rows (N, 14)" sample --run whole-flow --robot robot.npy --output x.npy
expect 2 "--n: 5 given; the arrays have 3 rows" sample --run whole-flow --state state.npy --robot robot.npy --n 5 --output x.npy
expect 2 "has no use" sample --run whole-flow --state state.npy --robot robot.npy --tokens words.npy --output x.npy
expect 3 "shape (1, 2); rows (N, 14)" sample --run whole-flow --state robot.npy --robot robot.npy --output x.npy
ok sample --run whole-flow --raw-weights --state state.npy --robot robot.npy --n-steps 2 --output again.npy --quiet
! cmp -s chunks.npy again.npy || fail "--raw-weights took the averaged ones"
expect 2 "answers what it sees" sample --run whole-flow --state state.npy --robot robot.npy --class 1 --output x.npy
expect 2 "steps given" sample --run whole-mip --state state.npy --robot robot.npy --n-steps 3 --output x.npy
expect 2 "no policy" sample --model planar --state state.npy --output x.npy
expect 3 "rollout, compare, sample and inspect take it" eval --run whole-flow --quantity sample --output x.npy
ok inspect whole-flow

# Refusals.
expect 2 "--task: none given" imitate
expect 2 "has no words" imitate --task pusht --encoder tiny --data x.npz
expect 2 "--data: none given" imitate --task pusht
expect 2 "--demonstrations: 5 given for pusht" imitate --task pusht --data x.npz --demonstrations 5
expect 2 "--demonstration-noise: 0.05 given for pusht" imitate --task pusht --data x.npz --demonstration-noise 0.05
expect 2 "scripted" imitate --task fork --data x.npz --run x
expect 2 "horizn" imitate --task fork --set horizn=3 --run x
expect 2 "--batch-size" imitate --task fork --demonstrations 1 --batch-size 100000 --run x
expect 3 "head=" imitate --run whole-flow --resume --head mip --steps 20
expect 3 "horizon" imitate --run whole-flow --resume --set horizon=4 --steps 20
expect 3 "holds a training run" imitate --task fork $small --run whole-flow
expect 2 "head = flow, the student diffusion" imitate --task fork $small --head diffusion --teacher whole-flow --run x
expect 2 "has the head mip" imitate --task fork $small --teacher whole-mip --run x
expect 2 "hidden = 16, the student 32" imitate --task fork $small --set hidden=32 --teacher whole-flow --run x
expect 2 "--draws" imitate --task fork $small --teacher whole-flow --draws 2 --run x
expect 2 "--distill-steps: 2 given without --teacher" imitate --task fork $small --distill-steps 2 --run x
expect 2 "--evaluate-episodes: 3 given without" imitate --task fork $small --evaluate-episodes 3 --run x
expect 2 "--evaluate-episodes: 3 given without" imitate --run whole-flow --resume --evaluate-episodes 3
ok imitate --config whole-flow/config.json --pause-at 1 --run x --quiet
rm -r x
expect 3 "teacher" imitate --run student --resume --teacher parts-flow --steps 20
expect 3 "made for" rollout --run whole-flow --task tabletop
expect 2 "steps given" rollout --run whole-mip --n-steps 3
expect 2 "--n-steps" rollout --run whole-flow --n-steps two
expect 2 "execute" rollout --run whole-flow --execute 9
expect 2 "one of the two" rollout
expect 2 "has the head mip" rollout --run whole-mip --realtime 5
expect 2 "with --ensemble" rollout --run whole-flow --realtime 5 --ensemble
expect 2 "demonstrator" rollout --task fork --demonstrator expert --realtime 5
expect 2 "thing to push" rollout --run whole-flow --split pair
expect 2 "--run: none given" compare
ok train --model planar --data moons --steps 2 --run other --quiet
expect 3 "holds a planar" rollout --run other
# Another base distribution, and statistics that are gone: as a file from elsewhere would have it.
sed 's/"base": *"normal"/"base":"unifor"/; s/\\"base\\": *\\"normal\\"/\\"base\\":\\"unifor\\"/' whole-flow/weights.safetensors >forged.safetensors
! cmp -s forged.safetensors whole-flow/weights.safetensors || fail "nothing was forged"
expect 3 "" rollout --run forged.safetensors
head -c 3000 whole-flow/weights.safetensors >cut.safetensors
expect 3 "cut.safetensors" rollout --run cut.safetensors

finish
