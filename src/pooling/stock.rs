//! What a pool holds: a bounded number of slots, and in each of them a resource that is lent, idle or being worked on.
//!
//! Plain bookkeeping: nothing here waits, and nothing here knows what a resource is. A slot that is being worked on (its
//! resource is being made, reset or closed) counts like any other, so that there are never more resources than allowed,
//! not even for the moment in which one takes another's place.

use std::collections::VecDeque;

use hashbrown::HashTable;

/// A length of time that never ends, and a moment that never comes.
pub const NEVER: u64 = u64::MAX;

/// Which idle resource is lent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// The one that came back last: the others grow old, and a pool that was once busy shrinks.
    Lifo,
    /// The one that has been idle for longest: all are used alike.
    Fifo,
}

/// Something that is known by its address.
pub trait Addressed {
    /// The address.
    fn address(&self) -> usize;
}

/// A resource, and what its slot knows of it.
pub struct Item<R> {
    /// The resource.
    pub resource: R,
    /// The event loop that it belongs to, by address; 0 for a resource that may be used everywhere.
    pub home: usize,
    /// When its life is over.
    pub dies: u64,
    /// How often the pool had been drained when it was made.
    epoch: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Vacant,
    /// Being made (nothing is there yet), reset or closed.
    Busy,
    Idle,
    Lent,
}

// Flat, so that lending moves nothing but the holder.
struct Slot<R, H> {
    phase: Phase,
    item: Option<Item<R>>,
    /// Since when it is idle.
    since: u64,
    holder: Option<H>,
}

/// What has become of a resource that somebody gives back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// It is lent, from this slot.
    Lent(u32),
    /// It is the pool's, but it is not lent.
    NotLent,
    /// It is not the pool's.
    Stranger,
}

/// The slots. Resources are of the type `R`, and those who have one are an `H`.
pub struct Stock<R, H> {
    slots: Vec<Slot<R, H>>,
    vacant: Vec<u32>,
    // In the order in which they came back.
    idle: VecDeque<u32>,
    by_address: HashTable<(usize, u32)>,
    order: Order,
    max_size: usize,
    occupied: usize,
    lent: usize,
    epoch: u32,
}

impl<R: Addressed, H> Stock<R, H> {
    /// Nothing yet, and room for `max_size` resources.
    #[must_use]
    pub fn new(order: Order, max_size: usize) -> Self {
        Self {
            slots: Vec::new(),
            vacant: Vec::new(),
            idle: VecDeque::new(),
            by_address: HashTable::new(),
            order,
            max_size,
            occupied: 0,
            lent: 0,
            epoch: 0,
        }
    }

    /// How many slots are taken: lent, idle, or being worked on.
    #[must_use]
    pub fn size(&self) -> usize {
        self.occupied
    }

    /// How many resources are idle.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// How many resources are lent.
    #[must_use]
    pub fn lent(&self) -> usize {
        self.lent
    }

