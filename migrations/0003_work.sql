-- Rowlock 3: how a job is worked. For workers and client libraries; every write matches the lease,
-- which is the worker's row (its deadline) and the receipt (worker, lease id), and reports what it refused.

CREATE FUNCTION rowlock.history_slot(expires_at timestamptz, keep interval) RETURNS int2
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE
    WHEN keep <= interval '36 hours' THEN floor(extract(epoch FROM expires_at) / 21600)::int8 % 8
    WHEN keep <= interval '18 days'  THEN floor(extract(epoch FROM expires_at) / 259200)::int8 % 8 + 8
    ELSE floor(extract(epoch FROM expires_at) / 5270400)::int8 % 8 + 16
  END::int2
$$;
COMMENT ON FUNCTION rowlock.history_slot IS
'The history partition for a job kept for keep, at most 366 days. A ring of eight holds what is kept up to six widths, so the partition just expired is never one that is written. Internal.';

CREATE FUNCTION rowlock.retry_delay(backoff jsonb, attempts int) RETURNS interval
LANGUAGE sql VOLATILE AS $$
  SELECT make_interval(secs => LEAST(
      coalesce((backoff ->> 'base')::float8, 1) * power(coalesce((backoff ->> 'factor')::float8, 2), LEAST(attempts, 64)),
      coalesce((backoff ->> 'max')::float8, 3600))
    * (1 + coalesce((backoff ->> 'jitter')::float8, 0) * (random() * 2 - 1)))
$$;
COMMENT ON FUNCTION rowlock.retry_delay IS
'The wait before the next attempt: base * factor^attempts, capped at max, spread by jitter. The one place that knows it. Internal.';

CREATE FUNCTION rowlock.bucket_bounds() RETURNS float8[]
LANGUAGE sql IMMUTABLE AS $$
  SELECT '{0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000}'::float8[]
$$;
COMMENT ON FUNCTION rowlock.bucket_bounds IS
'The upper bounds of the histograms of waits and runs, in seconds. Lines counted in the past mean these: never changed. Internal.';

CREATE FUNCTION rowlock.bucket(seconds float8) RETURNS int2
LANGUAGE sql IMMUTABLE AS $$
  SELECT width_bucket(seconds, rowlock.bucket_bounds())::int2
$$;
COMMENT ON FUNCTION rowlock.bucket IS 'Which bucket of a histogram a time falls in, from 0; one above the last bound has that of the number of bounds. Internal.';

CREATE FUNCTION rowlock.lease_lost() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
BEGIN
  PERFORM refuse('RL020', 'lease lost: worker is unknown or its lease has expired',
    'Stop its jobs and register again with rowlock.register_worker_v1.');
END $$;
COMMENT ON FUNCTION rowlock.lease_lost IS 'Refuses a worker without a lease. Internal.';

CREATE FUNCTION rowlock.register_worker_v1(name text, identity text, queues text[], slots int, lease_seconds float8 DEFAULT 30, version text DEFAULT '')
RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_id uuid;
  v_fault text := name_fault(register_worker_v1.name);
BEGIN
  IF v_fault IS NOT NULL THEN PERFORM refuse('RL021', 'name: ' || v_fault); END IF;
  IF coalesce(octet_length(register_worker_v1.identity), 0) NOT BETWEEN 1 AND 256 THEN PERFORM refuse('RL021', 'identity: expected 1 to 256 bytes'); END IF;
  IF coalesce(cardinality(register_worker_v1.queues), 0) = 0 THEN PERFORM refuse('RL021', 'queues: expected at least one'); END IF;
  IF coalesce(register_worker_v1.slots, 0) NOT BETWEEN 1 AND 100000 THEN PERFORM refuse('RL021', 'slots: expected 1 to 100000'); END IF;
  IF lease_seconds IS NULL OR NOT lease_seconds BETWEEN 0.1 AND 86400 THEN PERFORM refuse('RL021', 'lease_seconds: expected 0.1 to 86400'); END IF;
  PERFORM ensure_queue(q) FROM (SELECT DISTINCT q FROM unnest(register_worker_v1.queues) q ORDER BY q) q;
  INSERT INTO worker (name, identity, queues, slots, version, lease_until)
  VALUES (register_worker_v1.name, register_worker_v1.identity, register_worker_v1.queues, register_worker_v1.slots,
          coalesce(register_worker_v1.version, ''), clock_timestamp() + make_interval(secs => lease_seconds))
  RETURNING id INTO v_id;
  RETURN v_id;
