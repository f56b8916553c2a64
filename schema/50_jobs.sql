-- Looking at jobs. A job's row, in the columns people see, is made by one function for each place a job can be in. The
-- planner makes them a part of the query that uses them, as long as they have no SET clause, are not SECURITY DEFINER
-- and are no more than STABLE. They read no table: in a view a function acts as the view's reader, who may read none.
-- Whoever adds a column adds it to each, under a new name, and at the end of view jobs.

CREATE OR REPLACE FUNCTION rowlock.ready_job(r rowlock.ready, queue_name text)
RETURNS TABLE (id uuid, type text, queue text, payload jsonb, status text, priority int2, attempts int2,
  max_retries int2, execute_at timestamptz, created_at timestamptz, updated_at timestamptz, started_at timestamptz,
  finished_at timestamptz, error text, result jsonb, worker text, unique_key text, tags jsonb, headers jsonb,
  progress jsonb)
LANGUAGE sql STABLE AS $$
  SELECT r.id, r.type, queue_name, r.payload, 'pending'::text, (~r.rank)::int2, r.attempts, r.max_retries, r.execute_at,
         r.created_at, r.execute_at, NULL::timestamptz, NULL::timestamptz, r.error, NULL::jsonb, NULL::text,
         r.unique_key, r.opts -> 'tags', r.opts -> 'headers', NULL::jsonb
$$;
COMMENT ON FUNCTION rowlock.ready_job IS 'The row of a job that is due. Internal.';

CREATE OR REPLACE FUNCTION rowlock.scheduled_job(s rowlock.scheduled, queue_name text)
RETURNS TABLE (id uuid, type text, queue text, payload jsonb, status text, priority int2, attempts int2,
  max_retries int2, execute_at timestamptz, created_at timestamptz, updated_at timestamptz, started_at timestamptz,
  finished_at timestamptz, error text, result jsonb, worker text, unique_key text, tags jsonb, headers jsonb,
  progress jsonb)
LANGUAGE sql STABLE AS $$
  SELECT s.id, s.type, queue_name, s.payload, 'pending'::text, (~s.rank)::int2, s.attempts, s.max_retries, s.execute_at,
         s.created_at, s.created_at, NULL::timestamptz, NULL::timestamptz, s.error, NULL::jsonb, NULL::text,
         s.unique_key, s.opts -> 'tags', s.opts -> 'headers', NULL::jsonb
$$;
COMMENT ON FUNCTION rowlock.scheduled_job IS 'The row of a job for later. Internal.';

CREATE OR REPLACE FUNCTION rowlock.running_job(j rowlock.ready, queue_name text, worker_name text,
  claimed_at timestamptz, all_progress jsonb)
RETURNS TABLE (id uuid, type text, queue text, payload jsonb, status text, priority int2, attempts int2,
  max_retries int2, execute_at timestamptz, created_at timestamptz, updated_at timestamptz, started_at timestamptz,
  finished_at timestamptz, error text, result jsonb, worker text, unique_key text, tags jsonb, headers jsonb,
  progress jsonb)
LANGUAGE sql STABLE AS $$
  SELECT j.id, j.type, queue_name, j.payload, 'running'::text, (~j.rank)::int2, j.attempts, j.max_retries, j.execute_at,
         j.created_at, claimed_at, claimed_at, NULL::timestamptz, j.error, NULL::jsonb, worker_name,
         j.unique_key, j.opts -> 'tags', j.opts -> 'headers', all_progress -> j.id::text
$$;
COMMENT ON FUNCTION rowlock.running_job IS 'The row of a job in a receipt. Internal.';

CREATE OR REPLACE FUNCTION rowlock.ended_job(h rowlock.history, queue_name text)
RETURNS TABLE (id uuid, type text, queue text, payload jsonb, status text, priority int2, attempts int2,
  max_retries int2, execute_at timestamptz, created_at timestamptz, updated_at timestamptz, started_at timestamptz,
  finished_at timestamptz, error text, result jsonb, worker text, unique_key text, tags jsonb, headers jsonb,
  progress jsonb)
