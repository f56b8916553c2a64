-- What has to be done now and then. One worker (or controller) at a time is the keeper.

CREATE OR REPLACE FUNCTION rowlock.late_position(queue int4, rank int2, at timestamptz) RETURNS int8
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_before int8;  -- the last that was due by then
  v_behind int8;  -- the first that was due later
  v_low    int8 := -1;
  v_high   int8;
  v_middle int8;
  v        record;
BEGIN
  -- Mostly it is among the newest.
  SELECT n.pos INTO v_before
    FROM (SELECT r.pos, due_at(r.execute_at, r.created_at) AS due FROM ready r
           WHERE r.queue = late_position.queue AND r.rank = late_position.rank ORDER BY r.pos DESC LIMIT 256) n
   WHERE n.due <= at ORDER BY n.pos DESC LIMIT 1;
  IF NOT FOUND THEN
    -- By halves: in a lane jobs stand in the order in which they became due.
    SELECT max(r.pos) INTO v_high FROM ready r WHERE r.queue = late_position.queue AND r.rank = late_position.rank;
    WHILE v_low < v_high LOOP
      v_middle := v_low + (v_high - v_low) / 2;
      SELECT r.pos, due_at(r.execute_at, r.created_at) AS due INTO v FROM ready r
       WHERE r.queue = late_position.queue AND r.rank = late_position.rank AND r.pos >= v_middle
       ORDER BY r.pos LIMIT 1;
      IF v.due <= at THEN
        v_before := v.pos;
        v_low := v.pos + 1;
      ELSE
        v_high := v_middle;
      END IF;
    END LOOP;
  END IF;
  SELECT r.pos INTO v_behind FROM ready r
   WHERE r.queue = late_position.queue AND r.rank = late_position.rank AND r.pos > coalesce(v_before, -1)
   ORDER BY r.pos LIMIT 1;
  v_low := v_behind - coalesce(v_before, -1);
  -- Some room is left on either side for those that are found later still.
  RETURN CASE WHEN v_low >= 2 THEN v_behind - GREATEST(LEAST(v_low / 64, 1024), 1) END;
END $$;
COMMENT ON FUNCTION rowlock.late_position IS
'A place for a job that became due before some that are in ready already: between those due before and after it. Null
if there is no room. Internal.';

CREATE OR REPLACE FUNCTION rowlock.put_late(job rowlock.ready) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  job.pos := coalesce(late_position(job.queue, job.rank, job.execute_at), nextval('rowlock.position'));
  INSERT INTO ready SELECT (job).* ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN
    job.pos := nextval('rowlock.position');
    INSERT INTO ready SELECT (job).*;
  END IF;
END $$;
COMMENT ON FUNCTION rowlock.put_late IS 'Puts a job in ready where it would be had it been found in time. Internal.';

CREATE OR REPLACE FUNCTION rowlock.promote(max int DEFAULT 2000) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_n int := 0;
  v   record;
BEGIN
  -- Those that are found in time go behind all that is there; the others, the last first, between what is there.
  FOR v IN
    WITH due AS (
      DELETE FROM scheduled s WHERE s.ctid = ANY (ARRAY(
        SELECT d.ctid FROM scheduled d WHERE d.execute_at <= clock_timestamp()
         ORDER BY d.execute_at, d.pos LIMIT promote.max FOR UPDATE SKIP LOCKED))
      RETURNING s.*),
    lanes AS MATERIALIZED (
      SELECT l.queue, l.rank,
             (SELECT due_at(r.execute_at, r.created_at) FROM ready r WHERE r.queue = l.queue AND r.rank = l.rank
               ORDER BY r.pos DESC LIMIT 1) AS newest
        FROM (SELECT DISTINCT d.queue, d.rank FROM due d) l),
    sorted AS MATERIALIZED (
      SELECT d.*, coalesce(d.execute_at < l.newest, false) AS late
        FROM due d JOIN lanes l ON l.queue = d.queue AND l.rank = d.rank ORDER BY d.execute_at, d.pos),
    put AS (
      INSERT INTO ready (pos, id, created_at, execute_at, queue, rank, attempts, max_retries, moved, type, payload,
                         unique_key, opts, error, lost_by)
      SELECT nextval('rowlock.position'), d.id, d.created_at, d.execute_at, d.queue, d.rank, d.attempts, d.max_retries,
             true, d.type, d.payload, d.unique_key, d.opts, d.error, d.lost_by
        FROM sorted d WHERE NOT d.late),
    counted AS (
      INSERT INTO tally (queue, type, pending, scheduled)
      SELECT d.queue, d.type, count(*), -count(*) FROM due d GROUP BY d.queue, d.type),
    opened AS (
      INSERT INTO lane (queue, rank) SELECT l.queue, l.rank FROM lanes l
       WHERE NOT EXISTS (SELECT FROM lane o WHERE o.queue = l.queue AND o.rank = l.rank)),
    woken AS (
      SELECT count(wake(w.name, w.jobs)) AS n
        FROM (SELECT q.name, count(*) AS jobs FROM due d JOIN queue q ON q.id = d.queue GROUP BY q.name) w)
    SELECT (SELECT count(*) FROM due) + 0 * (SELECT w.n FROM woken w) AS n, l.late, l.job
      FROM (VALUES (1)) one
      LEFT JOIN (SELECT d.late, ROW(d.pos, d.id, d.created_at, d.execute_at, d.queue, d.rank, d.attempts, d.max_retries,
                            true, d.type, d.payload, d.unique_key, d.opts, d.error, d.lost_by)::rowlock.ready AS job
                   FROM sorted d WHERE d.late ORDER BY d.execute_at DESC, d.pos DESC) l ON true
  LOOP
    v_n := v.n;
    IF v.late THEN PERFORM put_late(v.job); END IF;
  END LOOP;
  RETURN v_n;
