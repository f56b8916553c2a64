//! The guards: what each cut takes away, and the scenario that is there for it.

mod jobs;
mod leases;

use crate::cut::Place;

pub struct Mutant {
    /// What it does wrong.
    pub name: &'static str,
    pub place: Place,
    pub guard: &'static str,
    pub instead: &'static str,
    /// The scenario that must fail. Others may.
    pub caught_by: &'static str,
}

const fn mutant(
    name: &'static str,
    place: Place,
    guard: &'static str,
    instead: &'static str,
    caught_by: &'static str,
) -> Mutant {
    Mutant { name, place, guard, instead, caught_by }
}

pub fn all() -> impl Iterator<Item = &'static Mutant> {
    leases::MUTANTS.iter().chain(jobs::MUTANTS)
}
