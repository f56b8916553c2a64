-- Looking at jobs.

-- Every place a job can be, in the columns people see. A branch's status is a constant, so a filter on
-- status leaves the other branches unread.
CREATE OR REPLACE VIEW rowlock.jobs AS
  SELECT r.id, r.type, q.name AS queue, r.payload, 'pending'::text AS status, (~r.rank)::int2 AS priority, r.attempts, r.max_retries,
         r.execute_at, r.created_at, r.execute_at AS updated_at, NULL::timestamptz AS started_at, NULL::timestamptz AS finished_at,
         r.error, NULL::jsonb AS result, NULL::text AS worker, r.unique_key, r.opts -> 'tags' AS tags, r.opts -> 'headers' AS headers, NULL::jsonb AS progress
    FROM rowlock.ready r JOIN rowlock.queue q ON q.id = r.queue
  UNION ALL
  SELECT s.id, s.type, q.name, s.payload, 'pending', (~s.rank)::int2, s.attempts, s.max_retries,
         s.execute_at, s.created_at, s.created_at, NULL, NULL,
         s.error, NULL, NULL, s.unique_key, s.opts -> 'tags', s.opts -> 'headers', NULL
    FROM rowlock.scheduled s JOIN rowlock.queue q ON q.id = s.queue
  UNION ALL
  SELECT j.id, j.type, q.name, j.payload, 'running', (~j.rank)::int2, j.attempts, j.max_retries,
         j.execute_at, j.created_at, l.claimed_at, l.claimed_at, NULL,
         j.error, NULL, w.name, j.unique_key, j.opts -> 'tags', j.opts -> 'headers', l.progress -> j.id::text
    FROM rowlock.lease l CROSS JOIN LATERAL unnest(l.jobs) j JOIN rowlock.queue q ON q.id = j.queue
    LEFT JOIN rowlock.worker w ON w.id = l.worker
   WHERE j.id <> ALL (l.done)
  UNION ALL
  SELECT h.id, h.type, q.name, h.payload, h.status, (~h.rank)::int2, h.attempts, h.max_retries,
         h.execute_at, h.created_at, h.finished_at, h.started_at, h.finished_at,
         h.error, h.result, h.worker, h.unique_key, h.opts -> 'tags', h.opts -> 'headers', h.progress
    FROM rowlock.history h JOIN rowlock.queue q ON q.id = h.queue;
COMMENT ON VIEW rowlock.jobs IS
'All jobs. For one job use rowlock.get_job(id), for a page of them rowlock.list_jobs: both stay fast at any depth; this view reads what it is asked to.';

CREATE OR REPLACE FUNCTION rowlock.get_job(id uuid) RETURNS SETOF rowlock.jobs
LANGUAGE plpgsql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_place record := id_place(get_job.id);
BEGIN
  -- STABLE: every statement sees the caller's snapshot, in which a job is in exactly one place.
  RETURN QUERY SELECT r.id, r.type, q.name, r.payload, 'pending'::text, (~r.rank)::int2, r.attempts, r.max_retries,
      r.execute_at, r.created_at, r.execute_at, NULL::timestamptz, NULL::timestamptz, r.error, NULL::jsonb, NULL::text,
      r.unique_key, r.opts -> 'tags', r.opts -> 'headers', NULL::jsonb
    FROM (SELECT a.* FROM ready a WHERE a.queue = v_place.queue AND a.rank = v_place.rank AND a.pos = v_place.pos AND a.id = get_job.id AND NOT a.moved
          UNION ALL SELECT a.* FROM ready a WHERE a.id = get_job.id AND a.moved
          UNION ALL SELECT a.* FROM scheduled a WHERE a.id = get_job.id) r
    JOIN queue q ON q.id = r.queue;
  IF FOUND THEN RETURN; END IF;
  RETURN QUERY SELECT h.id, h.type, q.name, h.payload, h.status, (~h.rank)::int2, h.attempts, h.max_retries,
      h.execute_at, h.created_at, h.finished_at, h.started_at, h.finished_at, h.error, h.result, h.worker,
      h.unique_key, h.opts -> 'tags', h.opts -> 'headers', h.progress
    FROM history h JOIN queue q ON q.id = h.queue WHERE h.id = get_job.id;
  IF FOUND THEN RETURN; END IF;
  RETURN QUERY SELECT j.id, j.type, q.name, j.payload, 'running'::text, (~j.rank)::int2, j.attempts, j.max_retries,
      j.execute_at, j.created_at, l.claimed_at, l.claimed_at, NULL::timestamptz, j.error, NULL::jsonb, w.name,
      j.unique_key, j.opts -> 'tags', j.opts -> 'headers', l.progress -> j.id::text
    FROM lease l CROSS JOIN LATERAL unnest(l.jobs) j JOIN queue q ON q.id = j.queue LEFT JOIN worker w ON w.id = l.worker
   WHERE j.id = get_job.id AND j.id <> ALL (l.done);
END $$;
COMMENT ON FUNCTION rowlock.get_job IS
'One job, or no row. Finds a waiting job by the place its id names, an ended one by index; only a running one is searched for, among what runs. SQLSTATEs: none. Locks: none.';

