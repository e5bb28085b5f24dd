//! Who computes what, and who waits for it: one computation a key at a time, and no circle of waiters.
//!
//! The one who computes is the *leader* of a flight, the others are its followers. A follower first looks where its wait
//! would lead: from the flight's leader to the flight that *this one* waits for, and so on. A task's wait holds up not only
//! what it leads itself, but what the tasks lead that it descends from, because they may be waiting for it; a thread's wait
//! holds up all tasks of the loop that it runs; and a task's wait holds up what the thread leads that runs its loop, for that
//! has begun before the loop. Where the way comes back to the follower, waiting would never end, and it computes for itself.
//! The look and the note that it waits are one step.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::LazyLock;

use pyo3::prelude::*;

use crate::callable::this_thread;
use crate::guarding::{self, Guarded, Made, Tally, interned};
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

    /// In one number, to be kept in an entry.
    #[inline]
    #[must_use]
    pub fn pack(self) -> u64 {
        // No address of a thread or a task has its highest bit set.
        match self {
            Self::Thread(address) => (address as u64) << 1,
            Self::Task(address) => (address as u64) << 1 | 1,
        }
    }

    /// What was packed.
    #[must_use]
    pub fn unpack(packed: u64) -> Self {
        let address = (packed >> 1) as usize;
        if packed & 1 == 0 { Self::Thread(address) } else { Self::Task(address) }
    }
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

/// A computation that is under way and that somebody waits for.
pub struct Flight {
    /// Its number, in all caches.
    pub id: u64,
    /// Who waits, in order of arrival.
    pub followers: Vec<Arc<Ticket<Landing>>>,
}

/// A flight number that is given out once, and is higher than those before.
#[inline]
pub fn next_flight(py: Python<'_>) -> u64 {
    NUMBERS.next(py)
}

static NUMBERS: Tally = Tally::new();

/// Somebody's wait.
struct Wait {
    flight: u64,
    leader: Who,
    /// The flights that can't land before this wait is over: a task's own, and those of the tasks that it descends from.
    leading: Vec<u64>,
    /// The thread on which somebody waits, and, for a task, the last flight that had begun by then: what the thread itself
    /// leads of those is below the task's loop, and can't land before the loop has ended.
    thread: usize,
    since: u64,
}

#[derive(Default)]
struct Waits {
    generation: u64,
    by_waiter: HashMap<Who, Wait>,
    /// By flight, who keeps it from landing by waiting for another.
    holding_up: HashMap<u64, Vec<Who>>,
    /// By thread, the tasks that wait on it.
    tasks: HashMap<usize, HashSet<Who>>,
    /// By flight, the thread of the task that leads it: while the thread waits, the task doesn't get on.
    homes: HashMap<u64, usize>,
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
        if let Some(tasks) = self.tasks.get_mut(&wait.thread) {
            tasks.remove(&who);
            if tasks.is_empty() {
                self.tasks.remove(&wait.thread);
            }
        }
    }

    /// Whether the flight `id` of `leader` can't land before this wait of `who` is over.
    fn depends_on(&self, id: u64, leader: Who, who: Who, wait: &Wait) -> bool {
        let mut seen = HashSet::new();
        let mut next = vec![(id, leader)];
        while let Some((flight, leader)) = next.pop() {
            let home = self.homes.get(&flight).copied();
            let is_held_up = leader == who
                || wait.leading.contains(&flight)
                || match who {
                    Who::Thread(_) => home == Some(wait.thread),
                    Who::Task(_) => leader == Who::Thread(wait.thread) && flight <= wait.since,
                };
            if is_held_up {
                return true;
            }
            if !seen.insert(flight) {
                continue;
            }
            let holding_up = self.holding_up.get(&flight).into_iter().flatten().copied();
            let home = home.map(Who::Thread);
            let waits = holding_up.chain([leader]).chain(home).filter_map(|waiter| self.by_waiter.get(&waiter));
            next.extend(waits.map(|wait| (wait.flight, wait.leader)));
            if let Who::Thread(thread) = leader {
                let tasks = self.tasks.get(&thread).into_iter().flatten();
                let waits = tasks.filter_map(|task| self.by_waiter.get(task)).filter(|wait| flight <= wait.since);
                next.extend(waits.map(|wait| (wait.flight, wait.leader)));
            }
        }
        false
    }
}

/// Notes that `who`, on whom the flights `leading` depend, waits on this thread for the flight `id` of `leader`; false
/// where that would close a circle.
#[must_use]
pub fn note_wait(py: Python<'_>, who: Who, leading: &[u64], id: u64, leader: Who) -> bool {
    let thread = this_thread();
    WAITS.with(py, |waits, _| {
        waits.forget_the_parents();
        let wait = Wait { flight: id, leader, leading: leading.to_vec(), thread, since: NUMBERS.get() };
        if waits.depends_on(id, leader, who, &wait) {
            return false;
        }
        for flight in leading {
            waits.holding_up.entry(*flight).or_default().push(who);
        }
        if let Who::Task(_) = who {
            waits.tasks.entry(thread).or_default().insert(who);
        }
        waits.by_waiter.insert(who, wait);
        true
    })
}

/// Notes that `who` waits no more.
pub fn forget_wait(py: Python<'_>, who: Who) {
    WAITS.with(py, |waits, _| waits.forget(who));
}

/// Notes that a task of this thread leads a flight.
pub fn note_home(py: Python<'_>, id: u64) {
    WAITS.with(py, |waits, _| {
        waits.forget_the_parents();
        waits.homes.insert(id, this_thread());
    });
}

/// Notes that a task leads a flight no more.
pub fn forget_home(py: Python<'_>, id: u64) {
    WAITS.with(py, |waits, _| waits.homes.remove(&id));
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

/// The flights that are led in the context of this thread, by tasks whose context it has: `asyncio.to_thread` copies it.
#[must_use]
pub fn leading_here(py: Python<'_>) -> Vec<u64> {
    static LEADING: Made<Py<PyAny>> = Made::new();
    let leading = LEADING
        .import(py, "ferrule.caching", "leading")
        .and_then(|variable| guarding::call_method(variable, interned!(py, "get"), &[])?.extract::<Vec<u64>>());
    // Without the module there are no tasks that lead anything.
    leading.unwrap_or_default()
}
