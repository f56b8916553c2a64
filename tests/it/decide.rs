//! `decide`: one test for each reason.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use rowlock::controller::{
    Clamp, Connections, Current, Decision, Demand, History, Limits, Reason, Rule, Term, TypeDemand, decide,
};

pub fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

/// Ten slots a replica, up to ten of them, a wait of at most 5 s.
fn limits() -> Limits {
    Limits { slots: Some(10), rule: Rule::TargetWait(Duration::from_secs(5)), ..Limits::new(vec!["q".into()]) }
}

fn jobs(pending: u64, running: u64, service: f64) -> TypeDemand {
    TypeDemand { job_type: "t".into(), pending, running, service_seconds: Some(service), ..Default::default() }
}

fn arriving(rate: f64, service: f64) -> TypeDemand {
    TypeDemand { rate_10s: rate, rate_60s: rate, ..jobs(0, 0, service) }
}

fn demand(types: &[TypeDemand]) -> Demand {
    Demand { types: types.to_vec(), ..Default::default() }
}

fn ready(replicas: u32) -> Current {
    Current { replicas, ready: replicas, start_seconds: Some(2.0), ..Default::default() }
}

/// Ten minutes in which so many slots were needed and so many replicas wanted, up to the second before 600.
fn history(need_slots: f64, wanted: u32) -> History {
    let mut history = History::default();
    (0..600).for_each(|s| history.add(at(s), need_slots, wanted, TimeDelta::seconds(120)));
    history
}

/// The decision at 600 s. Its text and its stored form are checked along the way.
fn decided(demand: Option<&Demand>, limits: &Limits, current: &Current, history: &History) -> Decision {
    let decision = decide(demand, limits, current, history, at(600));
    let text = decision.explain();
    assert!(text.ends_with('.') && !text.contains("NaN"), "{text}");
    let stored = serde_json::to_value(&decision).unwrap();
    assert_eq!(stored["reason"], decision.reason.name());
    let read: Decision = serde_json::from_value(stored).unwrap();
    assert_eq!(read.explain(), text);
    decision
}

fn outcome(decision: &Decision) -> (u32, Reason, Option<Clamp>) {
    (decision.wanted, decision.reason, decision.clamp)
}

#[test]
fn pinned() {
    let pinned = Limits { pin_replicas: Some(30), ..limits() };
    let d = decided(Some(&demand(&[jobs(1000, 0, 1.0)])), &pinned, &ready(2), &history(0.0, 2));
    assert_eq!(outcome(&d), (30, Reason::Pinned, None));
    assert_eq!(decided(None, &pinned, &ready(2), &History::default()).wanted, 30);
}

#[test]
fn demand_unknown_holds_and_is_not_remembered() {
    let mut past = history(0.0, 4);
    let before = past.clone();
    let d = decided(None, &limits(), &ready(4), &past);
    assert_eq!(outcome(&d), (4, Reason::DemandUnknown, None));
    past.remember(&d, TimeDelta::seconds(60));
    assert_eq!(past, before);
    // Even above the maximum: there is no hurry to take away what may be needed.
    assert_eq!(decided(None, &limits(), &ready(12), &past).wanted, 12);
}

#[test]
fn pickup_counts_work_and_not_jobs() {
    // A slot begins (5 - 2) / 1 = 3 one-second jobs before the first would be late: 300 need 100 slots.
    let d = decided(Some(&demand(&[jobs(300, 0, 1.0)])), &limits(), &ready(0), &History::default());
    assert_eq!((outcome(&d), d.term), ((10, Reason::Pickup, None), Some(Term::Pickup)));
    // As many of a millisecond need one replica.
    let d = decided(Some(&demand(&[jobs(300, 0, 0.001)])), &limits(), &ready(0), &History::default());
    assert_eq!(d.wanted, 1);
    // A job longer than the objective takes a slot for itself, and no more than one.
    let d = decided(Some(&demand(&[jobs(30, 0, 3600.0)])), &limits(), &ready(0), &History::default());
    assert_eq!(d.wanted, 3);
    // Jobs that are due before a new replica could have started count as well.
    let soon = TypeDemand { scheduled_soon: 300, ..jobs(0, 0, 1.0) };
    assert_eq!(decided(Some(&demand(&[soon])), &limits(), &ready(0), &History::default()).wanted, 10);
}