LANGUAGE sql STABLE AS $$
  SELECT h.id, h.type, queue_name, h.payload, h.status, (~h.rank)::int2, h.attempts, h.max_retries, h.execute_at,
         h.created_at, h.finished_at, h.started_at, h.finished_at, h.error, h.result, h.worker,
         h.unique_key, h.opts -> 'tags', h.opts -> 'headers', h.progress
$$;
COMMENT ON FUNCTION rowlock.ended_job IS 'The row of a job that has ended. Internal.';

-- A branch's status is a constant, so a filter on status leaves the other branches unread.
CREATE OR REPLACE VIEW rowlock.jobs AS
  SELECT j.* FROM rowlock.ready r JOIN rowlock.queue q ON q.id = r.queue
    CROSS JOIN LATERAL rowlock.ready_job(r, q.name) j
  UNION ALL
  SELECT j.* FROM rowlock.scheduled s JOIN rowlock.queue q ON q.id = s.queue
    CROSS JOIN LATERAL rowlock.scheduled_job(s, q.name) j
  UNION ALL
  SELECT j.* FROM rowlock.lease l CROSS JOIN LATERAL unnest(l.jobs) t JOIN rowlock.queue q ON q.id = t.queue
    LEFT JOIN rowlock.worker w ON w.id = l.worker
    CROSS JOIN LATERAL rowlock.running_job(t, q.name, w.name, l.claimed_at, l.progress) j
   WHERE t.id <> ALL (l.done)
  UNION ALL
  SELECT j.* FROM rowlock.history h JOIN rowlock.queue q ON q.id = h.queue
    CROSS JOIN LATERAL rowlock.ended_job(h, q.name) j;
COMMENT ON VIEW rowlock.jobs IS
'All jobs. For one job use rowlock.get_job(id), for a page of them rowlock.list_jobs: both stay fast at any depth; this
view reads what it is asked to.';

CREATE OR REPLACE FUNCTION rowlock.get_job(id uuid) RETURNS SETOF rowlock.jobs
LANGUAGE plpgsql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_place record := id_place(get_job.id);
BEGIN
  -- STABLE: every statement sees the caller's snapshot, in which a job is in exactly one place.
  RETURN QUERY
  SELECT j.* FROM ready a JOIN queue q ON q.id = a.queue CROSS JOIN LATERAL ready_job(a, q.name) j
   WHERE a.queue = v_place.queue AND a.rank = v_place.rank AND a.pos = v_place.pos AND a.id = get_job.id
     AND NOT a.moved
  UNION ALL
  SELECT j.* FROM ready a JOIN queue q ON q.id = a.queue CROSS JOIN LATERAL ready_job(a, q.name) j
   WHERE a.id = get_job.id AND a.moved
  UNION ALL
  SELECT j.* FROM scheduled a JOIN queue q ON q.id = a.queue CROSS JOIN LATERAL scheduled_job(a, q.name) j
   WHERE a.id = get_job.id;
  IF FOUND THEN RETURN; END IF;
  RETURN QUERY
  SELECT j.* FROM history h JOIN queue q ON q.id = h.queue CROSS JOIN LATERAL ended_job(h, q.name) j
   WHERE h.id = get_job.id;
  IF FOUND THEN RETURN; END IF;
  RETURN QUERY
  SELECT j.* FROM lease l CROSS JOIN LATERAL unnest(l.jobs) t JOIN queue q ON q.id = t.queue
    LEFT JOIN worker w ON w.id = l.worker
    CROSS JOIN LATERAL running_job(t, q.name, w.name, l.claimed_at, l.progress) j
   WHERE t.id = get_job.id AND t.id <> ALL (l.done);
END $$;
COMMENT ON FUNCTION rowlock.get_job IS
'One job, or no row. Finds a waiting job by the place its id names, an ended one by index; only a running one is
searched for, among what runs. SQLSTATEs: none. Locks: none.';

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

