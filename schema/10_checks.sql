-- Checks of what callers send. Refusals are SQLSTATE class RL, one code per field:
--   RL001 type         RL002 payload      RL003 queue        RL004 priority      RL005 max_retries
--   RL006 execute_at   RL007 unique_key   RL008 opts         RL009 jobs (the list itself)
--   RL010 delay_seconds   RL011 no such job   RL012 the job's status does not allow it
--   RL020 worker unknown, draining or past its lease   RL021 a worker's argument, a job type's field
--   RL030 the leadership is lost   RL031 a schedule's field   RL032 no such schedule

CREATE OR REPLACE FUNCTION rowlock.refuse(code text, message text, hint text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF hint IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message;
  END IF;
  RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message, HINT = hint;
END $$;
COMMENT ON FUNCTION rowlock.refuse IS 'Raises a refusal. Internal.';

-- E'' with doubled backslashes: its meaning depends on no setting.
CREATE OR REPLACE FUNCTION rowlock.name_problem(name text) RETURNS text
LANGUAGE sql STABLE AS $$
  SELECT CASE
    WHEN name IS NULL THEN 'expected 1 to 128 bytes of printable text, got null'
    WHEN octet_length(name) NOT BETWEEN 1 AND 128
      THEN format('expected 1 to 128 bytes of printable text, got %s bytes', octet_length(name))
    WHEN name ~ E'[\\u0001-\\u001f\\u007f-\\u009f\\u2028\\u2029\\ufeff\\ufffe\\uffff]'
      THEN 'expected 1 to 128 bytes of printable text, got a control character'
    WHEN btrim(name) = '' THEN 'expected 1 to 128 bytes of printable text, got only spaces'
  END
$$;
COMMENT ON FUNCTION rowlock.name_problem IS 'What is wrong with a name of a type or queue, or null. Internal.';

CREATE OR REPLACE FUNCTION rowlock.payload_problem(payload jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF octet_length(payload::text) > 1048576 THEN
    RETURN format('RL002payload: expected at most 1 MiB (1048576 bytes) as text, got %s bytes',
      octet_length(payload::text));
  END IF;
  IF (pg_column_size(payload) > 800 OR pg_column_compression(payload) IS NOT NULL)
     AND jsonb_path_exists(payload, 'strict $.**{101}') THEN
    RETURN 'RL002payload: expected at most 100 levels of nesting, got more';
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION rowlock.payload_problem IS
'What is wrong with the size or depth of a payload, or null. Internal.';

CREATE OR REPLACE FUNCTION rowlock.job_problem(payload jsonb, priority int4, max_retries int4, execute_at timestamptz,
  unique_key text, now timestamptz) RETURNS text
LANGUAGE sql STABLE AS $$
  -- One expression, and STABLE as format() is, so that the planner inlines it. Most payloads are too short
  -- to be too deep or too long, as text or as stored (a level takes 8 bytes); only others get a closer look.
  SELECT CASE
    WHEN jsonb_typeof(payload) <> 'object' THEN 'RL002payload: expected a JSON object, got ' || jsonb_typeof(payload)
    WHEN octet_length(payload::text) > 200 AND rowlock.payload_problem(payload) IS NOT NULL
      THEN rowlock.payload_problem(payload)
    WHEN priority NOT BETWEEN -32768 AND 32767
      THEN format('RL004priority: expected -32768 to 32767, got %s', priority)
    WHEN max_retries NOT BETWEEN 0 AND 32767
      THEN format('RL005max_retries: expected 0 to 32767, got %s', max_retries)
    WHEN NOT isfinite(execute_at) OR execute_at > now + interval '10 years'
      THEN format('RL006execute_at: expected a finite time at most 10 years ahead, got %s', execute_at)
    WHEN octet_length(unique_key) NOT BETWEEN 1 AND 512
      THEN format('RL007unique_key: expected 1 to 512 bytes, got %s', octet_length(unique_key))
  END
$$;
COMMENT ON FUNCTION rowlock.job_problem IS
'What is wrong with a job''s fields: its SQLSTATE, the field and what was expected, or null. Null fields are right.
Internal.';

CREATE OR REPLACE FUNCTION rowlock.opt_problem(key text, value jsonb, is_timed boolean) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE key
    WHEN 'tags' THEN CASE
      WHEN jsonb_typeof(value) <> 'array' OR jsonb_array_length(value) > 32 OR EXISTS (
        SELECT FROM jsonb_array_elements(value) e
         WHERE jsonb_typeof(e) <> 'string' OR octet_length(e #>> '{}') NOT BETWEEN 1 AND 128)
        THEN 'expected at most 32 strings of 1 to 128 bytes' END
    WHEN 'headers' THEN CASE
      WHEN jsonb_typeof(value) <> 'object' OR octet_length(value::text) > 8192 OR EXISTS (
        SELECT FROM jsonb_each(value) e WHERE jsonb_typeof(e.value) <> 'string')
        THEN 'expected an object of strings, at most 8 KiB' END
    WHEN 'timeout_seconds' THEN CASE
      WHEN jsonb_typeof(value) <> 'number' OR NOT (value::numeric > 0 AND value::numeric <= 31536000)
        THEN 'expected a number above 0, at most 31536000' END
    WHEN 'delay_seconds' THEN CASE
      WHEN jsonb_typeof(value) <> 'number' OR NOT value::numeric BETWEEN 0 AND 315360000
        THEN 'expected a number from 0 to 315360000 (10 years)'
      WHEN is_timed THEN 'expected none beside execute_at' END
    WHEN 'notify' THEN CASE WHEN jsonb_typeof(value) <> 'boolean' THEN 'expected true or false' END
    ELSE 'unknown key; known are tags, headers, timeout_seconds, delay_seconds, notify'
  END
$$;
COMMENT ON FUNCTION rowlock.opt_problem IS 'What is wrong with one of opts, or null. Internal.';

CREATE OR REPLACE FUNCTION rowlock.checked_opts(opts jsonb, is_timed boolean, prefix text DEFAULT '') RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
DECLARE
  k text; v jsonb; problem text;
BEGIN
  IF opts IS NULL OR opts = '{}' THEN RETURN NULL; END IF;
  IF jsonb_typeof(opts) <> 'object' THEN
    PERFORM refuse('RL008', prefix || 'opts: expected a JSON object, got ' || jsonb_typeof(opts));
  END IF;
  FOR k, v IN SELECT * FROM jsonb_each(opts) LOOP
    problem := opt_problem(k, v, is_timed);
    IF problem IS NOT NULL THEN
      PERFORM refuse('RL008', format('%sopts.%s: %s', prefix, left(k, 128), problem));
    END IF;
  END LOOP;
  RETURN opts;
END $$;
COMMENT ON FUNCTION rowlock.checked_opts IS
'opts if they are right (null for none), else RL008. is_timed: the job has an execute_at. Internal.';

CREATE OR REPLACE FUNCTION rowlock.kept_opts(opts jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
  SELECT nullif(opts - 'delay_seconds' - 'notify', '{}')
$$;
COMMENT ON FUNCTION rowlock.kept_opts IS 'What of opts is stored with the job: the rest is of its enqueue. Internal.';

CREATE OR REPLACE FUNCTION rowlock.duration(value jsonb) RETURNS float8
LANGUAGE plpgsql IMMUTABLE SET intervalstyle = postgres SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN CASE jsonb_typeof(value)
    WHEN 'number' THEN value::float8
    WHEN 'string' THEN extract(epoch FROM (value #>> '{}')::interval)::float8 END;
EXCEPTION WHEN data_exception THEN
  RETURN NULL;
END $$;
COMMENT ON FUNCTION rowlock.duration IS
'Seconds, from a number of seconds or a text that Postgres reads as an interval, such as 30s or 14d; else null.
Internal.';

CREATE OR REPLACE FUNCTION rowlock.duration_problem(value jsonb, lowest text, lowest_seconds float8) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT CASE WHEN NOT coalesce(duration(value) BETWEEN lowest_seconds AND 31622400, false)
    THEN format('expected %s to 366 days, such as 30s, 14d or a number of seconds, got %s', lowest,
      left(value #>> '{}', 64)) END
$$;
COMMENT ON FUNCTION rowlock.duration_problem IS 'What is wrong with a duration, or null. Internal.';

CREATE OR REPLACE FUNCTION rowlock.whole_problem(value jsonb, lowest int, most int) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN jsonb_typeof(value) <> 'number' OR value::numeric NOT BETWEEN lowest AND most
                OR value::numeric <> trunc(value::numeric)
    THEN format('expected a whole number from %s to %s, got %s', lowest, most, left(value::text, 40)) END
$$;
COMMENT ON FUNCTION rowlock.whole_problem IS 'What is wrong with a whole number, or null. Internal.';

CREATE OR REPLACE FUNCTION rowlock.list_problem(list jsonb, kind text, words text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN jsonb_typeof(list) <> 'array'
                OR EXISTS (SELECT FROM jsonb_array_elements(list) e WHERE jsonb_typeof(e) <> kind)
    THEN 'expected a list of ' || words END
$$;
COMMENT ON FUNCTION rowlock.list_problem IS 'What is wrong with a list, or null. Internal.';
