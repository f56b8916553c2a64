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

# readme NAMESPACE: the README's commands on Kubernetes, as they stand, and then those that it names for k3d. What may be missing
# here stands on PATH: kind and k3d, which bring the image to the nodes by ROWLOCK_LOAD_IMAGE; and make, which puts the program
# that is tested into the image, under the names that the Makefile says. Replaced are the namespace, and the image that a
# cluster without a registry cannot pull.
readme() {
  local root=$PWD clone=$work/readme
  mkdir -p "$clone"/{bin,target}
  ln -s "$root/charts" "$clone/charts"
  stand_in kind 'create cluster' 'load image-archive'
  stand_in k3d 'cluster create' 'image import'
  cat >"$clone/bin/make" <<END
#!/usr/bin/env bash
set -euo pipefail
[ "\$*" = image ]
read -r name out < <($(type -P make) -C $root -n image | sed -n 's#.*scripts/image.py [^ ]* \([^ ]*\) \([^ ]*\) .*#\1 \2#p')
exec $root/scripts/image.py $(realpath "$ROWLOCK") "\$name" "\$out"
END
  chmod +x "$clone"/bin/*
  sed -n '/^## On Kubernetes$/,/^## /{/^```sh$/,/^```$/{/^```/d;p}}' README.md |
    sed -e "s/-n rowlock/-n $1/g" -e "s#demo.enabled=true#&,demo.postgres.image=$POSTGRES_IMAGE#" >"$clone/run"
  sed -n 's/.*# or: //p' "$clone/run" >"$clone/run-k3d"
  ok "every command of README.md, to a job" in_clone bash -euxo pipefail run
  ok "all that kind can do was done" test "$(cat "$clone/kind")" = "create cluster"$'\n'"load image-archive"
  ok "and all that it says of k3d" in_clone bash -euxo pipefail run-k3d
  ok "all that k3d can do was done" test "$(cat "$clone/k3d")" = "cluster create"$'\n'"image import"
}
# in_clone COMMAND...
in_clone() { env -C "$work/readme" PATH="$work/readme/bin:$PATH" "$@"; }
# stand_in PROGRAM MAKE LOAD: it does these two things and nothing else, and remembers what it did.
stand_in() {
  cat >"$work/readme/bin/$1" <<END
#!/usr/bin/env bash
set -euo pipefail
case "\$1 \$2" in
  '$2') [ \$# = 2 ] ;;
  '$3') [ \$# = 3 ]; PATH='$PATH' $ROWLOCK_LOAD_IMAGE "\$3" ;;
  *) exit 2 ;;
esac
echo "\$1 \$2" >>$work/readme/$1
END
}
