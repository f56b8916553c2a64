-- Rowlock 10: what a worker needs that gives each job a Pod.

CREATE FUNCTION rowlock.release_v2(worker uuid, leases int8[], ids uuid[], delays float8[], errors text[])
RETURNS TABLE (refused uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_variable
BEGIN
  IF cardinality(delays) IS DISTINCT FROM cardinality(ids) OR cardinality(errors) IS DISTINCT FROM cardinality(ids) THEN
    PERFORM refuse('RL021', 'ids, delays, errors: expected arrays of equal length');
  END IF;
  IF EXISTS (SELECT FROM unnest(delays) d WHERE NOT coalesce(d BETWEEN 0 AND 315360000, true)) THEN
    PERFORM refuse('RL010', 'delays: expected finite numbers from 0 to 315360000 (10 years)');
  END IF;
  RETURN QUERY SELECT h.refused FROM hand_back(worker, leases, ids, delays, errors, false) h;
END $$;
COMMENT ON FUNCTION rowlock.release_v2 IS
'Hands running jobs back unfinished, no attempt consumed, each in its old place (delay null) or after its delay in seconds, and with a text that says why (null: none). Answers the ids it refused because the lease is lost.
SQLSTATEs: RL010, RL021. Locks: the receipts.';

CREATE FUNCTION rowlock.living_jobs_v1(ids uuid[]) RETURNS TABLE (id uuid)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_id uuid;
  v_place record;
BEGIN
  IF cardinality(ids) > 10000 THEN PERFORM refuse('RL021', 'ids: expected at most 10000'); END IF;
  -- STABLE: all in the caller's snapshot, in which a job is in exactly one place.
  RETURN QUERY SELECT j.id FROM lease l CROSS JOIN LATERAL unnest(l.jobs) j WHERE j.id = ANY (ids) AND j.id <> ALL (l.done);
  FOREACH v_id IN ARRAY coalesce(ids, '{}') LOOP
    v_place := id_place(v_id);
    RETURN QUERY SELECT r.id FROM ready r WHERE r.queue = v_place.queue AND r.rank = v_place.rank AND r.pos = v_place.pos AND r.id = v_id AND NOT r.moved
      UNION ALL SELECT r.id FROM ready r WHERE r.id = v_id AND r.moved;
  END LOOP;
END $$;
COMMENT ON FUNCTION rowlock.living_jobs_v1 IS
'Of up to 10000 jobs, those that run or are due: what is theirs outside of the database must stay. One that has ended, or waits for its time, is not among them. SQLSTATEs: RL021. Locks: none.';

REVOKE ALL ON FUNCTION rowlock.release_v2, rowlock.living_jobs_v1 FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rowlock.release_v2, rowlock.living_jobs_v1 TO rowlock_worker, rowlock_admin;
