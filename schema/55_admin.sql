-- Steering jobs: cancel, retry.

CREATE OR REPLACE FUNCTION rowlock.take_pending(id uuid) RETURNS rowlock.ready
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_place record := id_place(take_pending.id);
  v_job   rowlock.ready;
BEGIN
  DELETE FROM ready r
   WHERE r.queue = v_place.queue AND r.rank = v_place.rank AND r.pos = v_place.pos AND r.id = take_pending.id
     AND NOT r.moved
  RETURNING r.* INTO v_job;
  IF NOT FOUND THEN
    DELETE FROM ready r WHERE r.id = take_pending.id AND r.moved RETURNING r.* INTO v_job;
  END IF;
  IF FOUND THEN
    INSERT INTO tally (queue, type, pending) VALUES (v_job.queue, v_job.type, -1);
    RETURN v_job;
  END IF;
  DELETE FROM scheduled s WHERE s.id = take_pending.id RETURNING s.* INTO v_job;
  IF FOUND THEN
    INSERT INTO tally (queue, type, scheduled) VALUES (v_job.queue, v_job.type, -1);
    RETURN v_job;
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION rowlock.take_pending IS
'Takes a pending job out of where it waits, or null. Waits for a claim of the same job. Internal.';

CREATE OR REPLACE FUNCTION rowlock.cancel(id uuid) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_job    rowlock.ready;
  v_worker uuid;
  v_status text;
BEGIN
  IF cancel.id IS NULL THEN PERFORM refuse('RL011', 'id: expected a job''s id, got null'); END IF;
  -- Each look has a snapshot of its own: a job that moves from place to place meanwhile can be missed
  -- by one round, not by many.
  FOR round IN 1..5 LOOP
    v_job := take_pending(cancel.id);
    IF v_job.id IS NOT NULL THEN
      PERFORM end_job(v_job, 'cancelled', NULL, NULL, v_job.error, 'cancelled');
      RETURN 'cancelled';
    END IF;
    SELECT l.worker INTO v_worker FROM lease l
     WHERE cancel.id <> ALL (l.done) AND EXISTS (SELECT FROM unnest(l.jobs) j WHERE j.id = cancel.id) FOR UPDATE;
    IF FOUND THEN
      INSERT INTO cancel_request (job, worker) VALUES (cancel.id, v_worker)
        ON CONFLICT (job) DO UPDATE SET worker = excluded.worker;
      RETURN 'running';
    END IF;
    SELECT h.status INTO v_status FROM history h WHERE h.id = cancel.id;
    IF FOUND THEN RETURN v_status; END IF;
  END LOOP;
  RETURN refuse('RL011', format('id: no job %s', cancel.id));
END $$;
COMMENT ON FUNCTION rowlock.cancel IS
'Cancels a job and answers its status now: cancelled; running, when its worker has been asked to stop it (it is
cancelled as soon as the worker gives it up, and completed if it was quicker); or the one it had already ended in.
SQLSTATEs: RL011 no such job. Locks: the job''s row; waits for a claim of it.';

CREATE OR REPLACE FUNCTION rowlock.retry(id uuid, delay_seconds float8 DEFAULT 0) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_job rowlock.ready;
  v_old record;
BEGIN
  IF retry.id IS NULL THEN PERFORM refuse('RL011', 'id: expected a job''s id, got null'); END IF;
  IF delay_seconds IS NULL OR NOT delay_seconds BETWEEN 0 AND 315360000 THEN
    PERFORM refuse('RL010',
      format('delay_seconds: expected a finite number from 0 to 315360000 (10 years), got %s',
        coalesce(delay_seconds::text, 'null')));
  END IF;
  v_job := take_pending(retry.id);
  IF v_job.id IS NULL THEN
    DELETE FROM history h WHERE h.id = retry.id AND h.status IN ('failed', 'cancelled') RETURNING h.* INTO v_old;
    IF NOT FOUND THEN
      SELECT j.status INTO v_old FROM get_job(retry.id) j;
      IF NOT FOUND THEN PERFORM refuse('RL011', format('id: no job %s', retry.id)); END IF;
      PERFORM refuse('RL012',
        format('id: job %s is %s; only a pending, failed or cancelled job can be retried', retry.id, v_old.status),
        CASE v_old.status WHEN 'completed' THEN 'Enqueue a new job instead.'
          ELSE 'Cancel it first, or wait for its end.' END);
    END IF;
    IF v_old.unique_key IS NOT NULL THEN
      INSERT INTO unique_key (key, job) VALUES (v_old.unique_key, retry.id) ON CONFLICT DO NOTHING;
      IF NOT FOUND THEN
        PERFORM refuse('RL012', format('id: another job now holds the unique key of job %s', retry.id),
          'Wait for that job''s end.');
      END IF;
    END IF;
    v_job := ROW(nextval('rowlock.position'), v_old.id, v_old.created_at, v_old.execute_at, v_old.queue, v_old.rank,
      v_old.attempts, v_old.max_retries, true, v_old.type, v_old.payload, v_old.unique_key, v_old.opts, v_old.error,
      NULL);
    INSERT INTO tally (queue, type, retried, failed_kept, reason)
    VALUES (v_job.queue, v_job.type, 1, -(v_old.status = 'failed')::int, 'requested');
  END IF;
  PERFORM put_back(v_job, make_interval(secs => delay_seconds));
  RETURN 'pending';
END $$;
COMMENT ON FUNCTION rowlock.retry IS
'Makes a failed or cancelled job pending again, now or after a delay; a pending one moves to that time. attempts
stay, so one that had used up its retries gets one more run. Answers pending.
SQLSTATEs: RL010 delay_seconds, RL011 no such job, RL012 its status does not allow it or its unique key is taken.
Locks: the job''s row, its key.';
