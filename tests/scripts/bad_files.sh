# Files that are missing, damaged or do not fit: exit code 3 with the path in the message, nothing written.
. "$(dirname "$0")/common.inc"

ok init --model planar --output w.safetensors
ok init --model planar --set n_flows=9 --output w9.safetensors
ok init --model planar --set n_flows=11 --output w11.safetensors
ok init --model planar --set dim=3 --output w3.safetensors
ok init --model realnvp --set hidden=4 --set n_flows=2 --output r.safetensors
ok sample --model planar --n 40 --output x.npy
ok sample --model planar --set dim=3 --n 40 --output x3.npy
ok sample --model planar --n 39 --output x39.npy
ok eval --model planar --quantity log_prob --input x.npy --output flat.npy
int64 whole.npy 1 2 3 4
mkdir folder
head -c 100 x.npy >short.npy
head -c 100 w.safetensors >short.safetensors
cp w.safetensors flipped.safetensors
printf '\252' | dd of=flipped.safetensors bs=1 seek=1500 conv=notrunc 2>/dev/null
{ cat x.npy; echo; } >long.npy
: >empty.npy
: >empty.safetensors
sed 's/<f4/>f4/' x.npy >big_endian.npy
cp x.npy nan.npy
printf '\000\000\300\177' | dd of=nan.npy bs=1 seek=160 conv=notrunc 2>/dev/null
ok sample --model planar --n 4 --output x4.npy
# foreign <file> <metadata>: one planar layer as another tool writes it, without checksums.
foreign() {
  header="{$2\"flows.0.bias\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
  header="$header\"flows.0.scale\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]},"
  header="$header\"flows.0.weight\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[12,20]}}"
  { printf "\\$(printf %03o $((${#header} % 256)))\\$(printf %03o $((${#header} / 256)))\\0\\0\\0\\0\\0\\0"
    printf %s "$header"
    printf '\0\0\0\0\0\0\200\77\0\0\200\77\0\0\200\77\0\0\0\100'; } >"$1"
}
foreign foreign.safetensors ""
foreign unknown_model.safetensors '"__metadata__":{"model":"nothing","config":"{}"},'
e_no_model="eval --quantity log_prob --output y.npy"
rm -f out err
before=$(ls)

e="eval --model planar --quantity log_prob --output y.npy"
expect 3 "missing.npy" $e --input missing.npy
expect 3 "folder" $e --input folder
expect 3 "short.npy" $e --input short.npy
expect 3 "long.npy" $e --input long.npy
expect 3 "empty.npy" $e --input empty.npy
expect 3 "big_endian.npy" $e --input big_endian.npy
expect 3 "w.safetensors" $e --input w.safetensors
expect 3 "(40, 3)" $e --input x3.npy
expect 3 "(40,)" $e --input flat.npy
expect 3 "/dev/null" $e --input /dev/null
expect 3 "missing.safetensors: no such file or folder" $e --input x.npy --weights missing.safetensors
expect 3 "folder" $e --input x.npy --weights folder
expect 3 "short.safetensors" $e --input x.npy --weights short.safetensors
expect 3 "flipped.safetensors" $e --input x.npy --weights flipped.safetensors
expect 3 "empty.safetensors" $e --input x.npy --weights empty.safetensors
expect 3 "x.npy" $e --input x.npy --weights x.npy
expect 3 'parameter "flows.9.weight" (2,) is missing' $e --set n_flows=10 --input x.npy --weights w9.safetensors
expect 3 '"flows.10.weight" (2,) is not part of this model' $e --set n_flows=10 --input x.npy --weights w11.safetensors
expect 3 '"flows.0.weight" has shape (3,)' $e --set dim=2 --input x.npy --weights w3.safetensors
expect 3 'is missing' $e --input x.npy --weights r.safetensors
expect 3 "folder cannot be used" eval --model planar --quantity log_prob --input x.npy --output no/y.npy
expect 3 "not a folder" eval --model planar --quantity log_prob --input x.npy --output w.safetensors/y.npy
mkdir y.npy
expect 3 "is a folder" $e --input x.npy
rmdir y.npy
ln -s nowhere/at/all y.npy
expect 3 "y.npy" $e --input x.npy
rm y.npy
expect 3 "name too long" eval --model planar --quantity log_prob --input x.npy \
  --output "$(printf 'n%.0s' 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 | sed 's/n/nnnnnnnnnn/g').npy"