END $$;
COMMENT ON FUNCTION rowlock.register_worker_v1 IS
'Makes a worker and starts its lease. name is for people; identity is the Pod UID or host, and start. Returns the worker''s id, which every other call takes.
SQLSTATEs: RL021 by argument, RL003 for a queue''s name. Locks: none but for new queues.';

CREATE FUNCTION rowlock.extend_v1(worker uuid, lease_seconds float8 DEFAULT 30, drain boolean DEFAULT false)
RETURNS TABLE (lease_until timestamptz, draining boolean, cancelled uuid[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_until timestamptz;
  v_draining boolean;
BEGIN
  IF lease_seconds IS NULL OR NOT lease_seconds BETWEEN 0.1 AND 86400 THEN PERFORM refuse('RL021', 'lease_seconds: expected 0.1 to 86400'); END IF;
  UPDATE worker w SET heartbeat_at = clock_timestamp(), lease_until = clock_timestamp() + make_interval(secs => lease_seconds),
                      draining = w.draining OR extend_v1.drain
   WHERE w.id = extend_v1.worker AND w.lease_until > clock_timestamp()
  RETURNING w.lease_until, w.draining INTO v_until, v_draining;
  IF NOT FOUND THEN PERFORM lease_lost(); END IF;
  RETURN QUERY SELECT v_until, v_draining, ARRAY(SELECT c.job FROM cancel_request c WHERE c.worker = extend_v1.worker);
END $$;
COMMENT ON FUNCTION rowlock.extend_v1 IS
'The heartbeat: one row, however many jobs. Answers the new deadline, whether the worker is to drain, and the running jobs it is to stop.
SQLSTATEs: RL020 if the lease has expired, RL021. Locks: the worker''s row.';

CREATE FUNCTION rowlock.complete_v1(worker uuid, leases int8[], ids uuid[], results jsonb[] DEFAULT NULL)
RETURNS TABLE (refused uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp
  SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
  v_worker text;
  v_cancel boolean;  -- somebody asked this worker to stop a job
  v_keys   text[];
  v_now    timestamptz := clock_timestamp();
  v_keep   boolean;  -- some type keeps its history for a time of its own
  v_day    interval := '1 day';
  v_slot   int2 := history_slot(v_now + v_day, v_day);
  v_refused uuid[];
BEGIN
  IF coalesce(cardinality(leases), 0) <> coalesce(cardinality(ids), 0) OR cardinality(results) <> cardinality(ids) THEN
    PERFORM refuse('RL021', 'leases, ids, results: expected arrays of equal length');
  END IF;
  SELECT w.name, EXISTS (SELECT FROM job_type t WHERE t.keep_completed IS NOT NULL),
         EXISTS (SELECT FROM cancel_request c WHERE c.worker = complete_v1.worker)
    INTO v_worker, v_keep, v_cancel
    FROM worker w WHERE w.id = complete_v1.worker AND w.lease_until > v_now;
  IF NOT FOUND THEN RETURN QUERY SELECT unnest(ids); RETURN; END IF;

  -- The receipts are locked first, in order: of two calls for one job, the second sees the first's.
  WITH receipt AS MATERIALIZED (
    SELECT l.id, l.claimed_at, l.remaining, l.done, l.progress, l.jobs, date_part('epoch', v_now - l.claimed_at) AS seconds FROM lease l
     WHERE l.worker = complete_v1.worker AND l.id = ANY (leases) ORDER BY l.id FOR UPDATE),
  hit AS MATERIALIZED (
    -- IN below CASE stays a hashed subplan: as a join it would unnest the receipt once per job.
    SELECT r.id AS lease, r.claimed_at, r.seconds, CASE WHEN r.progress IS NOT NULL THEN r.progress -> j.id::text END AS progress,
           CASE WHEN results IS NOT NULL THEN results[array_position(complete_v1.ids, j.id)] END AS result, j.*
      FROM receipt r CROSS JOIN LATERAL unnest(r.jobs) j
     WHERE CASE WHEN (r.id, j.id) IN (SELECT u.lease, u.id FROM unnest(leases, complete_v1.ids) u(lease, id)) THEN true ELSE false END
       AND (r.done = '{}' OR j.id <> ALL (r.done))),
  ended AS (
    SELECT h.lease, count(*) AS n, array_agg(h.id) AS ids FROM hit h GROUP BY h.lease),
  whole AS (
    DELETE FROM lease l USING receipt r, ended e
     WHERE l.worker = complete_v1.worker AND l.id = e.lease AND r.id = e.lease AND r.remaining = e.n),
  part AS (
    UPDATE lease l SET done = l.done || e.ids, remaining = l.remaining - e.n FROM receipt r, ended e
     WHERE l.worker = complete_v1.worker AND l.id = e.lease AND r.id = e.lease AND r.remaining > e.n),
  kept AS (
    INSERT INTO history (slot, id, queue, rank, attempts, max_retries, status, created_at, execute_at, started_at, finished_at,
                         type, payload, worker, unique_key, opts, result, progress)
    SELECT CASE WHEN v_keep THEN history_slot(v_now + k.keep, k.keep) ELSE v_slot END,
           h.id, h.queue, h.rank, h.attempts, h.max_retries, 'completed', h.created_at, h.execute_at, h.claimed_at, v_now,
           h.type, h.payload, v_worker, h.unique_key, h.opts, h.result, h.progress
      FROM hit h CROSS JOIN LATERAL (
        SELECT CASE WHEN v_keep THEN coalesce((SELECT t.keep_completed FROM job_type t WHERE t.name = h.type), v_day) ELSE v_day END) k(keep)
     WHERE k.keep > interval '0'),
  counted AS (
    INSERT INTO tally (queue, type, running, completed, run, seconds)
    SELECT h.queue, h.type, -count(*), count(*), bucket(h.seconds), sum(h.seconds) FROM hit h GROUP BY h.queue, h.type, bucket(h.seconds))
  SELECT CASE WHEN count(*) < cardinality(complete_v1.ids) THEN ARRAY(SELECT u.id FROM unnest(complete_v1.ids) u(id) EXCEPT SELECT h.id FROM hit h) END,
         array_agg(h.unique_key) FILTER (WHERE h.unique_key IS NOT NULL)
    INTO v_refused, v_keys FROM hit h;
  IF v_keys IS NOT NULL THEN DELETE FROM unique_key k WHERE k.key = ANY (v_keys) AND k.job = ANY (complete_v1.ids); END IF;
  IF v_cancel THEN
    -- Not of the refused: their request is for the job's next run.
    DELETE FROM cancel_request c WHERE c.worker = complete_v1.worker AND c.job = ANY (complete_v1.ids) AND c.job <> ALL (coalesce(v_refused, '{}'));
  END IF;
  IF v_refused IS NOT NULL THEN RETURN QUERY SELECT unnest(v_refused); END IF;
END $$;
COMMENT ON FUNCTION rowlock.complete_v1 IS
'Ends running jobs as completed, with their results. Element i of leases and ids is one job. Answers the ids it refused because the lease is lost; those it changed nothing for. May be called inside a job''s own transaction: then the job''s effects in this database and its completion commit together.
SQLSTATEs: RL021, RL020. Locks: the receipts, until the transaction ends.';

CREATE FUNCTION rowlock.work_v1(worker uuid, leases int8[], ids uuid[], results jsonb[], queues text[], max int,
  hint_queues int4[] DEFAULT '{}', hint_ranks int2[] DEFAULT '{}', hint_after int8[] DEFAULT '{}')
RETURNS TABLE (refused uuid, lease int8, id uuid, type text, queue text, payload jsonb, priority int2, attempts int2, max_retries int2,
  created_at timestamptz, execute_at timestamptz, opts jsonb, lane_queue int4, lane_rank int2, pos int8)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off SET enable_hashjoin = off
  SET enable_mergejoin = off SET enable_bitmapscan = off SET enable_material = off AS $$
#variable_conflict use_column
DECLARE
  v_draining boolean;
  v_now      timestamptz;
BEGIN
  IF work_v1.max IS NULL OR work_v1.max NOT BETWEEN 0 AND 1000 THEN PERFORM refuse('RL021', 'max: expected 0 to 1000'); END IF;
  IF cardinality(ids) > 0 THEN
    RETURN QUERY SELECT c.refused, null::int8, null::uuid, null::text, null::text, null::jsonb, null::int2, null::int2, null::int2,
        null::timestamptz, null::timestamptz, null::jsonb, null::int4, null::int2, null::int8
      FROM complete_v1(work_v1.worker, leases, ids, results) c;
    IF work_v1.max = 0 THEN RETURN; END IF;
  END IF;
  SELECT w.draining, clock_timestamp() INTO v_draining, v_now FROM worker w WHERE w.id = work_v1.worker AND w.lease_until > clock_timestamp();
  IF NOT FOUND THEN PERFORM lease_lost(); END IF;
  IF v_draining OR work_v1.max = 0 THEN RETURN; END IF;
  -- jit is off because a plan without an alternative to what is switched off looks infinitely dear.
  -- Lanes in order of claim, then each from its hint on. The inner LIMIT ends a lane, the outer one
  -- ends the walk before the next lane is touched. The ctid list is the fence that keeps the DELETE
  -- to the rows that were locked.
  RETURN QUERY
  WITH taken AS (
    DELETE FROM ready r WHERE r.ctid = ANY (ARRAY(
      SELECT l.ctid
        FROM (SELECT DISTINCT lane.rank, array_position(work_v1.queues, q.name) AS turn, q.id AS queue
                FROM queue q JOIN lane ON lane.queue = q.id
               WHERE q.name = ANY (work_v1.queues) AND NOT q.paused
               ORDER BY 1, 2) a
        CROSS JOIN LATERAL (
          SELECT n.ctid FROM ready n
           WHERE n.queue = a.queue AND n.rank = a.rank
             AND n.pos > coalesce((SELECT h.after FROM unnest(hint_queues, hint_ranks, hint_after) h(queue, rank, after)
                                    WHERE h.queue = a.queue AND h.rank = a.rank LIMIT 1), -1)
           ORDER BY n.pos LIMIT work_v1.max FOR UPDATE SKIP LOCKED) l
       LIMIT work_v1.max))
    RETURNING r.*),
  receipt AS (
    INSERT INTO lease (worker, id, claimed_at, remaining, jobs)
    SELECT work_v1.worker, nextval('rowlock.lease_id'), clock_timestamp(), count(*), array_agg(t::ready)
      FROM taken t HAVING count(*) > 0
    RETURNING id),
  counted AS (
    INSERT INTO tally (queue, type, pending, running, wait, seconds)
    SELECT w.queue, w.type, -count(*), count(*), bucket(w.seconds), sum(w.seconds)
      FROM (SELECT t.queue, t.type, GREATEST(date_part('epoch', v_now - t.execute_at), 0) AS seconds FROM taken t) w
     GROUP BY w.queue, w.type, bucket(w.seconds))
  SELECT NULL::uuid, receipt.id, t.id, t.type,
         CASE WHEN cardinality(work_v1.queues) = 1 THEN work_v1.queues[1] ELSE (SELECT q.name FROM queue q WHERE q.id = t.queue) END, t.payload, (~t.rank)::int2, t.attempts, t.max_retries,
         t.created_at, t.execute_at, t.opts, t.queue, t.rank, t.pos
    FROM taken t CROSS JOIN receipt;
END $$;
COMMENT ON FUNCTION rowlock.work_v1 IS
'complete_v1 and claim_v1 in one call and one commit: the fastest way to work. A row with refused is one of complete_v1''s, any other one of claim_v1''s. SQLSTATEs and locks: as theirs.';

CREATE FUNCTION rowlock.claim_v1(worker uuid, queues text[], max int,
  hint_queues int4[] DEFAULT '{}', hint_ranks int2[] DEFAULT '{}', hint_after int8[] DEFAULT '{}')
RETURNS TABLE (lease int8, id uuid, type text, queue text, payload jsonb, priority int2, attempts int2, max_retries int2,
  created_at timestamptz, execute_at timestamptz, opts jsonb, lane_queue int4, lane_rank int2, pos int8)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT w.lease, w.id, w.type, w.queue, w.payload, w.priority, w.attempts, w.max_retries, w.created_at, w.execute_at, w.opts,
         w.lane_queue, w.lane_rank, w.pos
    FROM work_v1(worker, '{}', '{}', NULL, queues, max, hint_queues, hint_ranks, hint_after) w
$$;
COMMENT ON FUNCTION rowlock.claim_v1 IS
'Takes up to max due jobs of the queues, in order of claim; the rows come in any order (sort by lane_rank, pos). Queues given first go first at equal priority.
Hints: for a (queue, rank), the highest pos this worker took a moment ago; the search starts after it, so that it never walks rows that are gone but not yet vacuumed. Without hints it starts at the beginning: call so now and then, it finds what committed late.
SQLSTATEs: RL020, RL021. Locks: the rows taken (SKIP LOCKED, never waits).';

-- Takes jobs out of their receipts, for every end but completion. All receipts of one call are locked
-- in order first; what is answered has left the lease and must be put somewhere by the caller.
CREATE FUNCTION rowlock.take_back(worker uuid, leases int8[], ids uuid[])
RETURNS TABLE (ord int8, claimed_at timestamptz, progress jsonb, job rowlock.ready)
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  IF coalesce(cardinality(leases), 0) <> coalesce(cardinality(ids), 0) THEN
    PERFORM refuse('RL021', 'leases, ids: expected arrays of equal length');
  END IF;
  RETURN QUERY
  WITH receipt AS MATERIALIZED (
    SELECT l.id, l.claimed_at, l.remaining, l.done, l.progress, l.jobs FROM lease l
     WHERE l.worker = take_back.worker AND l.id = ANY (leases) ORDER BY l.id FOR UPDATE),
  hit AS MATERIALIZED (
    SELECT array_position(take_back.ids, j.id)::int8 AS ord, r.id AS lease, r.claimed_at, r.progress -> j.id::text AS progress, j AS job, j.id
      FROM receipt r CROSS JOIN LATERAL unnest(r.jobs) j
     WHERE CASE WHEN (r.id, j.id) IN (SELECT u.lease, u.id FROM unnest(leases, take_back.ids) u(lease, id)) THEN true ELSE false END
       AND j.id <> ALL (r.done)),
  ended AS (
    SELECT h.lease, count(*) AS n, array_agg(h.id) AS ids FROM hit h GROUP BY h.lease),
  whole AS (
    DELETE FROM lease l USING receipt r, ended e
     WHERE l.worker = take_back.worker AND l.id = e.lease AND r.id = e.lease AND r.remaining = e.n),
  part AS (
    UPDATE lease l SET done = l.done || e.ids, remaining = l.remaining - e.n FROM receipt r, ended e
     WHERE l.worker = take_back.worker AND l.id = e.lease AND r.id = e.lease AND r.remaining > e.n)
  SELECT h.ord, h.claimed_at, h.progress, h.job FROM hit h;
END $$;
COMMENT ON FUNCTION rowlock.take_back IS 'Jobs out of their receipts. Internal.';

CREATE FUNCTION rowlock.put_back(job rowlock.ready, delay interval DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
BEGIN
  IF delay > interval '0' THEN
    job.execute_at := clock_timestamp() + delay;
    job.moved := true;
    INSERT INTO scheduled SELECT (job).*;
    INSERT INTO tally (queue, type, scheduled) VALUES (job.queue, job.type, 1);
    RETURN;
  END IF;
  IF delay IS NOT NULL THEN
    -- Due anew: behind what is due already. Without a delay it keeps its old place.
    job.execute_at := clock_timestamp();
    job.moved := true;
    job.pos := nextval('rowlock.position');
  END IF;
  PERFORM open_lane(job.queue, job.rank);
  INSERT INTO ready SELECT (job).*;
  INSERT INTO tally (queue, type, pending) VALUES (job.queue, job.type, 1);
  PERFORM pg_notify('rowlock', job.queue::text) WHERE EXISTS (SELECT FROM sleeper s WHERE s.queue = job.queue);
END $$;
COMMENT ON FUNCTION rowlock.put_back IS
'Makes a job pending again: after delay, at once behind the others (zero), or in its old place (null). Internal.';

CREATE FUNCTION rowlock.end_job(job rowlock.ready, status text, started_at timestamptz, worker text,
  error text, reason text, progress jsonb DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_now  timestamptz := clock_timestamp();
  v_keep interval := coalesce((SELECT t.keep_failed FROM job_type t WHERE t.name = job.type), interval '14 days');
BEGIN
  IF v_keep > interval '0' THEN
    INSERT INTO history (slot, id, queue, rank, attempts, max_retries, status, created_at, execute_at, started_at, finished_at,
                         type, payload, worker, unique_key, opts, error, reason, progress)
    VALUES (history_slot(v_now + v_keep, v_keep), job.id, job.queue, job.rank, job.attempts, job.max_retries, end_job.status,
            job.created_at, job.execute_at, end_job.started_at, v_now, job.type, job.payload, end_job.worker, job.unique_key, job.opts,
            end_job.error, end_job.reason, end_job.progress);
  END IF;
  DELETE FROM unique_key k WHERE k.key = job.unique_key AND k.job = job.id;
  DELETE FROM cancel_request c WHERE c.job = job.id;
  INSERT INTO tally (queue, type, failed, cancelled, failed_kept, reason)
  VALUES (job.queue, job.type, (end_job.status = 'failed')::int, (end_job.status = 'cancelled')::int,
          (end_job.status = 'failed' AND v_keep > interval '0')::int, CASE WHEN end_job.status = 'failed' THEN end_job.reason END);
END $$;
COMMENT ON FUNCTION rowlock.end_job IS 'Ends a job as failed or cancelled. Internal.';

CREATE FUNCTION rowlock.fail_v1(worker uuid, leases int8[], ids uuid[], errors text[], retryable boolean[] DEFAULT NULL, reasons text[] DEFAULT NULL)
RETURNS TABLE (id uuid, status text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_worker text;
  v record;
  v_job rowlock.ready;
  v_seen uuid[] := '{}';
  v_ran float8;
BEGIN
  IF cardinality(errors) IS DISTINCT FROM cardinality(ids) OR cardinality(retryable) <> cardinality(ids) OR cardinality(reasons) <> cardinality(ids) THEN
    PERFORM refuse('RL021', 'ids, errors, retryable, reasons: expected arrays of equal length');
  END IF;
  SELECT w.name INTO v_worker FROM worker w WHERE w.id = fail_v1.worker AND w.lease_until > clock_timestamp();
  IF FOUND THEN
    FOR v IN SELECT t.*, (t.job).id AS job_id FROM take_back(fail_v1.worker, leases, ids) t ORDER BY t.ord LOOP
      v_seen := v_seen || v.job_id;
      v_job := v.job;
      v_job.error := left(coalesce(errors[v.ord], ''), 8192);
      v_ran := GREATEST(date_part('epoch', clock_timestamp() - v.claimed_at), 0);
      INSERT INTO tally (queue, type, running, run, seconds) VALUES (v_job.queue, v_job.type, -1, bucket(v_ran), v_ran);
      fail_v1.id := v.job_id;
      IF EXISTS (SELECT FROM cancel_request c WHERE c.job = v.job_id) THEN
        PERFORM end_job(v_job, 'cancelled', v.claimed_at, v_worker, v_job.error, 'cancelled', v.progress);
        fail_v1.status := 'cancelled';
      ELSIF coalesce(retryable[v.ord], true) AND v_job.attempts < v_job.max_retries THEN
        -- 2^attempts with attempts as they were: the first retry waits one second.
        DECLARE v_delay interval := retry_delay((SELECT t.backoff FROM job_type t WHERE t.name = v_job.type), v_job.attempts);
        BEGIN
          v_job.attempts := v_job.attempts + 1;
          INSERT INTO tally (queue, type, retried, reason) VALUES (v_job.queue, v_job.type, 1, coalesce(reasons[v.ord], 'error'));
          PERFORM put_back(v_job, v_delay);
        END;
        fail_v1.status := 'pending';
      ELSE
        PERFORM end_job(v_job, 'failed', v.claimed_at, v_worker, v_job.error, coalesce(reasons[v.ord], 'error'), v.progress);
        fail_v1.status := 'failed';
      END IF;
      RETURN NEXT;
    END LOOP;
  END IF;
  RETURN QUERY SELECT DISTINCT u.id, 'lease lost' FROM unnest(ids) u(id) WHERE u.id <> ALL (v_seen);
END $$;
COMMENT ON FUNCTION rowlock.fail_v1 IS
'Ends an attempt with an error (its first 8192 characters are kept): the job is retried while attempts < max_retries and retryable, after the type''s backoff, else it has failed. Answers each job''s new status, or lease lost.
SQLSTATEs: RL021. Locks: the receipts.';

-- Jobs back to where they wait, for every version of release. Element i of each array is one job's; errors null
-- leaves the jobs' own. One whose cancel was asked for ends so.
CREATE FUNCTION rowlock.hand_back(worker uuid, leases int8[], ids uuid[], delays float8[], errors text[], retried boolean)
RETURNS TABLE (refused uuid)
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_worker text;
  v record;
  v_job rowlock.ready;
  v_seen uuid[] := '{}';
BEGIN
  SELECT w.name INTO v_worker FROM worker w WHERE w.id = hand_back.worker AND w.lease_until > clock_timestamp();
  IF FOUND THEN
    FOR v IN SELECT t.*, (t.job).id AS job_id FROM take_back(hand_back.worker, leases, ids) t ORDER BY t.ord LOOP
      v_seen := v_seen || v.job_id;
      v_job := v.job;
      INSERT INTO tally (queue, type, running) VALUES (v_job.queue, v_job.type, -1);
      v_job.error := coalesce(left(errors[v.ord], 8192), v_job.error);
      IF EXISTS (SELECT FROM cancel_request c WHERE c.job = v.job_id) THEN
        PERFORM end_job(v_job, 'cancelled', v.claimed_at, v_worker, CASE WHEN errors IS NOT NULL THEN v_job.error END, 'cancelled', v.progress);
      ELSE
        IF retried THEN
          v_job.attempts := LEAST(v_job.attempts + 1, v_job.max_retries);
          INSERT INTO tally (queue, type, retried, reason) VALUES (v_job.queue, v_job.type, 1, 'requested');
        END IF;
        PERFORM put_back(v_job, make_interval(secs => delays[v.ord]));
      END IF;
    END LOOP;
  END IF;
  RETURN QUERY SELECT DISTINCT u.id FROM unnest(ids) u(id) WHERE u.id <> ALL (v_seen);
END $$;
COMMENT ON FUNCTION rowlock.hand_back IS 'Running jobs back to where they wait. Internal.';

CREATE FUNCTION rowlock.release_v1(worker uuid, leases int8[], ids uuid[], delay_seconds float8 DEFAULT NULL, retried boolean DEFAULT false)
RETURNS TABLE (refused uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_variable
BEGIN
  IF NOT coalesce(delay_seconds BETWEEN 0 AND 315360000, true) THEN
    PERFORM refuse('RL010', format('delay_seconds: expected a finite number from 0 to 315360000 (10 years), got %s', delay_seconds));
  END IF;
  RETURN QUERY SELECT h.refused FROM hand_back(worker, leases, ids, array_fill(delay_seconds, ARRAY[coalesce(cardinality(ids), 0)]), NULL, retried) h;
END $$;
COMMENT ON FUNCTION rowlock.release_v1 IS
'Hands running jobs back unfinished: in their old place (delay_seconds null), or after a delay; with retried it counts as a retry, else no attempt is consumed. Answers the ids it refused because the lease is lost.
SQLSTATEs: RL010, RL021. Locks: the receipts.';

CREATE FUNCTION rowlock.progress_v1(worker uuid, lease int8, id uuid, progress jsonb) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  IF progress_v1.progress IS NULL OR octet_length(progress_v1.progress::text) > 8192 THEN
    PERFORM refuse('RL021', 'progress: expected JSON of at most 8 KiB');
  END IF;
  UPDATE lease l SET progress = coalesce(l.progress, '{}') || jsonb_build_object(progress_v1.id::text, progress_v1.progress)
   WHERE l.worker = progress_v1.worker AND l.id = progress_v1.lease AND progress_v1.id <> ALL (l.done)
     AND EXISTS (SELECT FROM unnest(l.jobs) j WHERE j.id = progress_v1.id)
     AND EXISTS (SELECT FROM worker w WHERE w.id = progress_v1.worker AND w.lease_until > clock_timestamp());
  RETURN FOUND;
END $$;
COMMENT ON FUNCTION rowlock.progress_v1 IS
'Stores a running job''s progress, JSON up to 8 KiB. False if the lease is lost. SQLSTATEs: RL021. Locks: the receipt.';

CREATE FUNCTION rowlock.sleep_v1(worker uuid, queues text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  IF NOT EXISTS (SELECT FROM worker w WHERE w.id = sleep_v1.worker AND w.lease_until > clock_timestamp()) THEN PERFORM lease_lost(); END IF;
  INSERT INTO sleeper (queue, worker)
  SELECT q.id, sleep_v1.worker FROM queue q WHERE q.name = ANY (sleep_v1.queues) ON CONFLICT DO NOTHING;
END $$;
COMMENT ON FUNCTION rowlock.sleep_v1 IS
'Asks for a NOTIFY on channel rowlock (payload: the queue''s number) when one of the queues gets a job. Call, then claim once more, then wait; call wake_v1 when awake. SQLSTATEs: RL020. Locks: none that wait.';

CREATE FUNCTION rowlock.wake_v1(worker uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  DELETE FROM sleeper s WHERE s.worker = wake_v1.worker
$$;
COMMENT ON FUNCTION rowlock.wake_v1 IS 'No more NOTIFY for this worker. Locks: its sleeper rows.';

CREATE FUNCTION rowlock.stop_worker_v1(worker uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  UPDATE worker w SET lease_until = '-infinity', draining = true WHERE w.id = stop_worker_v1.worker;
  DELETE FROM sleeper s WHERE s.worker = stop_worker_v1.worker;
  DELETE FROM worker w WHERE w.id = stop_worker_v1.worker
     AND NOT EXISTS (SELECT FROM lease l WHERE l.worker = stop_worker_v1.worker);
END $$;
COMMENT ON FUNCTION rowlock.stop_worker_v1 IS
'Ends a worker''s life at once. Release its jobs first; what it still holds is rescued. Locks: its row.';

CREATE FUNCTION rowlock.job_types_v1() RETURNS TABLE (name text, launch text, command text[], args text[], env jsonb,
  timeout_seconds float8, no_retry_exit_codes int4[], payload_schema jsonb, image text, resources jsonb, service_account text, pod_template jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT t.name, t.launch, t.command, t.args, t.env, extract(epoch FROM t.timeout)::float8, t.no_retry_exit_codes, t.payload_schema,
         t.image, t.resources, t.service_account, t.pod_template FROM job_type t
$$;
COMMENT ON FUNCTION rowlock.job_types_v1 IS 'What a worker needs to know of the job types. Locks: none.';
