#!/usr/bin/env bash
# Runs real jobs over the files of a directory, and compares every result with the same programs run directly.
# usage: scripts/demo.sh [DIR]       (make demo builds first, then calls this)
set -euo pipefail

readonly max_files=2000
readonly max_wait_s=${DEMO_WAIT:-60}

dir=$(realpath -e -- "${1:-.}") || exit 2
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
export LC_ALL=C PGCLIENTENCODING=UTF8 # LC_ALL: what a word is depends on it, here as in the job

say() { echo "demo: $*" >&2; }
now_ms() { echo $((${EPOCHREALTIME/./} / 1000)); }
seconds() { printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100)); }

tmp=$(mktemp -d)
dev=
finish() {
  local status=$? i
  trap - EXIT
  trap '' INT TERM
  if [ -n "$dev" ]; then
    kill -TERM "$dev" 2>/dev/null || true
    for ((i = 0; i < 150; i++)); do
      kill -0 "$dev" 2>/dev/null || break
      sleep 0.1
    done
    if kill -0 "$dev" 2>/dev/null; then
      say "rowlock dev did not stop within 15 s: killed"
      kill -KILL "$dev" 2>/dev/null || true
      status=1
    fi
    wait "$dev" 2>/dev/null || true
  fi
  if [ "$status" != 0 ] && [ -s "$tmp/dev.log" ]; then
    say "the last words of rowlock dev:"
    tail -n 20 "$tmp/dev.log" >&2
  fi
  rm -rf -- "$tmp"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

die() { say "$*"; exit 1; }

psql=$(type -P psql || ls -d /usr/lib/postgresql/*/bin/psql 2>/dev/null | tail -n 1) || true
[ -n "$psql" ] || die "psql is missing: run scripts/setup.sh"
sql() { "$psql" -X -q -v ON_ERROR_STOP=1 -d "$url" "$@"; }

# What is to be done: paths end in NUL, because they may hold anything else.
find "$dir" -mindepth 1 \( -name .git -o -type d -name target \) -prune -o -type f -readable -print0 | sort -z >"$tmp/all"
head -z -n "$max_files" "$tmp/all" >"$tmp/files"
all=$(tr -dc '\0' <"$tmp/all" | wc -c)
total=$(tr -dc '\0' <"$tmp/files" | wc -c)
[ "$total" -gt 0 ] || die "no readable files in $dir"
[ "$all" -le "$max_files" ] || say "$all files in $dir, taking the first $max_files"

# A queue of our own: a private Postgres and two workers.
started=$(now_ms)
target/release/rowlock dev --types examples/demo/types.yaml --workers 2 --concurrency 4 \
  >"$tmp/dev.out" 2>"$tmp/dev.log" </dev/null &
dev=$!
deadline=$(($(now_ms) + max_wait_s * 1000))
url=
until url=$(sed -n '1s/^DATABASE_URL=//p' "$tmp/dev.out") && [ -n "$url" ]; do
  kill -0 "$dev" 2>/dev/null || die "rowlock dev ended before it was ready"
  [ "$(now_ms)" -lt "$deadline" ] || die "waited $max_wait_s s for rowlock dev to print DATABASE_URL"
  sleep 0.05
done
up=$(now_ms)
say "rowlock dev is up after $(seconds $((up - started)))"

# One job per file, all in one statement. The list goes in as hex, Postgres makes the JSON.
{
  cat <<'SQL'
CREATE TEMP TABLE file (ord int GENERATED ALWAYS AS IDENTITY, path bytea NOT NULL);
CREATE FUNCTION pg_temp.readable(path bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  RETURN convert_from(path, 'UTF8');
EXCEPTION WHEN others THEN
  RETURN encode(path, 'escape'); -- a name in another encoding
END $$;
COPY file (path) FROM STDIN;
SQL
  od -An -v -tx1 <"$tmp/files" | tr -s ' ' '\n' |
    awk '$0 == "" { next } $0 == "00" { print "\\\\x" hex; hex = ""; next } { hex = hex $0 }'
  cat <<'SQL'
\.
SELECT id FROM rowlock.enqueue_many((
  SELECT jsonb_agg(jsonb_build_object('type', 'file_stats', 'payload', jsonb_build_object(
           'path', pg_temp.readable(path), 'path_base64', translate(encode(path, 'base64'), E'\n', ''))) ORDER BY ord)
    FROM file)) ORDER BY ord;
SQL
} | sql -At >"$tmp/ids"
[ "$(wc -l <"$tmp/ids")" = "$total" ] || die "$total jobs were sent, $(wc -l <"$tmp/ids") enqueued"
say "$total jobs enqueued, one per file of $dir"

# Until none is left. The depth of a queue is read, not counted.
deadline=$(($(now_ms) + max_wait_s * 1000))
while :; do
  read -r left running < <(sql -At -F ' ' -c \
    "SELECT coalesce(sum(pending + scheduled + running), 0), coalesce(sum(running), 0) FROM rowlock.queues WHERE queue = 'files'")
  [ -n "$left" ] || die "cannot read the queue's depth"
  [ ! -t 2 ] || printf '\rdemo: %d/%d done ' $((total - left)) "$total" >&2
  [ "$left" != 0 ] || break
  kill -0 "$dev" 2>/dev/null || die "rowlock dev ended with $left jobs left"
  [ "$(now_ms)" -lt "$deadline" ] || {
    [ ! -t 2 ] || echo >&2
    die "waited $max_wait_s s for $left of $total jobs to end ($running of them running); DEMO_WAIT=SECONDS waits longer"
  }
  sleep 0.1
done
[ ! -t 2 ] || echo >&2
worked=$(now_ms)
say "all ended after $(seconds $((worked - up)))"

# The same programs, run directly on the same list; line n is file n.
wc -l --files0-from="$tmp/files" | awk -v n="$total" "NR <= n { print \$1 }" >"$tmp/lines"
wc -w --files0-from="$tmp/files" | awk -v n="$total" "NR <= n { print \$1 }" >"$tmp/words"
xargs -0 sha256sum -z -- <"$tmp/files" | tr '\0\n' '\n?' | cut -c 1-64 >"$tmp/sha256"
for part in lines words sha256; do
  [ "$(wc -l <"$tmp/$part")" = "$total" ] || die "a file of $dir vanished meanwhile: nothing to compare with"
done

# Every job that was enqueued is looked up by its id: one that is lost is a difference.
{
  cat <<'SQL'
CREATE TEMP TABLE direct (ord int GENERATED ALWAYS AS IDENTITY, id uuid, lines int8, words int8, sha256 text);
COPY direct (id, lines, words, sha256) FROM STDIN;
SQL
  paste "$tmp/ids" "$tmp/lines" "$tmp/words" "$tmp/sha256"
  cat <<'SQL'
\.
CREATE TEMP TABLE pair AS
  SELECT d.*, j.status, j.payload ->> 'path' AS path, j.error, j.result,
         (j.result ->> 'lines')::int8 AS job_lines, (j.result ->> 'words')::int8 AS job_words, j.result ->> 'sha256' AS job_sha256,
         (j.status, j.result) IS NOT DISTINCT FROM
           ('completed', jsonb_build_object('lines', d.lines, 'words', d.words, 'sha256', d.sha256)) AS same
    FROM direct d LEFT JOIN rowlock.jobs j ON j.id = d.id;
\pset footer off
SELECT path AS file, job_lines AS lines, job_words AS words, left(job_sha256, 16) AS "sha256 (first 16)" FROM pair ORDER BY ord LIMIT 10;
SELECT count(result) AS jobs, count(DISTINCT job_sha256) AS "different contents", sum(job_lines) AS lines, sum(job_words) AS words FROM pair;
SELECT count(*) FILTER (WHERE NOT same) AS bad, NOT bool_and(same) AS any_bad FROM pair \gset
\if :any_bad
SELECT coalesce(path, id::text) AS "differs or is lost", coalesce(status, 'lost') AS status, error, result,
       concat_ws(' ', lines, words, sha256) AS "run directly"
  FROM pair WHERE NOT same ORDER BY ord LIMIT 10;
\endif
\pset tuples_only on
\pset format unaligned
\o :badfile
SELECT :bad;
SQL
} | sql -v badfile="$tmp/bad"

bad=$(cat "$tmp/bad")
all=$(seconds $(($(now_ms) - started)))
[ "$bad" = 0 ] || die "$bad of $total jobs are lost or differ from the same programs run directly (did a file change meanwhile?)"
say "$total jobs in $all, every result equal to wc and sha256sum run directly, none lost"
