-- A running job that its worker hands back.

CREATE OR REPLACE FUNCTION rowlock.hand_back(worker uuid, leases int8[], ids uuid[], delays float8[], errors text[],
  retried boolean)
RETURNS TABLE (refused uuid)
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_worker text;
  v        record;
  v_job    rowlock.ready;
  v_seen   uuid[] := '{}';
BEGIN
  SELECT w.name INTO v_worker FROM worker w WHERE w.id = hand_back.worker AND w.lease_until > clock_timestamp();
  IF FOUND THEN
    FOR v IN SELECT t.* FROM take_back(hand_back.worker, leases, coalesce(ids, '{}')) t ORDER BY t.ord LOOP
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
COMMENT ON FUNCTION rowlock.hand_back IS
'Running jobs back to where they wait. Element i of each array is one job''s; errors null leaves the jobs'' own.
Internal.';

CREATE OR REPLACE FUNCTION rowlock.release_v1(worker uuid, leases int8[], ids uuid[],
  delay_seconds float8 DEFAULT NULL, retried boolean DEFAULT false)
RETURNS TABLE (refused uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_variable
BEGIN
  IF coalesce(cardinality(leases), 0) <> coalesce(cardinality(ids), 0) THEN
    PERFORM refuse('RL021', 'leases, ids: expected arrays of equal length');
  END IF;
  IF NOT coalesce(delay_seconds BETWEEN 0 AND 315360000, true) THEN
    PERFORM refuse('RL010',
      format('delay_seconds: expected a finite number from 0 to 315360000 (10 years), got %s', delay_seconds));
  END IF;
  RETURN QUERY SELECT h.refused FROM hand_back(worker, leases, ids,
    array_fill(delay_seconds, ARRAY[coalesce(cardinality(ids), 0)]), NULL, retried) h;
END $$;
COMMENT ON FUNCTION rowlock.release_v1 IS
'Hands running jobs back unfinished: in their old place (delay_seconds null), or after a delay; with retried it counts
as a retry, else no attempt is consumed. Answers the ids it refused because the lease is lost.
SQLSTATEs: RL010, RL021. Locks: the receipts.';

CREATE OR REPLACE FUNCTION rowlock.release_v2(worker uuid, leases int8[], ids uuid[], delays float8[], errors text[])
RETURNS TABLE (refused uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_variable
BEGIN
  IF coalesce(cardinality(leases), 0) <> coalesce(cardinality(ids), 0)
     OR cardinality(delays) IS DISTINCT FROM cardinality(ids)
     OR cardinality(errors) IS DISTINCT FROM cardinality(ids) THEN
    PERFORM refuse('RL021', 'leases, ids, delays, errors: expected arrays of equal length');
  END IF;
  IF EXISTS (SELECT FROM unnest(delays) d WHERE NOT coalesce(d BETWEEN 0 AND 315360000, true)) THEN
    PERFORM refuse('RL010', 'delays: expected finite numbers from 0 to 315360000 (10 years)');
  END IF;
  RETURN QUERY SELECT h.refused FROM hand_back(worker, leases, ids, delays, errors, false) h;
END $$;
COMMENT ON FUNCTION rowlock.release_v2 IS
'Hands running jobs back unfinished, no attempt consumed, each in its old place (delay null) or after its delay in
seconds, and with a text that says why (null: none). Answers the ids it refused because the lease is lost.
SQLSTATEs: RL010, RL021. Locks: the receipts.';
