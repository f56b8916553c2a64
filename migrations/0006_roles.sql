-- Rowlock 6: who may do what. Roles belong to the whole server, so another database may have made them.

DO $$
DECLARE r text;
BEGIN
  FOREACH r IN ARRAY ARRAY['rowlock_enqueuer', 'rowlock_worker', 'rowlock_reader', 'rowlock_admin'] LOOP
    CONTINUE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = r);
    BEGIN
      EXECUTE format('CREATE ROLE %I NOLOGIN', r);
    EXCEPTION
      WHEN duplicate_object OR unique_violation THEN NULL;  -- another database's migration was quicker
      WHEN insufficient_privilege THEN
        RAISE insufficient_privilege USING MESSAGE = format('cannot create role %s', r),
          HINT = 'Migrate as a user with CREATEROLE, or have one create rowlock_enqueuer, rowlock_worker, rowlock_reader and rowlock_admin (NOLOGIN) first.';
    END;
  END LOOP;
END $$;

REVOKE ALL ON ALL TABLES IN SCHEMA rowlock FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA rowlock FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA rowlock FROM PUBLIC;
GRANT USAGE ON SCHEMA rowlock TO rowlock_enqueuer, rowlock_worker, rowlock_reader, rowlock_admin;

GRANT EXECUTE ON FUNCTION rowlock.enqueue, rowlock.enqueue_many TO rowlock_enqueuer, rowlock_admin;

GRANT EXECUTE ON FUNCTION rowlock.register_worker_v1, rowlock.extend_v1, rowlock.claim_v1, rowlock.complete_v1, rowlock.work_v1,
  rowlock.fail_v1, rowlock.release_v1, rowlock.progress_v1, rowlock.sleep_v1, rowlock.wake_v1, rowlock.stop_worker_v1,
  rowlock.job_types_v1, rowlock.keep_v1 TO rowlock_worker, rowlock_admin;
GRANT EXECUTE ON FUNCTION rowlock.enqueue_batch_v1 TO rowlock_admin;

-- Everything but what a job carries: GRANT SELECT (payload, result, headers, progress) adds it.
GRANT SELECT (id, type, queue, status, priority, attempts, max_retries, execute_at, created_at, updated_at, started_at, finished_at,
  error, worker, unique_key, tags) ON rowlock.jobs TO rowlock_reader;
GRANT SELECT ON rowlock.queues, rowlock.workers TO rowlock_reader;
GRANT SELECT ON rowlock.job_types TO rowlock_reader;

GRANT SELECT ON rowlock.jobs, rowlock.queues, rowlock.workers, rowlock.job_types TO rowlock_admin;
GRANT EXECUTE ON FUNCTION rowlock.cancel, rowlock.retry, rowlock.get_job, rowlock.list_jobs, rowlock.pause_queue, rowlock.resume_queue,
  rowlock.configure_queue, rowlock.put_job_type, rowlock.demand TO rowlock_admin;
