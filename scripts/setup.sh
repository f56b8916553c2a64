#!/usr/bin/env bash
# Makes sure that what the build, the demo and (with --test) the tests need is there, with --static also what the
# program without any library, its image and the tests on a cluster need. Does nothing, quickly, when it is. On
# Debian and its kin it installs what is missing; elsewhere it says what that is.
set -euo pipefail

usage="usage: scripts/setup.sh [--test] [--static]"
test=no static=no
for arg in "$@"; do
  case $arg in
    --test) test=yes ;;
    --static) static=yes ;;
    *) echo "$usage" >&2; exit 2 ;;
  esac
done

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

# The oldest PostgreSQL that has all the schema uses.
min_postgres=15

has_postgres() {
  local server version
  for server in /usr/lib/postgresql/*/bin/postgres $(type -P postgres || true); do
    [ -x "$server" ] || continue
    version=$("$server" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
    [ "${version:-0}" -ge "$min_postgres" ] && return
  done
  return 1
}

has_prometheus() { type -P prometheus >/dev/null && type -P promtool >/dev/null; }
has_pgbouncer() { [ -x /usr/sbin/pgbouncer ] || type -P pgbouncer >/dev/null; }

type -P cargo >/dev/null || die "cargo is missing: install Rust 1.88 or later, see https://rustup.rs"

packages=()
type -P cc >/dev/null || packages+=(gcc libc6-dev) # Rust links with it
has_postgres || packages+=(postgresql)
[ "$test" = no ] || has_pgbouncer || packages+=(pgbouncer)
[ "$test" = no ] || type -P python3 >/dev/null || packages+=(python3) # the handler of tests/chaos is written in it
# The tests start a Prometheus of their own; Debian's package may start one more, as a service.
[ "$test" = no ] || has_prometheus || packages+=(prometheus)
if [ "$static" = yes ]; then
  type -P musl-gcc >/dev/null || packages+=(musl-tools)
  type -P file >/dev/null || packages+=(file)
  type -P curl >/dev/null || packages+=(curl)
  type -P python3 >/dev/null || packages+=(python3)
  python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
fi

if [ ${#packages[@]} -gt 0 ]; then
  type -P apt-get >/dev/null ||
    die "missing: ${packages[*]} (PostgreSQL $min_postgres or later); install them with your package manager"
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    type -P sudo >/dev/null || die "missing: ${packages[*]}; install them as root, there is no sudo here"
    as_root=(sudo)
    say "sudo may ask for your password, to install packages"
  fi
  as_root+=(env DEBIAN_FRONTEND=noninteractive apt-get -qq)
  say "reading the package lists"
  "${as_root[@]}" update
  say "installing ${packages[*]}"
  "${as_root[@]}" install --yes --no-install-recommends "${packages[@]}" >&2
  has_postgres || die "the packaged PostgreSQL is older than $min_postgres; install a newer one"
fi

if [ "$test" = yes ]; then
  for component in rustfmt clippy; do
    [ $component = rustfmt ] && tool=fmt || tool=clippy
    cargo $tool --version >/dev/null 2>&1 && continue
    type -P rustup >/dev/null || die "$component is missing: install it beside cargo"
    say "adding the Rust component $component"
    rustup component add $component
  done
fi
