-- Numbers that carry a meaning: a job's id names its place, an expiry its partition, a time its bucket.

CREATE OR REPLACE FUNCTION rowlock.make_id(ms int8, queue int4, rank int2, pos int8) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
  SELECT encode(
    int8send((ms << 16) | (7::int8 << 12) | (queue >> 6))
    || int8send((-9223372036854775808)
         | ((queue & 63)::int8 << 56) | ((rank::int8 + 32768) << 40) | ((pos >> 20) & 1099511627775)),
    'hex')::uuid
$$;
COMMENT ON FUNCTION rowlock.make_id IS
'A version 7 UUID: milliseconds, queue (18 bits), rank (16), the position''s number (position / 2^20) modulo 2^40. It
says where the job is while it has not moved, so the hot table needs no index by id. Internal.';

CREATE OR REPLACE FUNCTION rowlock.id_place(id uuid, OUT queue int4, OUT rank int2, OUT pos int8)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
DECLARE
  b    bytea := uuid_send(id);
  hi   int8 := ('x' || encode(substr(b, 1, 8), 'hex'))::bit(64)::int8;
  lo   int8 := ('x' || encode(substr(b, 9, 8), 'hex'))::bit(64)::int8;
  last int8 := (SELECT s.last_value >> 20 FROM rowlock.position s);
BEGIN
  queue := ((hi & 4095) << 6) | ((lo >> 56) & 63);
  rank := ((lo >> 40) & 65535) - 32768;
  -- The newest position with these low bits; older ones left ready a trillion jobs ago.
  pos := (last & ~1099511627775) | (lo & 1099511627775);
  IF pos > last THEN pos := pos - 1099511627776; END IF;
  pos := pos << 20;
END $$;
COMMENT ON FUNCTION rowlock.id_place IS
'Where make_id says a job was put: a hint, to be checked against the row''s id. Internal.';

-- STABLE, for an interval compared is no more than that: called IMMUTABLE it would be planned anew in every call.
CREATE OR REPLACE FUNCTION rowlock.history_slot(expires_at timestamptz, keep interval) RETURNS int2
LANGUAGE sql STABLE AS $$
  SELECT CASE
    WHEN keep <= interval '36 hours' THEN floor(extract(epoch FROM expires_at) / 21600)::int8 % 8
    WHEN keep <= interval '18 days'  THEN floor(extract(epoch FROM expires_at) / 259200)::int8 % 8 + 8
    ELSE floor(extract(epoch FROM expires_at) / 5270400)::int8 % 8 + 16
  END::int2
$$;
COMMENT ON FUNCTION rowlock.history_slot IS
'The history partition for a job kept for keep, at most 366 days. A ring of eight holds what is kept up to six widths,
so the partition just expired is never one that is written. Internal.';

CREATE OR REPLACE FUNCTION rowlock.bucket_bounds() RETURNS float8[]
LANGUAGE sql IMMUTABLE AS $$
  SELECT '{0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000}'::float8[]
$$;
COMMENT ON FUNCTION rowlock.bucket_bounds IS
'The upper bounds of the histograms of waits and runs, in seconds. Lines counted in the past mean these: never changed.
Internal.';

CREATE OR REPLACE FUNCTION rowlock.bucket(seconds float8) RETURNS int2
LANGUAGE sql IMMUTABLE AS $$
  SELECT width_bucket(seconds, rowlock.bucket_bounds())::int2
$$;
COMMENT ON FUNCTION rowlock.bucket IS
'Which bucket of a histogram a time falls in, from 0; one above the last bound has that of the number of bounds.
Internal.';

CREATE OR REPLACE FUNCTION rowlock.due_at(execute_at timestamptz, created_at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE AS $$
  SELECT GREATEST(execute_at, created_at)
$$;
COMMENT ON FUNCTION rowlock.due_at IS
'When a job began to wait: not before it was enqueued, even if it was due in the past. Every age and every wait counts
from here. Internal.';
