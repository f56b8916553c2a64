#!/usr/bin/env bash
# deny.sh: checks that GitHub actions are pinned by the hash of a commit, and the dependencies by deny.toml: licences, bans,
# sources, and advisories. Where cargo-deny is not installed
# it says so, and fails only with ROWLOCK_DENY=required, as in CI. The database of advisories comes from the network; where it
# cannot be had, the rest is checked all the same.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

say() { echo "deny: $*" >&2; }
missing() {
  say "$*"
  [ "${ROWLOCK_DENY:-}" != required ] || exit 1
}

if grep -rnE '^[^#]*\buses:' .github | grep -vE '@[0-9a-f]{40}( |$)'; then
  say "these actions are not pinned by the hash of a commit"
  exit 1
fi
if ! type -P cargo-deny >/dev/null; then
  missing "cargo-deny is not installed, no dependency was checked; install it with: cargo install --locked cargo-deny"
  exit 0
fi
cargo deny --log-level error --all-features check --hide-inclusion-graph bans licenses sources
if cargo deny --log-level off fetch db 2>/dev/null; then
  cargo deny --log-level error --all-features check advisories
else
  missing "the database of advisories cannot be fetched, advisories were not checked"
fi
