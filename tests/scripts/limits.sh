# Limits of the process and folders that cannot be written to: exit code 3 with path and reason, old files intact.
. "$(dirname "$0")/common.inc"

ok init --model realnvp --set n_flows=2 --set hidden=32 --output w.safetensors
cp w.safetensors kept.safetensors
# The limit counts blocks of 512 bytes.
limited() { (
  ulimit -f "$1"
  shift
  rc=0
  "$flowgrad" "$@" >/dev/null 2>err || rc=$?
  echo $rc >rc
); }
limited 8 init --model realnvp --output w.safetensors
says "3" rc
says "w.safetensors" err
says "File too large" err
same w.safetensors kept.safetensors
[ -z "$(ls -A | grep tmp)" ] || fail "a temporary file is left behind"

t="--model realnvp --set n_flows=2 --set hidden=32 --data moons --batch-size 16 --schedule constant"
ok train $t --steps 4 --run run
limited 8 train --run run --resume --steps 8
says "3" rc
says "File too large" err
ok train --run run --resume --steps 8
ok train $t --steps 8 --run whole
same run/weights.safetensors whole/weights.safetensors

# Threads that do not start are told of. A build with sanitizers has no room at all.
if (ulimit -S -s 8192 && ulimit -v 4000000 && "$flowgrad" --version >/dev/null) 2>/dev/null; then
  (
    ulimit -S -s 8192 # the stack of each thread
    ulimit -v 4000000
    rc=0
    "$flowgrad" sample --model realnvp --n 100000 --output many.npy --threads 1024 >/dev/null 2>err || rc=$?
    echo $rc >rc
  )
  says "1" rc
  says "of 1024 can be started" err
  says "--threads" err
fi

if [ "$(id -u)" -ne 0 ]; then # root may write anywhere
  mkdir locked
  cp w.safetensors locked/w.safetensors
  chmod 500 locked
  expect 3 "locked" init --model planar --output locked/w.safetensors
  expect 3 "locked" train $t --steps 4 --run locked/run
  chmod 700 locked
  same locked/w.safetensors kept.safetensors
  chmod 400 w.safetensors
  expect 3 "w.safetensors" init --model planar --output w.safetensors
  chmod 000 w.safetensors
  expect 3 "w.safetensors" inspect w.safetensors
  chmod 600 w.safetensors
fi
finish
