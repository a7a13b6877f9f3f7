#!/bin/sh
# isa_symbols.sh <nm> <instruction set> <objects...>: every external symbol an object defines must be
# strong, an object defines at most one, and its name carries the instruction set.
nm=$1
isa=$2
shift 2
status=0
for object in "$@"; do
  # nm prints "<address> <type> <name>": upper case is external; u, v, w, V, W are weak or unique.
  "$nm" --defined-only "$object" | awk -v isa="$isa" -v object="$object" '
    $2 ~ /^[uvwVW]$/ { print object ": weak symbol " $3; bad = 1; next }
    $2 ~ /^[A-Z]$/ {
      if (++count > 1) { print object ": a second external symbol " $3; bad = 1 }
      if (index($3, isa) == 0) { print object ": " $3 " does not name " isa; bad = 1 }
    }
    END { exit bad }' || status=1
done
exit $status
