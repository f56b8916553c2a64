//! What a job may count on: its order, its attempts, its key, and that it is neither lost nor deaf.

use super::{Mutant, mutant};
use crate::cut::Place::{Function, Schema};

const ASKED: &str = "EXISTS (SELECT FROM cancel_request c WHERE c.job = v.job_id)";

pub const MUTANTS: &[Mutant] = &[
    // Who may claim what.
    mutant("claim while draining", Function("work_v1"), "v_draining OR ", "", "a_draining_worker_claims_nothing"),
    mutant(
        "draining is forgotten",
        Function("extend_v1"),
        "draining = w.draining OR extend_v1.drain",
        "draining = extend_v1.drain",
        "a_draining_worker_goes_on_draining",
    ),
    mutant("claim from a paused queue", Function("work_v1"), " AND NOT q.paused", "", "a_paused_queue_is_not_claimed"),
    mutant("claim that waits", Function("work_v1"), " SKIP LOCKED", "", "a_claim_does_not_wait_for_another"),
    mutant(
        "claim against the order",
        Function("work_v1"),
        "ORDER BY n.pos LIMIT",
        "ORDER BY n.pos DESC LIMIT",
        "jobs_are_claimed_by_priority_then_age",
    ),
    mutant(
        "promote before its time",
        Function("promote"),
        "d.execute_at <= clock_timestamp()",
        "true",
        "a_job_for_later_is_not_claimed",
    ),
    // Attempts.
    mutant(
        "retry without end",
        Function("fail_v1"),
        " AND v_job.attempts < v_job.max_retries",
        "",
        "retries_come_to_an_end",
    ),
    mutant(
        "an attempt is not counted",
        Function("fail_v1"),
        "v_job.attempts := v_job.attempts + 1;",
        "",
        "retries_come_to_an_end",
    ),
    mutant(
        "retry what is not retryable",
        Function("fail_v1"),
        "coalesce(retryable[v.ord], true) AND ",
        "",
        "what_is_not_retryable_fails_at_once",
    ),
    mutant(
        "release consumes an attempt",
        Function("hand_back"),
        "IF retried THEN",
        "IF true THEN",
        "a_release_consumes_no_attempt",
    ),
    mutant(
        "rescue consumes an attempt",
        Function("rescue"),
        "v_job.crashes := v_job.crashes + 1;",
        "v_job.crashes := v_job.crashes + 1; v_job.attempts := v_job.attempts + 1;",
        "a_rescue_consumes_no_attempt",
    ),
    mutant(
        "retry of a completed job",
        Function("retry"),
        " AND h.status IN ('failed', 'cancelled')",
        "",
        "a_completed_job_is_not_retried",
    ),
    // Lost workers.
    mutant(
        "rescue before the deadline",
        Function("rescue"),
        "WHERE w.lease_until < clock_timestamp()",
        "",
        "a_rescue_leaves_the_living_alone",
    ),
    mutant(
        "rescue of what is done",
        Function("rescue"),
        "WHERE j.id <> ALL (g.done)",
        "",
        "a_rescue_brings_back_only_what_had_not_ended",
    ),
    mutant(
        "crashes are not counted",
        Function("rescue"),
        "v_job.crashes := v_job.crashes + 1;",
        "",
        "a_job_that_loses_five_workers_has_failed",
    ),
    mutant(
        "crashes are forgiven",
        Function("rescue"),
        "v_job.crashes >= 5",
        "false",
        "a_job_that_loses_five_workers_has_failed",
    ),
    mutant(
        "a stopped worker is forgotten with its jobs",
        Function("stop_worker_v1"),
        "AND NOT EXISTS (SELECT FROM lease l WHERE l.worker = stop_worker_v1.worker)",
        "",
        "a_stopped_worker_s_jobs_are_rescued",
    ),
    // A running job that is cancelled.
    mutant(
        "cancel without asking the worker",
        Function("cancel"),
        "VALUES (cancel.id, v_worker)",
        "SELECT cancel.id, v_worker WHERE false",
        "the_worker_is_told_of_a_cancel",
    ),
    mutant(
        "the worker is told of everybody's",
        Function("extend_v1"),
        " WHERE c.worker = extend_v1.worker)",
        ")",
        "the_worker_is_told_of_a_cancel",
    ),
    mutant(
        "a request is forgotten after a minute",
        Function("sweep"),
        "FROM lease l WHERE l.worker = c.worker",
        "FROM lease l WHERE false AND l.worker = c.worker",
        "a_request_to_stop_lasts_as_long_as_the_job",
    ),
    mutant(
        "a refused completion drops the request",
        Function("complete_v1"),
        " AND c.job <> ALL (coalesce(v_refused, '{}'))",
        "",
        "a_refused_completion_leaves_the_request",
    ),
    mutant(
        "fail does not look for a cancel",
        Function("fail_v1"),
        ASKED,
        "false",
        "a_cancelled_job_that_fails_is_cancelled",
    ),
    mutant(
        "release does not look for a cancel",
        Function("hand_back"),
        ASKED,
        "false",
        "a_cancelled_job_that_is_released_is_cancelled",
    ),
    mutant(
        "rescue does not look for a cancel",
        Function("rescue"),
        "EXISTS (SELECT FROM cancel_request c WHERE c.job = v_job.id)",
        "false",
        "a_cancelled_job_that_is_rescued_is_cancelled",
    ),
    // Keys.
    mutant("no unique index of keys", Schema, "key text PRIMARY KEY,", "key text,", "a_key_is_held_once"),
    mutant(
        "complete keeps the key",
        Function("complete_v1"),
        "IF v_keys IS NOT NULL THEN DELETE",
        "IF false THEN DELETE",
        "a_completed_job_frees_its_key",
    ),
    mutant(
        "fail, cancel keep the key",
        Function("end_job"),
        "DELETE FROM unique_key k WHERE k.key = job.unique_key AND k.job = job.id;",
        "",
        "a_failed_or_cancelled_job_frees_its_key",
    ),
    mutant(
        "retry takes another's key",
        Function("retry"),
        "PERFORM refuse('RL012', format('id: another job now holds the unique key of job %s', retry.id), 'Wait for that job''s end.');",
        "NULL;",
        "a_retry_takes_no_key_from_another",
    ),
];
