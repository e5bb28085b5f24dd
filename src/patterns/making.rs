//! Making a thing once, however many threads ask for it at the same time.
//!
//! Whoever comes first makes it, the others wait and look again. A maker that fails leaves the thing unmade, and the next
//! one tries. Nobody waits in a circle: a thing that is needed to make itself is an error, in one thread or through many.

use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::flights::{Who, forget_wait, next_flight, note_wait};
use crate::guarding::Guarded;
use crate::lifecycle;
use crate::waiting::Ticket;

struct Flight {
    id: u64,
    /// What is being made: the address of its owner, which the maker keeps alive.
    key: usize,
    maker: Who,
    waiting: Vec<Arc<Ticket<()>>>,
    generation: u64,
}

/// What is being made at this moment.
#[derive(Default)]
pub struct Making {
    flights: Guarded<Vec<Flight>>,
}

enum Entered {
    Maker(u64),
    Waiter(u64, Who, Arc<Ticket<()>>),
}

/// Ends a flight however its maker ended.
struct Landing<'a, 'py> {
    py: Python<'py>,
    making: &'a Making,
    id: u64,
}

impl Drop for Landing<'_, '_> {
    fn drop(&mut self) {
        let waiting = self.making.flights.with(self.py, |flights, _| {
            let place = flights.iter().position(|flight| flight.id == self.id);
            place.map(|place| flights.swap_remove(place).waiting)
        });
        for ticket in waiting.into_iter().flatten() {
            // Threads are woken without Python, which can't fail.
            let _ = ticket.close(self.py);
        }
    }
}

impl Making {
    /// What `look` finds; where that is nothing, `make` makes it and puts it where `look` finds it.
    ///
    /// `key` tells the things apart that are made in this place, and `name` is for messages.
    pub fn once<'py>(
        &self,
        py: Python<'py>,
        key: usize,
        look: impl Fn() -> PyResult<Option<Bound<'py, PyAny>>>,
        make: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
        name: impl Fn() -> String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let who = Who::here();
        loop {
            match self.enter(py, key, who) {
                Entered::Maker(id) => {
                    let _landing = Landing { py, making: self, id };
                    // Whoever made it may have landed since the caller looked.
                    return match look()? {
                        Some(there) => Ok(there),
                        None => make(),
                    };
                }
                Entered::Waiter(id, maker, ticket) => {
                    if !note_wait(py, who, &[], id, maker) {
                        let _ = ticket.leave(py);
                        return Err(PyRuntimeError::new_err(format!("{} is needed to make itself", name())));
                    }
                    let woken = ticket.wait(py, None);
                    forget_wait(py, who);
                    if let Err(interrupt) = woken {
                        let _ = ticket.leave(py);
                        return Err(interrupt);
                    }
                }
            }
            if let Some(made) = look()? {
                return Ok(made);
            }
        }
    }

    fn enter(&self, py: Python<'_>, key: usize, who: Who) -> Entered {
        // Made outside: on some interpreters making one allocates, and allocating may collect.
        let ticket = Ticket::for_this_thread();
        let id = next_flight(py);
        let generation = lifecycle::generation();
        let mut gone = Vec::new();
        let entered = self.flights.peek(py, |flights| {
            // In a forked child, nobody of the parent's other threads goes on making.
            let mut index = 0;
            while index < flights.len() {
                if flights[index].generation != generation && flights[index].maker != who {
                    gone.push(flights.swap_remove(index));
                } else {
                    index += 1;
                }
            }
            if let Some(flight) = flights.iter_mut().find(|flight| flight.key == key) {
                flight.waiting.push(Arc::clone(&ticket));
                return Entered::Waiter(flight.id, flight.maker, ticket);
            }
            flights.push(Flight { id, key, maker: who, waiting: Vec::new(), generation });
            Entered::Maker(id)
        });
        drop(gone);
        entered
    }
}
