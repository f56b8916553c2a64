-- Jobs by the clock.

CREATE OR REPLACE VIEW rowlock.schedules AS
  SELECT name, type, queue, payload, cron, every, timezone, catch_up, enabled, next_at, last_at, last_job, last_error,
         updated_at
    FROM rowlock.schedule;
COMMENT ON VIEW rowlock.schedules IS
'Schedules. next_at is the next tick, last_at the last one that is over, last_job the job it enqueued; last_error says
why one cannot run.';

CREATE OR REPLACE FUNCTION rowlock.schedule_key_problem(key text, value jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT CASE
    WHEN key IN ('name', 'type', 'queue', 'cron', 'timezone', 'catch_up') AND jsonb_typeof(value) <> 'string'
      THEN format('RL031%s: expected a text, got %s', key, jsonb_typeof(value))
    ELSE CASE key
      WHEN 'name' THEN 'RL031name: ' || name_problem(value #>> '{}')
      WHEN 'type' THEN 'RL001type: ' || name_problem(value #>> '{}')
      WHEN 'queue' THEN 'RL003queue: ' || name_problem(value #>> '{}')
      WHEN 'payload' THEN job_problem(value, NULL, NULL, NULL, NULL, now())
      WHEN 'cron' THEN CASE WHEN octet_length(value #>> '{}') NOT BETWEEN 1 AND 256
        THEN 'RL031cron: expected 1 to 256 bytes' END
      WHEN 'every' THEN 'RL031every: ' || duration_problem(value, '1 second', 1)
      WHEN 'timezone' THEN CASE WHEN NOT EXISTS (SELECT FROM pg_timezone_names z WHERE z.name = value #>> '{}')
        THEN format('RL031timezone: expected a name such as UTC or Europe/Berlin, got %s', left(value #>> '{}', 64)) END
      WHEN 'catch_up' THEN CASE WHEN value #>> '{}' NOT IN ('skip', 'one', 'all')
        THEN 'RL031catch_up: expected skip, one or all' END
      WHEN 'enabled' THEN CASE WHEN jsonb_typeof(value) <> 'boolean' THEN 'RL031enabled: expected true or false' END
      ELSE format('RL031schedule.%s: unknown key; known are name, type, queue, payload, cron, every, timezone, '
        'catch_up, enabled', left(key, 128))
    END
  END
$$;
COMMENT ON FUNCTION rowlock.schedule_key_problem IS
'What is wrong with a key of a schedule: SQLSTATE and sentence, or null. Internal.';

CREATE OR REPLACE FUNCTION rowlock.put_schedule(schedule jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_given   jsonb := CASE WHEN jsonb_typeof(put_schedule.schedule) = 'object' THEN put_schedule.schedule ELSE '{}' END;
  v_problem text;
  v         rowlock.schedule;
BEGIN
  v_problem := (SELECT p.problem FROM jsonb_each(v_given) k
                 CROSS JOIN LATERAL schedule_key_problem(k.key, k.value) p(problem)
                 WHERE k.value <> 'null' AND p.problem IS NOT NULL LIMIT 1);
  IF v_problem IS NOT NULL THEN PERFORM refuse(left(v_problem, 5), substr(v_problem, 6)); END IF;
  IF v_given ->> 'name' IS NULL THEN PERFORM refuse('RL031', 'name: ' || name_problem(NULL)); END IF;
  IF v_given ->> 'type' IS NULL THEN PERFORM refuse('RL001', 'type: ' || name_problem(NULL)); END IF;
  IF (v_given ->> 'cron' IS NULL) = (v_given ->> 'every' IS NULL) THEN
    PERFORM refuse('RL031', 'cron, every: expected one of the two');
  END IF;
  v := jsonb_populate_record(NULL::rowlock.schedule,
    '{"payload": {}, "timezone": "UTC", "catch_up": "one", "enabled": true}' || jsonb_strip_nulls(v_given - 'payload')
    || jsonb_build_object('payload', coalesce(nullif(v_given -> 'payload', 'null'), '{}'), 'every', CASE
         WHEN v_given ->> 'every' IS NOT NULL THEN format('%s seconds', duration(v_given -> 'every')::numeric) END));
  v.updated_at := clock_timestamp();
  IF v.queue IS NOT NULL THEN PERFORM ensure_queue(v.queue); END IF;
  INSERT INTO schedule AS s SELECT v.*
  ON CONFLICT (name) DO UPDATE SET type = excluded.type, queue = excluded.queue, payload = excluded.payload,
    cron = excluded.cron, every = excluded.every, timezone = excluded.timezone, catch_up = excluded.catch_up,
    enabled = excluded.enabled, last_error = NULL,
    -- The same times again: a file applied once more loses no tick.
    next_at = CASE WHEN (s.cron, s.every, s.timezone, s.enabled)
                        IS NOT DISTINCT FROM (excluded.cron, excluded.every, excluded.timezone, excluded.enabled)
                   THEN s.next_at END,
    updated_at = excluded.updated_at;
END $$;
COMMENT ON FUNCTION rowlock.put_schedule IS
'Adds or replaces a schedule: {name, type, queue, payload, cron or every, timezone, catch_up, enabled}.
rowlock schedules apply checks a file, its cron expressions too, and calls this. With new times it starts from now,
whatever was missed.
SQLSTATEs: RL001, RL002, RL003, RL031, by key. Locks: the schedule''s row.';

CREATE OR REPLACE FUNCTION rowlock.no_schedule(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
BEGIN
  PERFORM refuse('RL032', format('name: no schedule %s', coalesce(left(no_schedule.name, 128), 'null')),
    'rowlock schedules list shows them.');
END $$;
COMMENT ON FUNCTION rowlock.no_schedule IS 'Refuses a name that no schedule has. Internal.';

CREATE OR REPLACE FUNCTION rowlock.enable_schedule(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  UPDATE schedule s
     SET enabled = true, next_at = CASE WHEN s.enabled THEN s.next_at END, last_error = NULL,
         updated_at = clock_timestamp()
   WHERE s.name = enable_schedule.name;
  IF NOT FOUND THEN PERFORM no_schedule(enable_schedule.name); END IF;
END $$;
COMMENT ON FUNCTION rowlock.enable_schedule IS
'Starts a schedule, from now on. SQLSTATEs: RL032. Locks: the schedule''s row.';

CREATE OR REPLACE FUNCTION rowlock.disable_schedule(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  UPDATE schedule s SET enabled = false, next_at = NULL, updated_at = clock_timestamp()
   WHERE s.name = disable_schedule.name;
  IF NOT FOUND THEN PERFORM no_schedule(disable_schedule.name); END IF;
END $$;
COMMENT ON FUNCTION rowlock.disable_schedule IS
'No more ticks until enable_schedule; what was enqueued runs. SQLSTATEs: RL032. Locks: the schedule''s row; waits for a
tick under way.';

CREATE OR REPLACE FUNCTION rowlock.remove_schedule(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  -- What a controller has seen of it is void: one put under this name again has another updated_at.
  DELETE FROM schedule s WHERE s.name = remove_schedule.name;
  IF NOT FOUND THEN PERFORM no_schedule(remove_schedule.name); END IF;
END $$;
COMMENT ON FUNCTION rowlock.remove_schedule IS
'Forgets a schedule: no more ticks; what was enqueued runs. SQLSTATEs: RL032. Locks: the schedule''s row; waits for a
tick under way.';

CREATE OR REPLACE FUNCTION rowlock.run_schedule(name text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v rowlock.schedule;
BEGIN
  SELECT s.* INTO v FROM schedule s WHERE s.name = run_schedule.name;
  IF NOT FOUND THEN PERFORM no_schedule(run_schedule.name); END IF;
  RETURN (SELECT e.id FROM enqueue(v.type, v.payload, v.queue,
    opts => jsonb_build_object('headers', jsonb_build_object('rowlock-schedule', v.name))) e);
END $$;
COMMENT ON FUNCTION rowlock.run_schedule IS
'Enqueues a schedule''s job now, whether it is enabled or not; its ticks stay as they are. Returns the job''s id.
SQLSTATEs: RL032, and enqueue''s. Locks: as enqueue.';

CREATE OR REPLACE FUNCTION rowlock.due_schedules_v1(within_seconds float8 DEFAULT 1, skip text[] DEFAULT '{}')
RETURNS TABLE (name text, cron text, every_seconds float8, timezone text, catch_up text, next_at timestamptz,
  updated_at timestamptz, now timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT s.name, s.cron, extract(epoch FROM s.every)::float8, s.timezone, s.catch_up, s.next_at, s.updated_at,
         clock_timestamp()
    FROM schedule s
   WHERE s.enabled AND s.last_error IS NULL AND s.name <> ALL (skip)
     AND (s.next_at IS NULL OR s.next_at <= clock_timestamp() + make_interval(secs => within_seconds))
   ORDER BY s.next_at NULLS FIRST, s.name LIMIT 500
$$;
COMMENT ON FUNCTION rowlock.due_schedules_v1 IS
'Schedules to be planned (next_at is null) or due within so many seconds, but for those of these names, and the time by
the database. At most 500, the first that are due; if there are as many, there may be more. SQLSTATEs: none.
Locks: none.';

CREATE OR REPLACE FUNCTION rowlock.plan_schedule_v1(epoch int8, name text, seen timestamptz, next_at timestamptz,
  error text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM fence(plan_schedule_v1.epoch);
  UPDATE schedule s SET next_at = plan_schedule_v1.next_at, last_error = left(plan_schedule_v1.error, 1024)
   WHERE s.name = plan_schedule_v1.name AND s.updated_at = plan_schedule_v1.seen AND s.enabled
     AND (s.next_at IS NULL OR plan_schedule_v1.error IS NOT NULL)
     AND NOT coalesce(plan_schedule_v1.next_at <= s.last_at, false);
  RETURN FOUND;
END $$;
COMMENT ON FUNCTION rowlock.plan_schedule_v1 IS
'Sets the first tick of a schedule as it was seen (seen is its updated_at), or why it has none. False if it is another
by now.
SQLSTATEs: RL030. Locks: the schedule''s row; the leader''s row, shared.';

CREATE OR REPLACE FUNCTION rowlock.fire_schedule_v1(epoch int8, name text, seen timestamptz, due timestamptz,
  ticks timestamptz[], next_at timestamptz, error text DEFAULT NULL)
RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v rowlock.schedule;
  v_tick timestamptz;
  v_job uuid;
BEGIN
  PERFORM fence(fire_schedule_v1.epoch);
  IF cardinality(ticks) > 1000
     OR (SELECT count(DISTINCT t) FROM unnest(ticks) t) < cardinality(ticks)
     OR EXISTS (SELECT FROM unnest(ticks) t
                 WHERE NOT coalesce(t >= due AND t <= clock_timestamp()
                                    AND t < coalesce(fire_schedule_v1.next_at, 'infinity'), false)) THEN
    PERFORM refuse('RL031',
      'ticks: expected at most 1000 different instants from due to now, all before next_at');
  END IF;
  -- Exactly once: whoever moves next_at away from this instant enqueues for it, in the same transaction, and
  -- next_at never goes back to one that is over.
  UPDATE schedule s
     SET next_at = fire_schedule_v1.next_at, last_at = GREATEST(due, (SELECT max(t) FROM unnest(ticks) t)),
         last_error = left(fire_schedule_v1.error, 1024)
   WHERE s.name = fire_schedule_v1.name AND s.updated_at = fire_schedule_v1.seen AND s.enabled
     AND s.next_at = fire_schedule_v1.due AND NOT coalesce(s.last_at >= fire_schedule_v1.due, false)
  RETURNING s.* INTO v;
  IF NOT FOUND THEN RETURN; END IF;
  FOR v_tick IN SELECT t FROM unnest(ticks) t ORDER BY t LOOP
    SELECT e.id INTO v_job FROM enqueue(v.type, v.payload, v.queue, execute_at => v_tick,
      opts => jsonb_build_object('headers', jsonb_build_object('rowlock-schedule', v.name,
        'rowlock-tick', to_char(v_tick AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))) e;
    RETURN NEXT v_job;
  END LOOP;
  IF v_job IS NOT NULL THEN UPDATE schedule s SET last_job = v_job WHERE s.name = v.name; END IF;
END $$;
COMMENT ON FUNCTION rowlock.fire_schedule_v1 IS
'Enqueues a job for each of the ticks, and moves the schedule on from due to next_at (null with an error if there is
none): both or neither, and once only. No row if the schedule is not at due any more. Ticks that are left out are passed
over. A job''s headers name its schedule and its tick.
SQLSTATEs: RL030, RL031, and enqueue''s. Locks: the schedule''s row; the leader''s row, shared; as enqueue.';
