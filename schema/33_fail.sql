-- The end of an attempt that failed.

CREATE OR REPLACE FUNCTION rowlock.retry_delay(backoff jsonb, attempts int) RETURNS interval
LANGUAGE sql VOLATILE AS $$
  SELECT make_interval(secs => LEAST(
      coalesce((backoff ->> 'base')::float8, 1)
        * power(coalesce((backoff ->> 'factor')::float8, 2), LEAST(attempts, 64)),
      coalesce((backoff ->> 'max')::float8, 3600))
    * (1 + coalesce((backoff ->> 'jitter')::float8, 0) * (random() * 2 - 1)))
$$;
COMMENT ON FUNCTION rowlock.retry_delay IS
'The wait before the next attempt: base * factor^attempts, capped at max, spread by jitter. The one place that knows
it; put_job_type bounds the numbers, so that nothing here overflows. Internal.';

CREATE OR REPLACE FUNCTION rowlock.fail_v1(worker uuid, leases int8[], ids uuid[], errors text[],
  retryable boolean[] DEFAULT NULL, reasons text[] DEFAULT NULL)
RETURNS TABLE (id uuid, status text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_worker text;
  v        record;
  v_job    rowlock.ready;
  v_seen   uuid[] := '{}';
  v_retry  boolean;
BEGIN
  IF coalesce(cardinality(leases), 0) <> coalesce(cardinality(ids), 0)
     OR cardinality(errors) IS DISTINCT FROM cardinality(ids)
     OR cardinality(retryable) <> cardinality(ids) OR cardinality(reasons) <> cardinality(ids) THEN
    PERFORM refuse('RL021', 'leases, ids, errors, retryable, reasons: expected arrays of equal length');
  END IF;
  SELECT w.name INTO v_worker FROM worker w WHERE w.id = fail_v1.worker AND w.lease_until > clock_timestamp();
  IF NOT FOUND THEN
    PERFORM await_renewal();
  ELSE
    FOR v IN SELECT t.*, GREATEST(date_part('epoch', clock_timestamp() - t.claimed_at), 0) AS ran
               FROM take_back(fail_v1.worker, leases, coalesce(ids, '{}')) t ORDER BY t.ord LOOP
      v_job := v.job;
      v_seen := v_seen || v_job.id;
      v_job.error := left(coalesce(errors[v.ord], ''), 8192);
      v_retry := coalesce(retryable[v.ord], true) AND v_job.attempts < v_job.max_retries;
      fail_v1.id := v_job.id;
      -- 2^attempts with attempts as they were: the first retry waits one second.
      fail_v1.status := settle(v_job, v.claimed_at, v_worker, v.progress,
        CASE WHEN v_retry THEN 'pending' ELSE 'failed' END, v_job.error, coalesce(reasons[v.ord], 'error'),
        retry_delay((SELECT t.backoff FROM job_type t WHERE t.name = v_job.type), v_job.attempts), v.ran);
      RETURN NEXT;
    END LOOP;
  END IF;
  RETURN QUERY SELECT DISTINCT u.id, 'lease lost' FROM unnest(ids) u(id) WHERE u.id <> ALL (v_seen);
END $$;
COMMENT ON FUNCTION rowlock.fail_v1 IS
'Ends an attempt with an error (its first 8192 characters are kept): the job is retried while attempts < max_retries
and retryable, after the type''s backoff, else it has failed. Answers each job''s new status, or lease lost.
SQLSTATEs: RL021; 40001 just after a start of the server. Locks: the receipts.';