END $$;
COMMENT ON FUNCTION rowlock.promote IS
'Moves jobs whose time has come to ready, at most max, to the place that is theirs by the time they became due.
Internal.';

CREATE OR REPLACE FUNCTION rowlock.renew_leases() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
BEGIN
  IF server_is_known() THEN RETURN; END IF;
  UPDATE worker w SET lease_until = clock_timestamp() + w.lease WHERE w.lease_until > '-infinity';
  DELETE FROM server_start;
  INSERT INTO server_start VALUES (pg_postmaster_start_time());
END $$;
COMMENT ON FUNCTION rowlock.renew_leases IS
'After a start of the server, its recovery from a crash or its promotion: every lease begins anew, for no worker could
extend its own meanwhile. Internal.';

CREATE OR REPLACE FUNCTION rowlock.blame(job rowlock.ready, worker uuid, alone boolean) RETURNS uuid[]
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  -- Who has said meanwhile that it lives was not killed by anything.
  v_lost uuid[] := ARRAY(SELECT l.id FROM unnest(job.lost_by) l(id)
                          WHERE NOT EXISTS (SELECT FROM survivor s WHERE s.worker = l.id));
BEGIN
  RETURN CASE WHEN alone OR cardinality(v_lost) < 2 THEN v_lost || blame.worker ELSE v_lost END;
END $$;
COMMENT ON FUNCTION rowlock.blame IS
'The workers that a job is blamed for, now that this worker was lost while it ran. In company it is blamed twice at
most: from then on it is a suspect, and an engine runs a suspect alone. Internal.';

CREATE OR REPLACE FUNCTION rowlock.rescue(max int DEFAULT 200) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_worker record;
  v_leases int8[];
  v_alone  boolean;
  v        record;
  v_job    rowlock.ready;
  v_fails  boolean;
  v_n      int := 0;
