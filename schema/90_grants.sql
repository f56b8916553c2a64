-- Who may do what: the whole schema as one table. Every `migrate up` applies this file, whether it changed or not,
-- for a restored dump has neither the roles nor their grants. It takes rights from PUBLIC only: what an operator
-- granted to a role stays.

-- Roles belong to the whole server, so another database may have made them.
DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['rowlock_enqueuer', 'rowlock_worker', 'rowlock_reader', 'rowlock_admin'] LOOP
    CONTINUE WHEN EXISTS (SELECT FROM pg_roles r WHERE r.rolname = v_role);
    BEGIN
      EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
    EXCEPTION
      WHEN duplicate_object OR unique_violation THEN NULL;  -- another database's migration was quicker
      WHEN insufficient_privilege THEN
        RAISE insufficient_privilege USING MESSAGE = format('cannot create role %s', v_role),
          HINT = 'Migrate as a user with CREATEROLE, or have one create rowlock_enqueuer, rowlock_worker, '
            || 'rowlock_reader and rowlock_admin (NOLOGIN) first.';
    END;
  END LOOP;
END $$;

-- Nothing to PUBLIC. A function without an ACL is one that everybody may call.
DO $$
DECLARE
  v_object record;
BEGIN
  FOR v_object IN
    SELECT 'FUNCTION' AS kind, p.oid::regprocedure::text AS name FROM pg_proc p
     WHERE p.pronamespace = 'rowlock'::regnamespace
       AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0)
    UNION ALL
    SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass::text FROM pg_class c
     WHERE c.relnamespace = 'rowlock'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
       AND EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = 0)
  LOOP
    EXECUTE format('REVOKE ALL ON %s %s FROM PUBLIC', v_object.kind, v_object.name);
  END LOOP;
END $$;

-- Only what is missing is granted, so that a `migrate up` with nothing to do writes nothing.
DO $$
DECLARE
  v_grant record;
BEGIN
  FOR v_grant IN
    SELECT r.role FROM unnest(ARRAY['rowlock_enqueuer', 'rowlock_worker', 'rowlock_reader', 'rowlock_admin']) r(role)
     WHERE NOT has_schema_privilege(r.role, 'rowlock', 'USAGE')
  LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA rowlock TO %I', v_grant.role);
  END LOOP;

  FOR v_grant IN
    SELECT r.role, p.oid::regprocedure AS function
      FROM (VALUES
        ('{rowlock_enqueuer, rowlock_admin}',
         '{enqueue, enqueue_many, enqueue_batch_v1}'),
        -- Whoever knows a job's id may ask how the job is.
        ('{rowlock_enqueuer, rowlock_worker, rowlock_admin}',
         '{job_status}'),
        ('{rowlock_worker, rowlock_admin}',
         '{register_worker_v1, extend_v1, claim_v1, work_v1, complete_v1, fail_v1, release_v1,
           progress_v1, subscribe_v1, unsubscribe_v1, stop_worker_v1, job_types_v1, maintain_v1, active_jobs_v1,
           database_v1}'),
        -- Views are made of these: in a view a function acts as the view's reader. They read no table.
        ('{rowlock_reader, rowlock_admin}',
         '{ready_job, scheduled_job, running_job, ended_job, due_at, interval_text}'),
        -- A worker serves metrics over its own connection; rowlock_reader is for whoever serves nothing else.
        ('{rowlock_worker, rowlock_reader, rowlock_admin}',
         '{metrics_v1}'),
        ('{rowlock_reader, rowlock_admin}',
         '{get_job, list_jobs, counts}'),
        ('{rowlock_admin}',
         '{cancel, retry, pause_queue, resume_queue, configure_queue, demand,
           put_job_type, sync_catalog_v1, catalog_sources_v1,
           put_schedule, enable_schedule, disable_schedule, remove_schedule, run_schedule,
           lead_v1, resign_v1, observe_v1, subscribe_queues_v1, record_decisions_v1,
           drain_v1, confirm_drained_v1, end_replicas_v1,
           due_schedules_v1, plan_schedule_v1, fire_schedule_v1, scaler_error_v1}')
      ) g(roles, functions)
     CROSS JOIN LATERAL unnest(g.functions::name[]) f(name)
     CROSS JOIN LATERAL unnest(g.roles::text[]) r(role)
      LEFT JOIN pg_proc p ON p.pronamespace = 'rowlock'::regnamespace AND p.proname = f.name
     WHERE p.oid IS NULL OR NOT has_function_privilege(r.role, p.oid, 'EXECUTE')
  LOOP
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', v_grant.function, v_grant.role);
  END LOOP;

  FOR v_grant IN
    SELECT r.role, v.name AS view, '' AS columns
      FROM (VALUES
        ('{rowlock_reader, rowlock_admin}', '{queues, workers, job_types, decisions, controllers}'),
        ('{rowlock_admin}',                 '{jobs, schedules}')
      ) g(roles, views)
     CROSS JOIN LATERAL unnest(g.views::name[]) v(name)
     CROSS JOIN LATERAL unnest(g.roles::text[]) r(role)
     WHERE NOT has_table_privilege(r.role, 'rowlock.' || v.name, 'SELECT')
    UNION ALL
    -- Everything but what a job carries: GRANT SELECT (payload, result, headers, progress) adds it.
    SELECT 'rowlock_reader', g.view, format('(%s)', array_to_string(g.columns::text[], ', '))
      FROM (VALUES
        ('jobs',      '{id, type, queue, status, priority, attempts, max_retries, execute_at, created_at, updated_at,
                        started_at, finished_at, error, worker, unique_key, tags}'),
        ('schedules', '{name, type, queue, cron, every, timezone, catch_up, enabled, next_at, last_at, last_job,
                        last_error, updated_at}')
      ) g(view, columns)
     WHERE EXISTS (SELECT FROM unnest(g.columns::text[]) c(name)
                    WHERE NOT has_column_privilege('rowlock_reader', 'rowlock.' || g.view, c.name, 'SELECT'))
  LOOP
    EXECUTE format('GRANT SELECT %s ON rowlock.%I TO %I', v_grant.columns, v_grant.view, v_grant.role);
  END LOOP;
END $$;
