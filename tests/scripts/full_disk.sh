# A full disk: exit code 3, path and reason in the message, old files intact and loadable.
. "$(dirname "$0")/common.inc"
mkdir disk
mount -t tmpfs -o size=1m tmpfs disk 2>/dev/null || { echo "cannot mount a small file system here"; exit 77; }
trap 'umount "$PWD/disk"' EXIT

ok init --model realnvp --set n_flows=2 --set hidden=32 --output disk/w.safetensors
cp disk/w.safetensors kept.safetensors
ok sample --weights kept.safetensors --n 100 --output disk/x.npy
cp disk/x.npy kept.npy
expect 3 "No space left on device" init --model realnvp --output disk/w.safetensors
says "disk/w.safetensors" err
expect 3 "No space left on device" sample --weights kept.safetensors --n 200000 --output disk/x.npy
says "disk/x.npy" err
expect 3 "No space left on device" grad --model realnvp --input kept.npy --output disk/w.safetensors
same disk/w.safetensors kept.safetensors
same disk/x.npy kept.npy
[ "$(ls -A disk | wc -l)" -eq 2 ] || fail "something is left behind: $(ls -A disk)"
rm disk/*

# A training that runs into the end of the disk keeps its last whole checkpoint and continues from it.
t="--model realnvp --set n_flows=2 --set hidden=32 --data moons --batch-size 16 --checkpoint-every 5 --schedule constant"
ok train $t --steps 10 --run disk/run
cp -r disk/run whole
rm disk/run/report.html disk/run/checkpoints/step-00000005.safetensors
dd if=/dev/zero of=disk/filler bs=1k count=2000 2>/dev/null || true
expect 3 "No space left on device" train --run disk/run --resume --steps 30
[ -z "$(ls -A disk/run/checkpoints | grep -v '^step-')" ] || fail "temporary files are left behind"
rm disk/filler
ok train --run disk/run --resume --steps 20
ok train $t --steps 20 --run other
same disk/run/weights.safetensors other/weights.safetensors
finish