CREATE OR REPLACE FUNCTION rowlock.list_jobs(status text DEFAULT NULL, queue text DEFAULT NULL,
  type text DEFAULT NULL, max int DEFAULT 50)
RETURNS SETOF rowlock.jobs
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_left  int := coalesce(list_jobs.max, 50);
  v_queue int4 := (SELECT q.id FROM queue q WHERE q.name = list_jobs.queue);
  v_n     int;
BEGIN
  IF list_jobs.status NOT IN ('pending', 'running', 'completed', 'failed', 'cancelled') THEN
    PERFORM refuse('RL012', format('status: expected pending, running, completed, failed or cancelled, got %s',
      left(list_jobs.status, 64)));
  END IF;
  IF v_left < 0 OR v_left > 10000 THEN
    PERFORM refuse('RL021', format('max: expected 0 to 10000, got %s', v_left));
  END IF;
  IF list_jobs.queue IS NOT NULL AND v_queue IS NULL THEN RETURN; END IF;
  IF list_jobs.status IS NULL OR list_jobs.status = 'running' THEN
    RETURN QUERY SELECT j.* FROM jobs j WHERE j.status = 'running'
       AND (list_jobs.queue IS NULL OR j.queue = list_jobs.queue)
       AND (list_jobs.type IS NULL OR j.type = list_jobs.type)
     ORDER BY j.started_at, j.id LIMIT v_left;
    GET DIAGNOSTICS v_n = ROW_COUNT; v_left := v_left - v_n;
  END IF;
  IF list_jobs.status IS NULL OR list_jobs.status = 'pending' THEN
    -- Lane by lane, each no further than the page.
    RETURN QUERY
    SELECT j.* FROM (SELECT DISTINCT l.queue, l.rank FROM lane l WHERE v_queue IS NULL OR l.queue = v_queue) a
      JOIN queue q ON q.id = a.queue
      CROSS JOIN LATERAL (
        SELECT n AS job, n.pos FROM ready n
         WHERE n.queue = a.queue AND n.rank = a.rank AND (list_jobs.type IS NULL OR n.type = list_jobs.type)
         ORDER BY n.pos LIMIT v_left) r
      CROSS JOIN LATERAL ready_job(r.job, q.name) j
     ORDER BY a.rank, r.pos LIMIT v_left;
    GET DIAGNOSTICS v_n = ROW_COUNT; v_left := v_left - v_n;
    RETURN QUERY
    SELECT j.* FROM scheduled s JOIN queue q ON q.id = s.queue CROSS JOIN LATERAL scheduled_job(s, q.name) j
     WHERE (v_queue IS NULL OR s.queue = v_queue) AND (list_jobs.type IS NULL OR s.type = list_jobs.type)
     ORDER BY s.execute_at, s.pos LIMIT v_left;
    GET DIAGNOSTICS v_n = ROW_COUNT; v_left := v_left - v_n;
  END IF;
  IF list_jobs.status IS NULL OR list_jobs.status IN ('completed', 'failed', 'cancelled') THEN
    RETURN QUERY
    SELECT j.* FROM (VALUES ('completed'), ('failed'), ('cancelled')) s(status)
      CROSS JOIN LATERAL (
        SELECT n AS job, n.queue FROM history n
         WHERE n.status = s.status AND (list_jobs.type IS NULL OR n.type = list_jobs.type)
           AND (v_queue IS NULL OR n.queue = v_queue)
         ORDER BY n.finished_at DESC LIMIT v_left) h
      JOIN queue q ON q.id = h.queue
      CROSS JOIN LATERAL ended_job(h.job, q.name) j
     WHERE list_jobs.status IS NULL OR s.status = list_jobs.status
     ORDER BY j.finished_at DESC, j.id LIMIT v_left;
  END IF;
END $$;
COMMENT ON FUNCTION rowlock.list_jobs IS
'A page of jobs: running by start, pending in claim order (then those for later, by time), ended newest first. Reads
about a page per priority in use. SQLSTATEs: RL012, RL021. Locks: none.';
