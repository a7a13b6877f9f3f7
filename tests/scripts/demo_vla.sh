# The robot's demo in its quick form: a complete run folder, equal at any number of threads, and of use to other commands.
. "$(dirname "$0")/common.inc"

expect 2 "--data-folder" demo vla --quick --run absent --data-folder x
expect 2 '"robots" given' demo robots --quick --run absent
expect 2 "--run" demo vla --quick --run ""
[ ! -e absent ] || fail "a run folder was made by a wrong command line"
: >file
expect 3 "file" demo vla --quick --run file/run

# A training is nobody's to overwrite.
ok train --model planar --data moons --steps 2 --run mine --quiet
cp mine/config.json kept
expect 3 "--run: mine: holds a training run" demo vla --quick --run mine
same mine/config.json kept
mkdir theirs
cp -r mine theirs/policy
expect 3 "--run: theirs/policy: holds a training run" demo vla --quick --run theirs
[ ! -e theirs/config.json ] || fail "the demo wrote into the folder of a training"

ok demo vla --quick --run one --threads 1
says "3 of 3 passed" out
says "one/report.html" out
says "flowgrad rollout --run one/policy" out
says "wordings never seen" out
says "words swapped: the other disc" out
checks=$((checks + 1))
[ "$(grep -c '^seed 0$' err)" = 1 ] || fail "the seed is not told once"
for name in report.html config.json summary.json episode.svg episodes.png success.svg loss.svg policy/config.json \
  policy/metrics.jsonl policy/weights.safetensors; do
  exists "one/$name"
done
says "fork-flow" one/report.html
says "might have done" one/report.html
says "<animate" one/report.html
checks=$((checks + 1))
if grep -qE '(src|href)="(https?:)?//|<script|@import|url\(' one/report.html; then
  fail "the report loads something from outside or runs a script"
fi

ok demo vla --quick --run two --threads 2 --json --quiet
says '"passed": true' out
says '"show": "vla"' out
[ ! -s err ] || fail "--quiet, and yet on stderr: $(cat err)"
for name in policy/weights.safetensors episode.svg episodes.png; do same "one/$name" "two/$name"; done
# Again in the same folder, as the first demo does.
ok demo vla --quick --run two --quiet
same one/policy/weights.safetensors two/policy/weights.safetensors

# Its configuration as a file.
"$flowgrad" demo vla --quick --print-config >demo.toml
ok demo --config demo.toml --run three --quiet
same one/policy/weights.safetensors three/policy/weights.safetensors

ok rollout --run one/policy --episodes 2 --split pair --quiet
ok imitate --run one/policy --resume --steps 8 --quiet
finish
