#!/usr/bin/env bash
# The static program in an empty root: it runs, installs itself, speaks TLS up to verify-full, and works jobs.
# Prints its size. Run by: make static
set -euo pipefail
cd "$(dirname "$0")/.."

program=${1:?the static program}
work=$(mktemp -d)
chmod 755 "$work"
dev=
trap 'if [ -n "$dev" ]; then kill "$dev" && wait "$dev" || true; fi; rm -rf "$work"' EXIT
die() { echo "static: $*" >&2; exit 1; }

if file "$program" | grep -q 'dynamically linked'; then die "$program is linked dynamically"; fi
if readelf -l "$program" | grep -q INTERP; then die "$program wants an interpreter"; fi

# An empty root needs root, or a user namespace.
inside=(chroot)
[ "$(id -u)" = 0 ] || inside=(unshare --map-root-user chroot)

root=$work/root
mkdir "$root"
cp "$program" "$root/rowlock"
"${inside[@]}" "$root" /rowlock --version
"${inside[@]}" "$root" /rowlock install /shared >/dev/null
cmp "$root/rowlock" "$root/shared/rowlock" || die "install made another program"
[ -x "$root/shared/rowlock" ] || die "install made a file that is not executable"

# A job in the empty root: the program itself is the only command there is.
cat >"$work/types.yaml" <<'EOF'
types:
  - {name: here, command: [/shared/rowlock, --version]}
EOF
"$program" dev --workers 0 --types "$work/types.yaml" >"$work/url" &
dev=$!
for _ in $(seq 300); do grep -q DATABASE_URL= "$work/url" && break; sleep 0.1; done
url=$(sed -n 's/^DATABASE_URL=//p' "$work/url")
[ -n "$url" ] || die "no database within 30 s"
DATABASE_URL=$url "$program" enqueue here -o name >"$work/id"
DATABASE_URL=$url "${inside[@]}" "$root" /rowlock worker --stop-when-empty -o json >"$work/summary"
grep -q '"completed": *1' "$work/summary" || die "the job did not run in the empty root: $(cat "$work/summary")"

# TLS: a server with a certificate of its own, for localhost.
tls=$work/tls
"$(dirname "$0")/static_tls.sh" "$tls" >"$work/tls_url" &
server=$!
trap 'kill "$server" "$dev" 2>/dev/null || true; wait || true; rm -rf "$work"' EXIT
for _ in $(seq 300); do grep -q READY "$work/tls_url" && break; sleep 0.1; done
port=$(sed -n 's/^READY //p' "$work/tls_url")
[ -n "$port" ] || die "no server with TLS within 30 s"
cp "$tls/ca.crt" "$tls/stranger.crt" "$root/"
# An empty root knows no names but by this file.
mkdir -p "$root/etc"
echo "127.0.0.1 localhost" >"$root/etc/hosts"
try() { # what, the words of its refusal or none, host, options
  local said
  if said=$(DATABASE_URL="postgres://postgres@$3:$port/postgres?$4" "${inside[@]}" "$root" /rowlock migrate status 2>&1); then
    [ -z "$2" ] || die "$1: expected to be refused with $2"
  else
    [ -n "$2" ] && grep -q "$2" <<<"$said" || die "$1: $said"
  fi
}
try "without TLS"                'no encryption'  127.0.0.1 "sslmode=disable"
try "require"                    ''               127.0.0.1 "sslmode=require"
try "verify-ca"                  ''               127.0.0.1 "sslmode=verify-ca&sslrootcert=/ca.crt"
try "verify-ca, a stranger"      'certificate'    localhost "sslmode=verify-ca&sslrootcert=/stranger.crt"
try "verify-full"                ''               localhost "sslmode=verify-full&sslrootcert=/ca.crt"
try "verify-full, another name"  'certificate'    127.0.0.1 "sslmode=verify-full&sslrootcert=/ca.crt"

size=$(stat -c %s "$program")
echo "static: runs in an empty root, TLS up to verify-full; $size bytes ($((size / 1024 / 1024)) MiB)"