CREATE OR REPLACE FUNCTION rowlock.list_jobs(status text DEFAULT NULL, queue text DEFAULT NULL, type text DEFAULT NULL, max int DEFAULT 50)
RETURNS SETOF rowlock.jobs
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_left int := coalesce(list_jobs.max, 50);
  v_n int;
BEGIN
  IF list_jobs.status IS NOT NULL AND list_jobs.status NOT IN ('pending', 'running', 'completed', 'failed', 'cancelled') THEN
    PERFORM refuse('RL012', format('status: expected pending, running, completed, failed or cancelled, got %s', left(list_jobs.status, 64)));
  END IF;
  IF v_left < 0 OR v_left > 10000 THEN PERFORM refuse('RL021', format('max: expected 0 to 10000, got %s', v_left)); END IF;
  IF list_jobs.status IS NULL OR list_jobs.status = 'running' THEN
    RETURN QUERY SELECT j.* FROM jobs j WHERE j.status = 'running'
       AND (list_jobs.queue IS NULL OR j.queue = list_jobs.queue) AND (list_jobs.type IS NULL OR j.type = list_jobs.type)
     ORDER BY j.started_at, j.id LIMIT v_left;
    GET DIAGNOSTICS v_n = ROW_COUNT; v_left := v_left - v_n;
  END IF;
  IF list_jobs.status IS NULL OR list_jobs.status = 'pending' THEN
    -- Lane by lane, each no further than the page.
    RETURN QUERY SELECT r.id, r.type, q.name, r.payload, 'pending'::text, (~r.rank)::int2, r.attempts, r.max_retries,
        r.execute_at, r.created_at, r.execute_at, NULL::timestamptz, NULL::timestamptz, r.error, NULL::jsonb, NULL::text,
        r.unique_key, r.opts -> 'tags', r.opts -> 'headers', NULL::jsonb
      FROM (SELECT DISTINCT l.queue, l.rank FROM lane l) a
      JOIN queue q ON q.id = a.queue
      CROSS JOIN LATERAL (SELECT n.* FROM ready n WHERE n.queue = a.queue AND n.rank = a.rank AND (list_jobs.type IS NULL OR n.type = list_jobs.type)
                           ORDER BY n.pos LIMIT v_left) r
     WHERE list_jobs.queue IS NULL OR q.name = list_jobs.queue
     ORDER BY a.rank, r.pos LIMIT v_left;
    GET DIAGNOSTICS v_n = ROW_COUNT; v_left := v_left - v_n;
    RETURN QUERY SELECT s.id, s.type, q.name, s.payload, 'pending'::text, (~s.rank)::int2, s.attempts, s.max_retries,
        s.execute_at, s.created_at, s.created_at, NULL::timestamptz, NULL::timestamptz, s.error, NULL::jsonb, NULL::text,
        s.unique_key, s.opts -> 'tags', s.opts -> 'headers', NULL::jsonb
      FROM scheduled s JOIN queue q ON q.id = s.queue
     WHERE (list_jobs.queue IS NULL OR q.name = list_jobs.queue) AND (list_jobs.type IS NULL OR s.type = list_jobs.type)
     ORDER BY s.execute_at, s.pos LIMIT v_left;
    GET DIAGNOSTICS v_n = ROW_COUNT; v_left := v_left - v_n;
  END IF;
  IF list_jobs.status IS NULL OR list_jobs.status IN ('completed', 'failed', 'cancelled') THEN
    RETURN QUERY SELECT h.id, h.type, q.name, h.payload, h.status, (~h.rank)::int2, h.attempts, h.max_retries,
        h.execute_at, h.created_at, h.finished_at, h.started_at, h.finished_at, h.error, h.result, h.worker,
        h.unique_key, h.opts -> 'tags', h.opts -> 'headers', h.progress
      FROM (VALUES ('completed'), ('failed'), ('cancelled')) s(status)
      CROSS JOIN LATERAL (SELECT n.* FROM history n WHERE n.status = s.status AND (list_jobs.type IS NULL OR n.type = list_jobs.type)
                             AND (list_jobs.queue IS NULL OR n.queue = (SELECT q.id FROM queue q WHERE q.name = list_jobs.queue))
                           ORDER BY n.finished_at DESC LIMIT v_left) h
      JOIN queue q ON q.id = h.queue
     WHERE list_jobs.status IS NULL OR s.status = list_jobs.status
     ORDER BY h.finished_at DESC, h.id LIMIT v_left;
  END IF;
END $$;
COMMENT ON FUNCTION rowlock.list_jobs IS
'A page of jobs: running by start, pending in claim order (then those for later, by time), finished newest first. Reads about a page per priority in use. SQLSTATEs: RL012, RL021. Locks: none.';

CREATE OR REPLACE FUNCTION rowlock.job_status(id uuid)
RETURNS TABLE (status text, attempts int2, finished_at timestamptz, result jsonb)
LANGUAGE plpgsql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT j.status, j.attempts, j.finished_at, j.result FROM get_job(job_status.id) j;
END $$;
COMMENT ON FUNCTION rowlock.job_status IS
'How a job is, for whoever knows its id: one row, or none for a job that is unknown or forgotten. SQLSTATEs: none.
Locks: none.';
