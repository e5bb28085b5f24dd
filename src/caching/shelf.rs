//! Entries with an order of eviction: a table of numbers over a slab of linked slots.
//!
//! A slot holds its links as 32-bit numbers, so an entry costs two references, a hash, the links and a number in the table:
//! 40 bytes and the table's five or so, and eight more where entries expire. What is evicted, replaced or removed is
//! handed back to the caller, who releases it when nothing is locked.

use hashbrown::HashTable;

/// The end of a list.
const NONE: u32 = u32::MAX;
/// The list of entries that are in the table and in no order: they can be found, and neither count nor get evicted.
const ASIDE: u16 = u16::MAX;

/// How entries are chosen for eviction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// The one whose last use lies furthest back.
    Lru,
    /// The one that was put in first.
    Fifo,
    /// The one that was used least often, of those the one whose last use lies furthest back.
    Lfu,
    /// S3-FIFO (Yang and others, SOSP 2023): what is used once passes through a small queue and leaves the rest alone.
    S3Fifo,
}

impl Policy {
    /// Whether a use makes a difference; `again` where the one before was of the same entry.
    #[must_use]
    pub fn minds(self, again: bool) -> bool {
        match self {
            Self::Lru => !again,
            Self::Fifo => false,
            Self::Lfu | Self::S3Fifo => true,
        }
    }
}

/// Uses that LFU tells apart.
const LFU_USES: u16 = 63;
/// Uses that S3-FIFO tells apart.
const S3_USES: u16 = 3;

const SMALL: usize = 0;
const MAIN: usize = 1;

#[derive(Clone, Copy)]
struct List {
    /// The last in line: the next to go.
    oldest: u32,
    newest: u32,
    len: u32,
}

impl List {
    const EMPTY: Self = Self { oldest: NONE, newest: NONE, len: 0 };
}

struct Slot<T> {
    hash: u64,
    /// Towards the oldest; the next free slot where this one is free.
    older: u32,
    newer: u32,
    /// The policy's own: how often it was used, and in which list it is.
    uses: u16,
    list: u16,
    item: Option<T>,
}

/// Hashes of what S3-FIFO evicted lately from its small queue; a direct-mapped table, so it is bounded and may forget.
#[derive(Default)]
struct Ghosts {
    marks: Vec<(u32, u32)>,
    evictions: u32,
}

#[expect(clippy::cast_possible_truncation, reason = "parts of a hash, and a place below the table's length")]
impl Ghosts {
    fn place(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.marks.len() - 1)
    }

    fn note(&mut self, hash: u64, capacity: usize) {
        let wanted = capacity.clamp(16, 1 << 24).next_power_of_two();
        if self.marks.len() < wanted {
            self.marks = vec![(0, 0); wanted];
        }
        self.evictions = self.evictions.wrapping_add(1).max(1);
        let place = self.place(hash);
        self.marks[place] = (hash as u32, self.evictions);
    }

    fn remembers(&mut self, hash: u64, capacity: usize) -> bool {
        if self.marks.is_empty() {
            return false;
        }
        let place = self.place(hash);
        let (mark, when) = self.marks[place];
        let known = when != 0 && mark == hash as u32 && (self.evictions.wrapping_sub(when) as usize) < capacity;
        if known {
            self.marks[place] = (0, 0);
        }
        known
    }
}

/// Entries of one cache. An item is whatever the caller keeps for an entry: its key and its value.
pub struct Shelf<T> {
    table: HashTable<u32>,
    slots: Vec<Slot<T>>,
    free: u32,
    lists: Box<[List]>,
    policy: Policy,
    /// By slot; empty while nothing expires.
    expiries: Vec<u64>,
    /// By slot; empty while everything weighs one.
    weights: Vec<u64>,
    weight: u64,
    count: usize,
    ghosts: Ghosts,
    /// Goes up whenever an entry comes or goes.
    version: u64,
}

/// Lengthens a column to that of the slots, with room for as many as they have room for.
fn grow(column: &mut Vec<u64>, len: usize, value: u64) {
    // By half again, so that it is done seldom and wastes little.
    if column.capacity() < len {
        column.reserve_exact(len + len / 2 - column.len());
    }
    column.resize(len, value);
}

/// An entry's time of death that never comes.
pub const NEVER: u64 = u64::MAX;

