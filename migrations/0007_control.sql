-- Rowlock 7: the controller: who leads, what it sees, what it decided, and jobs by the clock.
--   RL030 the leadership is lost   RL031 a schedule's field   RL032 no such schedule

-- The leader ----------------------------------------------------------------------------------

-- One row. Each reign has a number of its own, and every write of a leader names its: one that was frozen
-- and goes on after another took over is refused, whatever it believes.
CREATE TABLE rowlock.leader (
  one        boolean PRIMARY KEY DEFAULT true CHECK (one),
  holder     uuid,
  name       text,
  epoch      int8 NOT NULL DEFAULT 0,
  held_until timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 20);
INSERT INTO rowlock.leader DEFAULT VALUES;

CREATE FUNCTION rowlock.lead_v1(holder uuid, name text, lease_seconds float8 DEFAULT 15)
RETURNS TABLE (epoch int8, leader text, left_seconds float8)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_now timestamptz := clock_timestamp();
  v_old uuid := (SELECT l.holder FROM leader l);
BEGIN
  IF holder IS NULL OR name_fault(name) IS NOT NULL OR NOT coalesce(lease_seconds BETWEEN 0.1 AND 3600, false) THEN
    PERFORM refuse('RL021', 'holder, name, lease_seconds: expected an id, a name of printable text, 0.1 to 3600');
  END IF;
  -- After a gap even the same holder begins anew: it does not know what happened meanwhile.
  UPDATE leader l SET epoch = l.epoch + (l.holder IS DISTINCT FROM lead_v1.holder OR l.held_until <= v_now)::int,
                      holder = lead_v1.holder, name = lead_v1.name, held_until = v_now + make_interval(secs => lease_seconds)
   WHERE l.holder = lead_v1.holder OR l.held_until <= v_now
  RETURNING l.epoch INTO epoch;
  IF FOUND AND v_old <> holder THEN DELETE FROM sleeper s WHERE s.worker = v_old; END IF;
  RETURN QUERY SELECT lead_v1.epoch, l.name, extract(epoch FROM l.held_until - clock_timestamp())::float8 FROM leader l;
END $$;
COMMENT ON FUNCTION rowlock.lead_v1 IS
'Takes or keeps the leadership among controllers, for lease_seconds. holder is the controller''s id, name is for people. Answers the number of the reign, null if another leads; who leads; and for how long. Call it three times within the lease.
SQLSTATEs: RL021. Locks: the leader''s row; waits for a leader''s write under way.';

CREATE FUNCTION rowlock.fence(epoch int8) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  -- Shared, so that nobody takes over in the midst of the write that follows.
  PERFORM FROM leader l WHERE l.epoch = fence.epoch AND l.held_until > clock_timestamp() FOR SHARE;
  IF NOT FOUND THEN
    PERFORM refuse('RL030', format('epoch: the reign %s is over, nothing was changed', coalesce(fence.epoch::text, 'null')),
      'Forget what was seen in it, and ask for the leadership with rowlock.lead_v1.');
  END IF;
END $$;
COMMENT ON FUNCTION rowlock.fence IS 'Refuses a leader whose reign is over; until the transaction ends nobody else becomes leader. Internal.';

CREATE FUNCTION rowlock.resign_v1(epoch int8) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  DELETE FROM sleeper s USING leader l WHERE l.epoch = resign_v1.epoch AND s.worker = l.holder;
  UPDATE leader l SET held_until = '-infinity' WHERE l.epoch = resign_v1.epoch;
END $$;
COMMENT ON FUNCTION rowlock.resign_v1 IS
'Gives the leadership up, so that another need not wait for the end of the lease. SQLSTATEs: none. Locks: the leader''s row.';

-- What a leader sees --------------------------------------------------------------------------

CREATE FUNCTION rowlock.observe_v1(queues text[], after timestamptz DEFAULT NULL, soon_seconds float8 DEFAULT 2,
  hint_queues int4[] DEFAULT '{}', hint_ranks int2[] DEFAULT '{}', hint_after int8[] DEFAULT '{}')
RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_now timestamptz := clock_timestamp();
  v_ids int4[] := ARRAY(SELECT q.id FROM queue q WHERE q.name = ANY (observe_v1.queues));
  v jsonb := jsonb_build_object('now', v_now);
