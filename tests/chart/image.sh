# shellcheck shell=bash disable=SC2154
# Sourced by the scripts that make an image of programs of this machine, without a registry and without an engine: they
# fill $root and call image. No /etc, no shell, but what they put there.

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/usr/{bin,lib,lib64}
mkdir -m 1777 "$root/tmp"
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"

# put FILE...: at the same place as here.
put() { tar -C / -chf - "${@#/}" | tar -C "$root" -xf - --keep-directory-symlink; }
# put_libraries FILE...: those of programs and modules, and the dynamic linker itself.
put_libraries() {
  local libraries
  libraries=$(ldd "$@" | awk '{for (i = 1; i <= NF; i++) if ($i ~ /^\/.*[^:]$/) print $i}' | sort -u)
  # shellcheck disable=SC2086
  put $libraries
}
# image NAME ARCHIVE CONFIG: in docker save's format. CONFIG is the inside of what a Dockerfile's ENV, USER … become.
image() {
  chmod -R go+rX "$root"
  tar --owner=0 --group=0 --numeric-owner --mtime=@0 --sort=name -C "$root" -cf "$work/layer.tar" .
  cat >"$work/config.json" <<END
{"architecture":"$(dpkg --print-architecture)","os":"linux","config":{$3},
 "rootfs":{"type":"layers","diff_ids":["sha256:$(sha256sum <"$work/layer.tar" | cut -d' ' -f1)"]}}
END
  printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]\n' "$1" >"$work/manifest.json"
  mkdir -p "$(dirname "$2")"
  tar -C "$work" -cf "$2" manifest.json config.json layer.tar
  echo "${0##*/}: $1, $(($(stat -c %s "$2") / 1024 / 1024)) MiB: $2"
}
