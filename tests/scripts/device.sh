# --device cuda: the same draws as on the CPU, or one clear line where there is no device.
. "$(dirname "$0")/common.inc"

ok init --model planar --output w.safetensors --quiet
# What this build or the CPU lacks is refused before anything is made.
if ! "$flowgrad" sample --weights w.safetensors --n 5 --matmul cublas --output c.npy 2>err; then
  says "-DFLOWGRAD_CUBLAS=ON" err
  [ ! -e c.npy ] || fail "c.npy was made without cuBLAS"
fi
expect 2 "--graph: on given for the CPU" train --model planar --data moons --steps 3 \
  --batch-size 8 --graph on --run graph --quiet
ok sample --weights w.safetensors --n 5 --seed 3 --output x.npy
ok inspect x.npy
sed 's/x\.npy//' out >cpu
if ! "$flowgrad" sample --weights w.safetensors --n 5 --device cuda --output y.npy 2>err; then
  says "Device::cpu() is available" err
  finish
fi
ok sample --weights w.safetensors --n 5 --seed 3 --device cuda --output y.npy
ok inspect y.npy
sed 's/y\.npy//' out >cuda
same cpu cuda

# The emulator can pretend that there is no device; a real one cannot.
export FLOWGRAD_EMULATOR_DEVICES=0
if ! "$flowgrad" sample --weights w.safetensors --n 5 --device cuda --output z.npy 2>err; then
  says "no device was found" err
  ok sample --weights w.safetensors --n 5 --output z.npy
  says "CUDA: built, no device: using the CPU" err
fi
finish
