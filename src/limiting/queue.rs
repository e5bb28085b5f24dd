//! Those who wait for a bucket, first come first served, with one timer for all.
//!
//! The first in line *leads*: it alone knows when its tokens will be there, and sleeps until then. When it has taken them
//! it serves those behind it whose tokens are there, too, and makes the next one the leader. Who leaves while leading
//! makes the next one the leader; who leaves after having been served gives its tokens back. While somebody waits, nobody
//! who comes later takes tokens from the bucket.

use std::collections::VecDeque;
use std::sync::Arc;

use pyo3::prelude::*;

use crate::lifecycle;
use crate::waiting::Ticket;

/// What a waiter is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Its tokens have been taken for it.
    Served,
    /// It leads now; or it leads already, and tokens have come back.
    Lead,
}

pub(super) type Place = Arc<Ticket<Turn>>;

struct Standing {
    place: Place,
    n: u64,
}

/// The line at one bucket.
#[derive(Default)]
pub(super) struct Line {
    leader: Option<Place>,
    /// When the leader means to take its tokens, in nanoseconds.
    due: u64,
    followers: VecDeque<Standing>,
    /// How many followers have left; they are swept out when they are the greater part.
    left: usize,
    /// The process that the line stands in, as the number of forks before.
    generation: u64,
}

/// How long a leader may be late before its loop is taken for dead, in nanoseconds.
pub(super) const PATIENCE: u64 = 1_000_000_000;

/// Whoever is gone, to be dropped outside of the guarded state.
pub(super) type Gone = Vec<Place>;

impl Line {
    /// Whether nobody stands here. In a forked child, those who wait in the parent don't.
    pub(super) fn is_empty(&self) -> bool {
        self.leader.is_none() || self.generation != lifecycle::generation()
    }

    /// Joins the line at its end; whether that is its beginning.
    pub(super) fn join(&mut self, place: &Place, n: u64, now: u64, gone: &mut Gone) -> bool {
        if self.generation != lifecycle::generation() {
            self.generation = lifecycle::generation();
            gone.extend(self.leader.take());
            gone.extend(self.followers.drain(..).map(|standing| standing.place));
            self.left = 0;
        }
        self.depose(now, gone);
        if self.leader.is_some() || self.followers.len() > self.left {
            self.followers.push_back(Standing { place: place.clone(), n });
            return false;
        }
        self.leader = Some(place.clone());
        self.due = now;
        true
    }

    /// A leader that is long overdue leads no more: its event loop has stopped without a word.
    pub(super) fn depose(&mut self, now: u64, gone: &mut Gone) -> bool {
        let late = self.leader.is_some() && now > self.due.saturating_add(PATIENCE);
        if late {
            gone.extend(self.leader.take());
        }
        late
    }

    /// Whether somebody leads.
    pub(super) fn has_leader(&self) -> bool {
        self.leader.is_some()
    }

    /// When a leader that doesn't come would be overdue.
    pub(super) fn overdue_at(&self) -> u64 {
        self.due.saturating_add(PATIENCE + 1)
    }

    /// Whether `place` leads.
    pub(super) fn is_led_by(&self, place: &Place) -> bool {
        self.leader.as_ref().is_some_and(|leader| Arc::ptr_eq(leader, place))
    }

    /// The leader waits at another place, until `due`; false where it leads no more.
    pub(super) fn lead_on(&mut self, before: &Place, place: &Place, due: u64, gone: &mut Gone) -> bool {
        let leads = self.is_led_by(before);
        if leads {
            gone.extend(self.leader.replace(place.clone()));
            self.due = due;
        }
        leads
    }

    /// A follower waits at another place; false where it follows no more.
    pub(super) fn follow_on(&mut self, before: &Place, place: &Place, gone: &mut Gone) -> bool {
        let follower = self.followers.iter_mut().find(|standing| Arc::ptr_eq(&standing.place, before));
        let Some(follower) = follower else { return false };
        gone.push(std::mem::replace(&mut follower.place, place.clone()));
        true
    }

    /// Who was deposed and comes back stands before all others.
    pub(super) fn join_first(&mut self, place: &Place, n: u64) {
        self.followers.push_front(Standing { place: place.clone(), n });
    }

    /// The next becomes the leader; with the number of its tokens.
    pub(super) fn promote(&mut self, now: u64, gone: &mut Gone) -> Option<(Place, u64)> {
        gone.extend(self.leader.take());
        while let Some(Standing { place, n }) = self.followers.pop_front() {
            if !place.is_settled() && place.is_ours() {
                self.leader = Some(place.clone());
                self.due = now;
                return Some((place, n));
            }
            self.left = self.left.saturating_sub(1);
            gone.push(place);
        }
        None
    }

    /// A follower has left.
    pub(super) fn note_leaving(&mut self, gone: &mut Gone) {
        self.left += 1;
        if self.left * 2 > self.followers.len() {
            let (stay, go): (VecDeque<_>, VecDeque<_>) =
                self.followers.drain(..).partition(|standing| !standing.place.is_settled());
            self.followers = stay;
            self.left = 0;
            gone.extend(go.into_iter().map(|standing| standing.place));
        }
    }

    /// The one who leads, to be told that tokens have come back.
    pub(super) fn leader(&self) -> Option<Place> {
        self.leader.clone()
    }

    /// How many tokens are waited for.
    pub(super) fn wanted(&self) -> u64 {
        let followers = self.followers.iter().filter(|standing| !standing.place.is_settled());
        u64::from(self.leader.is_some()) + followers.map(|standing| standing.n).sum::<u64>()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        1 + self.followers.iter().filter(|standing| !standing.place.is_settled()).count()
    }
}

/// Drops those who are gone, attached by `PyO3`'s own count.
pub(super) fn let_go(gone: Gone) {
    if !gone.is_empty() {
        Python::attach(|_| drop(gone));
    }
}
