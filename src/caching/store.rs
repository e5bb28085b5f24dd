//! A cache's state, and all that is done with it: looking up, leading and following, landing, evicting.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyWeakrefMethods, PyWeakrefReference};

use super::keys::{Answer, Key, Probe};
use super::shelf::{NEVER, Shelf};
use crate::clock;
use crate::errors::Error;
use crate::flights::{Flight, Landing, Who, forget_wait, leading_here, next_flight, note_leader, note_wait};
use crate::guarding::{self, CatchUp, Shared, Tally, assert_nothing_is_open};
use crate::lifecycle;
use crate::waiting::{Settled, Ticket, Woken};

/// What is kept for a key.
pub enum Value {
    /// The value.
    Ready(Py<PyAny>),
    /// A weak reference to the value.
    Weak(Py<PyWeakrefReference>),
    /// The exception that computing ended with.
    Failed(Py<PyAny>),
    /// Somebody computes it: the number of the flight. The shelf's note on the entry says who.
    Pending(u64),
}

/// A key and what is kept for it.
pub struct Entry {
    key: Key,
    value: Value,
}

/// How long an entry lives.
#[derive(Clone, Copy)]
pub enum Ttl {
    /// As long as the cache says.
    Usual,
    /// So many nanoseconds, or for ever.
    Own(Option<u64>),
}

/// Why an entry has gone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// To make room.
    Size,
    /// Its time was over.
    Expired,
    /// Another value took its place.
    Replaced,
    /// Somebody asked for it.
    Invalidated,
    /// Everything was.
    Cleared,
    /// The value, or the instance whose method it is, was garbage.
    Collected,
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
            Self::Invalidated => "invalidated",
            Self::Cleared => "cleared",
            Self::Collected => "collected",
        }
    }
}

/// Entries that have gone, to be told of and released when nothing is open.
type Gone = Vec<(Entry, Cause)>;

struct Instance {
    /// What stands for it in the keys: held, so that its address isn't given to another's.
    reference: Py<PyAny>,
    /// A weak reference whose callback drops the instance's entries.
    keeper: Py<PyAny>,
    numbers: HashSet<u32>,
}

struct State {
    shelf: Shelf<Entry>,
    /// Those that somebody follows.
    flights: Vec<Flight>,
    /// By slot, where a stale value is being refreshed.
    refreshing: HashSet<u32>,
    /// By the address of the weak reference that stands for the instance in the keys.
    instances: HashMap<usize, Instance>,
    generation: u64,
    /// Hits that nobody needed to open the state for.
    hits: u64,
}

impl CatchUp for State {
    fn catch_up(&mut self, note: u32) {
        self.shelf.touch(note);
    }

    fn add_looks(&mut self, looks: u64) {
        self.hits += looks;
    }
}

/// How a cache was set up.
pub struct Settings {
    /// The most that it holds; `None` for no limit.
    pub maxsize: Option<u64>,
    /// Nanoseconds that an entry lives.
    pub ttl: Option<u64>,
    /// Nanoseconds for which a dead entry is still given out while somebody refreshes it.
    pub stale: u64,
    /// Called for the time in seconds; the coarse clock is read otherwise.
    pub timer: Option<Py<PyAny>>,
    /// Called with key and value for an entry's weight.
    pub weigher: Option<Py<PyAny>>,
    /// Called with key, value and cause of what has gone.
    pub on_evict: Option<Py<PyAny>>,
    /// Whether values are held weakly, where they can be.
    pub weak_values: bool,
}

/// The state of one cache.
pub struct Store {
    state: Shared<State>,
    /// How it was set up.
    pub settings: Settings,
    plain: bool,
    /// Whether any entry may expire, so that the clock has to be read.
    expires: AtomicBool,
    /// Look-ups that found something, but for those that the state counts.
    hits: Tally,
    /// Look-ups that found nothing.
    pub misses: Tally,
    evictions: Tally,
    expirations: AtomicU64,
}

