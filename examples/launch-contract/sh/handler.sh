#!/bin/sh
# A handler that stays: a job is a line on stdin, its answer a line on stdout.
while read -r line; do
  numbers=$(printf '%s' "$line" | sed -n 's/.*"numbers": *\[\([-0-9, ]*\)\].*/\1/p')
  if [ -z "$numbers" ]; then
    echo '{"ok": false, "error": "numbers: expected whole numbers", "retry": false}'
    continue
  fi
  sum=0
  for n in $(echo "$numbers" | tr ',' ' '); do
    sum=$((sum + n))
    echo "{\"progress\": {\"sum_so_far\": $sum}}"
  done
  echo "{\"ok\": true, \"result\": {\"sum\": $sum}}"
done