BEGIN
  PERFORM renew_leases();
  -- A deadline further ahead than a lease is long is of a clock that has gone back since: it counts from now.
  UPDATE worker w SET lease_until = clock_timestamp() + w.lease WHERE w.lease_until > clock_timestamp() + w.lease;
  -- The dead are locked first: a worker that extends at this moment waits, and then finds its lease gone.
  FOR v_worker IN
    SELECT w.id, w.name, w.ended FROM worker w
     WHERE w.lease_until < clock_timestamp() ORDER BY w.lease_until FOR UPDATE SKIP LOCKED
  LOOP
    UPDATE worker w SET lease_until = '-infinity', draining = true
     WHERE w.id = v_worker.id AND w.lease_until > '-infinity';
    PERFORM unsubscribe_v1(v_worker.id);
    v_leases := ARRAY(
      SELECT l.id FROM lease l WHERE l.worker = v_worker.id ORDER BY l.id LIMIT rescue.max FOR UPDATE SKIP LOCKED);
    v_alone := (SELECT sum(l.remaining) = 1 FROM lease l WHERE l.worker = v_worker.id);
    FOR v IN SELECT t.* FROM take_back(v_worker.id, v_leases, NULL) t LOOP
      v_n := v_n + 1;
      v_job := v.job;
      v_job.error := format('worker %s ended while the job ran', v_worker.name);
      IF NOT v_worker.ended THEN
        v_job.lost_by := blame(v_job, v_worker.id, v_alone);
        v_job.error := format('worker %s was lost while the job ran', v_worker.name);
      END IF;
      v_fails := NOT v_worker.ended AND cardinality(v_job.lost_by) >= 5;
      IF v_fails THEN
        v_job.error := format('its worker was lost %s times while it ran, last %s', cardinality(v_job.lost_by),
                              v_worker.name);
      END IF;
      PERFORM settle(v_job, v.claimed_at, v_worker.name, v.progress, CASE WHEN v_fails THEN 'failed' ELSE 'pending' END,
        v_job.error, CASE WHEN v_fails THEN 'crash_loop' END);
    END LOOP;
    DELETE FROM worker w WHERE w.id = v_worker.id AND NOT EXISTS (SELECT FROM lease l WHERE l.worker = w.id);
    -- By what was done, not by workers: some may have only receipts that others have locked.
    EXIT WHEN v_n >= 4000;
  END LOOP;
  RETURN v_n;
END $$;
COMMENT ON FUNCTION rowlock.rescue IS
'Puts the jobs of workers whose lease has expired back in their old place, without consuming an attempt. A job that lost
five workers has failed, but it must have been all that three of them ran: what only stood beside the job that killed
them does not fail for it. A worker that ended by itself, or has said since that it lives, blames nobody. Internal.';

CREATE OR REPLACE FUNCTION rowlock.fold() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  DELETE FROM pace p WHERE p.at < clock_timestamp() - interval '10 minutes';
  IF NOT EXISTS (SELECT FROM tally) THEN RETURN; END IF;
  WITH deleted AS (DELETE FROM tally RETURNING *),
  -- Lines are many, what they are about is little: all that follows works on that.
  gone AS MATERIALIZED (
    SELECT d.queue, d.type, d.reason, d.wait, d.run, sum(d.pending)::int8 AS pending,
           sum(d.scheduled)::int8 AS scheduled, sum(d.running)::int8 AS running, sum(d.enqueued)::int8 AS enqueued,
           sum(d.completed)::int8 AS completed, sum(d.failed)::int8 AS failed, sum(d.cancelled)::int8 AS cancelled,
           sum(d.retried)::int8 AS retried, sum(d.failed_kept)::int8 AS failed_kept, sum(d.seconds) AS seconds,
           sum(d.seconds) FILTER (WHERE d.completed > 0) AS worked
      FROM deleted d GROUP BY d.queue, d.type, d.reason, d.wait, d.run),
  due AS MATERIALIZED (
    SELECT d.*
      FROM (SELECT array_agg(c.type) AS types, array_agg(c.worked) AS worked
              FROM (SELECT g.type, bool_or(g.completed > 0) AS worked FROM gone g GROUP BY g.type) c) a
     CROSS JOIN LATERAL labels_due(a.types, a.worked,
       ARRAY(SELECT DISTINCT g.reason FROM gone g WHERE g.reason IS NOT NULL)) d),
  named AS (
    INSERT INTO label (kind, name, room) SELECT d.kind, d.name, d.room FROM due d ON CONFLICT DO NOTHING),
  -- What has no label of its own by now is counted under '' for good.
  told AS MATERIALIZED (
    SELECT g.*, coalesce(n.name, '') AS label
      FROM gone g LEFT JOIN (SELECT l.name FROM label l WHERE l.kind = 'type'
                             UNION SELECT d.name FROM due d WHERE d.kind = 'type') n ON n.name = g.type),
  reasons AS (
    INSERT INTO total_reason AS t (queue, type, reason, failed, retried)
    SELECT g.queue, g.label, g.reason, sum(g.failed), sum(g.retried) FROM told g WHERE g.reason IS NOT NULL
     GROUP BY g.queue, g.label, g.reason ORDER BY g.queue, g.label, g.reason
    ON CONFLICT (queue, type, reason)
    DO UPDATE SET failed = t.failed + excluded.failed, retried = t.retried + excluded.retried),
  times AS (
    INSERT INTO total_time AS t (queue, type, what, bucket, jobs, seconds)
    SELECT g.queue, g.label, o.what, o.bucket, sum(abs(g.running)), sum(g.seconds)
      FROM told g CROSS JOIN LATERAL (VALUES ('wait', g.wait), ('run', g.run)) o(what, bucket)
     WHERE o.bucket IS NOT NULL GROUP BY g.queue, g.label, o.what, o.bucket
     ORDER BY g.queue, g.label, o.what, o.bucket
    ON CONFLICT (queue, type, what, bucket)
    DO UPDATE SET jobs = t.jobs + excluded.jobs, seconds = t.seconds + excluded.seconds),
  paced AS (
    INSERT INTO pace (at, queue, type, jobs, seconds)
    SELECT clock_timestamp(), g.queue, g.label, sum(g.completed), sum(g.worked) FROM told g
     WHERE g.worked IS NOT NULL GROUP BY g.queue, g.label)
  INSERT INTO total AS t (queue, type, pending, scheduled, running, enqueued, completed, failed, cancelled, retried,
                          failed_kept)
  SELECT g.queue, v.type, sum(v.pending), sum(v.scheduled), sum(v.running), sum(v.enqueued), sum(v.completed),
         sum(v.failed), sum(v.cancelled), sum(v.retried), sum(v.failed_kept)
    FROM told g CROSS JOIN LATERAL (VALUES
      (g.type, g.pending, g.scheduled, g.running, 0, 0, 0, 0, 0, g.failed_kept),
      (g.label, 0, 0, 0, g.enqueued, g.completed, g.failed, g.cancelled, g.retried, 0))
      v(type, pending, scheduled, running, enqueued, completed, failed, cancelled, retried, failed_kept)
   GROUP BY g.queue, v.type ORDER BY g.queue, v.type
  ON CONFLICT (queue, type) DO UPDATE SET
    pending = t.pending + excluded.pending, scheduled = t.scheduled + excluded.scheduled,
    running = t.running + excluded.running, enqueued = t.enqueued + excluded.enqueued,
    completed = t.completed + excluded.completed, failed = t.failed + excluded.failed,
    cancelled = t.cancelled + excluded.cancelled, retried = t.retried + excluded.retried,
    failed_kept = t.failed_kept + excluded.failed_kept;