/// What a look-up comes to.
pub enum Found<'py> {
    /// A value.
    Value(Bound<'py, PyAny>),
    /// A value that is past its time, and, for the one who is to refresh it, the slot.
    Stale(Bound<'py, PyAny>, Option<u32>),
    /// An exception that is kept.
    Error(Bound<'py, PyAny>),
    /// Nothing, and the caller is to compute it.
    Lead(Lead),
    /// Nothing yet: somebody else computes it.
    Follow(Lead, Who),
}

/// What the quick way in comes to.
pub enum Entered<'py> {
    /// A value.
    Hit(Bound<'py, PyAny>),
    /// Nothing, and the caller is to compute it.
    Lead(Lead),
    /// Nothing, at this version of the shelf.
    Absent(u64),
    /// Something that has to be looked at more closely.
    Uncertain,
}

/// A flight, and for its leader the right and duty to land it.
#[derive(Clone, Copy)]
pub struct Lead {
    /// The flight's number.
    pub id: u64,
    /// The slot of its entry.
    pub number: u32,
}

/// Whether one more entry fits.
enum Room {
    /// It does.
    There,
    /// It does now: this one had to go.
    Made(Entry),
    /// More than one would have to go, or it has to be looked at more closely: nothing has been done.
    Short,
}

enum Look<R> {
    Done(R),
    Ask(Key),
}

impl Store {
    /// An empty store.
    #[must_use]
    pub fn new(shelf: super::shelf::Policy, settings: Settings) -> Self {
        let expires = AtomicBool::new(settings.ttl.is_some());
        let plain = settings.weigher.is_none()
            && settings.on_evict.is_none()
            && !settings.weak_values
            && settings.maxsize != Some(0);
        Self {
            state: Shared::new(State {
                shelf: Shelf::new(shelf),
                flights: Vec::new(),
                refreshing: HashSet::new(),
                instances: HashMap::new(),
                generation: lifecycle::generation(),
                hits: 0,
            }),
            settings,
            plain,
            expires,
            hits: Tally::default(),
            misses: Tally::default(),
            evictions: Tally::default(),
            expirations: AtomicU64::new(0),
        }
    }

    /// The time on the cache's own clock, in nanoseconds.
    #[inline]
    pub fn now(&self, py: Python<'_>) -> PyResult<u64> {
        match &self.settings.timer {
            _ if !self.expires.load(Ordering::Relaxed) => Ok(0),
            None => Ok(clock::coarse()),
            Some(timer) => ask_timer(py, timer),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a limit beyond the address space is none")]
    fn capacity(&self) -> usize {
        self.settings.maxsize.map_or(usize::MAX, |maxsize| maxsize as usize)
    }

    /// Finds the entry of a key, or that there is none, and does something about it in the same step.
    fn find<'py, R>(
        &self,
        py: Python<'py>,
        probe: &Probe<'_, 'py>,
        gone: &mut Gone,
        mut act: impl FnMut(&mut State, Option<u32>, &mut Gone) -> R,
    ) -> PyResult<R> {
        // Kept keys that said that they are others. They are held here, so their addresses can't be given to new ones.
        let mut others: Vec<Key> = Vec::new();
        loop {
            let look = self.state.with(py, |state, _| {
                let mut ask = None;
                let found = state.shelf.find(probe.hash(), |_, entry| match probe.quick(py, &entry.key) {
                    Answer::Same => true,
                    Answer::Different => false,
                    Answer::Ask => {
                        if ask.is_none() && !others.iter().any(|other| other.is(&entry.key)) {
                            ask = Some(entry.key.clone_ref(py));
                        }
                        false
                    }
                });
                match ask {
                    Some(key) if found.is_none() => Look::Ask(key),
                    _ => Look::Done(act(state, found, gone)),
                }
            });
            let key = match look {
                Look::Done(result) => return Ok(result),
                Look::Ask(key) => key,
            };
            assert_nothing_is_open("comparing keys");
            if !probe.ask(py, &key)? {
                others.push(key);
                continue;
            }
            let result = self.state.with(py, |state, _| {
                let number = state.shelf.find(probe.hash(), |_, entry| entry.key.is(&key))?;
                Some(act(state, Some(number), gone))
            });
            if let Some(result) = result {
                return Ok(result);
            }
            // It has gone while it was asked: once more from the start.
        }
    }

    /// The quick way in: a value that is there and good, or nothing at all under that key, without asking any Python
    /// code. Where there is nothing and the caller `leads`, this thread leads the flight from now on.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the quick way in is to be one function to the optimiser")]
    pub fn enter<'py>(
        &self,
        py: Python<'py>,
        hash: u64,
        now: u64,
        leads: bool,
        same: impl Fn(&Key) -> Answer,
        to_key: impl FnOnce() -> Key,
    ) -> Entered<'py> {
        #[cfg(Py_GIL_DISABLED)]
        if let Some(value) = self.glance(py, hash, now, &same) {
            return Entered::Hit(value);
        }
        self.state.peek(py, |state| {
            let (found, certain) = state.sight(hash, &same);
            if let Some(number) = found {
                let Value::Ready(value) = &state.shelf.item(number).value else { return Entered::Uncertain };
                if now >= state.shelf.expiry(number) {
                    return Entered::Uncertain;
                }
                let value = value.bind(py).clone();
                state.shelf.touch(number);
                self.hits.increment(py);
                return Entered::Hit(value);
            }
            if !certain {
                return Entered::Uncertain;
            }
            self.misses.increment(py);
            if leads {
                Entered::Lead(state.take_off(py, to_key(), hash, Who::here()))
            } else {
                Entered::Absent(state.shelf.version())
            }
        })
    }

    /// The quick way to a value that is there and good; nothing else happens, and nothing is counted, where it isn't.
    #[inline]
    pub fn enter_uncounted<'py>(
        &self,
        py: Python<'py>,
        hash: u64,
        now: u64,
        same: impl Fn(&Key) -> Answer,
    ) -> Option<Bound<'py, PyAny>> {
        #[cfg(Py_GIL_DISABLED)]
        return self.glance(py, hash, now, same);
        #[cfg(not(Py_GIL_DISABLED))]
        self.state.peek(py, |state| {
            let number = state.shelf.find(hash, |_, entry| same(&entry.key) == Answer::Same)?;
            let Value::Ready(value) = &state.shelf.item(number).value else { return None };
            let value = value.bind(py).clone();
            if now >= state.shelf.expiry(number) {
                return None;
            }
            state.shelf.touch(number);
            self.hits.increment(py);
            Some(value)
        })
    }

    /// A value that is there and good, while others look, too.
    #[cfg(Py_GIL_DISABLED)]
    #[inline]
    fn glance<'py>(
        &self,
        py: Python<'py>,
        hash: u64,
        now: u64,
        same: impl Fn(&Key) -> Answer,
    ) -> Option<Bound<'py, PyAny>> {
        self.state.glance(py, |state, lane| {
            let number = state.shelf.find(hash, |_, entry| same(&entry.key) == Answer::Same)?;
            let Value::Ready(value) = &state.shelf.item(number).value else { return None };
            if now >= state.shelf.expiry(number) {
                return None;
            }
            lane.count();
            if state.shelf.policy().minds(lane.last() == Some(number)) {
                lane.note(number);
            }
            Some(value.bind(py).clone())
        })
    }

    /// Look-ups that found something.
    pub fn hits(&self, py: Python<'_>) -> u64 {
        self.hits.get() + self.state.with(py, |state, _| state.hits)
    }

    /// Whether landing asks nobody and tells nobody.
    #[inline]
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Keeps a value for one object, in a store that is plain: the quick way. False where it has to be looked at more
    /// closely, and nothing has been done.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "an entry that goes from hand to hand in memory stalls at every one")]
    pub fn set_plainly<'py>(
        &self,
        py: Python<'py>,
        hash: u64,
        value: &Bound<'py, PyAny>,
        same: impl Fn(&Key) -> Answer,
        to_key: impl FnOnce() -> Key,
    ) -> PyResult<bool> {
        let expiry = self.new_expiry(py)?;
        let set = self.state.peek(py, |state| {
            let (found, certain) = state.sight(hash, &same);
            if let Some(number) = found {
                let Value::Ready(kept) = &mut state.shelf.item_mut(number).value else { return None };
                let before = std::mem::replace(kept, value.clone().unbind());
                if !state.refreshing.is_empty() {
                    state.refreshing.remove(&number);
                }
                state.shelf.renew(number);
                state.shelf.set_expiry(number, expiry);
                return Some((Some(before), Room::There));
            }
            if certain { Some((None, self.put(py, state, hash, value, expiry, to_key))) } else { None }
        });
        match set {
            Some((Some(before), _)) => drop(before.into_bound(py)),
            Some((None, Room::There)) => {}
            Some((None, Room::Made(victim))) => victim.release(py),
            Some((None, Room::Short)) | None => return Ok(false),
        }
        Ok(true)
    }

    /// Puts in what isn't there, in a store that is plain, if there is room.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "an entry that goes from hand to hand in memory stalls at every one")]
    fn put<'py>(
        &self,
        py: Python<'py>,
        state: &mut State,
        hash: u64,
        value: &Bound<'py, PyAny>,
        expiry: u64,
        to_key: impl FnOnce() -> Key,
    ) -> Room {
        let room = self.make_room_for_one(py, state);
        if !matches!(room, Room::Short) {
            let entry = Entry { key: to_key(), value: Value::Ready(value.clone().unbind()) };
            let number = state.shelf.insert(hash, entry);
            self.admit(state, number, expiry);
        }
        room
    }

    /// Gives an entry that weighs one its place, and the time of its death, if it has one.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the quick way is to be one function to the optimiser")]
    fn admit(&self, state: &mut State, number: u32, expiry: u64) {
        state.shelf.admit(number, 1, self.capacity());
        if expiry != NEVER {
            state.shelf.set_expiry(number, expiry);
        }
    }

    /// Lands a flight with its value, in a store that is plain: the quick way, where nobody follows and one has to go at
    /// most.
    #[inline]
    pub fn land_plainly<'py>(&self, py: Python<'py>, lead: Lead, value: &Bound<'py, PyAny>) -> PyResult<()> {
        let expiry = self.new_expiry(py)?;
        let room = self.state.peek(py, |state| {
            if !state.flights.is_empty() || !state.is_pending(lead) {
                return Room::Short;
            }
            let room = self.make_room_for_one(py, state);
            if !matches!(room, Room::Short) {
                state.shelf.item_mut(lead.number).value = Value::Ready(value.clone().unbind());
                self.admit(state, lead.number, expiry);
            }
            room
        });
        match room {
            Room::There => Ok(()),
            Room::Made(victim) => {
                victim.release(py);
                Ok(())
            }
            Room::Short => guarding::attached(py, |py| self.land(py, lead, value)),
        }
    }

    /// Keeps a value for a key of which there was nothing at `version`, in a store that is plain. False where things have
    /// changed since.
    #[inline]
    pub fn keep_plainly<'py>(
        &self,
        py: Python<'py>,
        hash: u64,
        version: u64,
        value: &Bound<'py, PyAny>,
        to_key: impl FnOnce() -> Key,
    ) -> PyResult<bool> {
        let expiry = self.new_expiry(py)?;
        let room = self.state.peek(py, |state| {
            if state.shelf.version() == version {
                self.put(py, state, hash, value, expiry, to_key)
            } else {
                Room::Short
            }
        });
        match room {
            Room::There => {}
            Room::Made(victim) => victim.release(py),
            Room::Short => return Ok(false),
        }
        Ok(true)
    }

    /// When an entry dies that is kept now.
    #[inline]
    fn new_expiry(&self, py: Python<'_>) -> PyResult<u64> {
        match self.settings.ttl {
            Some(ttl) => Ok(self.now(py)?.saturating_add(ttl)),
            None => Ok(NEVER),
        }
    }

    /// Makes room for an entry that weighs one, in a store that is plain.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "an entry that goes from hand to hand in memory stalls at every one")]
    fn make_room_for_one(&self, py: Python<'_>, state: &mut State) -> Room {
        let Some(maxsize) = self.settings.maxsize else { return Room::There };
        if state.shelf.weight() < maxsize {
            return Room::There;
        }
        match state.shelf.victim(self.capacity()) {
            Some(victim) if state.shelf.weight() == maxsize => {
                self.evictions.increment(py);
                Room::Made(state.take_out(victim))
            }
            _ => Room::Short,
        }
    }

    /// Looks a key up for `who`, who will compute it where nobody does.
    #[inline]
    pub fn look_up<'py>(&self, py: Python<'py>, probe: &Probe<'_, 'py>, who: Who) -> PyResult<Found<'py>> {
        let now = self.now(py)?;
        let mut gone = Gone::new();
        let found = self.find(py, probe, &mut gone, |state, number, gone| {
            if let Some(number) = number
                && let Some(found) = self.use_entry(py, state, number, now, gone)
            {
                return found;
            }
            self.misses.increment(py);
            Found::Lead(state.take_off(py, probe.to_key(), probe.hash(), who))
        });
        if !gone.is_empty() {
            self.bury(py, gone);
        }
        found
    }

    /// Looks a key up for somebody who will not compute it, or will do so for themselves: counts as a use.
    #[inline]
    pub fn get<'py>(&self, py: Python<'py>, probe: &Probe<'_, 'py>) -> PyResult<Option<Found<'py>>> {
        let now = self.now(py)?;
        let mut gone = Gone::new();
        let found = self.find(py, probe, &mut gone, |state, number, gone| {
            let found = number.and_then(|number| self.use_entry(py, state, number, now, gone));
            match found {
                None | Some(Found::Follow(..)) => {
                    self.misses.increment(py);
                    None
                }
                found => found,
            }
        });
        if !gone.is_empty() {
            self.bury(py, gone);
        }
        found
    }

    /// What an entry holds, if it is still good; one that isn't is taken out.
    #[inline]
    fn use_entry<'py>(
        &self,
        py: Python<'py>,
        state: &mut State,
        number: u32,
        now: u64,
        gone: &mut Gone,
    ) -> Option<Found<'py>> {
        let expiry = state.shelf.expiry(number);
        if let Value::Ready(value) = &state.shelf.item(number).value
            && (expiry == NEVER || now < expiry)
        {
            let value = value.bind(py).clone();
            state.shelf.touch(number);
            self.hits.increment(py);
            return Some(Found::Value(value));
        }
        self.use_other_entry(py, state, number, now, gone)
    }

    #[cold]
    fn use_other_entry<'py>(
        &self,
        py: Python<'py>,
        state: &mut State,
        number: u32,
        now: u64,
        gone: &mut Gone,
    ) -> Option<Found<'py>> {
        if state.generation != lifecycle::generation() {
            // A refresh that a thread of the parent's began never ends.
            state.forget_the_parents(gone);
            state.shelf.get(number)?;
        }
        let expiry = state.shelf.expiry(number);
        let fresh = expiry == NEVER || now < expiry;
        let lingers = !fresh && now < expiry.saturating_add(self.settings.stale);
        let found = match &state.shelf.item(number).value {
            Value::Pending(id) => {
                let leader = Who::unpack(state.shelf.note(number));
                return Some(Found::Follow(Lead { id: *id, number }, leader));
            }
            Value::Ready(value) if lingers => Ok((value.bind(py).clone(), true)),
            Value::Weak(value) if fresh || lingers => match value.bind(py).upgrade() {
                Some(value) => Ok((value, lingers)),
                None => Err(Cause::Collected),
            },
            Value::Failed(error) if fresh => {
                let error = error.bind(py).clone();
                state.shelf.touch(number);
                self.hits.increment(py);
                return Some(Found::Error(error));
            }
            Value::Ready(_) | Value::Weak(_) | Value::Failed(_) => Err(Cause::Expired),
        };
        match found {
            Ok((value, lingers)) => {
                state.shelf.touch(number);
                self.hits.increment(py);
                if !lingers {
                    return Some(Found::Value(value));
                }
                let first = state.refreshing.insert(number);
                Some(Found::Stale(value, first.then_some(number)))
            }
            Err(cause) => {
                if cause == Cause::Expired {
                    self.expirations.fetch_add(1, Ordering::Relaxed);
                }
                gone.push((state.take_out(number), cause));
                None
            }
        }
    }

    /// Waits on this thread for a flight to land. `None` says that the caller should look again.
    pub fn follow(&self, py: Python<'_>, flight: Lead, leader: Who) -> PyResult<Followed> {
        let who = Who::here();
        if !note_wait(py, who, &leading_here(py), flight.id, leader) {
            return Ok(Followed::Circle);
        }
        let ticket = Ticket::for_this_thread();
        if !self.join(py, flight, &ticket) {
            forget_wait(py, who);
            return Ok(Followed::Again);
        }
        let woken = ticket.wait(py, None);
        forget_wait(py, who);
        match woken {
            Ok(Woken::Settled) => Ok(self.followed(py, flight, who, &ticket)),
            Ok(Woken::Expired | Woken::Forked) => Ok(Followed::Again),
            Err(interrupt) => {
                self.leave(py, flight, &ticket);
                Err(interrupt)
            }
        }
    }

    /// Puts a follower's ticket into its flight; false where that has landed.
    pub fn join(&self, py: Python<'_>, flight: Lead, ticket: &Arc<Ticket<Landing>>) -> bool {
        let mut gone = Gone::new();
        let joined = self.state.with(py, |state, _| {
            state.forget_the_parents(&mut gone);
            if let Some(flight) = state.flights.iter_mut().rfind(|other| other.id == flight.id) {
                flight.followers.push(Arc::clone(ticket));
                return true;
            }
            // Whose entry has gone without a follower can be followed no more: nobody would know when it lands.
            let pending = state.is_pending(flight);
            if pending {
                state.flights.push(Flight { id: flight.id, followers: vec![Arc::clone(ticket)] });
            }
            pending
        });
        guarding::attached(py, |_| drop(gone));
        joined
    }

    /// What a settled ticket of a flight says to `who`.
    pub fn followed(&self, py: Python<'_>, flight: Lead, who: Who, ticket: &Ticket<Landing>) -> Followed {
        match ticket.take(py) {
            Some(Settled::Given(Landing::Value(value))) => {
                self.hits.increment(py);
                Followed::Value(value)
            }
            Some(Settled::Given(Landing::Error(error))) => Followed::Error(error),
            Some(Settled::Given(Landing::Lead)) => {
                note_leader(py, flight.id, who);
                self.state.with(py, |state, _| {
                    if state.is_pending(flight) {
                        state.shelf.set_note(flight.number, who.pack());
                    }
                });
                Followed::Lead(flight)
            }
            Some(Settled::Closed | Settled::Left) | None => Followed::Again,
        }
    }

    /// Lands a flight with its value: keeps it, hands it to all followers, and makes room.
    pub fn land<'py>(&self, py: Python<'py>, lead: Lead, value: &Bound<'py, PyAny>) -> PyResult<()> {
        let keep = self.settings.maxsize != Some(0);
        let mut outcome = Ok(());
        let mut weight = 1;
        if keep && let Some(weigher) = &self.settings.weigher {
            match self.weigh(py, weigher, lead, value) {
                Ok(weighed) => weight = weighed,
                Err(error) => {
                    // The value is there, and whoever asked for it gets it; it only can't be kept.
                    error.write_unraisable(py, Some(weigher.bind(py)));
                    weight = u64::MAX;
                }
            }
        }
        let keep = keep && self.settings.maxsize.is_none_or(|maxsize| weight <= maxsize);
        let kept = keep.then(|| self.holding(value)).transpose()?;
        let expiry = match self.settings.ttl {
            Some(ttl) => self.now(py)?.saturating_add(ttl),
            None => NEVER,
        };
        let mut gone = Gone::new();
        let followers = self.state.with(py, |state, _| {
            if state.is_pending(lead) {
                match kept {
                    Some(kept) => {
                        self.make_room(py, state, weight, &mut gone);
                        state.shelf.item_mut(lead.number).value = kept;
                        state.shelf.admit(lead.number, weight, self.capacity());
                        state.shelf.set_expiry(lead.number, expiry);
                    }
                    None => gone.push((state.take_out(lead.number), Cause::Size)),
                }
            }
            state.touch_down(lead.id)
        });
        for follower in followers {
            let (_, interrupted) = follower.give(py, Landing::Value(value.clone().unbind()));
            outcome = outcome.and(interrupted);
        }
        if !gone.is_empty() {
            self.bury(py, gone);
        }
        outcome
    }

    /// Lands a flight with an exception: all followers get it, and it is kept for so many nanoseconds, if for any.
    pub fn crash<'py>(
        &self,
        py: Python<'py>,
        lead: Lead,
        error: &Bound<'py, PyAny>,
        keep: Option<u64>,
    ) -> PyResult<()> {
        let mut gone = Gone::new();
        let expiry = match keep {
            Some(keep) => {
                self.expires.store(true, Ordering::Relaxed);
                self.now(py)?.saturating_add(keep)
            }
            None => NEVER,
        };
        let followers = self.state.with(py, |state, _| {
            if state.is_pending(lead) {
                if keep.is_some() && self.settings.maxsize != Some(0) {
                    self.make_room(py, state, 1, &mut gone);
                    state.shelf.item_mut(lead.number).value = Value::Failed(error.clone().unbind());
                    state.shelf.admit(lead.number, 1, self.capacity());
                    state.shelf.set_expiry(lead.number, expiry);
                } else {
                    gone.push((state.take_out(lead.number), Cause::Size));
                }
            }
            state.touch_down(lead.id)
        });
        let mut outcome = Ok(());
        for follower in followers {
            let (_, interrupted) = follower.give(py, Landing::Error(error.clone().unbind()));
            outcome = outcome.and(interrupted);
        }
        if !gone.is_empty() {
            self.bury(py, gone);
        }
        outcome
    }

    /// Keeps a value for a key, whatever was there, for `ttl` nanoseconds (by default the cache's own). A flight that is
    /// under way for the key lands without being kept.
    pub fn set<'py>(
        &self,
        py: Python<'py>,
        probe: &Probe<'_, 'py>,
        value: &Bound<'py, PyAny>,
        ttl: Ttl,
    ) -> PyResult<()> {
        let weight = match &self.settings.weigher {
            Some(weigher) => ask_weigher(py, weigher, &probe.to_key(), value)?,
            None => 1,
        };
        if let Some(maxsize) = self.settings.maxsize.filter(|maxsize| weight > *maxsize) {
            return Err(Error::TooHeavy { weight, maxsize }.into());
        }
        self.keep(py, probe, self.holding(value)?, weight, ttl).map(drop)
    }

    /// Keeps what a call came to, if there is room for it at all; otherwise nothing is kept for it. Gives out the slot.
    pub fn offer<'py>(
        &self,
        py: Python<'py>,
        probe: &Probe<'_, 'py>,
        value: &Bound<'py, PyAny>,
    ) -> PyResult<Option<u32>> {
        let weight = match &self.settings.weigher {
            Some(weigher) => ask_weigher(py, weigher, &probe.to_key(), value).unwrap_or_else(|error| {
                // The caller gets the value; it only can't be kept.
                error.write_unraisable(py, Some(weigher.bind(py)));
                u64::MAX
            }),
            None => 1,
        };
        if self.settings.maxsize.is_some_and(|maxsize| weight > maxsize) || weight == u64::MAX {
            self.take(py, probe, Cause::Replaced)?;
            return Ok(None);
        }
        self.keep(py, probe, self.holding(value)?, weight, Ttl::Usual)
    }

    /// Keeps the exception that a call ended with, for so many nanoseconds. Gives out the slot.
    pub fn keep_error<'py>(
        &self,
        py: Python<'py>,
        probe: &Probe<'_, 'py>,
        error: &Bound<'py, PyAny>,
        keep: u64,
    ) -> PyResult<Option<u32>> {
        if self.settings.maxsize == Some(0) {
            return Ok(None);
        }
        self.keep(py, probe, Value::Failed(error.clone().unbind()), 1, Ttl::Own(Some(keep)))
    }

    fn keep<'py>(
        &self,
        py: Python<'py>,
        probe: &Probe<'_, 'py>,
        value: Value,
        weight: u64,
        ttl: Ttl,
    ) -> PyResult<Option<u32>> {
        let ttl = match ttl {
            Ttl::Usual => self.settings.ttl,
            Ttl::Own(ttl) => ttl,
        };
        if ttl.is_some() {
            self.expires.store(true, Ordering::Relaxed);
        }
        let expiry = match ttl {
            Some(ttl) => self.now(py)?.saturating_add(ttl),
            None => NEVER,
        };
        let mut kept = Some(value);
        let mut gone = Gone::new();
        let number = self.find(py, probe, &mut gone, |state, number, gone| {
            let kept = kept.take()?;
            let number = match number {
                Some(number) if state.shelf.is_admitted(number) => {
                    let before = std::mem::replace(&mut state.shelf.item_mut(number).value, kept);
                    let key = state.shelf.item(number).key.clone_ref(py);
                    gone.push((Entry { key, value: before }, Cause::Replaced));
                    state.refreshing.remove(&number);
                    state.shelf.reweigh(number, 0);
                    state.shelf.renew(number);
                    // Its old self must not be chosen to make room for its new one.
                    self.make_room_beside(py, state, number, weight, gone);
                    state.shelf.reweigh(number, weight);
                    number
                }
                other => {
                    if let Some(pending) = other {
                        gone.push((state.take_out(pending), Cause::Replaced));
                    }
                    self.make_room(py, state, weight, gone);
                    let number = state.shelf.insert(probe.hash(), Entry { key: probe.to_key(), value: kept });
                    state.shelf.admit(number, weight, self.capacity());
                    number
                }
            };
            state.shelf.set_expiry(number, expiry);
            Some(number)
        })?;
        if !gone.is_empty() {
            self.bury(py, gone);
        }
        Ok(number)
    }

    fn make_room_beside(&self, py: Python<'_>, state: &mut State, stays: u32, weight: u64, gone: &mut Gone) {
        let Some(maxsize) = self.settings.maxsize else { return };
        while state.shelf.weight().saturating_add(weight) > maxsize {
            let numbers = state.shelf.numbers();
            let Some(victim) = numbers.into_iter().find(|number| *number != stays) else { return };
            self.evictions.increment(py);
            gone.push((state.take_out(victim), Cause::Size));
        }
    }

    /// Takes a key's entry out; its value or exception, if it was still good, or stale. A flight for it lands without
    /// being kept.
    pub fn take<'py>(&self, py: Python<'py>, probe: &Probe<'_, 'py>, cause: Cause) -> PyResult<Option<Found<'py>>> {
        let now = self.now(py)?;
        let mut gone = Gone::new();
        let found = self.find(py, probe, &mut gone, |state, number, gone| {
            let number = number?;
            let dead = now >= self.last_moment(state, number);
            let (found, cause) = match &state.shelf.item(number).value {
                Value::Pending(_) => (None, cause),
                _ if dead => (None, Cause::Expired),
                Value::Failed(error) => (Some(Found::Error(error.bind(py).clone())), cause),
                value => match value_of(py, value) {
                    Some(value) => (Some(Found::Value(value)), cause),
                    None => (None, Cause::Collected),
                },
            };
            if cause == Cause::Expired {
                self.expirations.fetch_add(1, Ordering::Relaxed);
            }
            gone.push((state.take_out(number), cause));
            found
        })?;
        if !gone.is_empty() {
            self.bury(py, gone);
        }
        Ok(found)
    }

    /// When an entry is given out no more: stale values still are, stale exceptions not.
    fn last_moment(&self, state: &State, number: u32) -> u64 {
        let expiry = state.shelf.expiry(number);
        match state.shelf.item(number).value {
            Value::Failed(_) => expiry,
            _ => expiry.saturating_add(self.settings.stale),
        }
    }

    /// A key's value, without counting as a use.
    pub fn peek<'py>(&self, py: Python<'py>, probe: &Probe<'_, 'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let now = self.now(py)?;
        self.find(py, probe, &mut Gone::new(), |state, number, _| {
            let number = number.filter(|number| now < self.last_moment(state, *number))?;
            value_of(py, &state.shelf.item(number).value)
        })
    }

    /// Takes everything out; flights under way land without being kept.
    pub fn clear(&self, py: Python<'_>) {
        let gone: Gone = self
            .state
            .with(py, |state, _| {
                state.refreshing.clear();
                let instances = std::mem::take(&mut state.instances);
                let gone = state.shelf.clear().into_iter().map(|entry| (entry, Cause::Cleared)).collect();
                (gone, instances)
            })
            .0;
        self.bury(py, gone);
    }

    /// Lets everything go without telling anybody: the cache itself is garbage.
    pub fn let_go(&self, py: Python<'_>) {
        let everything = self.state.with(py, |state, _| {
            state.refreshing.clear();
            (state.shelf.clear(), std::mem::take(&mut state.instances))
        });
        drop(everything);
    }

    /// Starts the statistics over.
    pub fn reset_counters(&self, py: Python<'_>) {
        self.state.with(py, |state, _| state.hits = 0);
        self.hits.reset();
        self.misses.reset();
        self.evictions.reset();
        self.expirations.store(0, Ordering::Relaxed);
    }

    /// Takes out what is past its time, staleness included, and what has been collected; how many.
    pub fn expire(&self, py: Python<'_>) -> PyResult<usize> {
        let now = self.now(py)?;
        let gone: Gone = self.state.with(py, |state, _| {
            let mut gone = Gone::new();
            for number in state.shelf.numbers() {
                let dead = now >= self.last_moment(state, number);
                let collected = match &state.shelf.item(number).value {
                    Value::Weak(value) => value.bind(py).upgrade().is_none(),
                    _ => false,
                };
                if dead || collected {
                    let cause = if dead { Cause::Expired } else { Cause::Collected };
                    self.expirations.fetch_add(u64::from(dead), Ordering::Relaxed);
                    gone.push((state.take_out(number), cause));
                }
            }
            gone
        });
        let count = gone.len();
        self.bury(py, gone);
        Ok(count)
    }

    /// How many entries are good now: what iteration comes to.
    pub fn count(&self, py: Python<'_>) -> PyResult<usize> {
        if !self.expires.load(Ordering::Relaxed) && !self.settings.weak_values {
            return Ok(self.measure(py).0);
        }
        let now = self.now(py)?;
        Ok(self.state.with(py, |state, _| {
            let good = |number: &u32| {
                now < state.shelf.expiry(*number)
                    && match &state.shelf.item(*number).value {
                        Value::Weak(value) => value.bind(py).upgrade().is_some(),
                        Value::Ready(_) => true,
                        Value::Failed(_) | Value::Pending(_) => false,
                    }
            };
            state.shelf.numbers().iter().filter(|number| good(number)).count()
        }))
    }

    /// The keys and values that are good now, the next to go first where the policy has such an order.
    pub fn contents<'py>(&self, py: Python<'py>) -> PyResult<Vec<(Key, Bound<'py, PyAny>)>> {
        let now = self.now(py)?;
        Ok(self.state.with(py, |state, _| {
            let good = |number: u32| {
                let entry = state.shelf.item(number);
                (now < state.shelf.expiry(number))
                    .then(|| value_of(py, &entry.value))
                    .flatten()
                    .map(|value| (entry.key.clone_ref(py), value))
            };
            state.shelf.numbers().into_iter().filter_map(good).collect()
        }))
    }

    /// Takes the next to go out.
    pub fn pop<'py>(&self, py: Python<'py>) -> PyResult<Option<(Key, Bound<'py, PyAny>)>> {
        loop {
            let now = self.now(py)?;
            let taken = self.state.with(py, |state, _| {
                let number = state.shelf.victim(self.capacity())?;
                let dead = now >= state.shelf.expiry(number);
                let value = if dead { None } else { value_of(py, &state.shelf.item(number).value) };
                let cause = match (&value, dead) {
                    (Some(_), _) => Cause::Invalidated,
                    (None, true) => Cause::Expired,
                    (None, false) => Cause::Collected,
                };
                self.expirations.fetch_add(u64::from(dead), Ordering::Relaxed);
                Some((state.take_out(number), value, cause))
            });
            let Some((entry, value, cause)) = taken else { return Ok(None) };
            let found = value.map(|value| (entry.key.clone_ref(py), value));
            self.bury(py, vec![(entry, cause)]);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Entries, their weight, a number that changes when one comes or goes, and the bytes that they take.
    pub fn measure(&self, py: Python<'_>) -> (usize, u64, u64, usize) {
        self.state.with(py, |state, _| {
            let State { shelf: entries, .. } = state;
            (entries.len(), entries.weight(), entries.version(), entries.size())
        })
    }

    /// How many were evicted, and how many died.
    #[must_use]
    pub fn losses(&self) -> (u64, u64) {
        (self.evictions.get(), self.expirations.load(Ordering::Relaxed))
    }

    /// Shows everything to the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for callable in [&self.settings.timer, &self.settings.weigher, &self.settings.on_evict] {
            visit.call(callable)?;
        }
        self.state.traverse(|state| {
            for entry in state.shelf.items() {
                entry.key.traverse(visit)?;
                match &entry.value {
                    Value::Ready(value) | Value::Failed(value) => visit.call(value)?,
                    Value::Weak(value) => visit.call(value)?,
                    Value::Pending(_) => {}
                }
            }
            state.instances.values().try_for_each(|instance| {
                visit.call(&instance.reference)?;
                visit.call(&instance.keeper)
            })
        })
    }

    /// Has an entry go when the instance goes whose method it is; `reference` stands for it in the key.
    pub fn adopt(
        &self,
        py: Python<'_>,
        number: u32,
        reference: &Bound<'_, PyAny>,
        keeper: impl FnOnce() -> PyResult<Py<PyAny>>,
    ) -> PyResult<()> {
        let address = reference.as_ptr().addr();
        let known = self.state.with(py, |state, _| {
            let instance = state.instances.get_mut(&address)?;
            Some(instance.numbers.insert(number))
        });
        if known.is_some() {
            return Ok(());
        }
        let keeper = keeper()?;
        self.state.with(py, |state, dead| {
            let reference = reference.clone().unbind();
            let instance = Instance { reference, keeper, numbers: HashSet::from([number]) };
            if let Some(before) = state.instances.insert(address, instance) {
                // Another thread was quicker: what it noted stays.
                dead.push(before.keeper);
                dead.push(before.reference);
                if let Some(instance) = state.instances.get_mut(&address) {
                    instance.numbers.extend(before.numbers);
                }
            }
        });
        Ok(())
    }

    /// An instance has gone: so do the entries of its methods.
    pub fn drop_instance(&self, py: Python<'_>, address: usize) {
        let (gone, instance) = self.state.with(py, |state, _| {
            let instance = state.instances.remove(&address);
            let numbers = instance.as_ref().map(|instance| instance.numbers.iter().copied().collect::<Vec<_>>());
            let mut gone = Gone::new();
            for number in numbers.unwrap_or_default() {
                // Whatever else may have come to stand in that slot meanwhile stays.
                if state.shelf.get(number).is_some_and(|entry| entry.key.names(address)) {
                    gone.push((state.take_out(number), Cause::Collected));
                }
            }
            (gone, instance)
        });
        guarding::attached(py, |_| drop(instance));
        self.bury(py, gone);
    }

    /// A refresh has failed: the next who finds the entry stale tries again.
    pub fn refresh_failed<'py>(&self, py: Python<'py>, probe: &Probe<'_, 'py>) -> PyResult<()> {
        self.find(py, probe, &mut Gone::new(), |state, number, _| {
            number.is_some_and(|number| state.refreshing.remove(&number))
        })?;
        Ok(())
    }

    /// Gives a flight up that was interrupted: the first follower takes over; without one it has never been.
    pub fn abandon(&self, py: Python<'_>, flight: Lead) {
        loop {
            let mut gone = Gone::new();
            let next = self.state.with(py, |state, _| {
                if let Some(place) = state.flights.iter().rposition(|other| other.id == flight.id) {
                    if !state.flights[place].followers.is_empty() {
                        return Some(state.flights[place].followers.remove(0));
                    }
                    state.flights.swap_remove(place);
                }
                if state.is_pending(flight) {
                    gone.push((state.take_out(flight.number), Cause::Size));
                }
                None
            });
            guarding::attached(py, |_| drop(gone));
            let Some(next) = next else { return };
            if next.give(py, Landing::Lead).0.is_ok() {
                return;
            }
        }
    }

    /// The value in the form in which it is kept.
    fn holding(&self, value: &Bound<'_, PyAny>) -> PyResult<Value> {
        if self.settings.weak_values {
            match PyWeakrefReference::new(value) {
                Ok(reference) => return Ok(Value::Weak(reference.unbind())),
                Err(error) if error.is_instance_of::<pyo3::exceptions::PyTypeError>(value.py()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Value::Ready(value.clone().unbind()))
    }

    fn weigh(&self, py: Python<'_>, weigher: &Py<PyAny>, lead: Lead, value: &Bound<'_, PyAny>) -> PyResult<u64> {
        let key = self.state.with(py, |state, _| state.shelf.get(lead.number).map(|entry| entry.key.clone_ref(py)));
        let Some(key) = key else { return Ok(0) };
        ask_weigher(py, weigher, &key, value)
    }

    /// Evicts until something of this weight fits.
    fn make_room(&self, py: Python<'_>, state: &mut State, weight: u64, gone: &mut Gone) {
        let Some(maxsize) = self.settings.maxsize else { return };
        while state.shelf.weight().saturating_add(weight) > maxsize {
            let Some(victim) = state.shelf.victim(self.capacity()) else { return };
            self.evictions.increment(py);
            gone.push((state.take_out(victim), Cause::Size));
        }
    }

    /// Tells of what has gone, and releases it.
    #[cold]
    fn bury(&self, py: Python<'_>, gone: Gone) {
        assert_nothing_is_open("releasing entries");
        guarding::attached(py, |_| {
            if let Some(on_evict) = &self.settings.on_evict {
                for (entry, cause) in &gone {
                    let value = match &entry.value {
                        Value::Ready(value) => value.clone_ref(py),
                        Value::Weak(value) => match value.bind(py).upgrade() {
                            Some(value) => value.unbind(),
                            None => py.None(),
                        },
                        // Nobody has ever seen these as values.
                        Value::Failed(_) | Value::Pending(_) => continue,
                    };
                    let cause = PyString::intern(py, cause.name()).into_any();
                    let told = entry
                        .key
                        .to_object(py)
                        .and_then(|key| guarding::call(on_evict.bind(py), &[&key, value.bind(py), &cause]));
                    if let Err(error) = told {
                        error.write_unraisable(py, Some(on_evict.bind(py)));
                    }
                }
            }
            drop(gone);
        });
    }

    /// A follower leaves. Where it had just been asked to lead, the next is.
    pub fn leave(&self, py: Python<'_>, flight: Lead, ticket: &Ticket<Landing>) {
        if let Some(Landing::Lead) = ticket.leave(py) {
            self.abandon(py, flight);
        }
    }
}

/// What following a flight comes to.
pub enum Followed {
    /// The value.
    Value(Py<PyAny>),
    /// The exception.
    Error(Py<PyAny>),
    /// The leader was interrupted; now the follower leads.
    Lead(Lead),
    /// Waiting would never end: compute, and keep nothing.
    Circle,
    /// The flight has gone: look again.
    Again,
}

impl Entry {
    /// Lets the entry go at once, on a thread that `PyO3` may not know to be attached.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "an entry that goes from hand to hand in memory stalls at every one")]
    fn release(self, py: Python<'_>) {
        self.key.release(py);
        match self.value {
            Value::Ready(value) | Value::Failed(value) => drop(value.into_bound(py)),
            Value::Weak(value) => drop(value.into_bound(py)),
            Value::Pending(_) => {}
        }
    }
}

impl State {
    /// The entry of a key, and whether it is certain where there is none, without asking any Python code.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the quick way in is to be one function to the optimiser")]
    fn sight(&self, hash: u64, same: impl Fn(&Key) -> Answer) -> (Option<u32>, bool) {
        let mut certain = true;
        let found = self.shelf.find(hash, |_, entry| match same(&entry.key) {
            Answer::Same => true,
            Answer::Different => false,
            Answer::Ask => {
                certain = false;
                false
            }
        });
        (found, certain)
    }

    /// A new flight, and the entry that says so.
    fn take_off(&mut self, py: Python<'_>, key: Key, hash: u64, who: Who) -> Lead {
        let id = next_flight(py);
        let number = self.shelf.insert(hash, Entry { key, value: Value::Pending(id) });
        self.shelf.set_note(number, who.pack());
        Lead { id, number }
    }

    /// Takes an entry out, wherever it is noted.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "an entry that goes from hand to hand in memory stalls at every one")]
    fn take_out(&mut self, number: u32) -> Entry {
        if !self.refreshing.is_empty() {
            self.refreshing.remove(&number);
        }
        let entry = self.shelf.remove(number);
        if !self.instances.is_empty() {
            for address in entry.key.instance_places() {
                if let Some(instance) = self.instances.get_mut(&address) {
                    instance.numbers.remove(&number);
                }
            }
        }
        entry
    }

    /// Ends a flight and gives out its followers.
    #[inline]
    fn touch_down(&mut self, id: u64) -> Vec<Arc<Ticket<Landing>>> {
        if self.flights.is_empty() {
            return Vec::new();
        }
        let place = self.flights.iter().rposition(|flight| flight.id == id);
        place.map(|place| self.flights.swap_remove(place).followers).unwrap_or_default()
    }

    /// Whether the entry is still there that the flight was for.
    fn is_pending(&self, lead: Lead) -> bool {
        let entry = self.shelf.get(lead.number);
        entry.is_some_and(|entry| matches!(entry.value, Value::Pending(id) if id == lead.id))
    }

    /// In a forked child, flights of the parent's other threads never land.
    fn forget_the_parents(&mut self, gone: &mut Gone) {
        let generation = lifecycle::generation();
        if self.generation == generation {
            return;
        }
        self.generation = generation;
        self.refreshing.clear();
        // Whoever followed was another thread, or a task of this one's that looks again when it gets on.
        self.flights.clear();
        let here = Who::here();
        let lost: Vec<u32> =
            self.shelf.aside().filter(|number| Who::unpack(self.shelf.note(*number)) != here).collect();
        gone.extend(lost.into_iter().map(|number| (self.take_out(number), Cause::Cleared)));
    }
}

fn ask_weigher(py: Python<'_>, weigher: &Py<PyAny>, key: &Key, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    assert_nothing_is_open("asking a weigher");
    let weight = guarding::call(weigher.bind(py), &[&key.to_object(py)?, value])?;
    let expected = "an integer that is not negative";
    weight.extract::<u64>().map_err(|_| Error::wrong_value("what weigher returns", expected, &weight).into())
}

fn value_of<'py>(py: Python<'py>, value: &Value) -> Option<Bound<'py, PyAny>> {
    match value {
        Value::Ready(value) => Some(value.bind(py).clone()),
        Value::Weak(value) => value.bind(py).upgrade(),
        Value::Failed(_) | Value::Pending(_) => None,
    }
}

#[cold]
fn ask_timer(py: Python<'_>, timer: &Py<PyAny>) -> PyResult<u64> {
    assert_nothing_is_open("asking a timer");
    let seconds: f64 = guarding::call(timer.bind(py), &[])?.extract()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturating, as a clock should")]
    Ok((seconds * clock::SECOND as f64) as u64)
}