impl<T> Shelf<T> {
    /// An empty shelf.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let lists = match policy {
            Policy::Lru | Policy::Fifo => 1,
            Policy::S3Fifo => 2,
            Policy::Lfu => LFU_USES as usize + 1,
        };
        Self {
            table: HashTable::new(),
            slots: Vec::new(),
            free: NONE,
            lists: vec![List::EMPTY; lists].into_boxed_slice(),
            policy,
            expiries: Vec::new(),
            weights: Vec::new(),
            weight: 0,
            count: 0,
            ghosts: Ghosts::default(),
            version: 0,
        }
    }

    /// How many entries there are.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The weight of all entries together: their number, where nothing else was said.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// A number that changes whenever an entry comes or goes.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The first entry with this hash that `same` says yes to.
    #[inline]
    pub fn find(&self, hash: u64, mut same: impl FnMut(u32, &T) -> bool) -> Option<u32> {
        let found = self.table.find(hash, |number| {
            let slot = &self.slots[*number as usize];
            slot.hash == hash && slot.item.as_ref().is_some_and(|item| same(*number, item))
        });
        found.copied()
    }

    /// The item of an entry.
    ///
    /// # Panics
    /// If there is no such entry.
    #[inline]
    #[must_use]
    pub fn item(&self, number: u32) -> &T {
        self.slots[number as usize].item.as_ref().expect("an entry that was found")
    }

    /// The item of an entry, to be changed; its key must stay the same.
    ///
    /// # Panics
    /// If there is no such entry.
    #[inline]
    pub fn item_mut(&mut self, number: u32) -> &mut T {
        self.slots[number as usize].item.as_mut().expect("an entry that was found")
    }

    /// The item of an entry that may have gone.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&T> {
        self.slots.get(number as usize)?.item.as_ref()
    }

    /// When an entry dies.
    #[inline]
    #[must_use]
    pub fn expiry(&self, number: u32) -> u64 {
        self.expiries.get(number as usize).copied().unwrap_or(NEVER)
    }

    /// Says when an entry dies.
    pub fn set_expiry(&mut self, number: u32, expiry: u64) {
        if self.expiries.len() <= number as usize {
            if expiry == NEVER {
                return;
            }
            grow(&mut self.expiries, self.slots.len(), NEVER);
        }
        self.expiries[number as usize] = expiry;
    }

    /// What an entry weighs.
    #[must_use]
    pub fn weight_of(&self, number: u32) -> u64 {
        self.weights.get(number as usize).copied().unwrap_or(1)
    }

    fn set_weight(&mut self, number: u32, weight: u64) {
        if self.weights.len() <= number as usize {
            if weight == 1 {
                return;
            }
            grow(&mut self.weights, self.slots.len(), 1);
        }
        self.weights[number as usize] = weight;
    }

    /// Changes what an entry weighs.
    pub fn reweigh(&mut self, number: u32, weight: u64) {
        self.weight = self.weight - self.weight_of(number) + weight;
        self.set_weight(number, weight);
    }

    /// Notes that an entry was used.
    #[inline]
    pub fn touch(&mut self, number: u32) {
        // The same call again, and again: what a cache is for.
        if self.policy != Policy::Lru || self.lists[0].newest != number {
            self.move_up(number);
        }
    }

    fn move_up(&mut self, number: u32) {
        match self.policy {
            Policy::Lru => {
                self.unlink(number);
                self.link(number, 0);
            }
            Policy::Fifo => {}
            Policy::S3Fifo => {
                let slot = &mut self.slots[number as usize];
                slot.uses = (slot.uses + 1).min(S3_USES);
            }
            Policy::Lfu => {
                let uses = (self.slots[number as usize].uses + 1).min(LFU_USES);
                self.unlink(number);
                self.slots[number as usize].uses = uses;
                self.link(number, uses as usize);
            }
        }
    }

    /// Notes that an entry was put in once more, with another value.
    pub fn renew(&mut self, number: u32) {
        if self.policy == Policy::Fifo {
            self.unlink(number);
            self.link(number, 0);
        } else {
            self.touch(number);
        }
    }

    /// Puts an item into the table, aside: it can be found, and doesn't count until it is admitted. The caller has made
    /// sure that none has its key.
    ///
    /// # Panics
    /// At 2**32 entries.
    pub fn insert(&mut self, hash: u64, item: T) -> u32 {
        let slot = Slot { hash, older: NONE, newer: NONE, uses: 0, list: ASIDE, item: Some(item) };
        let number = if self.free == NONE {
            let number = u32::try_from(self.slots.len()).ok().filter(|number| *number != NONE);
            self.slots.push(slot);
            number.expect("fewer than 2**32 entries")
        } else {
            let number = self.free;
            self.free = self.slots[number as usize].older;
            self.slots[number as usize] = slot;
            number
        };
        if let Some(expiry) = self.expiries.get_mut(number as usize) {
            *expiry = NEVER;
        }
        if let Some(weight) = self.weights.get_mut(number as usize) {
            *weight = 1;
        }
        self.version += 1;
        let slots = &self.slots;
        self.table.insert_unique(hash, number, |number| slots[*number as usize].hash);
        number
    }

    /// What the caller noted of an entry that stands aside.
    #[must_use]
    pub fn note(&self, number: u32) -> u64 {
        let slot = &self.slots[number as usize];
        u64::from(slot.older) | u64::from(slot.newer) << 32
    }

    /// Notes something of an entry that stands aside. It is kept in the place of the links, of which it has none yet.
    ///
    /// # Panics
    /// If the entry has been admitted.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the note in two halves")]
    pub fn set_note(&mut self, number: u32, note: u64) {
        let slot = &mut self.slots[number as usize];
        assert_eq!(slot.list, ASIDE, "a note on an entry that has links");
        slot.older = note as u32;
        slot.newer = (note >> 32) as u32;
    }

    /// Gives an entry that stands aside its place in the order of eviction.
    pub fn admit(&mut self, number: u32, weight: u64, capacity: usize) {
        let hash = self.slots[number as usize].hash;
        let list = match self.policy {
            Policy::S3Fifo if self.ghosts.remembers(hash, capacity) => MAIN,
            _ => SMALL,
        };
        self.set_weight(number, weight);
        self.weight += weight;
        self.count += 1;
        self.link(number, list);
    }

    /// Takes an entry out.
    ///
    /// # Panics
    /// If there is no such entry.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "an item that goes from hand to hand in memory stalls at every one")]
    pub fn remove(&mut self, number: u32) -> T {
        if self.slots[number as usize].list != ASIDE {
            self.unlink(number);
            self.weight -= self.weight_of(number);
            self.count -= 1;
        }
        let hash = self.slots[number as usize].hash;
        if let Ok(entry) = self.table.find_entry(hash, |other| *other == number) {
            entry.remove();
        }
        self.version += 1;
        let slot = &mut self.slots[number as usize];
        slot.older = self.free;
        self.free = number;
        slot.item.take().expect("an entry that was found")
    }

    /// Whether an entry has a place in the order.
    #[inline]
    #[must_use]
    pub fn is_admitted(&self, number: u32) -> bool {
        self.slots[number as usize].list != ASIDE
    }

    /// The entry that the policy would evict; where it spares some for another round, that round begins here.
    pub fn victim(&mut self, capacity: usize) -> Option<u32> {
        match self.policy {
            Policy::Lru | Policy::Fifo => Some(self.lists[0].oldest).filter(|number| *number != NONE),
            Policy::Lfu => self.lists.iter().map(|list| list.oldest).find(|number| *number != NONE),
            Policy::S3Fifo => self.s3_victim(capacity),
        }
    }

    fn s3_victim(&mut self, capacity: usize) -> Option<u32> {
        loop {
            let small = self.lists[SMALL];
            let main = self.lists[MAIN];
            if small.len > 0 && (main.len == 0 || small.len as usize * 10 >= capacity) {
                let number = small.oldest;
                if self.slots[number as usize].uses > 0 {
                    self.unlink(number);
                    self.slots[number as usize].uses = 0;
                    self.link(number, MAIN);
                } else {
                    let hash = self.slots[number as usize].hash;
                    self.ghosts.note(hash, capacity);
                    return Some(number);
                }
            } else if main.len > 0 {
                let number = main.oldest;
                let uses = self.slots[number as usize].uses;
                if uses == 0 {
                    return Some(number);
                }
                self.unlink(number);
                self.slots[number as usize].uses = uses - 1;
                self.link(number, MAIN);
            } else {
                return None;
            }
        }
    }

    /// Takes everything out.
    pub fn clear(&mut self) -> Vec<T> {
        let items = self.slots.drain(..).filter_map(|slot| slot.item).collect();
        let version = self.version + 1;
        *self = Self { version, ..Self::new(self.policy) };
        items
    }

    /// The entries, the next to go first where the policy has such an order.
    #[must_use]
    pub fn numbers(&self) -> Vec<u32> {
        let mut numbers = Vec::with_capacity(self.len());
        for list in &self.lists {
            let mut number = list.oldest;
            while number != NONE {
                numbers.push(number);
                number = self.slots[number as usize].newer;
            }
        }
        numbers
    }

    /// The entries that stand aside, in no order.
    pub fn aside(&self) -> impl Iterator<Item = u32> {
        let aside = |(number, slot): (usize, &Slot<T>)| {
            (slot.list == ASIDE && slot.item.is_some()).then(|| u32::try_from(number).ok()).flatten()
        };
        self.slots.iter().enumerate().filter_map(aside)
    }

    /// All items, in no order.
    pub fn items(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.item.as_ref())
    }

    /// The memory that it takes, in bytes, without what the items refer to.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>()
            + self.table.allocation_size()
            + self.slots.capacity() * size_of::<Slot<T>>()
            + (self.expiries.capacity() + self.weights.capacity()) * size_of::<u64>()
            + self.lists.len() * size_of::<List>()
            + self.ghosts.marks.capacity() * size_of::<(u32, u32)>()
    }

    /// Puts an entry at the newest end of a list.
    #[inline]
    fn link(&mut self, number: u32, list: usize) {
        let newest = self.lists[list].newest;
        let slot = &mut self.slots[number as usize];
        slot.list = u16::try_from(list).unwrap_or(ASIDE);
        slot.older = newest;
        slot.newer = NONE;
        if newest == NONE {
            self.lists[list].oldest = number;
        } else {
            self.slots[newest as usize].newer = number;
        }
        self.lists[list].newest = number;
        self.lists[list].len += 1;
    }

    #[inline]
    fn unlink(&mut self, number: u32) {
        let Slot { older, newer, list, .. } = self.slots[number as usize];
        let list = &mut self.lists[list as usize];
        list.len -= 1;
        if older == NONE {
            list.oldest = newer;
        } else {
            self.slots[older as usize].newer = newer;
        }
        if newer == NONE {
            list.newest = older;
        } else {
            self.slots[newer as usize].older = older;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache of numbers that evicts as its policy says; whether the key was there.
    fn access(shelf: &mut Shelf<u64>, key: u64, capacity: usize) -> bool {
        let hash = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        if let Some(number) = shelf.find(hash, |_, item| *item == key) {
            shelf.touch(number);
            return true;
        }
        let number = shelf.insert(hash, key);
        shelf.admit(number, 1, capacity);
        while shelf.len() > capacity {
            let victim = shelf.victim(capacity).expect("somebody");
            shelf.remove(victim);
        }
        false
    }

    fn keys(shelf: &Shelf<u64>) -> Vec<u64> {
        shelf.numbers().into_iter().map(|number| *shelf.item(number)).collect()
    }

    #[test]
    fn lru_evicts_what_was_not_used_for_longest() {
        let mut shelf = Shelf::new(Policy::Lru);
        for key in [1, 2, 3, 1, 4] {
            access(&mut shelf, key, 3);
        }
        assert_eq!(keys(&shelf), [3, 1, 4]);
    }

    #[test]
    fn fifo_evicts_what_came_first() {
        let mut shelf = Shelf::new(Policy::Fifo);
        for key in [1, 2, 3, 1, 4] {
            access(&mut shelf, key, 3);
        }
        assert_eq!(keys(&shelf), [2, 3, 4]);
    }

    #[test]
    fn lfu_evicts_what_was_used_least() {
        let mut shelf = Shelf::new(Policy::Lfu);
        for key in [1, 1, 1, 2, 2, 3, 4, 5] {
            access(&mut shelf, key, 3);
        }
        assert_eq!(keys(&shelf), [5, 2, 1]);
    }

    #[test]
    fn s3_fifo_lets_a_scan_pass() {
        let mut shelf = Shelf::new(Policy::S3Fifo);
        for _ in 0..3 {
            for key in 0..50 {
                access(&mut shelf, key, 100);
            }
        }
        for key in 1_000..3_000 {
            access(&mut shelf, key, 100);
        }
        let kept = keys(&shelf).into_iter().filter(|key| *key < 50).count();
        assert_eq!(kept, 50);
    }

    #[test]
    fn every_policy_keeps_its_books() {
        for policy in [Policy::Lru, Policy::Fifo, Policy::Lfu, Policy::S3Fifo] {
            let mut shelf = Shelf::new(policy);
            let mut state = 7_u64;
            for _ in 0..20_000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let key = (state >> 40) % 200;
                access(&mut shelf, key, 64);
                if state >> 60 == 0
                    && let Some(number) = shelf.find(key.wrapping_mul(0x9E37_79B9_7F4A_7C15), |_, item| *item == key)
                {
                    assert_eq!(shelf.remove(number), key);
                }
                assert!(shelf.len() <= 64);
                assert_eq!(shelf.weight(), shelf.len() as u64);
            }
            let mut all = keys(&shelf);
            assert_eq!(all.len(), shelf.len());
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), shelf.len());
            assert_eq!(shelf.clear().len(), all.len());
            assert!(shelf.is_empty() && shelf.numbers().is_empty());
        }
    }

    #[test]
    fn what_stands_aside_is_found_and_does_not_count() {
        let mut shelf = Shelf::new(Policy::Lru);
        let aside = shelf.insert(5, 5_u64);
        assert_eq!((shelf.len(), shelf.victim(1), shelf.find(5, |_, item| *item == 5)), (0, None, Some(aside)));
        shelf.admit(aside, 3, 10);
        assert_eq!((shelf.len(), shelf.weight()), (1, 3));
        shelf.reweigh(aside, 5);
        assert_eq!((shelf.weight(), shelf.weight_of(aside)), (5, 5));
        shelf.set_expiry(aside, 9);
        shelf.remove(aside);
        let again = shelf.insert(5, 6);
        assert_eq!((again, shelf.expiry(again), shelf.weight(), shelf.weight_of(again)), (aside, NEVER, 0, 1));
    }
}
