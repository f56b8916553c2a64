postgres=$1 data=$2 remove=$3
shift 3
trap '' HUP INT
exec 3<&0
"$postgres" -D "$data" "$@" </dev/null 3<&- >>"$data/server.log" 2>&1 &
server=$!
(while read -r _; do :; done; kill -INT "$server") <&3 2>/dev/null &
watch=$!
exec 3<&-
wait "$server"
status=$?
kill "$watch" 2>/dev/null
if [ -n "$remove" ] && [ "$status" -eq 0 ]; then rm -rf -- "$remove"; fi
exit "$status"
