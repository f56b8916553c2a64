# shellcheck shell=bash
# Sourced by tests/chart/cluster: docs/operations.md, every block of it, against the demo's server; and the README's words.

# manual NAMESPACE SERVER: in NAMESPACE, with the database SERVER (host:port, reached from Pods and from here).
manual() {
  local root=$PWD
  mkdir -p "$work/manual"
  openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=test -keyout "$work/key" -out "$work/manual/ca.crt" 2>/dev/null
  # What the reader replaces: the namespace, the registry's images.
  sed -n '/^```sh$/,/^```$/{/^```/d;p}' docs/operations.md |
    sed -e "s/-n rowlock/-n $1/g" -e "s/namespace rowlock /namespace $1 /" -e "s#registry.example/mail:1#$POSTGRES_IMAGE#" \
      -e "s# charts/rowlock # $root/charts/rowlock #" \
      -e "s#registry.example/rowlock, tag: 0.1.0#${ROWLOCK_IMAGE%:*}, tag: ${ROWLOCK_IMAGE##*:}#" >"$work/manual/run"
  ok "every command of docs/operations.md" env -C "$work/manual" -u DATABASE_URL -u ROWLOCK_DATABASE_URL \
    ADMIN_URL="postgres://rowlock:throw-away@$2/rowlock" OWNER_URL="postgres://jobs_owner:o@$2/jobs?sslmode=disable" \
    CONTROL_URL="postgres://jobs_control:c@$2/jobs?sslmode=disable" WORK_URL="postgres://jobs_work:w@$2/jobs?sslmode=disable" \
    PATH="$work/bin:$PATH" bash -euxo pipefail run
}

# readme NAMESPACE: the README's commands on Kubernetes, from the image on. The image is on the nodes already, because a registry
# and kind may be missing: tests/cluster/test makes it with the same script, and loads it with the cluster's own command.
readme() {
  local commands
  commands=$(sed -n '/^## On Kubernetes$/,/^## /{/^```sh$/,/^```$/{/^```/d;p}}' README.md)
  ok "README.md makes an image" grep -q '^make image .*target/rowlock-image\.tar$' <<<"$commands"
  ok "README.md loads it" grep -q '^kind load image-archive target/rowlock-image\.tar ' <<<"$commands"
  sed -e '/^make image /d' -e '/^kind load /d' -e "s/-n rowlock/-n $1/g" \
    -e "s#image.registry=rowlock.test,image.tag=dev#image.repository=${ROWLOCK_IMAGE%:*},image.tag=${ROWLOCK_IMAGE##*:},demo.postgres.image=$POSTGRES_IMAGE#" \
    <<<"$commands" >"$work/readme"
  ok "every other command of README.md, to a job" bash -euxo pipefail "$work/readme"
}