#[test]
fn starting_replicas_count_as_capacity() {
    let starting = |age| Current { replicas: 10, starting_seconds: vec![age; 10], ..ready(0) };
    for (age, since) in [(0.0, 0.0), (1.0, 1.0), (1.9, 1.9)] {
        let waiting = TypeDemand { oldest_age_seconds: age, ..jobs(300, 0, 1.0) };
        let d = decided(Some(&demand(&[waiting])), &limits(), &starting(since), &history(100.0, 10));
        assert_eq!(d.wanted, 10, "after {since} s: {}", d.explain());
        assert!(matches!(d.reason, Reason::Enough | Reason::ScaleDownDelay), "after {since} s: {}", d.explain());
    }
}

#[test]
fn steady_is_for_what_arrives() {
    // 25 slots of work, and 4.6 S / T more for chance.
    let d = decided(Some(&demand(&[arriving(25.0, 1.0)])), &limits(), &ready(2), &history(20.0, 2));
    assert_eq!((outcome(&d), d.term), ((3, Reason::Steady, None), Some(Term::Steady)));
    assert!((d.inputs.load_slots - 25.0).abs() < 1e-9 && (d.inputs.steady_slots - 25.92).abs() < 1e-9);
    // Ten seconds with more count only as far as chance does not explain it, and so do ten with fewer.
    let of = |rate_10s| demand(&[TypeDemand { rate_10s, ..arriving(25.0, 1.0) }]);
    let load = |rate| decided(Some(&of(rate)), &limits(), &ready(3), &history(26.0, 3)).inputs.load_slots;
    assert!((load(27.0) - 25.0).abs() < 1e-9 && (load(23.0) - 25.0).abs() < 1e-9);
    assert!(load(60.0) > 50.0 && load(5.0) < 7.5);
}

#[test]
fn probe_doubles_while_the_time_is_unknown() {
    let unknown = |pending, running| demand(&[TypeDemand { service_seconds: None, ..jobs(pending, running, 0.0) }]);
    let d = decided(Some(&unknown(500, 0)), &limits(), &ready(0), &History::default());
    assert_eq!((outcome(&d), d.term), ((1, Reason::Probe, None), Some(Term::Probe)));
    let d = decided(Some(&unknown(490, 10)), &limits(), &ready(1), &History::default());
    assert_eq!(outcome(&d), (2, Reason::Probe, None));
    let declared = TypeDemand { service_seconds: None, expected_seconds: Some(1.0), ..jobs(300, 0, 0.0) };
    assert_eq!(decided(Some(&demand(&[declared])), &limits(), &ready(0), &History::default()).wanted, 10);
}

#[test]
fn backlog_is_the_plain_rule() {
    let plain = Limits { rule: Rule::JobsPerReplica(100), ..limits() };
    let d = decided(Some(&demand(&[jobs(350, 30, 1.0)])), &plain, &ready(1), &History::default());
    assert_eq!((outcome(&d), d.term), ((4, Reason::Backlog, None), Some(Term::Backlog)));
    let d = decided(Some(&demand(&[arriving(0.1, 1.0)])), &plain, &ready(1), &history(0.0, 1));
    assert_eq!((d.wanted, d.term), (1, Some(Term::Arriving)));
}

#[test]
fn growth_stops_at_the_maximum() {
    let many = demand(&[jobs(3000, 0, 1.0)]);
    let d = decided(Some(&many), &limits(), &ready(4), &History::default());
    assert_eq!(outcome(&d), (10, Reason::Pickup, Some(Clamp::MaxReplicas)));
    let d = decided(Some(&many), &limits(), &ready(10), &History::default());
    assert_eq!(outcome(&d), (10, Reason::AtLimit, Some(Clamp::MaxReplicas)));
}

