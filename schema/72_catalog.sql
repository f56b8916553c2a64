-- The catalogue of job types, and where it comes from in a cluster.

CREATE OR REPLACE FUNCTION rowlock.interval_text(i interval) RETURNS text
LANGUAGE sql IMMUTABLE SET intervalstyle = postgres SET search_path = pg_catalog, pg_temp AS $$
  SELECT i::text
$$;
COMMENT ON FUNCTION rowlock.interval_text IS 'An interval as text that depends on no setting. Internal.';

CREATE OR REPLACE VIEW rowlock.job_types AS
  SELECT name, queue, launch, image, command, args, env, resources, timeout, max_retries, priority, backoff, expected,
         max_concurrency, rate, no_retry_exit_codes, payload_schema,
         jsonb_strip_nulls(jsonb_build_object('completed', rowlock.interval_text(keep_completed),
                                              'failed', rowlock.interval_text(keep_failed))) AS keep,
         service_account, pod_template, updated_at, on_lost_lease
    FROM rowlock.job_type;
COMMENT ON VIEW rowlock.job_types IS
'The job-type catalogue. max_concurrency and rate are empty: they are not enforced yet.';

CREATE OR REPLACE FUNCTION rowlock.env_problem(env jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN jsonb_typeof(env) <> 'object' THEN 'expected an object of variables' ELSE (
    SELECT CASE
        WHEN v.key = '' OR v.key LIKE '%=%' THEN format('expected a variable''s name, got %s', to_json(left(v.key, 64)))
        ELSE format('%s: expected a text (numbers, true and false in quotes) or {from_secret: {name, key}}',
          left(v.key, 64)) END
      FROM jsonb_each(env) v
     WHERE v.key = '' OR v.key LIKE '%=%' OR CASE jsonb_typeof(v.value)
        WHEN 'string' THEN false
        WHEN 'object' THEN v.value - 'from_secret' <> '{}'
          OR coalesce((v.value -> 'from_secret') - 'name' - 'key' <> '{}', true)
          OR jsonb_typeof(v.value #> '{from_secret,name}') IS DISTINCT FROM 'string'
          OR jsonb_typeof(v.value #> '{from_secret,key}') IS DISTINCT FROM 'string'
        ELSE true END
     LIMIT 1) END
$$;
COMMENT ON FUNCTION rowlock.env_problem IS 'What is wrong with the variables of a job type, or null. Internal.';

CREATE OR REPLACE FUNCTION rowlock.backoff_problem(backoff jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT CASE WHEN jsonb_typeof(backoff) <> 'object' THEN 'expected {base, factor, max, jitter}' ELSE (
    SELECT format('%s: %s', left(p.key, 64), p.problem)
      FROM (SELECT b.key, CASE b.key
                WHEN 'base' THEN duration_problem(b.value, '0', 0)
                WHEN 'max' THEN duration_problem(b.value, '0', 0)
                WHEN 'factor' THEN CASE
                  WHEN jsonb_typeof(b.value) <> 'number' OR b.value::numeric NOT BETWEEN 1 AND 1000
                  THEN 'expected a number from 1 to 1000' END
                WHEN 'jitter' THEN CASE
                  WHEN jsonb_typeof(b.value) <> 'number' OR b.value::numeric NOT BETWEEN 0 AND 1
                  THEN 'expected a number from 0 to 1' END
                ELSE 'unknown key; known are base, factor, max, jitter' END AS problem
              FROM jsonb_each(jsonb_strip_nulls(backoff)) b) p
     WHERE p.problem IS NOT NULL LIMIT 1) END
$$;
COMMENT ON FUNCTION rowlock.backoff_problem IS 'What is wrong with the backoff of a job type, or null. Internal.';

CREATE OR REPLACE FUNCTION rowlock.job_type_key_problem(key text, value jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT CASE
    WHEN key IN ('name', 'queue', 'launch', 'image', 'service_account', 'on_lost_lease')
      AND jsonb_typeof(value) <> 'string' THEN 'expected a text, got ' || jsonb_typeof(value)
    ELSE CASE key
      WHEN 'name' THEN name_problem(value #>> '{}')
      WHEN 'queue' THEN name_problem(value #>> '{}')
      WHEN 'launch' THEN CASE WHEN value #>> '{}' NOT IN ('process', 'resident', 'pod')
        THEN format('expected process, resident or pod, got %s', left(value #>> '{}', 64)) END
      WHEN 'on_lost_lease' THEN CASE WHEN value #>> '{}' NOT IN ('continue', 'stop')
        THEN format('expected continue or stop, got %s', left(value #>> '{}', 64)) END
      WHEN 'image' THEN CASE WHEN btrim(value #>> '{}') = '' THEN 'expected the name of an image' END
      WHEN 'service_account' THEN CASE WHEN btrim(value #>> '{}') = '' THEN 'expected a name' END
      WHEN 'command' THEN list_problem(value, 'string', 'texts')
      WHEN 'args' THEN list_problem(value, 'string', 'texts')
      WHEN 'env' THEN env_problem(value)
      WHEN 'backoff' THEN backoff_problem(value)
      WHEN 'resources' THEN CASE WHEN jsonb_typeof(value) <> 'object' THEN 'expected an object' END
      WHEN 'pod_template' THEN CASE WHEN jsonb_typeof(value) <> 'object' THEN 'expected an object' END
      WHEN 'payload_schema' THEN CASE WHEN jsonb_typeof(value) NOT IN ('object', 'boolean')
        THEN 'expected a JSON schema' END
      WHEN 'timeout' THEN duration_problem(value, '1 millisecond', 0.001)
      WHEN 'expected' THEN duration_problem(value, '0', 0)
      WHEN 'keep_completed' THEN duration_problem(value, '0', 0)
      WHEN 'keep_failed' THEN duration_problem(value, '0', 0)
      WHEN 'max_retries' THEN whole_problem(value, 0, 32767)
      WHEN 'priority' THEN whole_problem(value, -32768, 32767)
      WHEN 'no_retry_exit_codes' THEN coalesce(list_problem(value, 'number', 'exit codes'),
        (SELECT whole_problem(e, 0, 255) FROM jsonb_array_elements(value) e WHERE whole_problem(e, 0, 255) IS NOT NULL
          LIMIT 1))
      WHEN 'max_concurrency' THEN 'not enforced yet, and so refused; leave it out, and bound the workers instead'
      WHEN 'rate' THEN 'not enforced yet, and so refused; leave it out, and bound the workers instead'
      ELSE 'unknown key; known are name, queue, launch, image, command, args, env, resources, timeout, max_retries, '
        || 'priority, backoff, expected, no_retry_exit_codes, on_lost_lease, payload_schema, keep, service_account, '
        || 'pod_template'
    END
  END
$$;
COMMENT ON FUNCTION rowlock.job_type_key_problem IS 'What is wrong with a key of a job type, or null. Internal.';

CREATE OR REPLACE FUNCTION rowlock.checked_job_type(type jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_type jsonb := CASE WHEN jsonb_typeof(checked_job_type.type) = 'object' THEN checked_job_type.type ELSE '{}' END;
  v      record;
BEGIN
  -- Two columns, one key: as a file has it.
  IF v_type ? 'keep' THEN
    IF jsonb_typeof(v_type -> 'keep') NOT IN ('object', 'null') THEN
      PERFORM refuse('RL021', 'keep: expected {completed, failed}');
    END IF;
    SELECT k.key INTO v FROM jsonb_object_keys(nullif(v_type -> 'keep', 'null')) k(key)
     WHERE k.key NOT IN ('completed', 'failed') LIMIT 1;
    IF FOUND THEN
      PERFORM refuse('RL021', format('keep.%s: unknown key; known are completed, failed', left(v.key, 64)));
    END IF;
    v_type := (v_type - 'keep') || jsonb_strip_nulls(jsonb_build_object(
      'keep_completed', v_type -> 'keep' -> 'completed', 'keep_failed', v_type -> 'keep' -> 'failed'));
  END IF;
  IF v_type -> 'name' IS NULL THEN PERFORM refuse('RL001', 'name: ' || name_problem(NULL)); END IF;
  SELECT k.key, job_type_key_problem(k.key, k.value) AS problem INTO v FROM jsonb_each(v_type) k
   WHERE (k.key = 'name' OR k.value <> 'null') AND job_type_key_problem(k.key, k.value) IS NOT NULL
   ORDER BY k.key <> 'name' LIMIT 1;
  IF FOUND THEN
    PERFORM refuse(CASE v.key WHEN 'name' THEN 'RL001' WHEN 'queue' THEN 'RL003' WHEN 'priority' THEN 'RL004'
      WHEN 'max_retries' THEN 'RL005' ELSE 'RL021' END, format('%s: %s', left(v.key, 128), v.problem));
  END IF;
  IF coalesce(v_type ->> 'launch', 'process') = 'pod' THEN
    IF v_type ->> 'image' IS NULL THEN PERFORM refuse('RL021', 'image: launch: pod needs one'); END IF;
  ELSE
    SELECT k.key INTO v FROM unnest('{image,resources,service_account,pod_template}'::text[]) k(key)
     WHERE v_type ->> k.key IS NOT NULL LIMIT 1;
    IF FOUND THEN PERFORM refuse('RL021', v.key || ': only with launch: pod'); END IF;
    IF v_type -> 'env' @? '$.*.from_secret' THEN
      PERFORM refuse('RL021', 'env: from_secret: only with launch: pod');
    END IF;
  END IF;
  RETURN v_type;
END $$;
COMMENT ON FUNCTION rowlock.checked_job_type IS
'A job type as put_job_type takes it, keep as two keys, if all of it is right; else a refusal. Internal.';

CREATE OR REPLACE FUNCTION rowlock.put_job_type(type jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  -- Only keys whose value is null go: a schema may hold a null.
  v_type jsonb := (SELECT jsonb_object_agg(k.key, k.value) FROM jsonb_each(checked_job_type(put_job_type.type)) k
                    WHERE k.value <> 'null');
  v      rowlock.job_type;
BEGIN
  IF v_type ? 'queue' THEN PERFORM ensure_queue(v_type ->> 'queue'); END IF;
  -- Durations are seconds from here on, whichever way they were said.
  v_type := v_type || (
    SELECT coalesce(jsonb_object_agg(k.key, format('%s seconds', duration(k.value)::numeric)), '{}')
      FROM jsonb_each(v_type) k WHERE k.key IN ('timeout', 'expected', 'keep_completed', 'keep_failed'));
  IF v_type ? 'backoff' THEN
    v_type := v_type || jsonb_build_object('backoff', jsonb_strip_nulls(v_type -> 'backoff') || (
      SELECT coalesce(jsonb_object_agg(k.key, duration(k.value)), '{}')
        FROM jsonb_each(v_type -> 'backoff') k WHERE k.key IN ('base', 'max') AND k.value <> 'null'));
  END IF;
  v := jsonb_populate_record(NULL::rowlock.job_type,
    '{"launch": "process", "command": [], "args": [], "env": {}, "no_retry_exit_codes": []}' || v_type
    || jsonb_build_object('updated_at', clock_timestamp()));
  DELETE FROM job_type t WHERE t.name = v.name;
  INSERT INTO job_type SELECT v.*;
END $$;
COMMENT ON FUNCTION rowlock.put_job_type IS
'Adds or replaces a job type: {name, queue, launch, image, command, args, env, resources, timeout, max_retries,
priority, backoff, expected, no_retry_exit_codes, on_lost_lease, payload_schema, keep, service_account, pod_template},
as in a file. A
duration is a number of seconds or a text such as 30s; keep_completed and keep_failed may stand for keep.
SQLSTATEs: RL001, RL003 to RL005, RL021, by key. Locks: the type''s row.';

CREATE OR REPLACE FUNCTION rowlock.job_types_v1() RETURNS TABLE (name text, launch text, command text[], args text[],
  env jsonb, timeout_seconds float8, no_retry_exit_codes int4[], payload_schema jsonb, image text, resources jsonb,
  service_account text, pod_template jsonb, on_lost_lease text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT t.name, t.launch, t.command, t.args, t.env, extract(epoch FROM t.timeout)::float8, t.no_retry_exit_codes,
         t.payload_schema, t.image, t.resources, t.service_account, t.pod_template, t.on_lost_lease
    FROM job_type t
$$;
COMMENT ON FUNCTION rowlock.job_types_v1 IS 'What a worker needs to know of the job types. Locks: none.';

CREATE OR REPLACE FUNCTION rowlock.sync_catalog_v1(epoch int8, source text, digest text, types jsonb, schedules jsonb,
  former text[] DEFAULT '{}') RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_same boolean := EXISTS (
    SELECT FROM catalog_source s WHERE s.source = sync_catalog_v1.source AND s.digest = sync_catalog_v1.digest);
  v record;
BEGIN
  PERFORM fence(sync_catalog_v1.epoch);
  IF coalesce(octet_length(source), 0) NOT BETWEEN 1 AND 512 OR digest IS NULL
     OR jsonb_typeof(types) IS DISTINCT FROM 'array' OR jsonb_typeof(schedules) IS DISTINCT FROM 'array' THEN
    PERFORM refuse('RL021', 'source, digest, types, schedules: expected a name of 1 to 512 bytes, a text, two arrays');
  END IF;
  INSERT INTO catalog_source AS s VALUES (sync_catalog_v1.source, sync_catalog_v1.digest)
  ON CONFLICT (source) DO UPDATE SET digest = excluded.digest;
  -- The same again changes nothing: what was done by hand since then, such as a schedule disabled, holds.
  FOR v IN SELECT n.kind, n.value, n.value ->> 'name' AS name
             FROM (SELECT 'type' AS kind, t AS value FROM jsonb_array_elements(types) t
                   UNION ALL SELECT 'schedule', t FROM jsonb_array_elements(schedules) t) n
            WHERE NOT v_same ORDER BY n.kind DESC, n.value ->> 'name' LOOP
    INSERT INTO catalog_entry AS e VALUES (v.kind, v.name, sync_catalog_v1.source)
    -- What a source that has gone declared moves here; it does not end and begin.
    ON CONFLICT (kind, name) DO UPDATE SET source = excluded.source
      WHERE e.source = excluded.source OR e.source = ANY (sync_catalog_v1.former);
    IF NOT FOUND THEN
      PERFORM refuse('RL021', format('%s %s: it is declared by %s too', v.kind, left(v.name, 128),
        (SELECT e.source FROM catalog_entry e WHERE e.kind = v.kind AND e.name = v.name)), 'Keep it in one place.');
    END IF;
    IF v.kind = 'type' THEN PERFORM put_job_type(v.value); ELSE PERFORM put_schedule(v.value); END IF;
  END LOOP;
  DELETE FROM schedule s USING catalog_entry e
   WHERE e.source = sync_catalog_v1.source AND e.kind = 'schedule' AND e.name = s.name
     AND s.name NOT IN (SELECT t ->> 'name' FROM jsonb_array_elements(schedules) t);
  -- A type stays while a job of it waits or runs, or a schedule makes more.
  DELETE FROM job_type t USING catalog_entry e
   WHERE e.source = sync_catalog_v1.source AND e.kind = 'type' AND e.name = t.name
     AND t.name NOT IN (SELECT n ->> 'name' FROM jsonb_array_elements(types) n)
     AND NOT EXISTS (SELECT FROM schedule s WHERE s.type = t.name)
     AND coalesce((SELECT sum(c.jobs) FROM (SELECT type, pending + scheduled + running AS jobs FROM total
                                            UNION ALL SELECT type, pending + scheduled + running FROM tally) c
                    WHERE c.type = t.name), 0) <= 0;
  DELETE FROM catalog_entry e WHERE e.source = sync_catalog_v1.source
     AND (e.kind = 'schedule' AND NOT EXISTS (SELECT FROM schedule s WHERE s.name = e.name)
          OR e.kind = 'type' AND NOT EXISTS (SELECT FROM job_type t WHERE t.name = e.name));
  IF types = '[]' AND schedules = '[]' THEN
    DELETE FROM catalog_source s WHERE s.source = sync_catalog_v1.source
       AND NOT EXISTS (SELECT FROM catalog_entry e WHERE e.source = s.source);
  END IF;
  RETURN NOT EXISTS (SELECT FROM catalog_entry e WHERE e.source = sync_catalog_v1.source
    AND (e.kind, e.name) NOT IN (SELECT 'type', t ->> 'name' FROM jsonb_array_elements(types) t
                                 UNION ALL SELECT 'schedule', t ->> 'name' FROM jsonb_array_elements(schedules) t));
END $$;
COMMENT ON FUNCTION rowlock.sync_catalog_v1 IS
'Loads the job types and schedules of one source, rows as put_job_type and put_schedule take them, all or none, unless
its digest is that of before; and removes what the source held and no longer holds: schedules at once, a type once no
job and no schedule of it is left. False if one is left: call again later. Empty arrays end a source.
former names sources that are gone and not ended yet: their entries may be declared here, and move.
SQLSTATEs: RL030, RL021, and those of put_job_type and put_schedule. Locks: the source''s row, then the types'' and
schedules''; the leader''s row, shared.';

CREATE OR REPLACE FUNCTION rowlock.catalog_sources_v1() RETURNS TABLE (source text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT s.source FROM catalog_source s ORDER BY s.source
$$;
COMMENT ON FUNCTION rowlock.catalog_sources_v1 IS 'The sources of the catalogue. SQLSTATEs: none. Locks: none.';
