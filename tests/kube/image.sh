#!/usr/bin/env bash
# image.sh ROWLOCK: an image archive on standard output, rowlock.test/rowlock-kube:dev, of a static program and what
# the tests' jobs run. Load it into the cluster's nodes before the tests.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/root"
install -m 755 "$1" "$work/root/rowlock"
rustc --edition 2024 -O --target x86_64-unknown-linux-musl -o "$work/root/job" job.rs
tar -C "$work/root" --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$work/layer.tar" rowlock job
cat >"$work/config.json" <<END
{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/rowlock"],"User":"65532:65532","WorkingDir":"/"},
 "rootfs":{"type":"layers","diff_ids":["sha256:$(sha256sum <"$work/layer.tar" | cut -d' ' -f1)"]}}
END
echo '[{"Config":"config.json","RepoTags":["rowlock.test/rowlock-kube:dev"],"Layers":["layer.tar"]}]' >"$work/manifest.json"
tar -C "$work" -cf - manifest.json config.json layer.tar
