#!/bin/sh
# replay.sh <transcript>: runs each `$ command` line of a console block and prints command and output.
while IFS= read -r line <&3; do
  case $line in
    '$ '*)
      printf '%s\n' "$line"
      (eval "${line#??}") </dev/null || exit
      ;;
  esac
done 3<"$1"