    /// How many slots are being worked on.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.occupied - self.idle.len() - self.lent
    }

    /// How many slots there may be.
    #[must_use]
    pub fn max_size(&self) -> usize {
        self.max_size
    }

    /// Sets how many slots there may be. Those that are too many stay until [`Self::is_kept`] is asked of them.
    pub fn resize(&mut self, max_size: usize) {
        self.max_size = max_size;
    }

    /// Declares all that was made up to now outdated.
    pub fn drain(&mut self) {
        self.epoch += 1;
    }

    /// Takes a slot for a resource that is about to be made.
    pub fn reserve(&mut self) -> Option<u32> {
        if self.occupied >= self.max_size {
            return None;
        }
        self.occupied += 1;
        if let Some(slot) = self.vacant.pop() {
            self.slots[slot as usize].phase = Phase::Busy;
            return Some(slot);
        }
        let slot = u32::try_from(self.slots.len()).ok()?;
        self.slots.push(Slot { phase: Phase::Busy, item: None, since: 0, holder: None });
        Some(slot)
    }

    /// Puts what was made into the slot that was reserved for it, where it is still being worked on. Gives it back where
    /// the pool has that very object already, or no such slot.
    pub fn fill(&mut self, slot: u32, resource: R, home: usize, dies: u64) -> Result<(), R> {
        let address = resource.address();
        if self.find(address) != Known::Stranger {
            return Err(resource);
        }
        match self.slots.get_mut(slot as usize) {
            Some(place) if place.phase == Phase::Busy && place.item.is_none() => {
                place.item = Some(Item { resource, home, dies, epoch: self.epoch });
                self.by_address.insert_unique(hash(address), (address, slot), |(address, _)| hash(*address));
                Ok(())
            }
            _ => Err(resource),
        }
    }

    /// Takes an idle resource of this home, or of none, by the pool's order. It is lent to `holder` from now on.
    #[inline]
    pub fn lend_idle(&mut self, home: usize, holder: H) -> Result<(u32, &Item<R>), H> {
        let slot = match self.order {
            Order::Lifo => self.idle.back().copied(),
            Order::Fifo => self.idle.front().copied(),
        };
        let Some(slot) = slot else { return Err(holder) };
        let slot = if self.is_at(slot, home) {
            match self.order {
                Order::Lifo => self.idle.pop_back(),
                Order::Fifo => self.idle.pop_front(),
            };
            slot
        } else {
            match self.take_at(home) {
                Some(slot) => slot,
                None => return Err(holder),
            }
        };
        let place = &mut self.slots[slot as usize];
        place.phase = Phase::Lent;
        place.holder = Some(holder);
        self.lent += 1;
        let Some(item) = &place.item else { unreachable!("what is listed as idle is there") };
        Ok((slot, item))
    }

    fn is_at(&self, slot: u32, home: usize) -> bool {
        self.slots[slot as usize].item.as_ref().is_some_and(|item| item.home == 0 || item.home == home)
    }

    #[cold]
    fn take_at(&mut self, home: usize) -> Option<u32> {
        let here = |place: &usize| self.is_at(self.idle[*place], home);
        let place = match self.order {
            Order::Lifo => (0..self.idle.len()).rev().find(here),
            Order::Fifo => (0..self.idle.len()).find(here),
        };
        self.idle.remove(place?)
    }

    /// Takes the idle resource that has been idle for longest, to be worked on: to make room for one of another home.
    pub fn withdraw_oldest(&mut self) -> Option<u32> {
        let slot = self.idle.pop_front()?;
        self.work_on(slot);
        Some(slot)
    }

    fn work_on(&mut self, slot: u32) {
        self.slots[slot as usize].phase = Phase::Busy;
    }

    fn place_in(&mut self, slot: u32, phase: Phase) -> Option<&mut Slot<R, H>> {
        self.slots.get_mut(slot as usize).filter(|place| place.phase == phase)
    }

    /// Lends a resource that was being worked on.
    pub fn lend(&mut self, slot: u32, holder: H) {
        if let Some(place) = self.place_in(slot, Phase::Busy).filter(|place| place.item.is_some()) {
            place.phase = Phase::Lent;
            place.holder = Some(holder);
            self.lent += 1;
        }
    }

    /// Takes a lent resource back, to be worked on, from the one who had it.
    pub fn take_back(&mut self, slot: u32) -> Option<H> {
        let place = self.place_in(slot, Phase::Lent)?;
        place.phase = Phase::Busy;
        let holder = place.holder.take();
        self.lent -= 1;
        holder
    }

    /// Takes a lent resource back and keeps it idle, in one step; `None` where it is not lent or not to be kept.
    #[inline]
    pub fn return_idle(&mut self, slot: u32, now: u64) -> Option<H> {
        let (epoch, fits) = (self.epoch, self.occupied <= self.max_size);
        let place = self.place_in(slot, Phase::Lent)?;
        let item = place.item.as_ref()?;
        if item.dies <= now || item.epoch != epoch || !fits {
            return None;
        }
        place.phase = Phase::Idle;
        place.since = now;
        let holder = place.holder.take();
        self.idle.push_back(slot);
        self.lent -= 1;
        holder
    }

    /// Keeps a resource that was being worked on idle.
    pub fn put_idle(&mut self, slot: u32, now: u64) {
        if let Some(place) = self.place_in(slot, Phase::Busy).filter(|place| place.item.is_some()) {
            place.phase = Phase::Idle;
            place.since = now;
            self.idle.push_back(slot);
        }
    }

    /// Whether the resource in a slot is good for another loan: neither too old, nor outdated, nor one too many.
    #[must_use]
    pub fn is_kept(&self, slot: u32, now: u64) -> bool {
        self.item(slot)
            .is_some_and(|item| item.dies > now && item.epoch == self.epoch && self.occupied <= self.max_size)
    }

    /// What is in a slot, whatever is being done with it.
    #[must_use]
    pub fn item(&self, slot: u32) -> Option<&Item<R>> {
        self.slots.get(slot as usize)?.item.as_ref()
    }

    /// The resource in a slot.
    #[must_use]
    pub fn resource(&self, slot: u32) -> Option<&R> {
        self.item(slot).map(|item| &item.resource)
    }

    /// Who has the resource in a slot.
    #[inline]
    #[must_use]
    pub fn holder(&self, slot: u32) -> Option<&H> {
        self.slots.get(slot as usize)?.holder.as_ref()
    }

    /// Who has the resource in a slot, to be written down anew.
    pub fn holder_mut(&mut self, slot: u32) -> Option<&mut H> {
        self.slots.get_mut(slot as usize)?.holder.as_mut()
    }

    /// Takes what is in a slot that is being worked on; the slot stays reserved.
    pub fn empty(&mut self, slot: u32) -> Option<R> {
        let item = self.place_in(slot, Phase::Busy)?.item.take()?;
        let address = item.resource.address();
        if let Ok(entry) = self.by_address.find_entry(hash(address), |(other, _)| *other == address) {
            entry.remove();
        }
        Some(item.resource)
    }

    /// Gives a slot up that is being worked on; what was left in it is handed out. False where it is not being worked on.
    pub fn vacate(&mut self, slot: u32) -> (bool, Option<R>) {
        if self.place_in(slot, Phase::Busy).is_none() {
            return (false, None);
        }
        let resource = self.empty(slot);
        self.slots[slot as usize].phase = Phase::Vacant;
        self.vacant.push(slot);
        self.occupied -= 1;
        (true, resource)
    }

    /// What is known of a resource, by its address.
    #[inline]
    #[must_use]
    pub fn find(&self, address: usize) -> Known {
        match self.by_address.find(hash(address), |(other, _)| *other == address) {
            Some((_, slot)) if self.slots[*slot as usize].phase == Phase::Lent => Known::Lent(*slot),
            Some(_) => Known::NotLent,
            None => Known::Stranger,
        }
    }

    /// Takes the idle resources that are to go, to be worked on: those that are outdated, too many or too old, and those
    /// that have been idle for `max_idle_time`, as long as `min_idle` others stay.
    pub fn withdraw_spent(&mut self, now: u64, max_idle_time: u64, min_idle: usize) -> Vec<u32> {
        let mut spent = Vec::new();
        let mut excess = self.occupied.saturating_sub(self.max_size);
        let (epoch, slots) = (self.epoch, &self.slots);
        let mut left = self.idle.len();
        self.idle.retain(|&slot| {
            let place = &slots[slot as usize];
            let Some(item) = &place.item else { return true };
            let mut goes = item.dies <= now || item.epoch != epoch;
            if !goes && excess > 0 {
                excess -= 1;
                goes = true;
            }
            goes = goes || (left > min_idle && place.since.saturating_add(max_idle_time) <= now);
            if goes {
                left -= 1;
                spent.push(slot);
            }
            !goes
        });
        for &slot in &spent {
            self.work_on(slot);
        }
        spent
    }

    /// Takes all idle resources, to be worked on.
    pub fn withdraw_all(&mut self) -> Vec<u32> {
        let all: Vec<_> = self.idle.drain(..).collect();
        for &slot in &all {
            self.work_on(slot);
        }
        all
    }

    /// The next moment at which something here is spent. What is lent now may be idle from now on, and what is idle may be
    /// lent: `lent_due` says when somebody who has a resource since a moment (or since now) has had it for too long.
    pub fn next_due(&self, now: u64, max_idle_time: u64, min_idle: usize, lent_due: impl Fn(Option<&H>) -> u64) -> u64 {
        let stays = self.idle.len() <= min_idle;
        let due = |slot: &Slot<R, H>| {
            let dies = slot.item.as_ref().map_or(NEVER, |item| item.dies);
            // As long as there are no more than are to stay, none goes for being idle.
            let from = if slot.phase == Phase::Idle && !stays { slot.since } else { now };
            match slot.phase {
                Phase::Vacant => NEVER,
                _ => dies.min(from.saturating_add(max_idle_time)).min(lent_due(slot.holder.as_ref())),
            }
        };
        // A lent resource whose life is over goes when it comes back: that moment is not waited for.
        self.slots.iter().map(due).map(|due| if due <= now { NEVER } else { due }).min().unwrap_or(NEVER)
    }

    /// All who have a resource.
    pub fn holders(&self) -> impl Iterator<Item = &H> {
        self.slots.iter().filter_map(|slot| slot.holder.as_ref())
    }

    /// All who have a resource, to be written down anew.
    pub fn holders_mut(&mut self) -> impl Iterator<Item = &mut H> {
        self.slots.iter_mut().filter_map(|slot| slot.holder.as_mut())
    }

    /// Every resource, wherever it is.
    pub fn resources(&self) -> impl Iterator<Item = &R> {
        self.slots.iter().filter_map(|slot| slot.item.as_ref().map(|item| &item.resource))
    }
}

