-- Out of a receipt, and where the job goes then. Every end of a run but completion uses this; complete_v1 has a copy
-- of its own of what `take_back` and `settle` do, in one statement, and a test holds the two against each other.

CREATE OR REPLACE FUNCTION rowlock.take_back(worker uuid, leases int8[], ids uuid[])
RETURNS TABLE (ord int8, claimed_at timestamptz, progress jsonb, job rowlock.ready)
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH receipt AS MATERIALIZED (
    SELECT l.id, l.claimed_at, l.remaining, l.done, l.progress, l.jobs FROM lease l
     WHERE l.worker = take_back.worker AND l.id = ANY (leases) ORDER BY l.id FOR UPDATE),
  hit AS MATERIALIZED (
    SELECT array_position(take_back.ids, j.id)::int8 AS ord, r.id AS lease, r.claimed_at,
           r.progress -> j.id::text AS progress, j AS job, j.id
      FROM receipt r CROSS JOIN LATERAL unnest(r.jobs) j
     WHERE CASE WHEN take_back.ids IS NULL THEN true
                WHEN (r.id, j.id) IN (SELECT u.lease, u.id FROM unnest(leases, take_back.ids) u(lease, id)) THEN true
                ELSE false END
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
COMMENT ON FUNCTION rowlock.take_back IS
'Takes jobs out of their receipts: those of ids, or (ids null) all that are left. The receipts of one call are locked
first, in order. What is answered has left the lease, and the caller must settle it. Internal.';

CREATE OR REPLACE FUNCTION rowlock.settle(job rowlock.ready, claimed_at timestamptz, worker text, progress jsonb,
  status text, error text, reason text DEFAULT NULL, delay interval DEFAULT NULL, ran float8 DEFAULT NULL,
  result jsonb DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  INSERT INTO tally (queue, type, running, run, seconds) VALUES (job.queue, job.type, -1, bucket(ran), ran);
  IF settle.status = 'completed' THEN
    PERFORM end_job(job, 'completed', claimed_at, worker, NULL, NULL, progress, result);
    RETURN 'completed';
  END IF;
  IF EXISTS (SELECT FROM cancel_request c WHERE c.job = (settle.job).id) THEN
    PERFORM end_job(job, 'cancelled', claimed_at, worker, error, 'cancelled', progress);
    RETURN 'cancelled';
  END IF;
  IF settle.status = 'failed' THEN
    PERFORM end_job(job, 'failed', claimed_at, worker, error, reason, progress);
    RETURN 'failed';
  END IF;
  IF settle.reason IS NOT NULL THEN
    job.attempts := LEAST(job.attempts + 1, job.max_retries);
    INSERT INTO tally (queue, type, retried, reason) VALUES (job.queue, job.type, 1, settle.reason);
  END IF;
  PERFORM put_back(job, delay);
  RETURN 'pending';
END $$;
COMMENT ON FUNCTION rowlock.settle IS
'Where a job goes that take_back took out of its receipt, and the counts of it. status is what the run comes to:
completed, failed, or pending, which with a reason consumes an attempt. One whose cancel was asked for ends cancelled
unless it completed. ran: how long, if it counts as a run. Answers the job''s new status. Internal.';

CREATE OR REPLACE FUNCTION rowlock.put_back(job rowlock.ready, delay interval DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
BEGIN
  IF delay > interval '0' THEN
    job.execute_at := clock_timestamp() + delay;
    job.moved := true;
    INSERT INTO scheduled SELECT (job).*;
    INSERT INTO tally (queue, type, scheduled) VALUES (job.queue, job.type, 1);
    -- Otherwise the keeper looks in time by itself, and a retry after a second costs no NOTIFY.
    IF delay < interval '950 milliseconds' THEN PERFORM wake_keeper(job.execute_at); END IF;
    RETURN;
  END IF;
  IF delay IS NOT NULL THEN
    -- Due anew: behind what is due already. Without a delay it keeps its old place.
    job.execute_at := clock_timestamp();
    job.moved := true;
    job.pos := nextval('rowlock.position');
  END IF;
  PERFORM open_lane(job.queue, job.rank);
  LOOP
    INSERT INTO ready SELECT (job).* ON CONFLICT DO NOTHING;
    EXIT WHEN FOUND;
    -- Meanwhile its old place was given to one that was found late: the next one, then.
    job.pos := job.pos + 1;
    job.moved := true;
  END LOOP;
  INSERT INTO tally (queue, type, pending) VALUES (job.queue, job.type, 1);
  PERFORM wake((SELECT q.name FROM queue q WHERE q.id = job.queue), 1);
END $$;
COMMENT ON FUNCTION rowlock.put_back IS
'Makes a job pending again: after delay, at once behind the others (zero), or in its old place (null). Internal.';

CREATE OR REPLACE FUNCTION rowlock.end_job(job rowlock.ready, status text, started_at timestamptz, worker text,
  error text, reason text, progress jsonb DEFAULT NULL, result jsonb DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_now  timestamptz := clock_timestamp();
  v_done boolean := end_job.status = 'completed';
  v_fail boolean := end_job.status = 'failed';
  v_keep interval := coalesce(
    (SELECT CASE WHEN v_done THEN t.keep_completed ELSE t.keep_failed END FROM job_type t WHERE t.name = job.type),
    CASE WHEN v_done THEN interval '1 day' ELSE interval '14 days' END);
BEGIN
  IF v_keep > interval '0' THEN
    INSERT INTO history (slot, id, queue, rank, attempts, max_retries, status, created_at, execute_at, started_at,
                         finished_at, type, payload, worker, unique_key, opts, error, reason, result, progress)
    VALUES (history_slot(v_now + v_keep, v_keep), job.id, job.queue, job.rank, job.attempts, job.max_retries,
            end_job.status, job.created_at, job.execute_at, end_job.started_at, v_now, job.type, job.payload,
            end_job.worker, job.unique_key, job.opts, end_job.error, end_job.reason, end_job.result, end_job.progress);
  END IF;
  DELETE FROM unique_key k WHERE k.key = job.unique_key AND k.job = job.id;
  DELETE FROM cancel_request c WHERE c.job = job.id;
  INSERT INTO tally (queue, type, completed, failed, cancelled, failed_kept, reason)
  VALUES (job.queue, job.type, v_done::int, v_fail::int, (end_job.status = 'cancelled')::int,
          (v_fail AND v_keep > interval '0')::int, CASE WHEN v_fail THEN end_job.reason END);
END $$;
COMMENT ON FUNCTION rowlock.end_job IS 'Ends a job: its history, its key, its counts. Internal.';
