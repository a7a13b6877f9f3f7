# bench/compare.py: each verdict, the gate, and files that hold no timings; what flowgrad bench writes.
command -v python3 >/dev/null || exit 77
script=$(cd "$(dirname "$0")/../../bench" && pwd)/compare.py
. "$(dirname "$0")/common.inc"
# compare <code> <arguments...>
compare() {
  wanted=$1
  shift
  runs "$wanted" python3 "$script" "$@"
}
# timings <file> <threads> <seconds of same, faster, slower and ambiguous>
timings() {
  printf '{"threads": %s, "cases": {"same": {"min_s": %s, "median_s": %s}, "faster": {"min_s": %s}, "slower": {"min_s": %s}, "noisy": {"min_s": %s}}}' \
    "$2" "$3" "$3" "$4" "$5" "$6" >"$1"
}
timings a1.json 1 1.00 2.0 1.0 1.00
timings a2.json 1 1.02 2.1 1.1 1.40
timings b1.json 1 1.03 1.0 2.0 1.20
timings b2.json 1 1.04 1.1 2.2 1.60
compare 0 a1.json,a2.json b1.json,b2.json
grep -q '^same .* 1.030  same$' out || fail "no verdict same"
grep -q '^faster .* 0.500  faster$' out || fail "no verdict faster"
grep -q '^slower .* 2.000  slower$' out || fail "no verdict slower"
grep -q '^noisy .* 1.200  ambiguous$' out || fail "no verdict ambiguous"
says "1 ambiguous, 1 faster, 1 same, 1 slower; geometric mean of b/a 1.054" out
compare 1 a1.json b1.json --gate
compare 0 a1.json b1.json --gate --only faster
compare 0 a1.json,a2.json b1.json,b2.json --only same --tolerance 0.01
grep -q ' slower$' out || fail "3 % above all runs of a is not slower at a tolerance of 1 %"
timings c.json 2 1 1 1 1
compare 0 a1.json c.json
says "the files differ in threads: 1, 2" err
echo '{"cases": {"new": {"min_s": 1}}}' >d.json
compare 1 a1.json d.json --gate
says "new     only in b" out
compare 2 a1.json no.json
says "no.json: No such file or directory" err
for text in '' '[]' '{"cases": []}' '{"cases": {"x": {}}}' '{"cases": {"x": {"min_s": "no"}}}'; do
  echo "$text" >bad.json
  compare 2 bad.json a1.json
  says "is accepted" err
done
echo '{"cases": {"x": {"min_s": -1}}}' >bad.json
compare 2 a1.json bad.json
says "x: min_s is no time above 0" err
# What the command writes is what the script reads.
ok bench --only autograd --budget 0.01 --threads 1 --json t.json
ok bench --only planar/train/d2_b128 --peak-memory --threads 1 --json m.json
says "MiB above set-up" out
says peak_bytes m.json
compare 0 t.json t.json --gate
says "same; geometric mean of b/a 1.000" out
finish
