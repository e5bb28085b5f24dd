//! A circuit breaker: after too many failures it lets nobody through for a while, and then a few, to see.
//!
//! After Michael Nygard's *Release It!*. Nothing is held while a call runs: it is admitted with a permit, and what became
//! of it is told with that permit afterwards. A permit from before the last change of state says nothing any more.

use std::collections::VecDeque;

/// What a breaker is told when it is made.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// So many failures open it.
    pub threshold: usize,
    /// Within so many nanoseconds.
    pub window: u64,
    /// So long it stays open, in nanoseconds.
    pub recovery: u64,
    /// So many calls try it then; when all of them succeed, it is closed.
    pub trials: u32,
}

/// Whether calls go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They do.
    Closed,
    /// They don't, until this moment.
    Open(u64),
    /// A few do.
    HalfOpen {
        /// How many are on their way.
        running: u32,
        /// How many have succeeded.
        succeeded: u32,
        /// When the last one was let through.
        last: u64,
    },
}

/// Lets one call through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    epoch: u64,
    trial: bool,
}

impl Permit {
    /// Whether the call is one of those that try a half-open breaker.
    #[must_use]
    pub fn is_trial(self) -> bool {
        self.trial
    }

    /// The permit of a call through a breaker that is closed, in the epoch that it told.
    #[must_use]
    pub fn closed(epoch: u64) -> Self {
        Self { epoch, trial: false }
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The service has answered.
    Success,
    /// It has not.
    Failure,
    /// Nobody knows: the call was cancelled.
    Neither,
}

/// The state of a breaker.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    /// How many changes of state there have been.
    epoch: u64,
    /// The moments of the last failures: fewer than the threshold.
    failures: VecDeque<u64>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed, epoch: 1, failures: VecDeque::new() }
    }
}

impl Breaker {
    /// Whether calls go through at this moment.
    #[must_use]
    pub fn state(&self, now: u64) -> State {
        match self.state {
            // Whoever comes next is the first to try.
            State::Open(until) if now >= until => State::HalfOpen { running: 0, succeeded: 0, last: now },
            state => state,
        }
    }

    /// The number of this closed period; none where the breaker isn't closed.
    #[must_use]
    pub fn closed_epoch(&self) -> Option<u64> {
        (self.state == State::Closed).then_some(self.epoch)
    }

    fn turn(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
        self.failures.clear();
    }

    /// Lets a call through, or says how many nanoseconds it is at most until somebody will be.
    pub fn admit(&mut self, now: u64, rules: &Rules) -> Result<Permit, u64> {
        match self.state {
            State::Closed => return Ok(Permit { epoch: self.epoch, trial: false }),
            State::Open(until) if now < until => return Err(until - now),
            State::Open(_) => self.turn(State::HalfOpen { running: 0, succeeded: 0, last: now }),
            State::HalfOpen { running, succeeded, last } if running + succeeded >= rules.trials => {
                let patience = last.saturating_add(rules.recovery);
                if now < patience {
                    return Err(patience - now);
                }
                // Those who try don't come back: their places go to others.
                self.turn(State::HalfOpen { running: 0, succeeded: 0, last: now });
            }
            State::HalfOpen { .. } => {}
        }
        if let State::HalfOpen { running, last, .. } = &mut self.state {
            *running += 1;
            *last = now;
        }
        Ok(Permit { epoch: self.epoch, trial: true })
    }

    /// Takes note of what became of a call.
    pub fn settle(&mut self, now: u64, rules: &Rules, permit: Permit, end: End) {
        if permit.epoch != self.epoch {
            return;
        }
        match (&mut self.state, end) {
            (State::Closed, End::Failure) => {
                self.failures.push_back(now);
                let since = now.saturating_sub(rules.window);
                while self.failures.front().is_some_and(|failure| *failure < since) {
                    self.failures.pop_front();
                }
                if self.failures.len() >= rules.threshold {
                    self.turn(State::Open(now.saturating_add(rules.recovery)));
                }
            }
            (State::HalfOpen { .. }, End::Failure) => self.turn(State::Open(now.saturating_add(rules.recovery))),
            (State::HalfOpen { running, succeeded, .. }, End::Success | End::Neither) => {
                *running = running.saturating_sub(1);
                *succeeded += u32::from(end == End::Success);
                if *succeeded >= rules.trials {
                    self.turn(State::Closed);
                }
            }
            (State::Closed | State::Open(_), _) => {}
        }
    }

