-- Looking at workers.

CREATE OR REPLACE VIEW rowlock.workers AS
  SELECT w.id, w.name, w.identity, w.queues, w.slots,
         (SELECT coalesce(sum(l.remaining), 0) FROM rowlock.lease l WHERE l.worker = w.id)::int8 AS running,
         w.draining, w.started_at, w.heartbeat_at AS last_heartbeat, w.lease_until, w.version
    FROM rowlock.worker w WHERE w.lease_until > '-infinity';
COMMENT ON VIEW rowlock.workers IS 'Workers: name for people, id and identity for the lease.';
