//! What the guards are for, a scenario each.

mod answers;
mod claims;
mod ends;
mod leases;
mod lost;

use std::{future::Future, pin::Pin};

use crate::lab::{Lab, Outcome};

type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

pub struct Scenario {
    pub name: &'static str,
    pub run: for<'a> fn(&'a Lab) -> Running<'a>,
}

macro_rules! scenarios {
    ($($module:ident: $($name:ident)*;)*) => {
        &[$($(Scenario { name: stringify!($name), run: |lab| Box::pin($module::$name(lab)) }),*),*]
    };
}

pub const SCENARIOS: &[Scenario] = scenarios![
    claims:
        an_ordinary_job_lives a_draining_worker_claims_nothing a_draining_worker_goes_on_draining
        a_paused_queue_is_not_claimed a_claim_does_not_wait_for_another jobs_are_claimed_by_priority_then_age
        a_job_for_later_is_not_claimed a_key_is_held_once;
    leases:
        past_its_lease_a_worker_completes_nothing past_its_lease_a_worker_fails_nothing
        past_its_lease_a_worker_releases_nothing past_its_lease_a_worker_reports_no_progress
        past_its_lease_a_worker_cannot_extend_it past_its_lease_a_worker_claims_nothing
        a_stopped_worker_completes_nothing nobody_ends_the_job_of_another a_lease_ends_only_its_own_jobs
        an_earlier_lease_reports_no_progress;
    answers:
        a_claim_whose_answer_was_lost_goes_back what_a_worker_holds_does_not_go_back
        a_claim_under_way_does_not_go_back a_later_claim_does_not_go_back
        a_cancelled_job_whose_answer_was_lost_is_cancelled;
    ends:
        a_part_of_a_receipt_completes_once a_whole_receipt_completes_once a_completed_job_is_not_taken_back
        a_job_is_taken_back_once of_two_completions_at_once_one_is_accepted
        of_a_completion_and_a_release_at_once_one_is_accepted cancelling_an_ended_job_says_how_it_ended
        retries_come_to_an_end what_is_not_retryable_fails_at_once a_release_consumes_no_attempt
        a_completed_job_is_not_retried a_completed_job_frees_its_key a_failed_or_cancelled_job_frees_its_key
        a_retry_takes_no_key_from_another;
    lost:
        a_rescue_consumes_no_attempt a_rescue_leaves_the_living_alone a_rescue_brings_back_only_what_had_not_ended
        a_job_that_loses_five_workers_has_failed a_stopped_worker_s_jobs_are_rescued
        who_only_stood_beside_the_killer_does_not_fail who_says_that_it_lives_blames_nobody
        after_a_start_of_the_server_leases_begin_anew the_worker_is_told_of_a_cancel
        a_request_to_stop_lasts_as_long_as_the_job a_refused_completion_leaves_the_request
        a_cancelled_job_that_fails_is_cancelled a_cancelled_job_that_is_released_is_cancelled
        a_cancelled_job_that_is_rescued_is_cancelled a_job_that_is_found_late_has_the_place_of_its_time
        a_job_whose_place_is_taken_has_the_next_one a_deadline_of_a_clock_that_went_back_holds_nobody_up
        a_keeper_that_stops_gives_its_place_back;
];