BEGIN
  -- From totals; nothing is counted.
  v := v || jsonb_build_object('types', (SELECT coalesce(jsonb_agg(jsonb_build_object('queue', q.name, 'type', d.type, 'paused', q.paused,
        'pending', d.pending, 'scheduled', d.scheduled, 'running', d.running, 'enqueued', d.enqueued, 'retried', d.retried,
        'ended', d.completed + d.failed + d.cancelled, 'expected_seconds', extract(epoch FROM t.expected))), '[]')
    FROM demand() d JOIN queue q ON q.name = d.queue LEFT JOIN job_type t ON t.name = d.type WHERE d.queue = ANY (observe_v1.queues)));
  -- The first jobs of each lane tell how old the oldest of a type is. A type that is not among them is younger
  -- than the last of them.
  v := v || jsonb_build_object('lanes', (SELECT coalesce(jsonb_agg(jsonb_build_object('queue', q.name, 'id', a.queue, 'rank', a.rank,
        'first', h.first, 'last_age_seconds', h.last_age, 'types', h.types)), '[]')
    FROM (SELECT DISTINCT l.queue, l.rank FROM lane l WHERE l.queue = ANY (v_ids)) a
    JOIN queue q ON q.id = a.queue
    CROSS JOIN LATERAL (
      SELECT min(g.first) AS first, min(g.youngest) AS last_age, jsonb_object_agg(g.type, g.age) AS types
        FROM (SELECT r.type, min(r.pos) AS first, extract(epoch FROM v_now - max(r.execute_at)) AS youngest,
                     extract(epoch FROM v_now - min(r.execute_at)) AS age
                FROM (SELECT n.pos, n.type, n.execute_at FROM ready n
                       WHERE n.queue = a.queue AND n.rank = a.rank
                         AND n.pos >= coalesce((SELECT u.after FROM unnest(hint_queues, hint_ranks, hint_after) u(queue, rank, after)
                                                 WHERE u.queue = a.queue AND u.rank = a.rank LIMIT 1), 0)
                       ORDER BY n.pos LIMIT 50) r
               GROUP BY r.type) g) h
   WHERE h.first IS NOT NULL));
  v := v || jsonb_build_object('soon', (SELECT coalesce(jsonb_agg(jsonb_build_object('queue', q.name, 'type', s.type, 'jobs', s.jobs)), '[]')
    FROM (SELECT d.queue, d.type, count(*) AS jobs
            FROM (SELECT s.queue, s.type FROM scheduled s WHERE s.execute_at <= v_now + make_interval(secs => soon_seconds)
                   ORDER BY s.execute_at, s.pos LIMIT 1000) d
           WHERE d.queue = ANY (v_ids) GROUP BY d.queue, d.type) s JOIN queue q ON q.id = s.queue));
  -- What the last jobs took: the newest 500 since the last look.
  v := v || jsonb_build_object('ended', (SELECT coalesce(jsonb_agg(jsonb_build_object('queue', q.name, 'type', e.type, 'jobs', e.jobs, 'seconds', e.seconds)), '[]')
    FROM (SELECT h.queue, h.type, count(*) AS jobs, sum(extract(epoch FROM h.finished_at - h.started_at)) AS seconds
            FROM (SELECT n.queue, n.type, n.finished_at, n.started_at FROM history n
                   WHERE n.status = 'completed' AND n.finished_at > coalesce(observe_v1.after, v_now - interval '5 minutes')
                   ORDER BY n.finished_at DESC LIMIT 500) h
           WHERE h.queue = ANY (v_ids) GROUP BY h.queue, h.type) e JOIN queue q ON q.id = e.queue));
  -- How long running jobs have run, from at most 200 receipts; a large one is not fetched for it.
  v := v || jsonb_build_object('running', (SELECT coalesce(jsonb_agg(jsonb_build_object('queue', q.name, 'type', r.type, 'age_seconds', r.age)), '[]')
    FROM (SELECT j.queue, j.type, avg(extract(epoch FROM v_now - l.claimed_at)) AS age
            FROM (SELECT n.claimed_at, n.jobs, n.done FROM lease n WHERE pg_column_size(n.jobs) < 65536 ORDER BY n.worker, n.id LIMIT 200) l
            CROSS JOIN LATERAL unnest(l.jobs) j WHERE j.queue = ANY (v_ids) AND j.id <> ALL (l.done) GROUP BY j.queue, j.type) r
    JOIN queue q ON q.id = r.queue));
  v := v || jsonb_build_object('workers', (SELECT coalesce(jsonb_agg(jsonb_build_object('id', w.id, 'identity', w.identity, 'queues', w.queues,
        'slots', w.slots, 'draining', w.draining, 'running', (SELECT coalesce(sum(l.remaining), 0) FROM lease l WHERE l.worker = w.id))), '[]')
    FROM worker w WHERE w.lease_until > v_now AND w.queues && observe_v1.queues));
  RETURN v || (SELECT jsonb_build_object(
      'oldest_transaction_seconds', max(extract(epoch FROM v_now - a.xact_start)) FILTER (WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()),
      'free_connections', GREATEST(0, current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int - count(*)))
    FROM pg_stat_activity a WHERE a.backend_type = 'client backend');
