# Every system call of writing a checkpoint fails once, and once the process is killed there: the training
# then continues from an undamaged checkpoint to the same bits.
. "$(dirname "$0")/common.inc"
command -v strace >/dev/null || { echo "no strace here"; exit 77; }
# A sanitizer's search for leaks does not work under a tracer.
export ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
strace -f -o trace true 2>/dev/null || { echo "tracing is not allowed here"; exit 77; }

t="--model planar --data moons --batch-size 16 --schedule constant --threads 1 --quiet"
ok train $t --steps 12 --checkpoint-every 4 --run whole
ok train $t --steps 4 --run base
cp -r base traced

# The order that survives a power failure: write, fsync, rename, fsync of the folder.
strace -f -y -e trace=openat,write,fsync,rename,renameat,renameat2 -o trace \
  "$flowgrad" train --run traced --resume --steps 8 --checkpoint-every 4 >out 2>err
grep -n 'checkpoints' trace >order || true
line() { grep -E "$1" order | head -n 1 | cut -d: -f1; }
w=$(line 'write\([0-9]+<.*/checkpoints/')
f=$(line 'fsync\([0-9]+<.*/checkpoints/\.?[^>]+>')
r=$(line 'rename[^(]*\(.*step-00000008')
d=$(line 'fsync\([0-9]+<[^>]*/checkpoints>')
checks=$((checks + 1))
[ -n "$w" ] && [ -n "$f" ] && [ -n "$r" ] && [ -n "$d" ] && [ "$w" -lt "$f" ] && [ "$f" -lt "$r" ] && [ "$r" -lt "$d" ] ||
  { fail "order write $w, fsync $f, rename $r, fsync of the folder $d"; cat order; }

attempt() { # <injection> <when>
  rm -rf run
  cp -r base run
  # Loading and starting are left alone: only calls on the checkpoint folder's files are counted.
  rc=0
  strace -f -qq -o /dev/null -P "$PWD/run/checkpoints" -e "inject=$1:when=$2" \
    "$flowgrad" train --run run --resume --steps 12 --checkpoint-every 4 >out 2>err || rc=$?
  [ -s err ] || [ $rc -eq 0 ] || [ $rc -ge 128 ] || fail "$1 $2: exit code $rc without a message"
  ok train --run run --resume --steps 12 --checkpoint-every 4
  same whole/weights.safetensors run/weights.safetensors
}
for call in openat fsync; do
  for fault in error=ENOSPC error=EIO signal=KILL; do
    for when in 1 2; do attempt "$call:$fault" $when; done
  done
done
# Calls on descriptors of temporary files have no path to select by: count all of the process.
attempt_any() {
  rm -rf run
  cp -r base run
  rc=0
  strace -f -qq -o /dev/null -e "trace=$1" -e "inject=$1:$2:when=$3" \
    "$flowgrad" train --run run --resume --steps 12 --checkpoint-every 4 >out 2>err || rc=$?
  [ $rc -eq 0 ] || [ $rc -ge 128 ] || [ -s err ] || fail "$1 $2 $3: exit code $rc without a message"
  ok train --run run --resume --steps 12 --checkpoint-every 4
  same whole/weights.safetensors run/weights.safetensors
}
for fault in error=ENOSPC error=EIO error=EINTR signal=KILL; do
  for when in 1 2 3 4 6 9; do
    attempt_any write "$fault" $when
    case $fault in error=EINTR) ;; *) attempt_any rename,renameat,renameat2,fsync "$fault" $when ;; esac
  done
done
finish
