#!/usr/bin/env bash
# release.sh PROGRAM IMAGE_ARCHIVE: puts a release's files into target/release-files, with SHA256SUMS, and signs the sums with
# the SSH key in KEY, where one is given. Run by: make release. A reader checks them with:
#   sha256sum -c SHA256SUMS
#   ssh-keygen -Y verify -f allowed_signers -I NAME -n rowlock -s SHA256SUMS.sig <SHA256SUMS
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

[ $# = 2 ] || { echo "usage: scripts/release.sh PROGRAM IMAGE_ARCHIVE" >&2; exit 2; }
to=target/release-files
rm -rf "$to"
mkdir -p "$to"
cp "$1" "$to/rowlock"
cp "$2" "$to/rowlock-image.tar"
cp LICENSE-APACHE LICENSE-MIT "$to/"
scripts/bundled.py sbom >"$to/rowlock.cdx.json"
scripts/bundled.py licenses >"$to/THIRD-PARTY.txt"
(cd "$to" && LC_ALL=C sha256sum -- * >../SHA256SUMS && mv ../SHA256SUMS .)
if [ -n "${KEY:-}" ]; then
  ssh-keygen -q -Y sign -f "$KEY" -n rowlock "$to/SHA256SUMS"
else
  echo "release: not signed; KEY=FILE signs with an SSH key" >&2
fi
echo "release: $(git describe --always --dirty): $to"
