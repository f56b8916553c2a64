-- The end of a run that went well: the hot path, with a copy of its own of what 31_settle does.

CREATE OR REPLACE FUNCTION rowlock.complete_v1(worker uuid, leases int8[], ids uuid[], results jsonb[] DEFAULT NULL)
RETURNS TABLE (refused uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp
  SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
  v_worker text;
  v_cancel boolean;  -- somebody asked this worker to stop a job
  v_keys   text[]; v_refused uuid[];
  v_now    timestamptz := clock_timestamp();
  v_keep   boolean;  -- some type keeps its history for a time of its own
  v_day    interval := '1 day';
  v_slot   int2 := history_slot(v_now + v_day, v_day);
BEGIN
  IF coalesce(cardinality(leases), 0) <> coalesce(cardinality(ids), 0) OR cardinality(results) <> cardinality(ids) THEN
    PERFORM refuse('RL021', 'leases, ids, results: expected arrays of equal length');
  END IF;
  SELECT w.name, EXISTS (SELECT FROM job_type t WHERE t.keep_completed IS NOT NULL),
         EXISTS (SELECT FROM cancel_request c WHERE c.worker = complete_v1.worker)
    INTO v_worker, v_keep, v_cancel
    FROM worker w WHERE w.id = complete_v1.worker AND w.lease_until > v_now;
  IF NOT FOUND THEN RETURN QUERY SELECT unnest(ids) FROM await_renewal(); RETURN; END IF;

  -- The receipts are locked first, in order: of two calls for one job, the second sees the first's.
  WITH receipt AS MATERIALIZED (
    SELECT l.id, l.claimed_at, l.remaining, l.done, l.progress, l.jobs, date_part('epoch', v_now - l.claimed_at) AS ran
      FROM lease l WHERE l.worker = complete_v1.worker AND l.id = ANY (leases) ORDER BY l.id FOR UPDATE),
  hit AS MATERIALIZED (
    -- IN below CASE stays a hashed subplan: as a join it would unnest the receipt once per job.
    SELECT r.id AS lease, r.claimed_at, r.ran,
           CASE WHEN r.progress IS NOT NULL THEN r.progress -> j.id::text END AS progress,
           CASE WHEN results IS NOT NULL THEN results[array_position(complete_v1.ids, j.id)] END AS result, j.*
      FROM receipt r CROSS JOIN LATERAL unnest(r.jobs) j
     WHERE CASE WHEN (r.id, j.id) IN (SELECT u.lease, u.id FROM unnest(leases, complete_v1.ids) u(lease, id))
                THEN true ELSE false END
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
    INSERT INTO history (slot, id, queue, rank, attempts, max_retries, status, created_at, execute_at, started_at,
                         finished_at, type, payload, worker, unique_key, opts, result, progress)
    SELECT CASE WHEN v_keep THEN history_slot(v_now + k.keep, k.keep) ELSE v_slot END, h.id, h.queue, h.rank,
           h.attempts, h.max_retries, 'completed', h.created_at, h.execute_at, h.claimed_at, v_now, h.type, h.payload,
           v_worker, h.unique_key, h.opts, h.result, h.progress
      FROM hit h CROSS JOIN LATERAL (
        SELECT CASE WHEN v_keep THEN coalesce((SELECT t.keep_completed FROM job_type t WHERE t.name = h.type), v_day)
                    ELSE v_day END) k(keep)
     WHERE k.keep > interval '0'),
  counted AS (
    INSERT INTO tally (queue, type, running, completed, run, seconds)
    SELECT h.queue, h.type, -count(*), count(*), bucket(h.ran), sum(h.ran) FROM hit h
     GROUP BY h.queue, h.type, bucket(h.ran))
  SELECT CASE WHEN count(*) < cardinality(complete_v1.ids)
              THEN ARRAY(SELECT u.id FROM unnest(complete_v1.ids) u(id) EXCEPT SELECT h.id FROM hit h) END,
         array_agg(h.unique_key) FILTER (WHERE h.unique_key IS NOT NULL)
    INTO v_refused, v_keys FROM hit h;
  IF v_keys IS NOT NULL THEN DELETE FROM unique_key k WHERE k.key = ANY (v_keys) AND k.job = ANY (ids); END IF;
  IF v_cancel THEN
    -- Not of the refused: their request is for the job's next run.
    DELETE FROM cancel_request c WHERE c.worker = complete_v1.worker AND c.job = ANY (complete_v1.ids)
       AND c.job <> ALL (coalesce(v_refused, '{}'));
  END IF;
  IF v_refused IS NOT NULL THEN RETURN QUERY SELECT unnest(v_refused); END IF;
END $$;
COMMENT ON FUNCTION rowlock.complete_v1 IS
'Ends running jobs as completed, with their results. Element i of leases and ids is one job. Answers the ids it refused
because the lease is lost; those it changed nothing for. May be called inside a job''s own transaction: then the job''s
effects in this database and its completion commit together.
SQLSTATEs: RL021; 40001 just after a start of the server. Locks: the receipts, until the transaction ends.';
