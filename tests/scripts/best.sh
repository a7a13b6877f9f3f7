# --keep-best: the result of a training is what did best on held-out rows, for every command that reads the run.
. "$(dirname "$0")/common.inc"

ok sample --model planar --n 60 --seed 3 --output rows.npy
ok sample --model planar --n 60 --seed 4 --output unseen.npy
# 54 rows are soon known by heart, and the loss of the six others rises.
go() { # <run> <options...>
  run=$1
  shift
  ok train --model realnvp --set n_flows=4 --set hidden=32 --data rows.npy --batch-size 54 --learning-rate 0.01 \
    --steps 120 --validate-every 10 --run "$run" "$@"
}
held_out() { # <run>: the least of its validations, and the last
  sed -n 's/.*"validation":\([-0-9.e]*\),.*/\1/p' "$1/metrics.jsonl" | sort -g | head -1 >least.txt
  sed -n 's/.*"validation":\([-0-9.e]*\),.*/\1/p' "$1/metrics.jsonl" | tail -1 >last.txt
}
go last --json
says '"best_step":' out
go best --keep-best --json
held_out best
differ least.txt last.txt
says "\"loss\":$(cut -c1-8 least.txt)" out
exists best/best.safetensors
[ ! -e last/best.safetensors ] || fail "kept unasked"
differ best/weights.safetensors last/weights.safetensors
go told --keep-best --quiet
says ", weights of step " out
# A run stands for its best weights; --raw-weights are the last ones, those of a run that keeps none.
for part in "--run best" "--weights best/weights.safetensors" "--weights best/best.safetensors --model realnvp --set n_flows=4 --set hidden=32"; do
  ok eval $part --quantity log_prob --input unseen.npy --output a.npy
  [ "$part" = "--run best" ] && cp a.npy first.npy
  same a.npy first.npy
done
ok eval --run best --raw-weights --quantity log_prob --input unseen.npy --output a.npy
ok eval --run last --quantity log_prob --input unseen.npy --output b.npy
same a.npy b.npy
differ a.npy first.npy
# With averages, the best averages.
go averages --keep-best --ema 0.9 --json
held_out averages
says "\"loss\":$(cut -c1-8 least.txt)" out
# In parts as in one piece; without the option nothing is left of an earlier best.
go parts --keep-best --pause-at 70
ok train --run parts --resume
same parts/weights.safetensors best/weights.safetensors
# Best weights of a future that was given up, as a kill after them leaves, are not the run's.
go cut --keep-best --validate-every 60 --pause-at 70
cp cut/best.safetensors of_60
go later --keep-best --validate-every 120 --pause-at 120
cp later/best.safetensors cut/best.safetensors
differ cut/best.safetensors of_60
ok train --run cut --resume --pause-at 80
same cut/best.safetensors of_60
go parts --overwrite
[ ! -e parts/best.safetensors ] || fail "an earlier best is left"
same parts/weights.safetensors last/weights.safetensors

finish