#[test]
fn growth_is_at_most_a_step_in_five_seconds() {
    let wide = Limits { max_replicas: 1000, ..limits() };
    let many = demand(&[jobs(30_000, 0, 1.0)]);
    let d = decided(Some(&many), &wide, &ready(0), &History::default());
    assert_eq!(outcome(&d), (50, Reason::Pickup, Some(Clamp::StepRate)));
    let d = decided(Some(&many), &wide, &ready(50), &history(0.0, 0));
    assert_eq!(outcome(&d), (50, Reason::AtLimit, Some(Clamp::StepRate)));
    let d = decided(Some(&many), &wide, &ready(200), &history(1.0, 200));
    assert_eq!(d.wanted, 400);
}

#[test]
fn replicas_without_a_node_stop_growth() {
    let stuck = Current { replicas: 5, unschedulable: 2, starting_seconds: vec![60.0; 2], ..ready(3) };
    let d = decided(Some(&demand(&[jobs(300, 0, 1.0)])), &limits(), &stuck, &History::default());
    assert_eq!(outcome(&d), (5, Reason::AtLimit, Some(Clamp::Unschedulable)));
}

#[test]
fn connections_are_not_used_up() {
    let scarce = Demand { connections: Some(Connections { free: 7, per_replica: 3 }), ..demand(&[jobs(300, 0, 1.0)]) };
    let d = decided(Some(&scarce), &limits(), &ready(1), &History::default());
    assert_eq!(outcome(&d), (3, Reason::Pickup, Some(Clamp::ConnectionBudget)));
}

#[test]
fn an_old_transaction_slows_growth() {
    let old = Demand { oldest_transaction_seconds: Some(601.0), ..demand(&[jobs(300, 0, 1.0)]) };
    let d = decided(Some(&old), &limits(), &ready(1), &History::default());
    assert_eq!(outcome(&d), (2, Reason::Pickup, Some(Clamp::OldTransaction)));
    let young = Demand { oldest_transaction_seconds: Some(599.0), ..old };
    assert_eq!(decided(Some(&young), &limits(), &ready(1), &History::default()).clamp, None);
}

#[test]
fn bounds_hold_at_once() {
    let idle = demand(&[]);
    let two = Limits { min_replicas: 2, ..limits() };
    let d = decided(Some(&idle), &two, &ready(0), &History::default());
    assert_eq!(outcome(&d), (2, Reason::BelowMin, Some(Clamp::MinReplicas)));
    assert_eq!(decided(None, &two, &ready(0), &History::default()).reason, Reason::BelowMin);
    let d = decided(Some(&idle), &two, &ready(2), &history(0.0, 2));
    assert_eq!(outcome(&d), (2, Reason::Enough, Some(Clamp::MinReplicas)));
    let d = decided(Some(&idle), &limits(), &ready(12), &History::default());
    assert_eq!(outcome(&d), (10, Reason::AboveMax, Some(Clamp::MaxReplicas)));
}

#[test]
fn the_highest_recent_need_holds_for_the_delay() {
    let idle = demand(&[]);
    let mut past = history(0.0, 4);
    past.add(at(599), 40.0, 4, TimeDelta::seconds(120));
    let d = decided(Some(&idle), &limits(), &ready(4), &past);
    assert_eq!(outcome(&d), (4, Reason::ScaleDownDelay, None));
    assert!((d.inputs.recent_slots - 40.0).abs() < 1e-9);
    let later = |seconds: i64| {
        let mut past = past.clone();
        (600..600 + seconds).for_each(|s| past.add(at(s), 0.0, 4, TimeDelta::seconds(120)));
        decide(Some(&idle), &limits(), &ready(4), &past, at(600 + seconds))
    };
    assert_eq!(later(58).reason, Reason::ScaleDownDelay);
    assert_eq!(later(59).reason, Reason::ScaleIn);
}

