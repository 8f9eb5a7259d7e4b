//! What callers were told of their calls, against the record of what ran.
//!
//! Plain data in, a list out, so that planted faults can prove that it sees them. A call that was told `unavailable` has
//! not run and never will; one that returned has run once; of one that is uncertain nobody knows, but it has not run
//! twice. A call that may be repeated may run more than once, and apart from that the same holds for it.

use std::collections::BTreeMap;
use std::fmt;

/// What a caller was told of its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Told {
    Returned,
    /// It did not run.
    Unavailable,
    /// It may have run.
    Uncertain,
}

/// One call as its caller knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Made by the caller, and no other call's.
    pub id: String,
    pub told: Told,
    /// Whether it may run more than once.
    pub repeatable: bool,
}

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// What is unavailable does not run.
    UnavailableNeverRuns,
    /// What has returned has run.
    ReturnedHasRun,
    /// What may not be repeated runs once at most.
    RunsOnce,
    /// What runs was called.
    RunsOnlyWhenCalled,
    /// Each call has an identity of its own; without that the record proves nothing.
    CalledOnce,
}

/// A call for which a rule does not hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    pub rule: Rule,
    pub id: String,
    /// How often it ran.
    pub runs: usize,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: `{}` ran {} times", self.rule, self.id, self.runs)
    }
}

/// Everything that does not fit between what callers were told and the identities of what ran.
pub fn check(calls: &[Call], ran: &[String]) -> Vec<Violation> {
    let mut runs: BTreeMap<&str, usize> = BTreeMap::new();
    for id in ran {
        *runs.entry(id).or_default() += 1;
    }
    let mut called: BTreeMap<&str, usize> = BTreeMap::new();
    let mut violations = Vec::new();
    for call in calls {
        *called.entry(&call.id).or_default() += 1;
        let runs = runs.get(call.id.as_str()).copied().unwrap_or_default();
        let mut broken = |rule| violations.push(Violation { rule, id: call.id.clone(), runs });
        match call.told {
            Told::Unavailable if runs > 0 => broken(Rule::UnavailableNeverRuns),
            Told::Returned if runs == 0 => broken(Rule::ReturnedHasRun),
            Told::Returned | Told::Uncertain if runs > 1 && !call.repeatable => broken(Rule::RunsOnce),
            _ => {}
        }
    }
    let broken = |rule, id: &str| Violation {
        rule,
        id: id.to_owned(),
        runs: runs.get(id).copied().unwrap_or_default(),
    };
    violations.extend(called.iter().filter(|(_, n)| **n > 1).map(|(id, _)| broken(Rule::CalledOnce, id)));
    let uncalled = runs.keys().filter(|id| !called.contains_key(**id));
    violations.extend(uncalled.map(|id| broken(Rule::RunsOnlyWhenCalled, id)));
    violations.sort();
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: &str, told: Told) -> Call {
        Call { id: id.to_owned(), told, repeatable: false }
    }

    fn repeatable(id: &str, told: Told) -> Call {
        Call { repeatable: true, ..call(id, told) }
    }

    /// The rules that do not hold, with the calls.
    fn broken(calls: &[Call], ran: &[&str]) -> Vec<(Rule, String)> {
        let ran: Vec<String> = ran.iter().map(|id| (*id).to_owned()).collect();
        check(calls, &ran).into_iter().map(|v| (v.rule, v.id)).collect()
    }

    fn only(rule: Rule, id: &str) -> Vec<(Rule, String)> {
        vec![(rule, id.to_owned())]
    }

    /// One call of each kind, all as they should be, so that a planted fault stands among others.
    fn sound() -> (Vec<Call>, Vec<&'static str>) {
        let calls = vec![
            call("returned", Told::Returned),
            call("unavailable", Told::Unavailable),
            call("ran", Told::Uncertain),
            call("did-not-run", Told::Uncertain),
            repeatable("again-returned", Told::Returned),
            repeatable("again-unavailable", Told::Unavailable),
            repeatable("again-ran", Told::Uncertain),
            repeatable("again-did-not-run", Told::Uncertain),
        ];
        let ran = vec!["ran", "returned", "again-returned", "again-returned", "again-ran", "again-ran"];
        (calls, ran)
    }

    #[test]
    fn sound_run_breaks_no_rule() {
        let (calls, ran) = sound();
        assert_eq!(broken(&calls, &ran), []);
        assert_eq!(broken(&[], &[]), []);
    }

    #[test]
    fn unavailable_call_that_ran_is_found() {
        for id in ["unavailable", "again-unavailable"] {
            let (calls, mut ran) = sound();
            ran.push(id);
            assert_eq!(broken(&calls, &ran), only(Rule::UnavailableNeverRuns, id));
        }
    }

    #[test]
    fn returned_call_that_did_not_run_is_found() {
        for id in ["returned", "again-returned"] {
            let (calls, mut ran) = sound();
            ran.retain(|ran| *ran != id);
            assert_eq!(broken(&calls, &ran), only(Rule::ReturnedHasRun, id));
        }
    }

    #[test]
    fn call_that_ran_twice_is_found_unless_it_may_be_repeated() {
        for id in ["returned", "ran"] {
            let (calls, mut ran) = sound();
            ran.push(id);
            assert_eq!(broken(&calls, &ran), only(Rule::RunsOnce, id));
        }
    }

    #[test]
    fn run_that_nobody_called_is_found() {
        let (calls, mut ran) = sound();
        ran.insert(0, "forged");
        assert_eq!(broken(&calls, &ran), only(Rule::RunsOnlyWhenCalled, "forged"));
    }

    #[test]
    fn identity_of_two_calls_is_found() {
        let (mut calls, ran) = sound();
        calls.push(call("returned", Told::Uncertain));
        assert_eq!(broken(&calls, &ran), only(Rule::CalledOnce, "returned"));
    }

    #[test]
    fn violation_says_what_happened() {
        let violations = check(&[call("a", Told::Unavailable)], &["a".to_owned()]);
        assert_eq!(violations[0].to_string(), "UnavailableNeverRuns: `a` ran 1 times");
    }
}
