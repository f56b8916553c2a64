-- Out of a receipt, and where the job goes then. Every end of a run but completion uses this.

-- Takes jobs out of their receipts, for every end but completion. All receipts of one call are locked
-- in order first; what is answered has left the lease and must be put somewhere by the caller.
CREATE OR REPLACE FUNCTION rowlock.take_back(worker uuid, leases int8[], ids uuid[])
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

CREATE OR REPLACE FUNCTION rowlock.put_back(job rowlock.ready, delay interval DEFAULT NULL) RETURNS void
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

CREATE OR REPLACE FUNCTION rowlock.end_job(job rowlock.ready, status text, started_at timestamptz, worker text,
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
