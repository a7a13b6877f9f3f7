# SIGINT and SIGTERM save and end with 130 and 143; the training continues to the same bits.
. "$(dirname "$0")/common.inc"

steps=400
go() { # <run>: in the background
  rm -rf "$1"
  "$flowgrad" train --model realnvp --set n_flows=2 --set hidden=32 --data moons --steps $steps --batch-size 64 --run "$1" \
    --log-every 1 --checkpoint-every 80 >out 2>err &
  pid=$!
}
whole() { # the training that nobody interrupts
  go whole
  rc=0
  wait $pid || rc=$?
  [ $rc -eq 0 ] || fail "the whole run ended with $rc"
}
# waits until the run has written some rows
started() {
  wait_for_rows "$1/metrics.jsonl" "$2"
  [ $tries -lt 600 ] || { fail "$1 does not start"; finish; }
}
# interrupt <signal> <rows>: leaves the exit code in rc. Where the signal came when the report was written, because the machine is
# fast or was busy elsewhere, all is done again with more steps.
interrupt() {
  while :; do
    go part
    started part "$2"
    kill -s "$1" $pid 2>/dev/null || true
    rc=0
    wait $pid || rc=$?
    { [ $rc -eq 0 ] || [ -e part/report.html ]; } && [ $steps -lt 100000 ] || return 0
    steps=$((steps * 4))
    whole
  done
}
continues() {
  ok train --run part --resume
  same whole/weights.safetensors part/weights.safetensors
}

whole
for case in "INT 130 3" "TERM 143 20" "INT 130 60"; do
  set -- $case
  interrupt "$1" "$3"
  checks=$((checks + 1))
  [ $rc -eq "$2" ] || fail "SIG$1 after $3 rows ended with $rc"
  says "--resume continues" err
  [ ! -e part/report.html ] || fail "a report was written in spite of SIG$1"
  continues
done
# A signal at any moment, before and after the training proper too: saved or not begun, and nothing half-written.
for delay in 0 0.01 0.02 0.04 0.06 0.1 0.15 0.2 0.3; do
  rm -rf any
  "$flowgrad" train --model planar --data moons --steps 30 --batch-size 16 --run any >/dev/null 2>err &
  pid=$!
  sleep $delay
  kill -s TERM $pid 2>/dev/null || true
  rc=0
  wait $pid || rc=$?
  checks=$((checks + 1))
  case $rc in 0 | 143) ;; *) fail "SIGTERM after $delay s ended with $rc"; cat err ;; esac
  [ -z "$(find any -name '.flowgrad-*' 2>/dev/null)" ] || fail "SIGTERM after $delay s left $(find any -name '.flowgrad-*')"
  if [ -n "$(ls any/checkpoints 2>/dev/null)" ]; then ok train --run any --resume; else ok train --model planar --data moons --steps 3 --run any; fi
done
# During preparation nothing is lost: the command ends at once, and has not begun.
prepares() { # <arguments...>
  "$flowgrad" "$@" --run early >/dev/null 2>err &
  pid=$!
  tries=0
  while ! grep -q '^seed' err && [ $tries -lt 600 ]; do
    tries=$((tries + 1))
    sleep 0.1
  done
  kill -s TERM $pid
  rc=0
  wait $pid || rc=$?
  checks=$((checks + 2))
  [ $rc -eq 143 ] || fail "SIGTERM during preparation ended with $rc: $*"
  [ ! -e early ] || fail "begun in spite of SIGTERM: $*"
}
f="--model flow_matching --set hidden=8 --set time_dim=8 --data moons"
ok train $f --steps 2 --run teacher
prepares train $f --teacher teacher --pairs 5000000
prepares imitate --task fork --demonstrations 100000
# Killed outright: the last checkpoint counts.
interrupt KILL 90
checks=$((checks + 1))
[ $rc -eq 137 ] || fail "SIGKILL ended with $rc"
continues
finish
