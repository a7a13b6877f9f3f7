# SIGINT and SIGTERM save and end with 130 and 143; the training continues to the same bits.
. "$(dirname "$0")/common.inc"

go() { # <run>: in the background
  "$flowgrad" train --model realnvp --set n_flows=2 --set hidden=32 --data moons --steps 400 --batch-size 64 --run "$1" \
    --log-every 1 >out 2>err &
  pid=$!
}
# waits until the run has written some rows, however slow the machine is
started() {
  tries=0
  while [ "$(cat "$1/metrics.jsonl" 2>/dev/null | wc -l)" -lt "$2" ]; do
    tries=$((tries + 1))
    [ $tries -lt 600 ] || { fail "$1 does not start"; finish; }
    sleep 0.1
  done
}
go whole
rc=0
wait $pid || rc=$?
[ $rc -eq 0 ] || fail "the whole run ended with $rc"
for case in "INT 130 3" "TERM 143 20" "INT 130 60"; do
  set -- $case
  go part-$1-$3
  started part-$1-$3 "$3"
  kill -s "$1" $pid
  rc=0
  wait $pid || rc=$?
  checks=$((checks + 1))
  [ $rc -eq "$2" ] || fail "SIG$1 ended with $rc"
  says "--resume continues" err
  [ ! -e part-$1-$3/report.html ] || fail "the run was over before the signal"
  ok train --run part-$1-$3 --resume
  same whole/weights.safetensors part-$1-$3/weights.safetensors
done
# Killed outright: the last checkpoint counts.
go killed
started killed 90
kill -s KILL $pid
wait $pid || true
ok train --run killed --resume
same whole/weights.safetensors killed/weights.safetensors
finish
