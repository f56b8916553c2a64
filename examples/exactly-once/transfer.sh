#!/bin/sh
# Moves money exactly once: the transfer and the job's completion are one transaction. Whatever kills this script,
# and whenever, either both happened or neither; and a run that has lost its lease changes nothing.
set -eu
psql "$DATABASE_URL" -qAtX -v ON_ERROR_STOP=1 -v lease="$ROWLOCK_LEASE" -v job="$ROWLOCK_JOB_ID" <<'SQL'
\set payload `cat "$ROWLOCK_PAYLOAD_FILE"`
BEGIN;
UPDATE account SET balance = balance - (:'payload'::jsonb ->> 'amount')::numeric WHERE name = :'payload'::jsonb ->> 'from';
UPDATE account SET balance = balance + (:'payload'::jsonb ->> 'amount')::numeric WHERE name = :'payload'::jsonb ->> 'to';
SELECT count(*) > 0 AS refused FROM rowlock.complete_v1(
  split_part(:'lease', '/', 1)::uuid, ARRAY[split_part(:'lease', '/', 2)::int8], ARRAY[:'job']::uuid[],
  ARRAY[jsonb_build_object('moved', :'payload'::jsonb -> 'amount')]) \gset
\if :refused
  DO $$ BEGIN RAISE EXCEPTION 'lease lost: nothing was moved'; END $$;
\endif
COMMIT;
SQL
