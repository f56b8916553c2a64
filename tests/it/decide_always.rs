//! What holds for `decide` whatever the demand.

use std::time::Duration;

use chrono::TimeDelta;
use proptest::prelude::*;
use rowlock::controller::{Connections, Current, Demand, History, Limits, Rule, TypeDemand, decide};

use crate::decide::at;

prop_compose! {
    fn any_type()(
        pending in 0_u64..5000, soon in 0_u64..100, running in 0_u64..400, age in 0.0..20.0_f64,
        running_age in proptest::option::of(0.0..100.0_f64), ended in proptest::option::of(0.0..50.0_f64),
        rate_10s in 0.0..100.0_f64, rate_60s in 0.0..100.0_f64,
        service in proptest::option::of(0.001..60.0_f64), expected in proptest::option::of(0.001..60.0_f64),
    ) -> TypeDemand {
        TypeDemand {
            queue: "q".into(), job_type: "t".into(), pending, scheduled_soon: soon, running, oldest_age_seconds: age,
            running_age_seconds: running_age, ended_10s: ended, rate_10s, rate_60s,
            service_seconds: service, expected_seconds: expected,
        }
    }
}

prop_compose! {
    fn any_demand()(
        types in proptest::collection::vec(any_type(), 0..4), old in proptest::option::of(0.0..1000.0_f64),
        connections in proptest::option::of((0_u32..100, 1_u32..5)),
    ) -> Demand {
        let connections = connections.map(|(free, per_replica)| Connections { free, per_replica });
        Demand { types, oldest_transaction_seconds: old, connections }
    }
}

prop_compose! {
    fn any_limits()(
        min in 0_u32..20, more in 0_u32..80, slots in 1_u32..30, wait in 1_u64..60, delay in 0_u64..120,
        plain in proptest::option::weighted(0.2, 1_u32..500),
    ) -> Limits {
        let rule = plain.map_or(Rule::TargetWait(Duration::from_secs(wait)), Rule::JobsPerReplica);
        Limits {
            min_replicas: min, max_replicas: min + more, slots: Some(slots), rule,
            scale_down_delay: Duration::from_secs(delay), ..Limits::new(vec!["q".into()])
        }
    }
}

prop_compose! {
    fn any_current()(
        ready in 0_u32..80, starting in proptest::collection::vec(0.0..10.0_f64, 0..20), stuck in 0_u32..2,
        start in proptest::option::of(0.1..30.0_f64),
    ) -> Current {
        let started = starting.len() as u32;
        Current {
            replicas: ready + started, ready, starting_seconds: starting,
            unschedulable: stuck.min(started), start_seconds: start, slots: None,
        }
    }
}

prop_compose! {
    fn any_history()(first in 0_i64..600, need in proptest::collection::vec(0.0..300.0_f64, 1..9)) -> History {
        let mut history = History::default();
        (first..600).for_each(|s| {
            let need = need[s as usize % need.len()];
            history.add(at(s), need, (need / 10.0).ceil() as u32, TimeDelta::seconds(120));
        });
        history
    }
}

/// More of everything that is demand.
fn more(demand: &Demand, by: &TypeDemand, of: usize) -> Demand {
    let mut more = demand.clone();
    if let Some(t) = more.types.get_mut(of) {
        t.pending += by.pending;
        t.scheduled_soon += by.scheduled_soon;
        t.running += by.running;
        t.rate_10s += by.rate_10s;
        t.rate_60s += by.rate_60s;
        t.oldest_age_seconds += by.oldest_age_seconds;
    } else {
        more.types.push(by.clone());
    }
    more
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_stays_within_bounds(d in any_demand(), l in any_limits(), c in any_current(), h in any_history()) {
        let wanted = decide(Some(&d), &l, &c, &h, at(600)).wanted;
        prop_assert!((l.min_replicas..=l.max_replicas).contains(&wanted), "{wanted}");
    }

    #[test]
    fn more_demand_never_wants_fewer(
        d in any_demand(), by in any_type(), of in 0_usize..4, l in any_limits(), c in any_current(), h in any_history(),
    ) {
        let (less, more) = (decide(Some(&d), &l, &c, &h, at(600)), decide(Some(&more(&d, &by, of)), &l, &c, &h, at(600)));
        prop_assert!(more.wanted >= less.wanted, "{}\n{}", less.explain(), more.explain());
        prop_assert!(more.need_slots >= less.need_slots, "{}\n{}", less.explain(), more.explain());
    }

    #[test]
    fn a_scale_in_leaves_room_for_what_runs(
        d in any_demand(), l in any_limits(), c in any_current(), h in any_history(),
    ) {
        let decision = decide(Some(&d), &l, &c, &h, at(600));
        let running = d.running().div_ceil(u64::from(decision.inputs.slots));
        let floor = running.min(u64::from(l.max_replicas)).min(u64::from(c.replicas));
        prop_assert!(u64::from(decision.wanted) >= floor, "{}", decision.explain());
    }

    #[test]
    fn unknown_demand_never_scales_in(l in any_limits(), c in any_current(), h in any_history()) {
        prop_assert!(decide(None, &l, &c, &h, at(600)).wanted >= c.replicas);
    }

    #[test]
    fn the_same_inputs_give_the_same_decision(
        d in any_demand(), l in any_limits(), c in any_current(), h in any_history(),
    ) {
        let decision = decide(Some(&d), &l, &c, &h, at(600));
        prop_assert_eq!(&decision, &decide(Some(&d.clone()), &l.clone(), &c.clone(), &h.clone(), at(600)));
        prop_assert!(!decision.explain().is_empty());
        prop_assert!(decision.need_slots.is_none_or(f64::is_finite));
    }
}
