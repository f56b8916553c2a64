# shellcheck shell=bash disable=SC2034
# Sourced by tests/chart/cluster: what a test says, how it waits and measures.

passed=0 failed=0
work=$(mktemp -d)

section() { echo "== $*"; }
figure() { echo "figure: $*"; }
# ok WHAT COMMAND...
ok() {
  local said
  if said=$("${@:2}" 2>&1); then passed=$((passed + 1)); echo "ok: $1"
  else failed=$((failed + 1)); printf 'not ok: %s\n%s\n' "$1" "$said"; fi
}
# finish: the last line, and the verdict.
finish() {
  echo "$passed passed, $failed failed"
  ((failed == 0))
}
# none COMMAND...: it prints nothing.
none() {
  local said
  said=$("$@" 2>/dev/null || :)
  [ -z "$said" ] || { echo "expected nothing, got: $said"; return 1; }
}
# not_forbidden NAMESPACE SELECTOR: nothing in the logs of these Pods, and they have said something.
not_forbidden() {
  local log
  log=$(kubectl -n "$1" logs -l "$2" --tail=-1)
  [ -n "$log" ] || { echo "no log"; return 1; }
  none grep -i forbidden <<<"$log"
}
# wait_for SECONDS WHAT COMMAND...: until it succeeds; else that is the end.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || { echo "timed out waiting for $what; the last try:"; "$@" || :; kubectl -n "$ns" get pods; exit 1; }
    sleep 0.2
  done
}

now() { date +%s%3N; }
ms_since() { echo $(($(now) - $1)); }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.1f", a / b }'; }
# median COUNT COMMAND...: of what it prints.
median() { for ((i = 0; i < $1; i++)); do "${@:2}"; done | sort -n | sed -n "$((($1 + 1) / 2))p"; }

# pod_start NAMESPACE: from the creation of a Pod to the end of its container, which ends at once, in ms.
pod_start() {
  local name=start-$RANDOM began
  began=$(now)
  kubectl -n "$1" run "$name" --image "$ROWLOCK_IMAGE" --restart Never --overrides '{"spec": {"securityContext":
    {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}, "containers": [{"name": "c",
    "image": "'"$ROWLOCK_IMAGE"'", "args": ["--version"], "securityContext": {"allowPrivilegeEscalation": false,
    "capabilities": {"drop": ["ALL"]}}}]}}' >/dev/null
  kubectl -n "$1" wait --for jsonpath='{.status.phase}'=Succeeded "pod/$name" --timeout 60s >/dev/null
  ms_since "$began"
}

# not_owned NAMESPACE DEPLOYMENT: the manager "helm" has a say in many fields, and none in spec.replicas.
not_owned() {
  kubectl -n "$1" get deploy "$2" -o json --show-managed-fields | python3 -c '
import json, sys
fields = [m["fieldsV1"] for m in json.load(sys.stdin)["metadata"]["managedFields"] if m["manager"] == "helm"]
assert fields, "helm manages nothing here"
assert not any("f:replicas" in f.get("f:spec", {}) for f in fields), "helm owns spec.replicas"'
}
