-- A worker's registration: its lease, its heartbeat, its sleep, its end.

CREATE OR REPLACE FUNCTION rowlock.server_is_known() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT EXISTS (SELECT FROM server_start s WHERE s.at = pg_postmaster_start_time())
$$;
COMMENT ON FUNCTION rowlock.server_is_known IS
'False after a start of the server, its recovery or its promotion, until renew_leases has run. Internal.';

CREATE OR REPLACE FUNCTION rowlock.await_renewal() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
BEGIN
  IF NOT server_is_known() THEN
    RAISE EXCEPTION 'the server has just started, and every lease is about to begin anew'
      USING ERRCODE = 'serialization_failure', HINT = 'Repeat the call: the keeper''s next round renews the leases.';
  END IF;
END $$;
COMMENT ON FUNCTION rowlock.await_renewal IS
'Refuses a worker whose lease seems to have ended, as long as renew_leases has not run: the worker is to ask again.
SQLSTATEs: 40001. Internal.';

CREATE OR REPLACE FUNCTION rowlock.lease_lost() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
BEGIN
  PERFORM await_renewal();
  PERFORM refuse('RL020', 'lease lost: worker is unknown or its lease has expired',
    'Stop its jobs and register again with rowlock.register_worker_v1.');
END $$;
COMMENT ON FUNCTION rowlock.lease_lost IS 'Refuses a worker without a lease. Internal.';

CREATE OR REPLACE FUNCTION rowlock.register_worker_v1(name text, identity text, queues text[], slots int,
  lease_seconds float8 DEFAULT 30, version text DEFAULT '')
RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_id uuid;
  v_problem text := name_problem(register_worker_v1.name);
BEGIN
  IF v_problem IS NOT NULL THEN PERFORM refuse('RL021', 'name: ' || v_problem); END IF;
  IF coalesce(octet_length(register_worker_v1.identity), 0) NOT BETWEEN 1 AND 256 THEN
    PERFORM refuse('RL021', 'identity: expected 1 to 256 bytes');
  END IF;
  IF coalesce(cardinality(register_worker_v1.queues), 0) = 0 THEN
    PERFORM refuse('RL021', 'queues: expected at least one');
  END IF;
  IF coalesce(register_worker_v1.slots, 0) NOT BETWEEN 1 AND 100000 THEN
    PERFORM refuse('RL021', 'slots: expected 1 to 100000');
  END IF;
  IF lease_seconds IS NULL OR NOT lease_seconds BETWEEN 0.1 AND 86400 THEN
    PERFORM refuse('RL021', 'lease_seconds: expected 0.1 to 86400');
  END IF;
  PERFORM ensure_queue(q) FROM (SELECT DISTINCT q FROM unnest(register_worker_v1.queues) q ORDER BY q) q;
  INSERT INTO worker (name, identity, queues, slots, version, lease_until, lease)
  VALUES (register_worker_v1.name, register_worker_v1.identity, register_worker_v1.queues, register_worker_v1.slots,
          coalesce(register_worker_v1.version, ''), clock_timestamp() + make_interval(secs => lease_seconds),
          make_interval(secs => lease_seconds))
  RETURNING id INTO v_id;
  RETURN v_id;
END $$;
COMMENT ON FUNCTION rowlock.register_worker_v1 IS
'Makes a worker and starts its lease. name is for people; identity is the Pod UID or host, and start. Returns the
worker''s id, which every other call takes.
SQLSTATEs: RL021 by argument, RL003 for a queue''s name. Locks: none.';

CREATE OR REPLACE FUNCTION rowlock.return_unknown(worker uuid, holds int8[], pending int8[], below int8) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_leases int8[] := ARRAY(
    SELECT l.id FROM lease l
     WHERE l.worker = return_unknown.worker AND l.claim < below
       AND l.claim <> ALL (coalesce(pending, '{}')) AND l.id <> ALL (holds)
     ORDER BY l.id FOR UPDATE);
  v_worker text;
  v        record;
  v_job    rowlock.ready;
  v_n      int := 0;
BEGIN
  IF v_leases = '{}' THEN RETURN 0; END IF;
  v_worker := (SELECT w.name FROM worker w WHERE w.id = return_unknown.worker);
  FOR v IN SELECT t.* FROM take_back(return_unknown.worker, v_leases, NULL) t LOOP
    v_job := v.job;
    PERFORM settle(v_job, v.claimed_at, v_worker, v.progress, 'pending', v_job.error);
    v_n := v_n + 1;
  END LOOP;
  RETURN v_n;
