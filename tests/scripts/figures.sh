# The short figures of docs/figures.json, remade, and that one outside its bound is noticed.
command -v python3 >/dev/null || exit 77
script=$(cd "$(dirname "$0")/../../scripts" && pwd)/figures.py
. "$(dirname "$0")/common.inc"
# figures <code> <arguments...>
figures() {
  wanted=$1
  shift
  runs "$wanted" python3 "$script" "$@" --bin "$(dirname "$flowgrad")" --work work
}
figures 0 check --short
says "short-cnf-moons, seed 0" out
says "bound 0.03: ok" out
figures 0 check short-cnf-moons # what is there already is not made again
echo '{"gap": 0.9, "standard error": 0.005}' >work/short-cnf-moons-0/values.json
figures 1 check short-cnf-moons
says "OUTSIDE" out
says "short-cnf-moons: gap is outside its bound" err
figures 0 list
says "cnf-moons: " out
figures 0 table short-affine-8gaussians
says "| short-affine-8gaussians | gap | 0." out
figures 2 check no-such-figure
says "no figure no-such-figure" err

finish
