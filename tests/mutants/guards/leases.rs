//! A worker ends what it holds, as long as it holds it, once.

use super::{Mutant, mutant};
use crate::cut::Place::Function;

const PAIR: &str = "(r.id, j.id) IN (SELECT u.lease, u.id FROM unnest(leases, complete_v1.ids) u(lease, id))";
const PAIR_BACK: &str = "(r.id, j.id) IN (SELECT u.lease, u.id FROM unnest(leases, take_back.ids) u(lease, id))";

pub const MUTANTS: &[Mutant] = &[
    // The lease holds.
    mutant(
        "complete without the deadline",
        Function("complete_v1"),
        " AND w.lease_until > v_now",
        "",
        "past_its_lease_a_worker_completes_nothing",
    ),
    mutant(
        "fail without the deadline",
        Function("fail_v1"),
        " AND w.lease_until > clock_timestamp()",
        "",
        "past_its_lease_a_worker_fails_nothing",
    ),
    mutant(
        "release without the deadline",
        Function("release_v1"),
        " AND w.lease_until > clock_timestamp()",
        "",
        "past_its_lease_a_worker_releases_nothing",
    ),
    mutant(
        "progress without the deadline",
        Function("progress_v1"),
        " AND w.lease_until > clock_timestamp()",
        "",
        "past_its_lease_a_worker_reports_no_progress",
    ),
    mutant(
        "extend after the deadline",
        Function("extend_v1"),
        " AND w.lease_until > clock_timestamp()",
        "",
        "past_its_lease_a_worker_cannot_extend_it",
    ),
    mutant(
        "claim after the deadline",
        Function("work_v1"),
        " AND w.lease_until > clock_timestamp()",
        "",
        "past_its_lease_a_worker_claims_nothing",
    ),
    mutant(
        "a stopped worker's lease goes on",
        Function("stop_worker_v1"),
        "lease_until = '-infinity', ",
        "",
        "a_stopped_worker_completes_nothing",
    ),
    // The lease is that job's.
    mutant(
        "complete whoever holds it",
        Function("complete_v1"),
        "WHERE l.worker = complete_v1.worker AND l.id = ANY (leases)",
        "WHERE l.id = ANY (leases)",
        "nobody_ends_the_job_of_another",
    ),
    mutant(
        "fail, release whoever holds it",
        Function("take_back"),
        "WHERE l.worker = take_back.worker AND l.id = ANY (leases)",
        "WHERE l.id = ANY (leases)",
        "nobody_ends_the_job_of_another",
    ),
    mutant(
        "complete by any lease",
        Function("complete_v1"),
        PAIR,
        "j.id = ANY (complete_v1.ids)",
        "a_lease_ends_only_its_own_jobs",
    ),
    mutant(
        "fail, release by any lease",
        Function("take_back"),
        PAIR_BACK,
        "j.id = ANY (take_back.ids)",
        "a_lease_ends_only_its_own_jobs",
    ),
    mutant(
        "progress by any lease",
        Function("progress_v1"),
        " AND l.id = progress_v1.lease",
        "",
        "an_earlier_lease_reports_no_progress",
    ),
    // A job ends once.
    mutant(
        "complete what is done",
        Function("complete_v1"),
        "(r.done = '{}' OR j.id <> ALL (r.done))",
        "true",
        "a_part_of_a_receipt_completes_once",
    ),
    mutant(
        "completed, but still in the receipt",
        Function("complete_v1"),
        "done = l.done || e.ids, ",
        "",
        "a_part_of_a_receipt_completes_once",
    ),
    mutant(
        "a whole receipt stays",
        Function("complete_v1"),
        "r.remaining = e.n)",
        "false)",
        "a_whole_receipt_completes_once",
    ),
    mutant(
        "fail, release what is done",
        Function("take_back"),
        "j.id <> ALL (r.done)",
        "true",
        "a_completed_job_is_not_taken_back",
    ),
    mutant(
        "taken back, but still in the receipt",
        Function("take_back"),
        "done = l.done || e.ids, ",
        "",
        "a_job_is_taken_back_once",
    ),
    mutant(
        "complete without a lock",
        Function("complete_v1"),
        "ORDER BY l.id FOR UPDATE",
        "ORDER BY l.id",
        "of_two_completions_at_once_one_is_accepted",
    ),
    mutant(
        "fail, release without a lock",
        Function("take_back"),
        "ORDER BY l.id FOR UPDATE",
        "ORDER BY l.id",
        "of_a_completion_and_a_release_at_once_one_is_accepted",
    ),
    mutant(
        "cancel of what is done says running",
        Function("cancel"),
        "cancel.id <> ALL (l.done) AND ",
        "",
        "cancelling_an_ended_job_says_how_it_ended",
    ),
];
