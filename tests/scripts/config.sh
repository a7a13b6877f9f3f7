# Configuration files: what is printed reads back, the command line wins, sections go to their commands.
. "$(dirname "$0")/common.inc"

ok train --model realnvp --set n_flows=2 --set hidden=8 --data moons --steps 7 --learning-rate 0.0025 --schedule one-cycle \
  --run 'a "run" # 1' --print-config
[ ! -e 'a "run" # 1' ] || fail "--print-config trained"
cp out c.toml
ok init --model planar --print-config # what is required for the work is not for this
says "model = \"planar\"" out
ok train --config c.toml --print-config
same out c.toml
ok train --config c.toml --steps 9 --set n_flows=3 --print-config
says "steps = 9" out
says "n_flows = 3" out
says "learning-rate = 0.0025" out
ok train --steps 9 --config=c.toml --print-config # the order does not matter
says "steps = 9" out
ok train --config c.toml --quiet
exists 'a "run" # 1/report.html'
for c in eval grad init sample inspect; do
  case $c in
    eval) o="--quantity loss --output x.npy" ;;
    sample) o="--output x.npy" ;;
    inspect) o= ;;
    *) o="--output x.safetensors" ;;
  esac
  ok $c --model planar $o --seed 18446744073709551615 --threads 3 --print-config
  cp out p.toml
  says "seed = 18446744073709551615" p.toml
  ok $c --config p.toml --print-config
  same out p.toml
done
cat >s.toml <<'END'
# a comment
model = "planar"   # and another
n_flows = 4
seed = 007

[set]
dim = 3
[sample]
n = 5
[train]
steps = 2
END
ok sample --config s.toml --output x.npy
says "(5, 3)" out
says "seed 7" err
ok init --config s.toml --output w.safetensors
says "28 parameters" out
# The configuration of a run serves every command.
ok train --model planar --set n_flows=4 --data moons --steps 2 --run r
ok init --config r/config.json --output w.safetensors
says "20 parameters" out
printf '{"model": "planar", "set": {"n_flows": 2}, "quiet": true, "output": "j.safetensors"}' >j.json
ok init --config j.json
says "10 parameters" out
[ ! -s err ] || fail "quiet in a file is not heard"
# A preset is options under a name: the command line and a file win over it.
ok train --preset realnvp --print-config
cp out preset.toml
says "clip = 0" preset.toml
says "hidden = 64" preset.toml
ok train --config preset.toml --print-config
same out preset.toml
ok train --preset realnvp --data pinwheel --set hidden=8 --steps 7 --print-config
says "data = \"pinwheel\"" out
says "hidden = 8" out
says "steps = 7" out
says "batch-size = 512" out
printf 'preset = spline\nsteps = 5\n' >p.toml
ok train --config p.toml --print-config
says "tail = 5" out
says "steps = 5" out
expect 2 "did you mean \"realnvp\"" train --preset realnpv
expect 2 "unknown option --preset" sample --model spline --preset spline --output x.npy
for p in cnf digits-cnf digits-glow digits-realnvp digits-spline handwriting realnvp spline; do
  ok train --preset $p --print-config
done
printf 'model = planar\r\nn_flows = 2\r\n' >crlf.toml
ok init --config crlf.toml --output w.safetensors
says "10 parameters" out
finish
