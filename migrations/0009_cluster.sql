-- Rowlock 9: where the catalogue comes from in a cluster.

-- The catalogue's sources ---------------------------------------------------------------------

-- What was loaded from where, so that what a source no longer holds can end. What was applied by hand is in no
-- source, and stays.
CREATE TABLE rowlock.catalog_source (
  source text PRIMARY KEY,
  digest text NOT NULL
);
CREATE TABLE rowlock.catalog_entry (
  kind   text NOT NULL CHECK (kind IN ('type', 'schedule')),
  name   text NOT NULL,
  source text NOT NULL REFERENCES rowlock.catalog_source ON DELETE CASCADE,
  PRIMARY KEY (kind, name)
);
CREATE INDEX catalog_entry_source ON rowlock.catalog_entry (source);

CREATE FUNCTION rowlock.sync_catalog_v1(epoch int8, source text, digest text, types jsonb, schedules jsonb) RETURNS boolean
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
    ON CONFLICT (kind, name) DO UPDATE SET source = excluded.source WHERE e.source = excluded.source;
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
'Loads the job types and schedules of one source, rows as put_job_type and put_schedule take them, all or none, unless its digest is that of before; and removes what the source held and no longer holds: schedules at once, a type once no job and no schedule of it is left. False if one is left: call again later. Empty arrays end a source.
SQLSTATEs: RL030, RL021, and those of put_job_type and put_schedule. Locks: the source''s row, then the types'' and schedules''; the leader''s row, shared.';

CREATE FUNCTION rowlock.catalog_sources_v1() RETURNS TABLE (source text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT s.source FROM catalog_source s ORDER BY s.source
$$;
COMMENT ON FUNCTION rowlock.catalog_sources_v1 IS 'The sources of the catalogue. SQLSTATEs: none. Locks: none.';

REVOKE ALL ON rowlock.catalog_source, rowlock.catalog_entry FROM PUBLIC;
REVOKE ALL ON FUNCTION rowlock.sync_catalog_v1, rowlock.catalog_sources_v1 FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rowlock.sync_catalog_v1, rowlock.catalog_sources_v1 TO rowlock_admin;