expect 3 "no/g.safetensors" grad --model planar --input x.npy --output no/g.safetensors
expect 3 "no/w.safetensors" init --model planar --output no/w.safetensors
expect 3 "no/x.npy" sample --model planar --output no/x.npy
expect 3 "no/x.svg" sample --model planar --output x9.npy --picture no/x.svg
expect 3 "missing.npy" sample --model flow_matching --set condition_dim=2 --condition missing.npy --output x9.npy
expect 3 "(40, 3)" sample --model flow_matching --set condition_dim=2 --condition x3.npy --output x9.npy
expect 3 "--input: load_npy: missing.npy" $e --input missing.npy
expect 3 "--input: whole.npy: int64 given" $e --input whole.npy
expect 2 "--n: 3 given; --condition has 40 rows" sample --model flow_matching --set condition_dim=3 --n 3 --condition x3.npy --output x9.npy
expect 3 "--condition: load_npy: missing.npy" sample --model flow_matching --set condition_dim=2 --condition missing.npy --output x9.npy
expect 3 "missing: cannot be opened: No such file or directory" inspect missing
ln -s round.npy round.npy
expect 3 "round.npy: cannot be opened: Too many levels of symbolic links" inspect round.npy
expect 3 "round.npy: Too many levels of symbolic links" $e --input x.npy --weights round.npy
rm round.npy
expect 2 "step 4 given in time; 0 to 3 are accepted" eval --model diffusion --set n_timesteps=4 \
  --quantity noise_prediction --input x4.npy --time whole.npy --output y.npy
expect 2 "step 4 given in time; 0 to 3 are accepted" grad --model diffusion --set n_timesteps=4 --input x4.npy --time whole.npy \
  --output y.safetensors
v="eval --model flow_vla --quantity condition --output y.npy"
expect 3 "encode: images float32 (40, 2)" $v --images x.npy --tokens whole.npy
expect 3 "--tokens: load_npy: missing.npy" $v --images x.npy --tokens missing.npy
expect 2 "foreign.safetensors does not name its own" $e_no_model --input x.npy --weights foreign.safetensors
expect 3 "unknown_model.safetensors: unknown model" $e_no_model --input x.npy --weights unknown_model.safetensors
expect 3 "missing.safetensors" inspect missing.safetensors
expect 3 "short.safetensors" inspect short.safetensors
expect 3 "flipped.safetensors" inspect flipped.safetensors
expect 3 "no checkpoint" inspect folder
expect 3 "missing.toml" init --config missing.toml --output v.safetensors
expect 3 "folder" init --config folder --output v.safetensors
expect 3 "/dev/zero" init --config /dev/zero --output v.safetensors
t="train --model planar --run r --steps 2"
expect 3 "missing.npy" $t --data missing.npy
expect 3 "short.npy" $t --data short.npy
expect 3 "not finite" $t --data nan.npy
expect 3 "(40,)" $t --data flat.npy
expect 3 "int64" $t --data whole.npy
expect 3 "39 rows" train --model realnvp --run r --steps 2 --data x.npy --condition x39.npy --batch-size 4
expect 3 "missing.npy" train --model realnvp --run r --steps 2 --data x.npy --condition missing.npy --batch-size 4
expect 3 "missing" $t --data fashion-mnist --data-folder missing
expect 3 "missing.safetensors" $t --data moons --weights missing.safetensors
expect 3 "flows.10.weight" $t --data moons --set n_flows=10 --weights w11.safetensors
expect 2 "--graph" inspect x.npy --graph
expect 2 "the data has 36 rows to train on" $t --data x.npy
expect 3 "w.safetensors" train --model planar --steps 2 --data moons --run w.safetensors/run
expect 3 "w.safetensors" train --model planar --steps 2 --data moons --run w.safetensors
rm out err
checks=$((checks + 1))
[ "$(ls)" = "$before" ] || fail "files were made or lost: $(ls)"

# A device that is absent is a failure to run, not wrong usage.
if "$flowgrad" init --model planar --device cuda --output v.safetensors 2>/dev/null; then
  rm v.safetensors
else
  expect 1 "CUDA" init --model planar --device cuda --output v.safetensors
  expect 1 "CUDA" train --model planar --data moons --device cuda --run r
  [ ! -e v.safetensors ] && [ ! -e r ] || fail "files were made without a device"
fi

# Foreign weights: no checksums, no metadata, float64, other order.
ok inspect w9.safetensors
ok inspect foreign.safetensors
ok eval --model planar --set n_flows=1 --weights foreign.safetensors --quantity log_prob --input x.npy --output y.npy
says "foreign.safetensors: loaded without checksums" err
ok eval --weights w.safetensors --quantity log_prob --input x.npy --output y.npy
! grep -q checksums err || fail "our own file has checksums"
finish