END $$;
COMMENT ON FUNCTION rowlock.return_unknown IS
'Puts back what a worker claimed in calls whose answers were lost: its receipts that it does not know, of calls that
are over. No attempt is consumed and no crash counted. The worker''s row must be locked. Internal.';

CREATE OR REPLACE FUNCTION rowlock.extend_v1(worker uuid, lease_seconds float8 DEFAULT 30,
  drain boolean DEFAULT false, holds int8[] DEFAULT NULL, pending int8[] DEFAULT '{}', below int8 DEFAULT NULL)
RETURNS TABLE (lease_until timestamptz, draining boolean, cancelled uuid[], returned int)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_until timestamptz;
  v_draining boolean;
BEGIN
  IF lease_seconds IS NULL OR NOT lease_seconds BETWEEN 0.1 AND 86400 THEN
    PERFORM refuse('RL021', 'lease_seconds: expected 0.1 to 86400');
  END IF;
  IF (holds IS NULL) <> (below IS NULL) THEN
    PERFORM refuse('RL021', 'holds, below: expected both or neither');
  END IF;
  -- The worker's row first: a rescue of this worker waits, or has ended the lease.
  UPDATE worker w
     SET heartbeat_at = clock_timestamp(), lease_until = clock_timestamp() + make_interval(secs => lease_seconds),
         lease = make_interval(secs => lease_seconds), draining = w.draining OR extend_v1.drain
   WHERE w.id = extend_v1.worker AND w.lease_until > clock_timestamp()
  RETURNING w.lease_until, w.draining INTO v_until, v_draining;
  IF NOT FOUND THEN PERFORM lease_lost(); END IF;
  returned := CASE WHEN holds IS NULL THEN 0 ELSE return_unknown(extend_v1.worker, holds, pending, below) END;
  RETURN QUERY SELECT v_until, v_draining,
    ARRAY(SELECT c.job FROM cancel_request c WHERE c.worker = extend_v1.worker), extend_v1.returned;
END $$;
COMMENT ON FUNCTION rowlock.extend_v1 IS
'The heartbeat: one row, however many jobs. Answers the new deadline, whether the worker is to drain, and the running
jobs it is to stop.
Lost answers: holds are the receipts (lease) that the worker knows, below the number that its next claim will have,
pending the numbers of its claims that are under way. Receipts of earlier claims that it does not hold go back to where
their jobs waited, no attempt consumed; returned is how many jobs. holds null: none go back.
SQLSTATEs: RL020 if the lease has expired, RL021. Locks: the worker''s row, then the receipts that go back.';

CREATE OR REPLACE FUNCTION rowlock.progress_v1(worker uuid, lease int8, id uuid, progress jsonb) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  IF progress_v1.progress IS NULL OR octet_length(progress_v1.progress::text) > 8192 THEN
    PERFORM refuse('RL021', 'progress: expected JSON of at most 8 KiB');
  END IF;
  UPDATE lease l
     SET progress = coalesce(l.progress, '{}') || jsonb_build_object(progress_v1.id::text, progress_v1.progress)
   WHERE l.worker = progress_v1.worker AND l.id = progress_v1.lease AND progress_v1.id <> ALL (l.done)
     AND EXISTS (SELECT FROM unnest(l.jobs) j WHERE j.id = progress_v1.id)
     AND EXISTS (SELECT FROM worker w WHERE w.id = progress_v1.worker AND w.lease_until > clock_timestamp());
  RETURN FOUND;
END $$;
COMMENT ON FUNCTION rowlock.progress_v1 IS
'Stores a running job''s progress, JSON up to 8 KiB. False if the lease is lost. SQLSTATEs: RL021. Locks: the receipt.';

