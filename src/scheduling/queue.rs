//! What waits to be run, in the order in which it is to be run.
//!
//! Most tasks have no priority, and for them this is crossbeam's queue and one counter. Those that have one lie in a heap,
//! by their *standing*: the time at which they came, plus a second for each step of priority. A standing never changes, and
//! yet waiting raises it, because all who come later are measured by a later clock: a task that is behind by five steps is
//! overtaken for five seconds at most.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam::queue::SegQueue;

/// What a step of priority is worth, in nanoseconds of waiting.
pub const STEP: i64 = 1_000_000_000;

/// Something in the queue, and when it came.
struct Arrival<T> {
    moment: i64,
    item: T,
}

/// Something that has a priority.
struct Ranked<T> {
    standing: i64,
    priority: i32,
    number: u64,
    item: T,
}

impl<T> Ranked<T> {
    fn key(&self) -> (i64, u64) {
        (self.standing, self.number)
    }
}

impl<T> PartialEq for Ranked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Ranked<T> {}

impl<T> PartialOrd for Ranked<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Ranked<T> {
    fn cmp(&self, other: &Self) -> Order {
        // The heap gives out its greatest: the lowest standing is to be that.
        other.key().cmp(&self.key())
    }
}

struct Ranks<T> {
    heap: BinaryHeap<Ranked<T>>,
    // The first of those without a priority, taken out to be compared.
    front: Option<Arrival<T>>,
    count: u64,
}

/// The queue. Several threads may use it at once; while priorities are used, they take turns.
pub struct Queue<T> {
    plain: SegQueue<Arrival<T>>,
    ranks: Mutex<Ranks<T>>,
    // Whether anything lies in `ranks`.
    ranked: AtomicBool,
    length: AtomicUsize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            plain: SegQueue::new(),
            ranks: Mutex::new(Ranks { heap: BinaryHeap::new(), front: None, count: 0 }),
            ranked: AtomicBool::new(false),
            length: AtomicUsize::new(0),
        }
    }
}

impl<T> Queue<T> {
    /// Puts something in, at `moment` (in nanoseconds); the lower its priority's number, the sooner it comes out.
    pub fn push(&self, item: T, priority: i32, moment: u64) {
        let moment = i64::try_from(moment).unwrap_or(i64::MAX);
        // Counted first: whoever finds the queue empty by its length will be told of this item, or finds it.
        self.length.fetch_add(1, Ordering::SeqCst);
        if priority == 0 {
            self.plain.push(Arrival { moment, item });
            return;
        }
        let standing = moment.saturating_add(i64::from(priority).saturating_mul(STEP));
        let mut ranks = self.lock();
        ranks.count += 1;
        let number = ranks.count;
        ranks.heap.push(Ranked { standing, priority, number, item });
        self.ranked.store(true, Ordering::Release);
    }

    /// Takes out what is next.
    pub fn pop(&self) -> Option<T> {
        let item = if self.ranked.load(Ordering::Acquire) { self.pop_by_standing()? } else { self.plain.pop()?.item };
        self.length.fetch_sub(1, Ordering::SeqCst);
        Some(item)
    }

    fn pop_by_standing(&self) -> Option<T> {
        let mut ranks = self.lock();
        if ranks.front.is_none() {
            ranks.front = self.plain.pop();
        }
        let ranked_first = match (&ranks.front, ranks.heap.peek()) {
            // At a tie, the one that was to wait longer has come earlier.
            (Some(front), Some(ranked)) => (ranked.standing, -i64::from(ranked.priority)) < (front.moment, 0),
            (front, _) => front.is_none(),
        };
        let item = if ranked_first {
            ranks.heap.pop().map(|ranked| ranked.item)
        } else {
            ranks.front.take().map(|front| front.item)
        };
        if ranks.heap.is_empty() && ranks.front.is_none() {
            self.ranked.store(false, Ordering::Release);
        }
        item
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length.load(Ordering::SeqCst)
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Ranks<T>> {
        // Nothing in here panics half-way: a poisoned lock is as good as any.
        self.ranks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::thread;

    use super::{Queue, STEP};

    const SECOND: u64 = STEP as u64;

    fn drain<T>(queue: &Queue<T>) -> Vec<T> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn equals_come_in_the_order_they_were_added() {
        let queue = Queue::default();
        for number in 0..100 {
            queue.push(number, 0, 7);
        }
        assert_eq!(queue.len(), 100);
        assert_eq!(drain(&queue), (0..100).collect::<Vec<_>>());
        for number in 0..100 {
            queue.push(number, 3, 7);
        }
        assert_eq!(drain(&queue), (0..100).collect::<Vec<_>>());
        assert!(queue.is_empty());
    }

    #[test]
    fn lower_numbers_come_first() {
        let queue = Queue::default();
        for (name, priority) in [("d", 7), ("b", 0), ("a", -2), ("c", 1), ("e", i32::MAX), ("_", i32::MIN)] {
            queue.push(name, priority, 5);
        }
        assert_eq!(drain(&queue), ["_", "a", "b", "c", "d", "e"]);
    }

    #[test]
    fn none_starves() {
        let queue = Queue::default();
        queue.push(-1, 5, 0);
        for second in 0..10 {
            queue.push(second, 0, u64::try_from(second).expect("small") * SECOND + 1);
        }
        assert_eq!(drain(&queue), [0, 1, 2, 3, 4, -1, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn at_a_tie_who_came_first_is_first() {
        let queue = Queue::default();
        queue.push("patient", 2, SECOND);
        queue.push("plain", 0, 3 * SECOND);
        queue.push("hasty", -2, 5 * SECOND);
        assert_eq!(drain(&queue), ["patient", "plain", "hasty"]);
    }

    #[test]
    fn what_was_taken_out_to_be_compared_is_not_overtaken_by_its_equals() {
        let queue = Queue::default();
        queue.push("first", 0, 1);
        queue.push("urgent", -1, 2);
        assert_eq!(queue.pop(), Some("urgent"));
        queue.push("second", 0, 3);
        assert_eq!(drain(&queue), ["first", "second"]);
    }

    #[test]
    fn threads_lose_nothing_and_get_nothing_twice() {
        let queue = Arc::new(Queue::default());
        let pushing: Vec<_> = (0..4)
            .map(|thread| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    for number in 0..5_000_i32 {
                        queue.push(thread * 5_000 + number, number % 3, 0);
                    }
                })
            })
            .collect();
        let popping: Vec<_> = (0..2)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    let mut seen = Vec::new();
                    while seen.len() < 10_000 {
                        match queue.pop() {
                            Some(number) => seen.push(number),
                            None => thread::yield_now(),
                        }
                    }
                    seen
                })
            })
            .collect();
        for thread in pushing {
            thread.join().expect("pushes");
        }
        let seen: HashSet<_> = popping.into_iter().flat_map(|thread| thread.join().expect("pops")).collect();
        assert_eq!(seen.len(), 20_000);
        assert!(queue.is_empty());
    }
}
