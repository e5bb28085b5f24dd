//! An ordered table whose keys are looked up in a folded form and shown as they were spelled first.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

/// One entry.
#[derive(Debug)]
pub struct Entry<K, V> {
    hash: u64,
    folded: Box<[u8]>,
    /// The key as it was spelled when it came.
    pub spelling: K,
    /// The value.
    pub value: V,
}

/// The table. Entries lie in the order in which they came; one that was taken out leaves a gap, and the gaps are closed
/// when there are more of them than entries.
#[derive(Debug)]
pub struct Folded<K, V> {
    entries: Vec<Option<Entry<K, V>>>,
    places: HashTable<usize>,
    hasher: RandomState,
    version: u64,
    /// How often places have lost their meaning.
    epoch: u64,
}

impl<K, V> Default for Folded<K, V> {
    fn default() -> Self {
        Self { entries: Vec::new(), places: HashTable::new(), hasher: RandomState::new(), version: 0, epoch: 0 }
    }
}

impl<K, V> Folded<K, V> {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A number that changes when entries come or go.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    fn hash(&self, folded: &[u8]) -> u64 {
        // Keyed by a secret: the keys may be a stranger's.
        self.hasher.hash_one(folded)
    }

    #[inline]
    fn find(&self, hash: u64, folded: &[u8]) -> Option<usize> {
        let same = |place: &usize| {
            self.entries[*place].as_ref().is_some_and(|entry| entry.hash == hash && *entry.folded == *folded)
        };
        self.places.find(hash, same).copied()
    }

    /// A number that changes when places lose their meaning; see [`Folded::place_of`].
    #[inline]
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Where a key's entry lies, for as long as the epoch lasts.
    #[must_use]
    pub fn place_of(&self, folded: &[u8]) -> Option<u32> {
        u32::try_from(self.find(self.hash(folded), folded)?).ok()
    }

    /// The entry at a place.
    #[inline]
    pub fn at(&mut self, place: u32) -> Option<&mut Entry<K, V>> {
        self.entries.get_mut(place as usize)?.as_mut()
    }

    /// The entry of a key.
    #[inline]
    #[must_use]
    pub fn get(&self, folded: &[u8]) -> Option<&Entry<K, V>> {
        if self.is_empty() {
            return None;
        }
        self.entries[self.find(self.hash(folded), folded)?].as_ref()
    }

    /// Gives a key a value. A new key brings its spelling; one that is there keeps its own, and its old value comes back.
    pub fn insert(&mut self, folded: &[u8], spelling: impl FnOnce() -> K, value: V) -> Option<V> {
        let hash = self.hash(folded);
        if let Some(place) = self.find(hash, folded)
            && let Some(entry) = &mut self.entries[place]
        {
            return Some(std::mem::replace(&mut entry.value, value));
        }
        self.version += 1;
        let entries = &self.entries;
        let rehash = |place: &usize| entries[*place].as_ref().map_or(0, |entry| entry.hash);
        self.places.insert_unique(hash, self.entries.len(), rehash);
        self.entries.push(Some(Entry { hash, folded: folded.into(), spelling: spelling(), value }));
        None
    }

    /// Takes an entry out.
    pub fn remove(&mut self, folded: &[u8]) -> Option<Entry<K, V>> {
        let place = self.find(self.hash(folded), folded)?;
        self.take(place)
    }

    /// Takes the entry out that came last.
    pub fn pop(&mut self) -> Option<Entry<K, V>> {
        let place = self.entries.iter().rposition(Option::is_some)?;
        self.take(place)
    }

    fn take(&mut self, place: usize) -> Option<Entry<K, V>> {
        let entry = self.entries[place].take()?;
        self.version += 1;
        self.epoch = self.epoch.wrapping_add(1);
        if let Ok(found) = self.places.find_entry(entry.hash, |other| *other == place) {
            found.remove();
        }
        while self.entries.last().is_some_and(Option::is_none) {
            self.entries.pop();
        }
        if self.entries.len() > 2 * self.places.len() + 8 {
            self.close_gaps();
        }
        Some(entry)
    }

