-- A running job that its worker hands back.

CREATE OR REPLACE FUNCTION rowlock.release_v1(worker uuid, leases int8[], ids uuid[],
  delays float8[] DEFAULT NULL, errors text[] DEFAULT NULL, retried boolean DEFAULT false)
RETURNS TABLE (refused uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_worker text;
  v        record;
  v_job    rowlock.ready;
  v_seen   uuid[] := '{}';
BEGIN
  IF coalesce(cardinality(leases), 0) <> coalesce(cardinality(ids), 0)
     OR cardinality(delays) <> cardinality(ids) OR cardinality(errors) <> cardinality(ids) THEN
    PERFORM refuse('RL021', 'leases, ids, delays, errors: expected arrays of equal length');
  END IF;
  IF EXISTS (SELECT FROM unnest(delays) d WHERE NOT coalesce(d BETWEEN 0 AND 315360000, true)) THEN
    PERFORM refuse('RL010', 'delays: expected finite numbers from 0 to 315360000 (10 years)');
  END IF;
  SELECT w.name INTO v_worker FROM worker w WHERE w.id = release_v1.worker AND w.lease_until > clock_timestamp();
  IF NOT FOUND THEN
    PERFORM await_renewal();
  ELSE
    FOR v IN SELECT t.* FROM take_back(release_v1.worker, leases, coalesce(ids, '{}')) t ORDER BY t.ord LOOP
      v_job := v.job;
      v_seen := v_seen || v_job.id;
      v_job.error := coalesce(left(errors[v.ord], 8192), v_job.error);
      PERFORM settle(v_job, v.claimed_at, v_worker, v.progress, 'pending',
        CASE WHEN errors IS NOT NULL THEN v_job.error END, CASE WHEN retried THEN 'requested' END,
        make_interval(secs => delays[v.ord]));
    END LOOP;
  END IF;
  RETURN QUERY SELECT DISTINCT u.id FROM unnest(ids) u(id) WHERE u.id <> ALL (v_seen);
END $$;
COMMENT ON FUNCTION rowlock.release_v1 IS
'Hands running jobs back unfinished, each in its old place (its delay null) or after its delay in seconds, and with a
text that says why (null: the job keeps its own). No attempt is consumed unless retried. Answers the ids it refused
because the lease is lost.
SQLSTATEs: RL010, RL021; 40001 just after a start of the server. Locks: the receipts.';