END $$;
COMMENT ON FUNCTION rowlock.fold IS
'Adds what the tally says to the totals, in one commit. Only the keeper does it. Internal.';

CREATE OR REPLACE FUNCTION rowlock.wake_for_waiting() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT count(wake(w.name, w.jobs))
    FROM (SELECT q.name, sum(c.pending)::int8 AS jobs
            FROM (SELECT DISTINCT s.queue FROM subscription s WHERE NOT s.lasting) a
            JOIN queue q ON q.name = a.queue AND NOT q.paused
            JOIN (SELECT queue, pending FROM total UNION ALL SELECT queue, pending FROM tally) c ON c.queue = q.id
           GROUP BY q.name HAVING sum(c.pending) > 0) w
$$;
COMMENT ON FUNCTION rowlock.wake_for_waiting IS
'Wakes sleepers of queues in which jobs wait: a job whose transaction began before they slept, or whose wake was lost
on a dead one, waits for no poll of theirs. Internal.';

CREATE OR REPLACE FUNCTION rowlock.sweep_history() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp SET lock_timeout = '20ms' AS $$
DECLARE
  v_slot int2;
  v_any boolean;
BEGIN
  -- In each ring the partition before the current one has expired. A reader may hold it: next time then.
  FOR v_slot IN SELECT (floor(extract(epoch FROM clock_timestamp()) / w.width)::int8 + 7) % 8 + w.base
                  FROM (VALUES (21600, 0), (259200, 8), (5270400, 16)) w(width, base) LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM rowlock.history_%s)', v_slot) INTO v_any;
    CONTINUE WHEN NOT v_any;
    BEGIN
      EXECUTE format('LOCK TABLE rowlock.history_%s IN ACCESS EXCLUSIVE MODE', v_slot);
      EXECUTE format('INSERT INTO rowlock.tally (queue, type, failed_kept)
        SELECT queue, type, -count(*) FROM rowlock.history_%s WHERE status = $1 GROUP BY queue, type', v_slot)
        USING 'failed';
      EXECUTE format('TRUNCATE rowlock.history_%s', v_slot);
    EXCEPTION WHEN lock_not_available THEN NULL;
    END;
  END LOOP;
END $$;
COMMENT ON FUNCTION rowlock.sweep_history IS 'Empties partitions of history that have expired. Internal.';

CREATE OR REPLACE FUNCTION rowlock.sweep() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  -- Lanes, found by hopping along the index: missing ones in, doubles and long empty ones out.
  WITH RECURSIVE used(queue, rank) AS (
    (SELECT r.queue, r.rank FROM ready r ORDER BY r.queue, r.rank LIMIT 1)
    UNION ALL
    SELECT n.queue, n.rank FROM used u CROSS JOIN LATERAL
      (SELECT r.queue, r.rank FROM ready r WHERE (r.queue, r.rank) > (u.queue, u.rank)
        ORDER BY r.queue, r.rank LIMIT 1) n),
  missing AS (
    INSERT INTO lane (queue, rank) SELECT u.queue, u.rank FROM used u
     WHERE NOT EXISTS (SELECT FROM lane l WHERE l.queue = u.queue AND l.rank = u.rank))
  DELETE FROM lane l WHERE l.added_at < clock_timestamp() - interval '1 hour'
     AND (NOT EXISTS (SELECT FROM used u WHERE u.queue = l.queue AND u.rank = l.rank)
          OR EXISTS (SELECT FROM lane o WHERE o.queue = l.queue AND o.rank = l.rank AND o.ctid < l.ctid));
  DELETE FROM cancel_request c WHERE c.requested_at < clock_timestamp() - interval '1 minute'
     AND NOT EXISTS (SELECT FROM lease l WHERE l.worker = c.worker AND c.job <> ALL (l.done)
                        AND EXISTS (SELECT FROM unnest(l.jobs) j WHERE j.id = c.job));
  -- Rows of one queue that were made side by side.
  UPDATE queue q SET paused = f.paused, priority = f.priority, max_retries = f.max_retries
    FROM (SELECT DISTINCT ON (o.name) o.* FROM queue o ORDER BY o.name, o.id) f
   WHERE q.name = f.name AND q.id <> f.id
     AND (q.paused, q.priority, q.max_retries) IS DISTINCT FROM (f.paused, f.priority, f.max_retries);
  DELETE FROM subscription s WHERE s.id = ANY (ARRAY(
    SELECT o.id FROM subscription o
     WHERE NOT o.lasting AND NOT EXISTS (SELECT FROM worker w WHERE w.id = o.worker) FOR UPDATE SKIP LOCKED));
  DELETE FROM survivor s WHERE s.at < clock_timestamp() - interval '30 days';
  -- Types of which nothing is left to tell.
  DELETE FROM total t
   WHERE (t.pending, t.scheduled, t.running, t.failed_kept, t.enqueued, t.completed, t.failed, t.cancelled, t.retried)
         = (0, 0, 0, 0, 0, 0, 0, 0, 0);
  PERFORM sweep_history();
END $$;
COMMENT ON FUNCTION rowlock.sweep IS
'The rare part of maintenance: lanes, forgotten cancel requests, subscriptions and survivors, doubled queues, empty
totals, expired history. Internal.';

CREATE OR REPLACE FUNCTION rowlock.maintenance_parts() RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
  SELECT '{promote, rescue, fold, wake, sweep}'::text[]
$$;
COMMENT ON FUNCTION rowlock.maintenance_parts IS 'The parts of a round of maintenance. Internal.';

CREATE OR REPLACE FUNCTION rowlock.maintain_part(part text) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_n int := 0;
BEGIN
  CASE part
    WHEN 'promote' THEN v_n := promote();
    WHEN 'rescue' THEN v_n := rescue();
    WHEN 'fold' THEN PERFORM fold();
    WHEN 'wake' THEN PERFORM wake_for_waiting();
    WHEN 'sweep' THEN PERFORM sweep();
  END CASE;
  RETURN v_n;
EXCEPTION WHEN OTHERS THEN
  -- The other parts go on without it. Not on every round, so that a part that never works costs little.
  RAISE WARNING 'rowlock: % failed: % (%)', part, SQLERRM, SQLSTATE;
  UPDATE keeper k
     SET failures = k.failures || jsonb_build_object(part, jsonb_build_object(
           'n', coalesce((k.failures -> part ->> 'n')::int8, 0) + 1, 'at', clock_timestamp(),
           'error', left(format('%s (SQLSTATE %s)', SQLERRM, SQLSTATE), 1024)))
   WHERE NOT coalesce((k.failures -> part ->> 'at')::timestamptz > clock_timestamp() - interval '1 second', false);
  RETURN 0;
END $$;
COMMENT ON FUNCTION rowlock.maintain_part IS
'One part of a round. What goes wrong in it is rolled back, noted in the keeper''s row (at most each second) and in the
server''s log. Internal.';

CREATE OR REPLACE FUNCTION rowlock.next_due() RETURNS float8
LANGUAGE sql SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT LEAST(
    (SELECT GREATEST(extract(epoch FROM s.execute_at - clock_timestamp()), 0)::float8
       FROM scheduled s ORDER BY s.execute_at, s.pos LIMIT 1),
    -- A tenth of a second later: a worker that lives has stopped its jobs by itself by then, and knows why.
    (SELECT CASE WHEN min(w.lease_until) <= clock_timestamp() THEN 0
                 ELSE extract(epoch FROM min(w.lease_until) - clock_timestamp()) + 0.1 END::float8
       FROM worker w))
$$;
COMMENT ON FUNCTION rowlock.next_due IS
'Seconds until a job is due or a worker''s lease ends, null if nothing is to come. Internal.';

CREATE OR REPLACE FUNCTION rowlock.maintain_v1(holder uuid)
RETURNS TABLE (keeper boolean, promoted int, rescued int, next_due_seconds float8)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_now   timestamptz := clock_timestamp();
  v_limit timestamptz := v_now + interval '1 second';  -- held for longer is of a clock that went back
  v rowlock.keeper;
BEGIN
  SELECT k.* INTO v FROM keeper k;
  IF v.holder IS DISTINCT FROM maintain_v1.holder AND v.held_until > v_now AND v.held_until <= v_limit THEN
    RETURN QUERY SELECT false, 0, 0, NULL::float8;
    RETURN;
  END IF;
  -- Held for a second only: a keeper that dies delays the rescue of others by no more. The row is written about
  -- three times in it, not on every call: fewer dead versions.
  IF v.holder IS DISTINCT FROM maintain_v1.holder
     OR v.held_until NOT BETWEEN v_now + interval '700 milliseconds' AND v_limit THEN
    UPDATE keeper k SET epoch = k.epoch + (k.holder IS DISTINCT FROM maintain_v1.holder)::int,
                        holder = maintain_v1.holder, held_until = v_limit
     WHERE k.ctid = ANY (ARRAY(
       SELECT l.ctid FROM keeper l
        WHERE l.holder IS NOT DISTINCT FROM maintain_v1.holder OR l.held_until <= v_now OR l.held_until > v_limit
          FOR UPDATE SKIP LOCKED))
    RETURNING k.* INTO v;
    IF NOT FOUND THEN
      RETURN QUERY SELECT false, 0, 0, NULL::float8;
      RETURN;
    END IF;
    -- The sign of life that others wait for, so that they need not ask.
    IF may_notify() THEN PERFORM pg_notify('rowlock_keeper', 'kept'); END IF;
  END IF;
  maintain_v1.promoted := maintain_part('promote');
  maintain_v1.rescued := maintain_part('rescue');
  IF v.folded_at NOT BETWEEN v_now - interval '850 milliseconds' AND v_now THEN
    UPDATE keeper k SET folded_at = v_now WHERE k.holder = maintain_v1.holder;
    PERFORM maintain_part('fold');
    PERFORM maintain_part('wake');
  END IF;
  IF v.swept_at NOT BETWEEN v_now - interval '1 minute' AND v_now THEN
    UPDATE keeper k SET swept_at = v_now WHERE k.holder = maintain_v1.holder;
    PERFORM maintain_part('sweep');
  END IF;
  RETURN QUERY SELECT true, maintain_v1.promoted, maintain_v1.rescued,
    next_due();
END $$;
COMMENT ON FUNCTION rowlock.maintain_v1 IS
'One round of maintenance, if holder is the keeper or can become it: moves due jobs to ready, rescues lost ones, folds
the totals (each second), sweeps (each minute). A part that goes wrong does not stop the others. Costs the same at
any depth. While keeper, call it every 80 ms, and again at once if promoted is 2000. A keeper that listens on channel
rowlock_keeper may rest until next_due_seconds (a job''s time, or a lease''s end), for 0.9 s at most, and comes sooner
for the payload due. The keeper''s calls send kept there, and stop_worker_v1 sends ended. Others call when they have
heard nothing for 1.1 s, or every half second if they do not listen: the place is held for a second.
SQLSTATEs: none. Locks: the keeper''s row; rows it moves (SKIP LOCKED); for 20 ms an expired history partition.';
