# shellcheck shell=bash disable=SC2154
# Sourced by tests/chart/cluster: examples/kubernetes, in an image that knows nothing of Rowlock and has no shell, and
# what a worker that makes Pods may do.

# Types of the test's own: what there is around a job, as a command and in a Pod, and one that does not end.
own_types() {
  local look='import json, os; open(os.environ["ROWLOCK_RESULT_FILE"], "w").write(json.dumps({"uid": os.getuid(), "found": [f for f in ["/bin/sh", "/rowlock", "/var/run/secrets/kubernetes.io"] if os.path.exists(f)]}))'
  local endless='import os, time; print("said", flush=True); open(os.environ["ROWLOCK_PROGRESS_FILE"], "a").write("half way\n"); time.sleep(600)'
  local pod="queue: sums-in-pods, launch: pod, image: '$PYTHON_IMAGE', pod_template: {spec: {securityContext: {runAsUser: 65532}}}"
  cat <<END
types:
  - {name: look, queue: sums, command: [python3, -c, '$look']}
  - {name: look_pod, $pod, command: [python3, -c, '$look']}
  - {name: endless, $pod, command: [python3, -c, '$endless']}
END
}

# gives TYPE PAYLOAD RESULT: a job of that type is completed in its first run, with that result.
gives() {
  local job
  job=$(plugin -n $sums enqueue "$1" "$2" --wait --wait-timeout 60s -o json)
  python3 -c 'import json, sys
job = json.loads(sys.argv[1])
wrong = (job["status"], job["attempts"], job["result"]) != ("completed", 0, json.loads(sys.argv[2]))
sys.exit(f"got {job}" if wrong else 0)' "$job" "$3"
}
# fails TYPE PAYLOAD TEXT: a job of that type fails for good, with that in its error.
fails() {
  local job
  ! job=$(plugin -n $sums enqueue "$1" "$2" --wait --wait-timeout 60s -o json) || { echo "completed: $job"; return 1; }
  grep -qF -- "$3" <<<"$job" || { echo "wanted: $3; got: $job"; return 1; }
}
# field FIELD JOB
field() { plugin -n $sums jobs get "$2" -o json | python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
is() { [ "$(field "$2" "$3")" = "$1" ] || { field "$2" "$3"; return 1; }; }

# workers URL: in the namespace $sums, with a database of its own.
workers() {
  local job numbers='{"numbers": [1, 2, 39]}'
  kubectl -n $sums create secret generic rowlock-database --from-literal=url="$1" >/dev/null
  sed "s#registry.example/sums:1#$PYTHON_IMAGE#" examples/kubernetes/values.yaml >"$work/sums.yaml"
  # Its log is to tell of every call that did not succeed.
  ok "helm install of examples/kubernetes" helm install rowlock charts/rowlock -n $sums --values "$work/sums.yaml" "${image[@]}" \
    --set-json 'workers.pods.extraEnv=[{"name": "RUST_LOG", "value": "rowlock=debug"}]' --wait --timeout 120s
  own_types | plugin -n $sums types apply -f - >/dev/null

  ok "helm test: a command in the image" helm_test $sums rowlock
  ok "a command in the image has the result" gives sum "$numbers" '{"sum": 42}'
  ok "and so has a handler that stays" gives sum_resident "$numbers" '{"sum": 42}'
  ok "a wrong payload is the command's to refuse" fails sum '{"numbers": "none"}' 'expected a list of numbers'
  ok "the job's image has no user, no shell, no program, and its Pod no token" gives look '{}' '{"uid": 65532, "found": []}'

  job=$(plugin -n $sums enqueue endless -o name)
  ok "a Pod of a job has the result" gives sum_pod "$numbers" '{"sum": 42}'
  ok "and no token" gives look_pod '{}' '{"uid": 65532, "found": []}'
  ok "a wrong payload is refused there, too" fails sum_pod '{"numbers": "none"}' 'expected a list of numbers'
  wait_for 60 "progress, by the Pod's log" is "half way" progress "$job"
  ok "the Pod's log can be read" test "$(plugin -n $sums jobs logs "$job")" = said
  plugin -n $sums jobs cancel "$job" >/dev/null
  wait_for 60 "the end of the job that was cancelled" is cancelled status "$job"
  of_jobs() { none kubectl -n $sums get pods,secrets -l rowlock.dev/job -o name; }
  wait_for 60 "the end of all jobs' Pods and Secrets" of_jobs
  ok "no call of the worker that makes Pods was forbidden" not_forbidden $sums app.kubernetes.io/component=worker-pods
  ok "nor of the controller" not_forbidden $sums app.kubernetes.io/component=controller
  rbac $sums rowlock launcher

  plugin -n $sums enqueue endless -o name >/dev/null
  running() { kubectl -n $sums get pods -l rowlock.dev/job -o name | grep -q .; }
  wait_for 60 "a job's Pod" running
  ok "helm uninstall" helm uninstall rowlock -n $sums --wait --timeout 120s
  wait_for 120 "the end of jobs' Pods and Secrets with their release" of_jobs
  left() { none kubectl -n $sums get pods,configmaps -l app.kubernetes.io/instance=rowlock -o name; }
  wait_for 120 "the end of the release's Pods and ConfigMaps, its test's too" left
}
