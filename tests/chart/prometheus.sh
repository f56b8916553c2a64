# shellcheck shell=bash disable=SC2154
# Sourced by tests/chart/cluster: a real Prometheus in a Pod, told what to scrape and when to alarm by the chart's own
# ServiceMonitor and PrometheusRule, as the Prometheus operator would tell it.

# rendered KIND VALUE...: the object of that kind, with these values; a part of it by its path.
rendered() {
  helm template demo charts/rowlock -n $ns --set "demo.enabled=true,$2" --show-only templates/monitoring.yaml >"$work/$1.yaml"
}
part() { kubectl annotate --local -f "$work/$1.yaml" a=b -o jsonpath="{$2}"; }

# scraped: a Service without an address for what the monitor selects, so that DNS names each Pod. That is how it is found:
# Debian builds Prometheus without a client of Kubernetes.
scraped() {
  local labels
  labels=$(part monitor .spec.selector.matchLabels | python3 -c 'import json, sys
print(",".join(f"{k}={v}" for k, v in json.load(sys.stdin).items()))')
  kubectl -n $ns get service -l "$labels" -o json | python3 -c 'import json, sys
[service] = json.load(sys.stdin)["items"]
spec = {"clusterIP": "None", "selector": service["spec"]["selector"], "ports": service["spec"]["ports"]}
print(json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "scraped"}, "spec": spec}))'
}
# prometheus_config: JSON is YAML.
prometheus_config() {
  cat <<END
{"global": {"evaluation_interval": "1s"}, "rule_files": ["/config/rules.yml"], "scrape_configs": [{
  "job_name": "rowlock", "metrics_path": "$(part monitor '.spec.endpoints[0].path')",
  "scrape_interval": "$(part monitor '.spec.endpoints[0].interval')", "scrape_timeout": "1s",
  "dns_sd_configs": [{"names": ["_$(part monitor '.spec.endpoints[0].port')._tcp.scraped.$ns.svc"], "refresh_interval": "1s"}],
  "relabel_configs": [{"target_label": "namespace", "replacement": "$ns"}]}]}
END
}
prometheus_pod() {
  cat <<END
apiVersion: v1
kind: Pod
metadata: {name: prometheus}
spec:
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: prometheus
      image: $PROMETHEUS_IMAGE
      args: [--config.file=/config/prometheus.yml, --storage.tsdb.path=/data]
      ports: [{containerPort: 9090}]
      readinessProbe: {httpGet: {path: /-/ready, port: 9090}, periodSeconds: 1}
      securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
      volumeMounts: [{name: config, mountPath: /config}, {name: data, mountPath: /data}]
  volumes: [{name: config, configMap: {name: prometheus}}, {name: data, emptyDir: {}}]
END
}

# ask PATH: of Prometheus's API, through the API server.
ask() { kubectl get --raw "/api/v1/namespaces/$ns/pods/prometheus:9090/proxy/api/v1/$1"; }
# finds WANTED QUERY: the query has so many samples.
finds() {
  local got
  got=$(ask "query?query=$(printf %s "$2" | od -An -v -tx1 | tr ' ' % | tr -d '\n')")
  [ "$(python3 -c 'import json, sys; print(len(json.load(sys.stdin)["data"]["result"]))' <<<"$got")" = "$1" ] || { echo "$2: wanted $1, got $got"; return 1; }
}
# healthy WANTED: so many rules were evaluated, and none has an error.
healthy() {
  ask rules | python3 -c 'import json, sys
rules = [r for g in json.load(sys.stdin)["data"]["groups"] for r in g["rules"]]
wrong = [r for r in rules if r["health"] != "ok"]
sys.exit(f"wrong: {wrong}" if wrong or len(rules) != int(sys.argv[1]) else 0)' "$1"
}

# prometheus: in the demo's namespace, about the demo.
prometheus() {
  local began firing='ALERTS{alertstate="firing"'
  rendered monitor serviceMonitor.enabled=true,serviceMonitor.interval=1s
  rendered rules prometheusRule.enabled=true
  part rules .spec >"$work/rules.yml"
  prometheus_config >"$work/prometheus.yml"
  scraped | kubectl -n $ns apply -f - >/dev/null
  kubectl -n $ns create configmap prometheus --from-file="$work/prometheus.yml" --from-file="$work/rules.yml" >/dev/null
  prometheus_pod | kubectl -n $ns apply -f - >/dev/null
  wait_for 60 "Prometheus" kubectl -n $ns wait --for condition=Ready pod/prometheus --timeout 5s
  wait_for 60 "a scrape of each controller" finds 2 'up{job="rowlock"} == 1'
  wait_for 60 "every rule of the chart" healthy "$(grep -c ' alert: ' "$work/rules.yaml")"
  ok "nothing fires, and nothing has failed" finds 0 "$firing} or rowlock_jobs_failed_total"
  # The rule finds a first failure only where it has known the database for ten minutes; the second it sees at once.
  rowlock enqueue fail --wait >/dev/null 2>&1 || :
  wait_for 60 "the first failure in a scrape" finds 2 'rowlock_jobs_failed_total{type="fail", queue="demo"} == 1'
  rowlock enqueue fail --wait >/dev/null 2>&1 || :
  began=$(now)
  wait_for 60 "the alert" finds 1 "$firing, alertname=\"RowlockJobsFailing\", namespace=\"$ns\", type=\"fail\", queue=\"demo\", severity=\"warning\"}"
  figure "from a job that failed for good to the alert that fires: $(ms_since "$began") ms (scraped and evaluated each second; the rule has no \"for\")"
}
# no_false_alarm: since then nothing else has fired.
no_false_alarm() { finds 0 'last_over_time(ALERTS{alertstate="firing", alertname!="RowlockJobsFailing"}[1h])'; }
