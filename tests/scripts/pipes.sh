# Readers that go away, closed descriptors, full devices.
. "$(dirname "$0")/common.inc"
t="--model planar --data moons --steps 5 --batch-size 16"

# Nobody reads stdout and stderr: the training goes on to its end.
{ "$flowgrad" train $t --run a 2>&1; echo $? >rc; } | true
wait
checks=$((checks + 1))
[ "$(cat rc)" = 0 ] || fail "a closed pipe ended the training with $(cat rc)"
exists a/weights.safetensors
ok train $t --run whole
same a/weights.safetensors whole/weights.safetensors
# A long table whose reader stops early is no failure.
ok init --model realnvp --set n_flows=64 --set hidden=2 --output w.safetensors
{ "$flowgrad" inspect w.safetensors; echo $? >rc; } | head -n 1 >/dev/null
checks=$((checks + 1))
[ "$(cat rc)" = 0 ] || fail "inspect | head ended with $(cat rc)"
# Descriptors that are closed altogether must not become the output file.
"$flowgrad" init --model planar --output closed.safetensors >&- 2>&- || fail "closed descriptors: $?"
ok init --model planar --output open.safetensors
same closed.safetensors open.safetensors
"$flowgrad" train $t --run c >&- 2>&- <&- || fail "closed descriptors: $?"
same c/weights.safetensors whole/weights.safetensors
# A result that cannot be printed is a failure.
if [ -c /dev/full ]; then
  rc=0
  "$flowgrad" inspect w.safetensors >/dev/full 2>err || rc=$?
  [ $rc -eq 1 ] || fail "stdout to a full device: exit code $rc"
  says "No space left on device" err
  ln -s /dev/full full.npy
  expect 3 "character device" sample --model planar --n 2 --output full.npy
fi
finish
