# shellcheck shell=bash
# Sourced by tests/chart/cluster: what the service accounts may do, by real calls with their own tokens.

# call TOKEN METHOD PATH: prints the status.
call() {
  curl -s -o /dev/null -w '%{http_code}' --max-time 10 --cacert "$work/ca.crt" -X "$2" -H "Authorization: Bearer $1" \
    -H "Content-Type: $([ "$2" = PATCH ] && echo application/merge-patch+json || echo application/json)" \
    -d "$([ "$2" = GET ] || echo '{}')" "$server$3"
}
# answers STATUS TOKEN METHOD PATH
answers() {
  local got
  got=$(call "$2" "$3" "$4")
  [ "$got" = "$1" ] || { echo "$3 $4: wanted $1, got $got"; return 1; }
}

# Calls that no service account of the release may make; NS is the release's namespace, PRE its objects' prefix.
forbidden() {
  sed "s/NS/$1/; s/PRE/$2/" <<'END'
GET /api/v1/namespaces/NS/secrets
GET /api/v1/namespaces/NS/secrets/PRE-demo-database
PATCH /api/v1/namespaces/NS/secrets/PRE-demo-database
GET /api/v1/namespaces/NS/pods/x/log
POST /api/v1/namespaces/NS/pods
POST /api/v1/namespaces/NS/pods/x/exec
POST /api/v1/namespaces/NS/pods/x/attach
POST /api/v1/namespaces/NS/pods/x/eviction
POST /api/v1/namespaces/NS/configmaps
PATCH /api/v1/namespaces/NS/configmaps/PRE-job-types
DELETE /api/v1/namespaces/NS/configmaps/PRE-job-types
POST /api/v1/namespaces/NS/services
POST /api/v1/namespaces/NS/serviceaccounts
POST /api/v1/namespaces/NS/serviceaccounts/PRE-controller/token
POST /apis/apps/v1/namespaces/NS/deployments
PATCH /apis/apps/v1/namespaces/NS/deployments/PRE-demo
PUT /apis/apps/v1/namespaces/NS/deployments/PRE-demo
PUT /apis/apps/v1/namespaces/NS/deployments/PRE-demo/scale
GET /api/v1/namespaces/NS/pods/x
DELETE /api/v1/namespaces/NS/pods/x
DELETE /apis/apps/v1/namespaces/NS/deployments/PRE-demo
GET /apis/apps/v1/namespaces/NS/replicasets
GET /apis/apps/v1/namespaces/NS/statefulsets
POST /apis/batch/v1/namespaces/NS/jobs
GET /apis/rbac.authorization.k8s.io/v1/namespaces/NS/roles
POST /apis/rbac.authorization.k8s.io/v1/namespaces/NS/rolebindings
POST /apis/rbac.authorization.k8s.io/v1/clusterrolebindings
GET /apis/events.k8s.io/v1/namespaces/NS/events
GET /apis/coordination.k8s.io/v1/namespaces/NS/leases
GET /api/v1/pods
GET /api/v1/nodes
GET /api/v1/namespaces
GET /api/v1/namespaces/kube-system/pods
GET /api/v1/namespaces/kube-system/configmaps
GET /apis/apps/v1/namespaces/kube-system/deployments
GET /apis/apiextensions.k8s.io/v1/customresourcedefinitions
END
}

# What the controller's program asks for. A body of {} is refused as such, which comes after the question who asks.
needed() {
  sed "s/NS/$1/; s/PRE/$2/" <<'END'
200 GET /apis/apps/v1/namespaces/NS/deployments
200 GET /apis/apps/v1/namespaces/NS/deployments?watch=true&timeoutSeconds=1
200 GET /apis/apps/v1/namespaces/NS/deployments/PRE-demo/scale
200 PATCH /apis/apps/v1/namespaces/NS/deployments/PRE-demo/scale
200 GET /api/v1/namespaces/NS/pods
200 GET /api/v1/namespaces/NS/pods?watch=true&timeoutSeconds=1
404 PATCH /api/v1/namespaces/NS/pods/x
200 GET /api/v1/namespaces/NS/configmaps
200 GET /api/v1/namespaces/NS/configmaps?watch=true&timeoutSeconds=1
422 POST /apis/events.k8s.io/v1/namespaces/NS/events
END
}

# rbac NAMESPACE PREFIX
rbac() {
  local server token account method path status tried
  kubectl config view --raw --minify --flatten -o jsonpath='{.clusters[0].cluster.certificate-authority-data}' | base64 -d >"$work/ca.crt"
  server=$(kubectl config view --minify -o jsonpath='{.clusters[0].cluster.server}')
  for account in controller worker; do
    token=$(kubectl -n "$1" create token "$2-$account")
    tried=0
    while read -r method path; do
      tried=$((tried + 1))
      ok "$account is refused: $method ${path/?watch*/ (watch)}" answers 403 "$token" "$method" "$path"
    done < <(forbidden "$1" "$2")
    figure "$account: $tried calls that it must not have, each tried with its token"
  done
  while read -r _ method path; do
    ok "worker is refused: $method $path" answers 403 "$token" "$method" "$path"
  done < <(needed "$1" "$2")
  token=$(kubectl -n "$1" create token "$2-controller")
  while read -r status method path; do
    ok "controller may: $method $path" answers "$status" "$token" "$method" "$path"
  done < <(needed "$1" "$2")
}