CREATE OR REPLACE FUNCTION rowlock.subscribe_v1(worker uuid, queues text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  IF NOT EXISTS (SELECT FROM worker w WHERE w.id = subscribe_v1.worker AND w.lease_until > clock_timestamp()) THEN
    PERFORM lease_lost();
  END IF;
  PERFORM unsubscribe_v1(subscribe_v1.worker);
  -- One that is marked as draining claims nothing: a wake would be lost on it.
  INSERT INTO subscription (queue, worker)
  SELECT DISTINCT u.name, w.id FROM unnest(subscribe_v1.queues) u(name)
    JOIN worker w ON w.id = subscribe_v1.worker AND NOT w.draining
   WHERE u.name IS NOT NULL;
END $$;
COMMENT ON FUNCTION rowlock.subscribe_v1 IS
'Asks for a NOTIFY on channel rowlock (payload: the worker''s id) when one of the queues gets a job. One job wakes one
worker, and whoever is woken is subscribed no more. Call, then claim once more, then wait; if something else ends the
wait, call unsubscribe_v1. SQLSTATEs: RL020. Locks: none that wait.';

CREATE OR REPLACE FUNCTION rowlock.unsubscribe_v1(worker uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  -- One that an enqueue has taken goes when that commits, and is not waited for.
  DELETE FROM subscription s WHERE s.id = ANY (ARRAY(
    SELECT o.id FROM subscription o WHERE o.worker = unsubscribe_v1.worker FOR UPDATE SKIP LOCKED))
$$;
COMMENT ON FUNCTION rowlock.unsubscribe_v1 IS 'No more NOTIFY for this worker. Locks: none that wait.';

CREATE OR REPLACE FUNCTION rowlock.stop_worker_v1(worker uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  UPDATE worker w SET lease_until = '-infinity', draining = true, ended = true
   WHERE w.id = stop_worker_v1.worker AND w.lease_until > '-infinity';
  IF NOT FOUND THEN
    -- Its lease had ended, and its jobs were blamed for it, or are about to be.
    INSERT INTO survivor (worker) VALUES (stop_worker_v1.worker) ON CONFLICT DO NOTHING;
    UPDATE worker w SET ended = true WHERE w.id = stop_worker_v1.worker;
  END IF;
  PERFORM unsubscribe_v1(stop_worker_v1.worker);
  -- The keeper gives its place back, or due jobs would wait for the end of its second.
  UPDATE keeper k SET held_until = '-infinity' WHERE k.holder = stop_worker_v1.worker;
  IF FOUND AND may_notify() THEN PERFORM pg_notify('rowlock_keeper', 'ended'); END IF;
  DELETE FROM worker w WHERE w.id = stop_worker_v1.worker
     AND NOT EXISTS (SELECT FROM lease l WHERE l.worker = stop_worker_v1.worker);
END $$;
COMMENT ON FUNCTION rowlock.stop_worker_v1 IS
'Ends a worker''s registration at once. Release its jobs first; what it still holds is rescued, and blamed for nothing.
A worker that has lost its lease says so here, too, before it registers anew: then its lost jobs were not its killers.
If it was the keeper, others hear of it by a NOTIFY of ended on channel rowlock_keeper. Locks: its row, the keeper''s.';

CREATE OR REPLACE FUNCTION rowlock.active_jobs_v1(ids uuid[]) RETURNS TABLE (id uuid)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_id uuid;
  v_place record;
BEGIN
  IF cardinality(ids) > 10000 THEN PERFORM refuse('RL021', 'ids: expected at most 10000'); END IF;
  -- STABLE: all in the caller's snapshot, in which a job is in exactly one place.
  RETURN QUERY SELECT j.id FROM lease l CROSS JOIN LATERAL unnest(l.jobs) j
                WHERE j.id = ANY (ids) AND j.id <> ALL (l.done);
  FOREACH v_id IN ARRAY coalesce(ids, '{}') LOOP
    v_place := id_place(v_id);
    RETURN QUERY
      SELECT r.id FROM ready r WHERE r.queue = v_place.queue AND r.rank = v_place.rank AND r.pos = v_place.pos
         AND r.id = v_id AND NOT r.moved
      UNION ALL SELECT r.id FROM ready r WHERE r.id = v_id AND r.moved;
  END LOOP;
END $$;
COMMENT ON FUNCTION rowlock.active_jobs_v1 IS
'Of up to 10000 jobs, those that run or are due: do not delete what these jobs have outside of the database, such as
their Pods. One that has ended, or waits for its time, is not among them. SQLSTATEs: RL021. Locks: none.';

CREATE OR REPLACE FUNCTION rowlock.database_v1() RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT i.database FROM identity i
$$;
COMMENT ON FUNCTION rowlock.database_v1 IS
'The id of this database, made when its schema was: whose the things are that exist outside of it, such as the Pods of
its jobs. A copy of a database has the id of the original. Locks: none.';
