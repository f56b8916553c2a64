#!/usr/bin/env bash
# The image is reproducible: the same program gives the same bytes, whatever the directory, the time, the time zone, the
# umask and the locale; another program, name or date gives others. Any program will do. Run by: make verify
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

program=${1:-$(type -P true)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
die() { echo "image: $*" >&2; exit 1; }

# build OUT [NAME [EPOCH]]: the program and a licence from a directory of their own.
build() {
  local from
  from=$(mktemp -d -p "$work")
  cp "$program" "$from/program"
  cp LICENSE-MIT "$from/"
  VERSION=1.2.3 REVISION=abc SOURCE=https://git.example/rowlock SOURCE_DATE_EPOCH=${3:-1700000000} \
    python3 -B scripts/image.py "$from/program" "${2:-rowlock.test/rowlock:dev}" "$work/$1" "$from/LICENSE-MIT" >/dev/null
}

build one
(umask 077 && TZ=Asia/Tokyo LC_ALL=C PYTHONHASHSEED=7 build two)
cmp "$work/one" "$work/two" || die "two builds of the same program differ"

build named rowlock.test/rowlock:other
build dated rowlock.test/rowlock:dev 1700000001
{ cat "$program"; echo; } >"$work/other"
program=$work/other build changed
for other in named dated changed; do
  ! cmp -s "$work/one" "$work/$other" || die "another image ($other) has the same bytes"
done

# Every blob is named by its digest, and the licence is in the layer as it was.
mkdir "$work/files"
tar -C "$work/files" -xf "$work/one"
for blob in "$work"/files/blobs/sha256/*; do
  [ "$(sha256sum <"$blob" | cut -d' ' -f1)" = "${blob##*/}" ] || die "${blob##*/} is not the digest of its blob"
done
layer=$(grep -l "$(printf '\x1f\x8b')" "$work"/files/blobs/sha256/* | head -n 1)
tar -xzOf "$layer" licenses/LICENSE-MIT | cmp - LICENSE-MIT || die "the licence in the layer is another"
echo "image: two builds give the same bytes, sha256:$(sha256sum <"$work/one" | cut -d' ' -f1)"