#[test]
fn after_a_restart_one_window_is_held() {
    let idle = demand(&[]);
    let d = decided(Some(&idle), &limits(), &ready(4), &History::default());
    assert_eq!(outcome(&d), (4, Reason::AfterRestart, None));
    let mut past = History::default();
    (541..600).for_each(|s| past.add(at(s), 0.0, 4, TimeDelta::seconds(120)));
    assert_eq!(decided(Some(&idle), &limits(), &ready(4), &past).reason, Reason::AfterRestart);
    // A minute without a decision, as while the database was away, is as good as a restart.
    let mut past = History::default();
    (0..540).for_each(|s| past.add(at(s), 0.0, 4, TimeDelta::seconds(120)));
    assert_eq!(decided(Some(&idle), &limits(), &ready(4), &past).reason, Reason::AfterRestart);
    past.add(at(599), 0.0, 4, TimeDelta::seconds(120));
    assert_eq!(decided(Some(&idle), &limits(), &ready(4), &past).reason, Reason::AfterRestart);
    // More is ordered all the same: for what four ready ones cannot begin in 5 s, as new ones can in 3 s.
    let d = decided(Some(&demand(&[jobs(300, 0, 1.0)])), &limits(), &ready(4), &History::default());
    assert_eq!(outcome(&d), (8, Reason::Pickup, None));
}

#[test]
fn nothing_goes_while_a_job_is_late() {
    let late = TypeDemand { oldest_age_seconds: 5.1, ..jobs(1, 0, 0.1) };
    let d = decided(Some(&demand(&[late])), &limits(), &ready(4), &history(1.0, 4));
    assert_eq!(outcome(&d), (4, Reason::Late, None));
}

#[test]
fn one_fewer_that_would_do_only_just_stays() {
    let d = decided(Some(&demand(&[arriving(28.5, 1.0)])), &limits(), &ready(4), &history(29.4, 4));
    assert_eq!(outcome(&d), (4, Reason::Deadband, None));
    let d = decided(Some(&demand(&[arriving(25.0, 1.0)])), &limits(), &ready(4), &history(26.0, 4));
    assert_eq!(outcome(&d), (3, Reason::ScaleIn, None));
}

#[test]
fn a_large_fleet_needs_less_room() {
    let wide = Limits { max_replicas: 1000, ..limits() };
    let d = decided(Some(&demand(&[arriving(1000.0, 1.0)])), &wide, &ready(115), &history(1000.0, 115));
    assert_eq!(outcome(&d), (107, Reason::ScaleIn, None));
    // 6 % and a replica: what the demand of a minute differs by is 12 slots, and a few for the mean of S.
    assert!((d.inputs.recent_slots - 1000.92).abs() < 1e-6);
}

#[test]
fn running_work_is_a_floor() {
    let running = |n| demand(&[TypeDemand { running_age_seconds: Some(0.0), ..jobs(0, n, 0.01) }]);
    let d = decided(Some(&running(35)), &limits(), &ready(4), &history(1.0, 4));
    assert_eq!(outcome(&d), (4, Reason::RunningWork, Some(Clamp::RunningWork)));
    let d = decided(Some(&running(25)), &limits(), &ready(4), &history(1.0, 4));
    assert_eq!(outcome(&d), (3, Reason::ScaleIn, Some(Clamp::RunningWork)));
}

#[test]
fn half_at_most_goes_in_five_seconds_and_to_zero_at_last() {
    let idle = demand(&[]);
    let d = decided(Some(&idle), &limits(), &ready(10), &history(0.0, 10));
    assert_eq!(outcome(&d), (5, Reason::ScaleIn, Some(Clamp::StepRate)));
    let d = decided(Some(&idle), &limits(), &ready(5), &history(0.0, 10));
    assert_eq!(outcome(&d), (5, Reason::AtLimit, Some(Clamp::StepRate)));
    let d = decided(Some(&idle), &limits(), &ready(1), &history(0.0, 1));
    assert_eq!((outcome(&d), d.term), ((0, Reason::ToZero, None), None));
}