/// Addresses are multiples of 16 and lie close together: Fibonacci hashing spreads them.
#[inline]
fn hash(address: usize) -> u64 {
    (address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// When a resource made now has lived for its time: somewhere in the last part of `max_lifetime`, as `jitter` says, so
/// that what was made together isn't replaced all at once. `dice` is any number.
#[must_use]
pub fn end_of_life(now: u64, max_lifetime: u64, jitter: f64, dice: u64) -> u64 {
    if max_lifetime == NEVER {
        return NEVER;
    }
    // SplitMix64 by Steele, Lea and Flood: any two numbers give two that have nothing to do with one another.
    let mixed = dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let fraction = ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of max_lifetime, not negative")]
    let off = (max_lifetime as f64 * jitter * fraction) as u64;
    now.saturating_add(max_lifetime.saturating_sub(off))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Clone, Copy)]
    struct Thing(usize);

    impl Addressed for Thing {
        fn address(&self) -> usize {
            self.0
        }
    }

    type Things = Stock<Thing, &'static str>;

    /// A stock with the things 1, 2, ... idle, 1 for longest.
    fn stocked(order: Order, count: usize) -> Things {
        let mut stock = Things::new(order, count);
        for number in 1..=count {
            let slot = stock.reserve().expect("room");
            stock.fill(slot, Thing(number), 0, NEVER).expect("no thing twice");
            stock.put_idle(slot, number as u64);
        }
        stock
    }

    fn lent(stock: &mut Things, home: usize) -> Option<usize> {
        stock.lend_idle(home, "somebody").ok().map(|(_, item)| item.resource.0)
    }

    #[test]
    fn the_order_decides_which_idle_one_is_lent() {
        let mut lifo = stocked(Order::Lifo, 3);
        assert_eq!([lent(&mut lifo, 0), lent(&mut lifo, 0), lent(&mut lifo, 0)], [Some(3), Some(2), Some(1)]);
        assert_eq!(lent(&mut lifo, 0), None);
        let mut fifo = stocked(Order::Fifo, 3);
        assert_eq!([lent(&mut fifo, 0), lent(&mut fifo, 0), lent(&mut fifo, 0)], [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn there_are_never_more_than_allowed_and_a_slot_at_work_counts() {
        let mut stock = Things::new(Order::Lifo, 2);
        let first = stock.reserve().expect("room");
        let second = stock.reserve().expect("room");
        assert_eq!(stock.reserve(), None);
        assert_eq!((stock.size(), stock.busy()), (2, 2));
        assert_eq!(stock.vacate(first), (true, None));
        assert_eq!(stock.vacate(first), (false, None), "once");
        assert_eq!(stock.reserve(), Some(first));
        stock.fill(second, Thing(7), 0, NEVER).expect("new");
        assert_eq!(stock.vacate(second), (true, Some(Thing(7))));
        assert_eq!(stock.find(7), Known::Stranger);
    }

    #[test]
    fn a_thing_is_lent_once_and_given_back_once() {
        let mut stock = stocked(Order::Lifo, 1);
        assert_eq!(stock.find(1), Known::NotLent);
        let (slot, _) = stock.lend_idle(0, "me").expect("one");
        assert_eq!(stock.find(1), Known::Lent(slot));
        assert_eq!(stock.holder(slot), Some(&"me"));
        assert_eq!(stock.return_idle(slot, 9), Some("me"));
        assert_eq!(stock.return_idle(slot, 9), None);
        assert_eq!(stock.take_back(slot), None);
        assert_eq!(stock.find(2), Known::Stranger);
        assert_eq!((stock.idle(), stock.lent(), stock.busy()), (1, 0, 0));
    }

    #[test]
    fn the_same_object_twice_is_refused() {
        let mut stock = stocked(Order::Lifo, 1);
        stock.resize(2);
        let slot = stock.reserve().expect("room");
        assert_eq!(stock.fill(slot, Thing(1), 0, NEVER), Err(Thing(1)));
        assert_eq!(stock.fill(slot, Thing(2), 0, NEVER), Ok(()));
        assert_eq!(stock.fill(slot, Thing(3), 0, NEVER), Err(Thing(3)), "it is filled");
        assert_eq!(stock.fill(99, Thing(3), 0, NEVER), Err(Thing(3)), "there is no such slot");
    }

    #[test]
    fn what_belongs_to_a_loop_is_lent_there_alone() {
        let mut stock = Things::new(Order::Lifo, 3);
        for (number, home) in [(1, 10), (2, 20), (3, 10)] {
            let slot = stock.reserve().expect("room");
            stock.fill(slot, Thing(number), home, NEVER).expect("new");
            stock.put_idle(slot, 0);
        }
        assert_eq!(lent(&mut stock, 20), Some(2));
        assert_eq!(lent(&mut stock, 20), None);
        assert_eq!(lent(&mut stock, 10), Some(3));
        let oldest = stock.withdraw_oldest().expect("one is left");
        assert_eq!(stock.resource(oldest), Some(&Thing(1)));
        assert_eq!(stock.empty(oldest), Some(Thing(1)));
        assert_eq!(stock.size(), 3, "its slot is still taken");
    }

    #[test]
    fn what_is_outdated_too_old_or_too_many_is_not_kept() {
        let mut stock = stocked(Order::Lifo, 3);
        let (slot, _) = stock.lend_idle(0, "me").expect("one");
        assert!(stock.is_kept(slot, 100));
        stock.drain();
        assert!(!stock.is_kept(slot, 100));
        assert_eq!(stock.return_idle(slot, 100), None);
        assert_eq!(stock.withdraw_spent(100, NEVER, 9).len(), 2, "outdated ones go, however few are to stay");

        let mut stock = stocked(Order::Lifo, 3);
        stock.resize(1);
        assert_eq!(stock.withdraw_spent(0, NEVER, 0).len(), 2);
        assert_eq!((stock.idle(), stock.busy()), (1, 2));

        let mut stock = Things::new(Order::Lifo, 1);
        let slot = stock.reserve().expect("room");
        stock.fill(slot, Thing(1), 0, 50).expect("new");
        assert!(stock.is_kept(slot, 49));
        assert!(!stock.is_kept(slot, 50));
    }

    #[test]
    fn those_idle_for_too_long_go_as_long_as_enough_stay() {
        let mut stock = stocked(Order::Lifo, 4);
        assert!(stock.withdraw_spent(10, 10, 0).is_empty());
        let spent = stock.withdraw_spent(13, 10, 2);
        assert_eq!(spent.iter().filter_map(|slot| stock.resource(*slot)).collect::<Vec<_>>(), [&Thing(1), &Thing(2)]);
        assert!(stock.withdraw_spent(99, 10, 2).is_empty());
    }

    #[test]
    fn the_next_due_moment_is_never_missed() {
        let never = |_: Option<&&str>| NEVER;
        assert_eq!(Things::new(Order::Lifo, 1).next_due(5, 10, 0, never), NEVER, "nothing is there");
        let mut stock = stocked(Order::Lifo, 2);
        assert_eq!(stock.next_due(5, 10, 0, never), 11, "the first came back at 1");
        assert_eq!(stock.next_due(5, 10, 2, never), 15, "both are to stay, and one may go when a third is there");
        stock.lend_idle(0, "me").expect("one");
        assert_eq!(stock.next_due(5, 10, 0, |holder| if holder.is_some() { 7 } else { NEVER }), 7);
        assert_eq!(stock.next_due(5, NEVER, 0, never), NEVER);
    }

    #[test]
    fn lives_end_in_the_last_part_of_their_time() {
        assert_eq!(end_of_life(5, NEVER, 0.5, 1), NEVER);
        assert_eq!(end_of_life(5, 100, 0.0, 1), 105);
        let ends: Vec<_> = (0..100).map(|dice| end_of_life(0, 1_000_000, 0.1, dice)).collect();
        assert!(ends.iter().all(|end| (900_000..=1_000_000).contains(end)));
        assert!(ends.iter().min() < Some(&920_000) && ends.iter().max() > Some(&980_000), "they are spread");
    }
}
