#!/usr/bin/env bash
# A Postgres with TLS only, whose certificate is localhost's, signed by DIR/ca.crt
# and not by DIR/stranger.crt. Prints READY and its port, and
# serves until it is killed. Part of static.sh.
set -euo pipefail
dir=${1:?a directory}
mkdir "$dir"
chmod 755 "$dir"

openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout "$dir/ca.key" -out "$dir/ca.crt" 2>/dev/null
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=stranger -keyout "$dir/stranger.key" -out "$dir/stranger.crt" 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout "$dir/server.key" -out "$dir/server.csr" 2>/dev/null
openssl x509 -req -in "$dir/server.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -CAcreateserial -days 2 \
  -extfile <(echo "subjectAltName=DNS:localhost") -out "$dir/server.crt" 2>/dev/null

# Postgres does not run as root.
as=()
if [ "$(id -u)" = 0 ]; then
  chown -R nobody "$dir"
  as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
fi
bin=$(find /usr/lib/postgresql -path '*/bin/initdb' -printf '%h\n' 2>/dev/null | sort -V | tail -1)
bin=${bin:-$(dirname "$(type -P initdb)")}
port=$((20000 + $$ % 20000))
"${as[@]}" chmod 600 "$dir/server.key"
"${as[@]}" "$bin/initdb" -D "$dir/data" -U postgres -A trust >/dev/null
echo "hostssl all all 127.0.0.1/32 trust" >"$dir/data/pg_hba.conf"
"${as[@]}" "$bin/postgres" -D "$dir/data" -p "$port" -k "$dir" -h 127.0.0.1 -c ssl=on \
  -c ssl_cert_file="$dir/server.crt" -c ssl_key_file="$dir/server.key" -c fsync=off >&2 2>"$dir/log" &
server=$!
trap exit TERM INT
trap 'kill -INT "$server" 2>/dev/null; wait "$server" || true' EXIT
for _ in $(seq 300); do
  if grep -q "ready to accept connections" "$dir/log"; then echo "READY $port"; break; fi
  kill -0 "$server" || { cat "$dir/log" >&2; exit 1; }
  sleep 0.1
done
wait "$server"