    fn close_gaps(&mut self) {
        self.entries.retain(Option::is_some);
        self.places.clear();
        let entries = &self.entries;
        let hash = |place: &usize| entries[*place].as_ref().map_or(0, |entry| entry.hash);
        for place in 0..entries.len() {
            self.places.insert_unique(hash(&place), place, hash);
        }
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> Vec<Entry<K, V>> {
        self.version += 1;
        self.epoch = self.epoch.wrapping_add(1);
        self.places.clear();
        std::mem::take(&mut self.entries).into_iter().flatten().collect()
    }

    /// The entries in order.
    #[must_use = "it does nothing by itself"]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry<K, V>> {
        self.entries.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::Folded;

    fn keys(map: &Folded<&'static str, i32>) -> Vec<&'static str> {
        map.iter().map(|entry| entry.spelling).collect()
    }

    #[test]
    fn the_first_spelling_stays() {
        let mut map = Folded::default();
        assert_eq!(map.insert(b"name", || "Name", 1), None);
        assert_eq!(map.insert(b"name", || "NAME", 2), Some(1));
        assert_eq!(map.len(), 1);
        let entry = map.get(b"name").map(|entry| (entry.spelling, entry.value));
        assert_eq!(entry, Some(("Name", 2)));
        assert!(map.get(b"other").is_none());
    }

    #[test]
    fn a_key_that_went_comes_back_last_and_spelled_anew() {
        let mut map = Folded::default();
        for (folded, spelling) in [(b"a", "A"), (b"b", "B"), (b"c", "C")] {
            map.insert(folded, || spelling, 0);
        }
        assert_eq!(map.remove(b"a").map(|entry| entry.spelling), Some("A"));
        assert!(map.remove(b"a").is_none());
        map.insert(b"a", || "a", 0);
        assert_eq!(keys(&map), ["B", "C", "a"]);
        assert_eq!(map.pop().map(|entry| entry.spelling), Some("a"));
        assert_eq!(map.pop().map(|entry| entry.spelling), Some("C"));
    }

    #[test]
    fn the_version_tells_of_those_that_come_and_go() {
        let mut map = Folded::default();
        let fresh = map.version();
        map.insert(b"a", || "a", 0);
        let one = map.version();
        assert_ne!(one, fresh);
        map.insert(b"a", || "a", 1);
        assert_eq!(map.version(), one);
        map.remove(b"a");
        assert_ne!(map.version(), one);
    }

    #[test]
    fn places_hold_until_something_goes() {
        let mut map = Folded::default();
        map.insert(b"a", || "a", 1);
        map.insert(b"b", || "b", 2);
        let (epoch, place) = (map.epoch(), map.place_of(b"b").expect("it is there"));
        map.insert(b"c", || "c", 3);
        assert_eq!(map.epoch(), epoch);
        assert_eq!(map.at(place).map(|entry| entry.value), Some(2));
        map.remove(b"a");
        assert_ne!(map.epoch(), epoch);
        assert_eq!(map.place_of(b"a"), None);
        assert!(map.at(99).is_none());
    }

    #[test]
    fn gaps_are_closed() {
        let mut map = Folded::default();
        for number in 0..10_000_u32 {
            map.insert(&number.to_le_bytes(), || number, number);
            if number >= 10 {
                assert!(map.remove(&(number - 10).to_le_bytes()).is_some());
            }
        }
        assert_eq!(map.len(), 10);
        assert!(map.entries.len() < 40, "{}", map.entries.len());
        assert!(map.iter().map(|entry| entry.value).eq(9_990..10_000));
        for number in 9_990..10_000_u32 {
            assert!(map.get(&number.to_le_bytes()).is_some());
        }
        assert_eq!(map.drain().len(), 10);
        assert!(map.is_empty());
        assert!(map.get(&9_999_u32.to_le_bytes()).is_none());
    }
}