    /// Closes it, whatever has been.
    pub fn reset(&mut self) {
        self.turn(State::Closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { threshold: 3, window: 100, recovery: 50, trials: 1 };

    fn fail(breaker: &mut Breaker, now: u64, rules: &Rules) {
        let permit = breaker.admit(now, rules).expect("it lets through");
        breaker.settle(now, rules, permit, End::Failure);
    }

    fn opened(rules: &Rules) -> Breaker {
        let mut breaker = Breaker::default();
        for now in 0..3 {
            fail(&mut breaker, now, rules);
        }
        breaker
    }

    #[test]
    fn opens_at_the_threshold_within_the_window_and_tells_how_long() {
        let mut breaker = opened(&RULES);
        assert_eq!(breaker.state(2), State::Open(52));
        assert_eq!(breaker.admit(12, &RULES), Err(40));
        assert_eq!(breaker.closed_epoch(), None);
    }

    #[test]
    fn failures_that_lie_apart_don_t_open_it() {
        let mut breaker = Breaker::default();
        for now in 0..20 {
            fail(&mut breaker, now * 60, &RULES);
            assert_eq!(breaker.state(now * 60), State::Closed);
        }
        assert!(breaker.failures.len() < 3, "no more are kept than are needed");
    }

    #[test]
    fn one_call_tries_and_closes_it() {
        let mut breaker = opened(&RULES);
        let trial = breaker.admit(52, &RULES).expect("the first to try");
        assert!(trial.is_trial());
        assert_eq!(breaker.admit(53, &RULES), Err(49));
        breaker.settle(54, &RULES, trial, End::Success);
        assert_eq!(breaker.state(54), State::Closed);
    }

    #[test]
    fn one_call_tries_and_opens_it_again() {
        let mut breaker = opened(&RULES);
        let trial = breaker.admit(60, &RULES).expect("the first to try");
        breaker.settle(61, &RULES, trial, End::Failure);
        assert_eq!(breaker.state(61), State::Open(111));
    }

    #[test]
    fn a_cancelled_trial_gives_its_place_back() {
        let mut breaker = opened(&RULES);
        let trial = breaker.admit(60, &RULES).expect("the first to try");
        breaker.settle(61, &RULES, trial, End::Neither);
        assert!(breaker.admit(61, &RULES).is_ok());
    }

    #[test]
    fn a_trial_that_never_ends_is_replaced() {
        let mut breaker = opened(&RULES);
        let lost = breaker.admit(60, &RULES).expect("the first to try");
        let next = breaker.admit(110, &RULES).expect("in its place");
        breaker.settle(111, &RULES, lost, End::Failure);
        assert!(matches!(breaker.state(111), State::HalfOpen { .. }), "it comes too late to say anything");
        breaker.settle(112, &RULES, next, End::Success);
        assert_eq!(breaker.state(112), State::Closed);
    }

    #[test]
    fn all_trials_must_succeed() {
        let rules = Rules { trials: 2, ..RULES };
        let mut breaker = opened(&rules);
        let one = breaker.admit(60, &rules).expect("the first to try");
        let other = breaker.admit(60, &rules).expect("the second to try");
        assert!(breaker.admit(60, &rules).is_err());
        breaker.settle(61, &rules, one, End::Success);
        assert!(matches!(breaker.state(61), State::HalfOpen { .. }));
        assert!(breaker.admit(62, &rules).is_err(), "two are enough to say");
        breaker.settle(63, &rules, other, End::Success);
        assert_eq!(breaker.state(63), State::Closed);
    }

    #[test]
    fn calls_from_before_say_nothing() {
        let mut breaker = Breaker::default();
        let slow = breaker.admit(0, &RULES).expect("closed");
        for now in 1..4 {
            fail(&mut breaker, now, &RULES);
        }
        let trial = breaker.admit(60, &RULES).expect("the first to try");
        breaker.settle(61, &RULES, slow, End::Failure);
        breaker.settle(62, &RULES, slow, End::Success);
        breaker.settle(63, &RULES, trial, End::Success);
        assert_eq!(breaker.state(63), State::Closed);
    }
}
