-- The catalogue of job types, and where it comes from in a cluster.

CREATE OR REPLACE VIEW rowlock.job_types AS
  SELECT name, queue, launch, image, command, args, env, resources, timeout, max_retries, priority, backoff, expected,
         max_concurrency, rate, no_retry_exit_codes, payload_schema,
         jsonb_strip_nulls(jsonb_build_object('completed', keep_completed::text, 'failed', keep_failed::text)) AS keep,
         service_account, pod_template, updated_at
    FROM rowlock.job_type;
COMMENT ON VIEW rowlock.job_types IS 'The job-type catalogue.';

CREATE OR REPLACE FUNCTION rowlock.put_job_type(type jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_problem text := name_problem(type ->> 'name');
  v rowlock.job_type;
BEGIN
  IF v_problem IS NOT NULL THEN PERFORM refuse('RL001', 'name: ' || v_problem); END IF;
  IF type ->> 'queue' IS NOT NULL THEN PERFORM ensure_queue(type ->> 'queue'); END IF;
  v_problem := job_problem('{}', (type ->> 'priority')::int4, (type ->> 'max_retries')::int4, NULL, NULL, now());
  IF v_problem IS NOT NULL THEN PERFORM refuse(left(v_problem, 5), substr(v_problem, 6)); END IF;
  v := jsonb_populate_record(NULL::rowlock.job_type,
    '{"launch": "process", "command": [], "args": [], "env": {}, "no_retry_exit_codes": []}' || jsonb_strip_nulls(type)
    || jsonb_build_object('updated_at', clock_timestamp()));
  IF v.keep_completed > interval '366 days' OR v.keep_failed > interval '366 days' THEN
    PERFORM refuse('RL021', 'keep: expected at most 366 days');
  END IF;
  DELETE FROM job_type t WHERE t.name = v.name;
  INSERT INTO job_type SELECT v.*;
END $$;
COMMENT ON FUNCTION rowlock.put_job_type IS
'Adds or replaces a job type; the keys are the columns of the table job_type. rowlock types apply checks a file and calls this.
SQLSTATEs: RL001, RL003 to RL005, RL021, and Postgres''s own for a value of the wrong kind. Locks: the type''s row.';

CREATE OR REPLACE FUNCTION rowlock.job_types_v1() RETURNS TABLE (name text, launch text, command text[], args text[], env jsonb,
  timeout_seconds float8, no_retry_exit_codes int4[], payload_schema jsonb, image text, resources jsonb, service_account text, pod_template jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT t.name, t.launch, t.command, t.args, t.env, extract(epoch FROM t.timeout)::float8, t.no_retry_exit_codes, t.payload_schema,
         t.image, t.resources, t.service_account, t.pod_template FROM job_type t
$$;
COMMENT ON FUNCTION rowlock.job_types_v1 IS 'What a worker needs to know of the job types. Locks: none.';

CREATE OR REPLACE FUNCTION rowlock.sync_catalog_v1(epoch int8, source text, digest text, types jsonb, schedules jsonb,
  former text[] DEFAULT '{}') RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_same boolean := EXISTS (SELECT FROM catalog_source s WHERE s.source = sync_catalog_v1.source AND s.digest = sync_catalog_v1.digest);
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
     AND NOT EXISTS (SELECT FROM demand() d WHERE d.type = t.name AND d.pending + d.scheduled + d.running > 0);
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
'Loads the job types and schedules of one source, rows as put_job_type and put_schedule take them, all or none, unless its digest is that of before; and removes what the source held and no longer holds: schedules at once, a type once no job and no schedule of it is left. False if one is left: call again later. Empty arrays end a source. former names sources that are gone and not ended yet: their entries may be declared here, and move.
SQLSTATEs: RL030, RL021, and those of put_job_type and put_schedule. Locks: the source''s row, then the types'' and schedules''; the leader''s row, shared.';

CREATE OR REPLACE FUNCTION rowlock.catalog_sources_v1() RETURNS TABLE (source text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT s.source FROM catalog_source s ORDER BY s.source
$$;
COMMENT ON FUNCTION rowlock.catalog_sources_v1 IS 'The sources of the catalogue. SQLSTATEs: none. Locks: none.';
