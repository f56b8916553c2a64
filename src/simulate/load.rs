//! The load: which job arrives when and how long it takes. Synthetic shapes; a trace is read by `trace`.

use std::{f64::consts::TAU, str::FromStr};

use super::random::Random;

/// A type of jobs.
#[derive(Debug, Clone, PartialEq)]
pub struct Kind {
    /// The type's name.
    pub name: String,
    /// The time of its jobs, declared as `expected` in the catalogue.
    pub expected_seconds: Option<f64>,
}

/// A job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrival {
    /// The time at which it becomes due, in seconds from the start.
    pub at: f64,
    /// Its type, an index into [`Load::kinds`].
    pub kind: usize,
    /// The time that it takes, in seconds.
    pub service: f64,
}

/// Jobs in the order of their arrival.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// The load's name.
    pub name: String,
    /// The types.
    pub kinds: Vec<Kind>,
    /// The jobs.
    pub arrivals: Vec<Arrival>,
    /// The length of the load, in seconds.
    pub duration: f64,
}

/// A synthetic load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Two bursts of 600 one-second jobs, ten minutes apart, over a trickle.
    Spike,
    /// From 2 half-second jobs a second up to 60 and down again.
    Ramp,
    /// Two days of 20 minutes each: between 4 and 80 half-second jobs a second.
    Diurnal,
    /// Pareto service times: most jobs take a fifth of a second, one in a thousand above 20 s.
    Heavy,
    /// Ten-second jobs beside bursts of 300 jobs of 10 ms.
    Mixed,
    /// 25 one-second jobs a second, Poisson.
    Steady,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Shape; 6] = [Shape::Spike, Shape::Ramp, Shape::Diurnal, Shape::Heavy, Shape::Mixed, Shape::Steady];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Spike => "spike",
            Shape::Ramp => "ramp",
            Shape::Diurnal => "diurnal",
            Shape::Heavy => "heavy",
            Shape::Mixed => "mixed",
            Shape::Steady => "steady",
        }
    }

    /// Makes the jobs of a load of this length. The same seed gives the same jobs.
    pub fn load(self, duration: f64, seed: u64) -> Load {
        let mut make = Maker { random: Random::new(seed), duration, arrivals: Vec::new() };
        let mut kinds = vec![("job", 0.5)];
        match self {
            Shape::Spike => {
                kinds = vec![("trickle", 0.2), ("burst", 1.0)];
                make.poisson(0, 1.0, |_| 1.0, |r| r.exponential(0.2));
                for at in [duration / 30.0, duration / 30.0 + 600.0] {
                    make.burst(at, 600, 1, |_| 1.0);
                }
            }
            Shape::Ramp => {
                make.poisson(
                    0,
                    60.0,
                    |at| 2.0 + 58.0 * (1.0 - (2.0 * at / duration - 1.0).abs()),
                    |r| r.exponential(0.5),
                );
            }
            Shape::Diurnal => {
                let day = (duration / 2.0).min(1200.0);
                make.poisson(0, 80.0, |at| 42.0 - 38.0 * (at / day * TAU).cos(), |r| r.exponential(0.5));
            }
            Shape::Heavy => {
                kinds = vec![("job", 0.6)];
                // Without a bound the mean of a run would depend on its largest job.
                make.poisson(0, 30.0, |_| 30.0, |r| r.pareto(0.2, 1.5).min(120.0));
            }
            Shape::Mixed => {
                kinds = vec![("long", 10.0), ("short", 0.01)];
                make.poisson(0, 0.8, |_| 0.8, |r| r.between(8.0, 12.0));
                let mut at = 15.0;
                while at < duration {
                    make.burst(at, 300, 1, |r| r.between(0.005, 0.015));
                    at += 20.0;
                }
            }
            Shape::Steady => {
                kinds = vec![("job", 1.0)];
                make.poisson(0, 25.0, |_| 25.0, |r| r.exponential(1.0));
            }
        }
        make.arrivals.sort_by(|a, b| a.at.total_cmp(&b.at));
        let kind = |(name, expected): &(&str, f64)| Kind { name: (*name).into(), expected_seconds: Some(*expected) };
        Load { name: self.name().into(), kinds: kinds.iter().map(kind).collect(), arrivals: make.arrivals, duration }
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Shape, String> {
        let names = Shape::ALL.map(Shape::name).join(", ");
        Shape::ALL.into_iter().find(|s| s.name() == text).ok_or(format!("expected one of {names}"))
    }
}

struct Maker {
    random: Random,
    duration: f64,
    arrivals: Vec<Arrival>,
}

impl Maker {
    /// Makes independent arrivals at a rate that changes and is never above `highest` (by thinning).
    fn poisson(&mut self, kind: usize, highest: f64, rate: impl Fn(f64) -> f64, service: impl Fn(&mut Random) -> f64) {
        let mut at = 0.0;
        loop {
            at += self.random.exponential(1.0 / highest);
            if at >= self.duration {
                return;
            }
            if self.random.unit() * highest < rate(at) {
                let service = service(&mut self.random);
                self.arrivals.push(Arrival { at, kind, service });
            }
        }
    }

    fn burst(&mut self, at: f64, count: usize, kind: usize, service: impl Fn(&mut Random) -> f64) {
        if at < self.duration {
            for _ in 0..count {
                let service = service(&mut self.random);
                self.arrivals.push(Arrival { at, kind, service });
            }
        }
    }
}