END $$;
COMMENT ON FUNCTION rowlock.observe_v1 IS
'All a controller has to know of the given queues, in one read whose cost does not grow with the backlog: {now, types, lanes, soon, ended, running, workers, oldest_transaction_seconds, free_connections}. after: jobs that ended later tell their time. soon_seconds: how far ahead jobs for later count.
Hints: for a (queue, rank), the position at which its first job was a moment ago, so that rows that are gone but not yet vacuumed are not walked; leave them out now and then.
SQLSTATEs: none. Locks: none.';

CREATE FUNCTION rowlock.watch_v1(epoch int8, queues text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_holder uuid;
  v_ids int4[];
BEGIN
  PERFORM fence(watch_v1.epoch);
  v_holder := (SELECT l.holder FROM leader l);
  v_ids := ARRAY(SELECT ensure_queue(q.name) FROM (SELECT DISTINCT u.name FROM unnest(watch_v1.queues) u(name) ORDER BY 1) q);
  DELETE FROM sleeper s WHERE s.worker = v_holder AND s.queue <> ALL (v_ids);
  INSERT INTO sleeper (queue, worker) SELECT u.id, v_holder FROM unnest(v_ids) u(id) ON CONFLICT DO NOTHING;
END $$;
COMMENT ON FUNCTION rowlock.watch_v1 IS
'Asks for a NOTIFY on channel rowlock when one of exactly these queues gets a job. Look once more after it: a job may have come just before.
SQLSTATEs: RL003, RL030. Locks: its sleeper rows; the leader''s row, shared.';

-- What it decided -----------------------------------------------------------------------------

CREATE TABLE rowlock.decision (
  id         int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at         timestamptz NOT NULL,
  deployment text NOT NULL,
  current    int4 NOT NULL,
  wanted     int4 NOT NULL,
  reason     text NOT NULL,
  inputs     jsonb NOT NULL
);
CREATE INDEX decision_deployment ON rowlock.decision (deployment, id);
CREATE INDEX decision_at ON rowlock.decision (at);

CREATE VIEW rowlock.decisions AS
  SELECT id, at, deployment, current, wanted, reason, inputs FROM rowlock.decision;
COMMENT ON VIEW rowlock.decisions IS
'What the controller decided, and from what: a row when a decision changes, and one every ten seconds while it does not. Kept for a day. rowlock explain puts one in words.';

CREATE FUNCTION rowlock.record_v1(epoch int8, decisions jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM fence(record_v1.epoch);
  INSERT INTO decision (at, deployment, current, wanted, reason, inputs)
  SELECT d.at, d.deployment, d.current, d.wanted, d.reason, d.inputs
    FROM jsonb_to_recordset(record_v1.decisions) d(at timestamptz, deployment text, current int4, wanted int4, reason text, inputs jsonb);
  INSERT INTO total_scaler AS t (deployment, what, reason, n)
  SELECT d.deployment, 'decision', d.reason, count(*)
    FROM jsonb_to_recordset(record_v1.decisions) d(deployment text, reason text) GROUP BY d.deployment, d.reason ORDER BY d.deployment, d.reason
  ON CONFLICT (deployment, what, reason) DO UPDATE SET n = t.n + excluded.n;
  -- A few more go than come, so that it stays bounded and no call has much to do.
  DELETE FROM decision d WHERE d.ctid = ANY (ARRAY(
    SELECT o.ctid FROM decision o WHERE o.at < clock_timestamp() - interval '1 day' ORDER BY o.at
     LIMIT 10 + 2 * jsonb_array_length(record_v1.decisions)));
END $$;
COMMENT ON FUNCTION rowlock.record_v1 IS
'Stores decisions, objects with the columns of rowlock.decisions but id, and forgets those older than a day.
SQLSTATEs: RL030. Locks: the leader''s row, shared.';

-- What it does --------------------------------------------------------------------------------

CREATE FUNCTION rowlock.drain_v1(epoch int8, workers uuid[]) RETURNS TABLE (worker uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM fence(drain_v1.epoch);
  RETURN QUERY
  UPDATE worker w SET draining = true
    FROM (SELECT l.id FROM worker l WHERE l.id = ANY (drain_v1.workers) ORDER BY l.id FOR UPDATE) o
   WHERE w.id = o.id AND NOT w.draining AND w.lease_until > clock_timestamp()
     AND NOT EXISTS (SELECT FROM lease l WHERE l.worker = w.id)
  RETURNING w.id;
END $$;
COMMENT ON FUNCTION rowlock.drain_v1 IS
'Marks the idle ones of these workers as draining: they claim no more, and end. Answers which. A claim that was under way may still give one a job: ask drained_v1 a moment later.
SQLSTATEs: RL030. Locks: the workers'' rows; the leader''s row, shared.';

CREATE FUNCTION rowlock.drained_v1(epoch int8, workers uuid[]) RETURNS TABLE (worker uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM fence(drained_v1.epoch);
  UPDATE worker w SET draining = false
    FROM (SELECT l.id FROM worker l WHERE l.id = ANY (drained_v1.workers) ORDER BY l.id FOR UPDATE) o
   WHERE w.id = o.id AND w.draining AND w.lease_until > clock_timestamp()
     AND EXISTS (SELECT FROM lease l WHERE l.worker = w.id);
  RETURN QUERY SELECT u.id FROM unnest(drained_v1.workers) u(id)
   WHERE NOT EXISTS (SELECT FROM lease l WHERE l.worker = u.id)
     AND NOT EXISTS (SELECT FROM worker w WHERE w.id = u.id AND NOT w.draining);
END $$;
COMMENT ON FUNCTION rowlock.drained_v1 IS
'Which of the workers that drain_v1 marked are idle, and so can be stopped, or have ended. The others got a job at the last moment: they go on, no longer draining.
SQLSTATEs: RL030. Locks: the workers'' rows; the leader''s row, shared.';

CREATE FUNCTION rowlock.lost_v1(epoch int8, replicas text[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM fence(lost_v1.epoch);
  UPDATE worker w SET lease_until = '-infinity', draining = true
    FROM (SELECT l.id FROM worker l
           WHERE split_part(l.identity, '/', 1) = ANY (lost_v1.replicas) OR l.identity = ANY (lost_v1.replicas)
           ORDER BY l.id FOR UPDATE) o
   WHERE w.id = o.id;
  RETURN rescue();
END $$;
COMMENT ON FUNCTION rowlock.lost_v1 IS
'Ends the leases of workers whose Pod or process is known to be gone, by what their identity begins with, and puts their jobs back; or by the whole identity, where a container began anew in a Pod that is still there. Answers how many. Never for one that may still run.
SQLSTATEs: RL030. Locks: the workers'' rows; the leader''s row, shared; the receipts (SKIP LOCKED).';

-- Schedules -----------------------------------------------------------------------------------

CREATE TABLE rowlock.schedule (
  name       text PRIMARY KEY,
  type       text NOT NULL,
  queue      text,
  payload    jsonb NOT NULL DEFAULT '{}',
  cron       text,
  every      interval,
  timezone   text NOT NULL DEFAULT 'UTC',
  catch_up   text NOT NULL DEFAULT 'one' CHECK (catch_up IN ('skip', 'one', 'all')),
  enabled    boolean NOT NULL DEFAULT true,
  next_at    timestamptz,        -- null until the leader has planned it
  last_at    timestamptz,        -- the last instant that is over, run or passed over
  last_job   uuid,
  fault      text,               -- why the leader cannot plan it
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CHECK ((cron IS NULL) <> (every IS NULL))
) WITH (fillfactor = 50);
CREATE INDEX schedule_next ON rowlock.schedule (next_at) WHERE enabled;

CREATE VIEW rowlock.schedules AS
  SELECT name, type, queue, payload, cron, every, timezone, catch_up, enabled, next_at, last_at, last_job, fault, updated_at
    FROM rowlock.schedule;
COMMENT ON VIEW rowlock.schedules IS
'Schedules. next_at is the next tick, last_at the last one that is over, last_job the job it enqueued; fault says why one cannot run.';

CREATE FUNCTION rowlock.put_schedule(schedule jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v rowlock.schedule;
  v_key text := (SELECT k FROM jsonb_object_keys(put_schedule.schedule) k
                  WHERE k NOT IN ('name', 'type', 'queue', 'payload', 'cron', 'every', 'timezone', 'catch_up', 'enabled') LIMIT 1);
  v_fault text;
BEGIN
  IF v_key IS NOT NULL THEN
    PERFORM refuse('RL031', format('schedule.%s: unknown key; known are name, type, queue, payload, cron, every, timezone, catch_up, enabled', left(v_key, 128)));
  END IF;
  v := jsonb_populate_record(NULL::rowlock.schedule,
    '{"payload": {}, "timezone": "UTC", "catch_up": "one", "enabled": true}' || jsonb_strip_nulls(put_schedule.schedule));
  v.updated_at := clock_timestamp();
  v_fault := name_fault(v.name);
  IF v_fault IS NOT NULL THEN PERFORM refuse('RL031', 'name: ' || v_fault); END IF;
  v_fault := name_fault(v.type);
  IF v_fault IS NOT NULL THEN PERFORM refuse('RL001', 'type: ' || v_fault); END IF;
  v_fault := job_fault(v.payload, NULL, NULL, NULL, NULL, now());
  IF v_fault IS NOT NULL THEN PERFORM refuse(left(v_fault, 5), substr(v_fault, 6)); END IF;
  IF (v.cron IS NULL) = (v.every IS NULL) THEN PERFORM refuse('RL031', 'cron, every: expected one of the two'); END IF;
  IF NOT coalesce(v.every BETWEEN interval '1 second' AND interval '366 days', true) THEN PERFORM refuse('RL031', 'every: expected 1 second to 366 days'); END IF;
  IF octet_length(v.cron) NOT BETWEEN 1 AND 256 THEN PERFORM refuse('RL031', 'cron: expected 1 to 256 bytes'); END IF;
  IF v.catch_up NOT IN ('skip', 'one', 'all') THEN PERFORM refuse('RL031', 'catch_up: expected skip, one or all'); END IF;
  IF NOT EXISTS (SELECT FROM pg_timezone_names z WHERE z.name = v.timezone) THEN
    PERFORM refuse('RL031', format('timezone: expected a name such as UTC or Europe/Berlin, got %s', left(v.timezone, 64)));
  END IF;
  IF v.queue IS NOT NULL THEN PERFORM ensure_queue(v.queue); END IF;
  INSERT INTO schedule AS s SELECT v.*
  ON CONFLICT (name) DO UPDATE SET type = excluded.type, queue = excluded.queue, payload = excluded.payload, cron = excluded.cron,
    every = excluded.every, timezone = excluded.timezone, catch_up = excluded.catch_up, enabled = excluded.enabled, fault = NULL,
    -- The same times again: a file applied once more loses no tick.
    next_at = CASE WHEN (s.cron, s.every, s.timezone, s.enabled) IS NOT DISTINCT FROM (excluded.cron, excluded.every, excluded.timezone, excluded.enabled)
                   THEN s.next_at END,
    updated_at = excluded.updated_at;
END $$;
COMMENT ON FUNCTION rowlock.put_schedule IS
'Adds or replaces a schedule: {name, type, queue, payload, cron or every, timezone, catch_up, enabled}. rowlock schedules apply checks a file, its cron expressions too, and calls this. With new times it starts from now, whatever was missed.
SQLSTATEs: RL001, RL002, RL003, RL031, and Postgres''s own for a value of the wrong kind. Locks: the schedule''s row.';

CREATE FUNCTION rowlock.no_schedule(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
BEGIN
  PERFORM refuse('RL032', format('name: no schedule %s', coalesce(left(no_schedule.name, 128), 'null')), 'rowlock schedules list shows them.');
END $$;
COMMENT ON FUNCTION rowlock.no_schedule IS 'Refuses a name that no schedule has. Internal.';

CREATE FUNCTION rowlock.enable_schedule(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  UPDATE schedule s SET enabled = true, next_at = CASE WHEN s.enabled THEN s.next_at END, fault = NULL, updated_at = clock_timestamp()
   WHERE s.name = enable_schedule.name;
  IF NOT FOUND THEN PERFORM no_schedule(enable_schedule.name); END IF;
END $$;
COMMENT ON FUNCTION rowlock.enable_schedule IS
'Starts a schedule, from now on. SQLSTATEs: RL032. Locks: the schedule''s row.';

CREATE FUNCTION rowlock.disable_schedule(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  UPDATE schedule s SET enabled = false, next_at = NULL, updated_at = clock_timestamp() WHERE s.name = disable_schedule.name;
  IF NOT FOUND THEN PERFORM no_schedule(disable_schedule.name); END IF;
END $$;
COMMENT ON FUNCTION rowlock.disable_schedule IS
'No more ticks until enable_schedule; what was enqueued runs. SQLSTATEs: RL032. Locks: the schedule''s row; waits for a tick under way.';

CREATE FUNCTION rowlock.remove_schedule(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  -- What a controller has seen of it is void: one put under this name again has another updated_at.
  DELETE FROM schedule s WHERE s.name = remove_schedule.name;
  IF NOT FOUND THEN PERFORM no_schedule(remove_schedule.name); END IF;
END $$;
COMMENT ON FUNCTION rowlock.remove_schedule IS
'Forgets a schedule: no more ticks; what was enqueued runs. SQLSTATEs: RL032. Locks: the schedule''s row; waits for a tick under way.';

CREATE FUNCTION rowlock.run_schedule(name text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v rowlock.schedule;
BEGIN
  SELECT s.* INTO v FROM schedule s WHERE s.name = run_schedule.name;
  IF NOT FOUND THEN PERFORM no_schedule(run_schedule.name); END IF;
  RETURN (SELECT e.id FROM enqueue(v.type, v.payload, v.queue, opts => jsonb_build_object('headers', jsonb_build_object('rowlock-schedule', v.name))) e);
END $$;
COMMENT ON FUNCTION rowlock.run_schedule IS
'Enqueues a schedule''s job now, whether it is enabled or not; its ticks stay as they are. Returns the job''s id. SQLSTATEs: RL032, and enqueue''s. Locks: as enqueue.';

CREATE FUNCTION rowlock.due_schedules_v1(within_seconds float8 DEFAULT 1)
RETURNS TABLE (name text, cron text, every_seconds float8, timezone text, catch_up text, next_at timestamptz, updated_at timestamptz, now timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT s.name, s.cron, extract(epoch FROM s.every)::float8, s.timezone, s.catch_up, s.next_at, s.updated_at, clock_timestamp()
    FROM schedule s
   WHERE s.enabled AND s.fault IS NULL AND (s.next_at IS NULL OR s.next_at <= clock_timestamp() + make_interval(secs => within_seconds))
   ORDER BY s.next_at NULLS FIRST, s.name LIMIT 500
$$;
COMMENT ON FUNCTION rowlock.due_schedules_v1 IS
'Schedules to be planned (next_at is null) or due within so many seconds, and the time by the database. SQLSTATEs: none. Locks: none.';

CREATE FUNCTION rowlock.plan_v1(epoch int8, name text, seen timestamptz, next_at timestamptz, fault text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM fence(plan_v1.epoch);
  UPDATE schedule s SET next_at = plan_v1.next_at, fault = left(plan_v1.fault, 1024)
   WHERE s.name = plan_v1.name AND s.updated_at = plan_v1.seen AND s.enabled
     AND (s.next_at IS NULL OR plan_v1.fault IS NOT NULL) AND NOT coalesce(plan_v1.next_at <= s.last_at, false);
  RETURN FOUND;
END $$;
COMMENT ON FUNCTION rowlock.plan_v1 IS
'Sets the first tick of a schedule as it was seen (seen is its updated_at), or why it has none. False if it is another by now.
SQLSTATEs: RL030. Locks: the schedule''s row; the leader''s row, shared.';

CREATE FUNCTION rowlock.tick_v1(epoch int8, name text, seen timestamptz, due timestamptz, ticks timestamptz[], next_at timestamptz, fault text DEFAULT NULL)
RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v rowlock.schedule;
  v_tick timestamptz;
  v_job uuid;
BEGIN
  PERFORM fence(tick_v1.epoch);
  IF cardinality(ticks) > 1000 OR EXISTS (SELECT FROM unnest(ticks) t WHERE NOT coalesce(t >= due AND t <= clock_timestamp() AND t < coalesce(tick_v1.next_at, 'infinity'), false))
     OR (SELECT count(DISTINCT t) FROM unnest(ticks) t) < cardinality(ticks) THEN
    PERFORM refuse('RL031', 'ticks: expected at most 1000 different instants from due to now, all before next_at');
  END IF;
  -- Exactly once: whoever moves next_at away from this instant enqueues for it, in the same transaction, and
  -- next_at never goes back to one that is over.
  UPDATE schedule s SET next_at = tick_v1.next_at, last_at = GREATEST(due, (SELECT max(t) FROM unnest(ticks) t)), fault = left(tick_v1.fault, 1024)
   WHERE s.name = tick_v1.name AND s.updated_at = tick_v1.seen AND s.enabled AND s.next_at = tick_v1.due
     AND NOT coalesce(s.last_at >= tick_v1.due, false)
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
COMMENT ON FUNCTION rowlock.tick_v1 IS
'Enqueues a job for each of the ticks, and moves the schedule on from due to next_at (null with a fault if there is none): both or neither, and once only. No row if the schedule is not at due any more. Ticks that are left out are passed over. A job''s headers name its schedule and its tick.
SQLSTATEs: RL030, RL031, and enqueue''s. Locks: the schedule''s row; the leader''s row, shared; as enqueue.';

-- Who may -------------------------------------------------------------------------------------

REVOKE ALL ON rowlock.leader, rowlock.decision, rowlock.schedule, rowlock.decisions, rowlock.schedules FROM PUBLIC;
REVOKE ALL ON FUNCTION rowlock.lead_v1, rowlock.fence, rowlock.resign_v1, rowlock.observe_v1, rowlock.watch_v1, rowlock.record_v1,
  rowlock.drain_v1, rowlock.drained_v1, rowlock.lost_v1, rowlock.put_schedule, rowlock.no_schedule, rowlock.enable_schedule,
  rowlock.disable_schedule, rowlock.remove_schedule, rowlock.run_schedule, rowlock.due_schedules_v1, rowlock.plan_v1, rowlock.tick_v1 FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rowlock.lead_v1, rowlock.resign_v1, rowlock.observe_v1, rowlock.watch_v1, rowlock.record_v1,
  rowlock.drain_v1, rowlock.drained_v1, rowlock.lost_v1, rowlock.put_schedule, rowlock.enable_schedule, rowlock.disable_schedule,
  rowlock.remove_schedule, rowlock.run_schedule, rowlock.due_schedules_v1, rowlock.plan_v1, rowlock.tick_v1 TO rowlock_admin;
GRANT SELECT ON rowlock.decisions, rowlock.schedules TO rowlock_admin;
GRANT SELECT ON rowlock.decisions TO rowlock_reader;
-- What a schedule's jobs carry is hidden, as in rowlock.jobs.
GRANT SELECT (name, type, queue, cron, every, timezone, catch_up, enabled, next_at, last_at, last_job, fault, updated_at)
  ON rowlock.schedules TO rowlock_reader;
