//! The scalers that are compared, with their settings.
//!
//! Each baseline runs with its documented defaults, and tuned as far as its settings go: targets at all slots, no
//! limit on growth, windows and delays of 15 s for all alike.

use std::{collections::VecDeque, time::Duration};

use super::{
    keda::{self, Keda},
    kpa::{self, Knative},
    options::Options,
    rowlock::{Fixed, Rowlock},
    scaler::Scaler,
    textbook::Textbook,
};

/// A scaler with its settings.
pub(super) struct Profile {
    pub name: &'static str,
    pub settings: String,
    pub scaler: Box<dyn Scaler>,
}

const TUNED_DELAY: Duration = Duration::from_secs(15);

/// All scalers, ours first.
pub(super) fn profiles(options: &Options) -> Vec<Profile> {
    let (slots, max) = (options.slots, options.max_replicas);
    let profile = |name, settings: &str, scaler| Profile { name, settings: settings.to_owned(), scaler };
    let rowlock = |name, delay: Duration| {
        let settings = format!("scale-down-delay {} s", delay.as_secs_f64());
        Profile { name, settings, scaler: Box::new(Rowlock::new(options, delay)) }
    };
    let keda = |settings| Box::new(Keda::new(settings, max, options.seed));
    let window = TUNED_DELAY.as_secs_f64();
    let keda_defaults = keda::Settings::documented(slots);
    let keda_tuned =
        keda::Settings { polling: 1.0, cooldown: window, down_window: window, fast_up: true, ..keda_defaults };
    let knative_tuned = kpa::Settings {
        target: f64::from(slots),
        stable_window: window,
        panic_window: 3.0,
        panic_threshold: 1.1,
        ..kpa::Settings::documented(slots)
    };
    vec![
        rowlock("rowlock", options.scale_down_delay),
        rowlock("rowlock-tuned", TUNED_DELAY),
        profile(
            "textbook",
            "the same delay as rowlock; load + √load, and (pending + running) × S / time left",
            Box::new(Textbook {
                wait: options.target_wait.as_secs_f64(),
                slots: f64::from(slots),
                max,
                delay: options.scale_down_delay.as_secs_f64(),
                needs: VecDeque::new(),
            }),
        ),
        profile(
            "keda",
            "defaults: queued and running by slots, polling 30 s, cooldown 300 s, HPA every 15 s, down window 300 s",
            keda(keda_defaults),
        ),
        profile("keda-tuned", "polling 1 s, cooldown and down window 15 s, growth unlimited", keda(keda_tuned)),
        profile(
            "keda-1s",
            "as tuned, and the HPA every 1 s, which managed clusters do not allow",
            keda(keda::Settings { sync: 1.0, ..keda_tuned }),
        ),
        profile(
            "knative",
            "defaults: 70 % of slots, windows 60 s and 6 s, panic at 200 %",
            Box::new(Knative::new(kpa::Settings::documented(slots), max)),
        ),
        profile(
            "knative-tuned",
            "100 % of slots, windows 15 s and 3 s, panic at 110 %",
            Box::new(Knative::new(knative_tuned, max)),
        ),
        profile("fixed", "max-replicas throughout: what the maximum allows", Box::new(Fixed(max))),
    ]
}