#[test]
fn zero_needs_nothing_pending_running_or_arriving() {
    let none = jobs(0, 0, 0.001);
    for some in [
        TypeDemand { pending: 1, ..none.clone() },
        TypeDemand { running: 1, ..none.clone() },
        TypeDemand { scheduled_soon: 1, ..none.clone() },
        TypeDemand { rate_10s: 0.1, rate_60s: 0.02, ..none.clone() },
        TypeDemand { rate_10s: 0.1, service_seconds: None, ..none },
    ] {
        let d = decided(Some(&demand(&[some])), &limits(), &ready(1), &history(0.0, 1));
        assert_eq!(outcome(&d), (1, Reason::Enough, None));
    }
}

#[test]
fn enough_and_dry_run() {
    let dry = Limits { dry_run: true, ..limits() };
    let d = decided(Some(&demand(&[arriving(25.0, 1.0)])), &dry, &ready(3), &history(26.0, 3));
    assert_eq!((outcome(&d), d.dry_run), ((3, Reason::Enough, None), true));
    assert!(d.explain().contains("dry-run"));
}

#[test]
fn slots_are_the_annotations_or_the_workers_or_ten() {
    let none = Limits { slots: None, ..limits() };
    let slots =
        |limits: &Limits, current: &Current| decide(None, limits, current, &History::default(), at(0)).inputs.slots;
    assert_eq!(slots(&limits(), &Current { slots: Some(3), ..ready(1) }), 10);
    assert_eq!(slots(&none, &Current { slots: Some(3), ..ready(1) }), 3);
    assert_eq!(slots(&none, &ready(1)), 10);
}

#[test]
fn a_decision_keeps_few_types_of_many() {
    let types: Vec<_> = (0..500).map(|_| jobs(1, 0, 0.1)).collect();
    let d = decided(Some(&demand(&types)), &limits(), &ready(1), &History::default());
    assert_eq!((d.inputs.types.len(), d.inputs.types_left_out, d.inputs.pending), (20, 480, 500));
    assert!(serde_json::to_string(&d).unwrap().len() < 10_000);
}

#[test]
fn the_names_are_stable() {
    let names: HashSet<String> = [
        Reason::Pinned,
        Reason::DemandUnknown,
        Reason::Pickup,
        Reason::Steady,
        Reason::Probe,
        Reason::Backlog,
        Reason::AtLimit,
        Reason::BelowMin,
        Reason::AboveMax,
        Reason::Enough,
        Reason::ScaleDownDelay,
        Reason::AfterRestart,
        Reason::Late,
        Reason::Deadband,
        Reason::RunningWork,
        Reason::ScaleIn,
        Reason::ToZero,
    ]
    .into_iter()
    .map(Reason::name)
    .collect();
    let wanted = "pinned demand_unknown pickup steady probe backlog at_limit below_min above_max enough \
                  scale_down_delay after_restart late deadband running_work scale_in to_zero";
    assert_eq!(names, wanted.split_whitespace().map(str::to_owned).collect());
}

#[test]
fn explain_says_it_in_words() {
    let waiting = TypeDemand { oldest_age_seconds: 0.4, ..jobs(120, 10, 1.0) };
    let d = decided(Some(&demand(&[waiting])), &limits(), &ready(1), &History::default());
    assert_eq!(
        d.explain(),
        "From 1 to 5 replicas: with fewer, jobs would wait longer than 5 s. 120 jobs wait (the oldest for 0.4 s), \
         10 run, 0.0 a second arrive. The largest need is what waits and runs, for none to wait longer than 5 s: \
         42.3 slots, 10 in each replica."
    );
}
