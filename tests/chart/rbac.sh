# shellcheck shell=bash
# Sourced by tests/chart/cluster: what the service accounts may do, by real calls with their own tokens.

# call TOKEN METHOD PATH [BODY]: prints the status. A body of {} is refused as such, which comes after the question who asks.
call() {
  local body=${4:-}
  [ "$2" = GET ] || body=${body:-'{}'}
  curl -s -o /dev/null -w '%{http_code}' --max-time 10 --cacert "$work/ca.crt" -X "$2" -H "Authorization: Bearer $1" \
    -H "Content-Type: $([ "$2" = PATCH ] && echo application/merge-patch+json || echo application/json)" \
    -d "$body" "$server$3"
}
# answers STATUS TOKEN METHOD PATH [BODY]
answers() {
  local got
  got=$(call "${@:2}")
  [ "$got" = "$1" ] || { echo "$3 $4: wanted $1, got $got"; return 1; }
}

# Calls that no service account of the release may make. NS is the release's namespace, PRE its objects' prefix.
forbidden_to_all() {
  cat <<'END'
GET /api/v1/namespaces/NS/secrets
GET /api/v1/namespaces/NS/secrets?watch=true&timeoutSeconds=1
GET /api/v1/namespaces/NS/secrets/PRE-demo-database
PUT /api/v1/namespaces/NS/secrets/PRE-demo-database
PATCH /api/v1/namespaces/NS/secrets/PRE-demo-database
DELETE /api/v1/namespaces/NS/secrets/PRE-demo-database
DELETE /api/v1/namespaces/NS/secrets
DELETE /api/v1/namespaces/NS/pods
PUT /api/v1/namespaces/NS/pods/x
PATCH /api/v1/namespaces/NS/pods/x/status
PATCH /api/v1/namespaces/NS/pods/x/ephemeralcontainers
POST /api/v1/namespaces/NS/pods/x/exec
POST /api/v1/namespaces/NS/pods/x/attach
POST /api/v1/namespaces/NS/pods/x/portforward
GET /api/v1/namespaces/NS/pods/x/proxy
POST /api/v1/namespaces/NS/pods/x/eviction
POST /api/v1/namespaces/NS/pods/x/binding
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
POST /api/v1/namespaces/kube-system/pods
POST /api/v1/namespaces/kube-system/secrets
GET /api/v1/namespaces/kube-system/configmaps
GET /apis/apps/v1/namespaces/kube-system/deployments
GET /apis/apiextensions.k8s.io/v1/customresourcedefinitions
END
}

# What the account's program asks for, and the status of the answer.
needed() {
  case $1 in
    controller) cat <<'END' ;;
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
    # Pod Security comes before what a Pod must have: this one fits, and has no container.
    launcher) cat <<'END' ;;
200 GET /api/v1/namespaces/NS/pods
200 GET /api/v1/namespaces/NS/pods?watch=true&timeoutSeconds=1
404 GET /api/v1/namespaces/NS/pods/x
422 POST /api/v1/namespaces/NS/pods {"metadata":{"name":"x"},"spec":{"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}}}}
404 DELETE /api/v1/namespaces/NS/pods/x
404 GET /api/v1/namespaces/NS/pods/x/log
422 POST /api/v1/namespaces/NS/secrets
200 GET /api/v1/namespaces/NS/configmaps/PRE-job-pods
END
  esac
}
# forbidden ACCOUNT: the calls that it may not make. What the others need is not its own, but for what it needs itself.
forbidden() {
  forbidden_to_all
  { needed controller; needed launcher; } | cut -d' ' -f2- | sort -u | grep -vxFf <(echo; needed "$1" | cut -d' ' -f2-)
}

# rbac NAMESPACE PREFIX ACCOUNT...
rbac() {
  local server token account method path body status tried may
  kubectl config view --raw --minify --flatten -o jsonpath='{.clusters[0].cluster.certificate-authority-data}' | base64 -d >"$work/ca.crt"
  server=$(kubectl config view --minify -o jsonpath='{.clusters[0].cluster.server}')
  for account in "${@:3}"; do
    token=$(kubectl -n "$1" create token "$2-$account")
    tried=0 may=0
    while read -r method path body; do
      tried=$((tried + 1))
      ok "$account is refused: $method ${path/?watch*/ (watch)}" answers 403 "$token" "$method" "$path" "$body"
    done < <(forbidden "$account" | sed "s/NS/$1/; s/PRE/$2/")
    while read -r status method path body; do
      may=$((may + 1))
      ok "$account may: $method ${path/?watch*/ (watch)}" answers "$status" "$token" "$method" "$path" "$body"
    done < <(needed "$account" | sed "s/NS/$1/; s/PRE/$2/")
    figure "$account: $tried calls that it must not make, each refused; $may that it needs, each allowed: tried with its token"
  done
}
