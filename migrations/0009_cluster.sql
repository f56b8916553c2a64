-- Rowlock 9: what a cluster's controller needs beside the rest.

CREATE OR REPLACE FUNCTION rowlock.lost_v1(epoch int8, replicas text[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM fence(lost_v1.epoch);
  UPDATE worker w SET lease_until = '-infinity', draining = true
    FROM (SELECT l.id FROM worker l
           WHERE split_part(l.identity, '/', 1) = ANY (lost_v1.replicas) OR l.identity = ANY (lost_v1.replicas)
           ORDER BY l.id FOR UPDATE) o
   WHERE w.id = o.id;
  RETURN rescue();
END $$;
COMMENT ON FUNCTION rowlock.lost_v1 IS
'Ends the leases of workers whose Pod or process is known to be gone, by what their identity begins with, and puts their jobs back; or by the whole identity, where a container began anew in a Pod that is still there. Answers how many. Never for one that may still run.
SQLSTATEs: RL030. Locks: the workers'' rows; the leader''s row, shared; the receipts (SKIP LOCKED).';
