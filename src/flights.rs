//! Who computes what, and who waits for it: one computation a key at a time, and no circle of waiters.
//!
//! The one who computes is the *leader* of a flight, the others are its followers. A follower first looks where its wait
//! would lead: from the flight's leader to the flight that *this one* waits for, and so on. A task's wait holds up not only
//! what it leads itself, but what the tasks lead that it descends from, because they may be waiting for it. Where the way
//! comes back to the follower, waiting would never end, and it computes for itself. The look and the note that it waits are
//! one step.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::LazyLock;

use pyo3::prelude::*;

use crate::callable::this_thread;
use crate::guarding::{Guarded, Tally};
use crate::lifecycle;
use crate::waiting::Ticket;

/// Somebody who computes or waits: a thread, or a task by its address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Who {
    /// A thread.
    Thread(usize),
    /// An asyncio task.
    Task(usize),
}

impl Who {
    /// This thread.
    #[inline]
    #[must_use]
    pub fn here() -> Self {
        Self::Thread(this_thread())
    }
}

/// A flight number that is given out once.
pub fn next_flight(py: Python<'_>) -> u64 {
    static NEXT: Tally = Tally::new();
    NEXT.next(py)
}

/// What a follower is handed.
pub enum Landing {
    /// The value.
    Value(Py<PyAny>),
    /// The exception.
    Error(Py<PyAny>),
    /// The leader was interrupted: the follower takes over.
    Lead,
}

/// A computation that is under way.
pub struct Flight {
    /// Its number, in all rooms.
    pub id: u64,
    /// Who computes.
    pub leader: Who,
    /// Who waits, in order of arrival.
    pub followers: Vec<Arc<Ticket<Landing>>>,
}

/// Somebody's wait.
struct Wait {
    flight: u64,
    leader: Who,
    /// The flights that can't land before this wait is over: a task's own, and those of the tasks that it descends from.
    leading: Vec<u64>,
}

#[derive(Default)]
struct Waits {
    generation: u64,
    by_waiter: HashMap<Who, Wait>,
    /// By flight, who keeps it from landing by waiting for another.
    holding_up: HashMap<u64, Vec<Who>>,
}

static WAITS: LazyLock<Guarded<Waits>> = LazyLock::new(Guarded::default);

impl Waits {
    /// In a forked child, nobody of those is left to wait.
    fn forget_the_parents(&mut self) {
        let generation = lifecycle::generation();
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
        }
    }

    fn forget(&mut self, who: Who) {
        let Some(wait) = self.by_waiter.remove(&who) else { return };
        for flight in wait.leading {
            if let Some(waiters) = self.holding_up.get_mut(&flight) {
                waiters.retain(|waiter| *waiter != who);
                if waiters.is_empty() {
                    self.holding_up.remove(&flight);
                }
            }
        }
    }

    /// Whether the flight `id` can't land before `who` gets on, or one of the flights `leading` does.
    fn depends_on(&self, id: u64, leader: Who, who: Who, leading: &[u64]) -> bool {
        let mut seen = HashSet::new();
        let mut next = vec![(id, leader)];
        while let Some((flight, leader)) = next.pop() {
            if leader == who || leading.contains(&flight) {
                return true;
            }
            if !seen.insert(flight) {
                continue;
            }
            let holding_up = self.holding_up.get(&flight).into_iter().flatten();
            let waits = holding_up.chain([&leader]).filter_map(|waiter| self.by_waiter.get(waiter));
            next.extend(waits.map(|wait| (wait.flight, wait.leader)));
        }
        false
    }
}

/// Notes that `who`, on whom the flights `leading` depend, waits for the flight `id` of `leader`; false where that would
/// close a circle.
#[must_use]
pub fn note_wait(py: Python<'_>, who: Who, leading: &[u64], id: u64, leader: Who) -> bool {
    WAITS.with(py, |waits, _| {
        waits.forget_the_parents();
        if waits.depends_on(id, leader, who, leading) {
            return false;
        }
        for flight in leading {
            waits.holding_up.entry(*flight).or_default().push(who);
        }
        waits.by_waiter.insert(who, Wait { flight: id, leader, leading: leading.to_vec() });
        true
    })
}

/// Notes that `who` waits no more.
pub fn forget_wait(py: Python<'_>, who: Who) {
    WAITS.with(py, |waits, _| waits.forget(who));
}

/// Notes that a flight has a new leader: its followers wait for that one now.
pub fn note_leader(py: Python<'_>, id: u64, leader: Who) {
    WAITS.with(py, |waits, _| {
        waits.forget(leader);
        for wait in waits.by_waiter.values_mut() {
            if wait.flight == id {
                wait.leader = leader;
            }
        }
    });
}
