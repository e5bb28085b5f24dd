//! A budget of retries: so many for each call, and a few a second whatever happens.
//!
//! After the retry budgets of Finagle (Twitter): what calls pay in and retries take out counts for ten seconds.

/// How long a call or a retry counts, in slots of a second.
pub const WINDOW: usize = 10;

/// What one second has seen.
#[derive(Clone, Copy, Default)]
struct Slot {
    second: u64,
    calls: u64,
    retries: u64,
}

/// Calls and retries of the last seconds.
#[derive(Default)]
pub struct Budget {
    slots: [Slot; WINDOW],
}

impl Budget {
    fn slot(&mut self, second: u64) -> &mut Slot {
        let slot = &mut self.slots[usize::try_from(second % WINDOW as u64).unwrap_or(0)];
        if slot.second != second {
            *slot = Slot { second, ..Slot::default() };
        }
        slot
    }

    /// A call pays in.
    pub fn deposit(&mut self, second: u64) {
        self.slot(second).calls += 1;
    }

    /// How many retries may begin now.
    #[must_use]
    pub fn balance(&self, second: u64, ratio: f64, min_per_second: f64) -> f64 {
        let recent = self.slots.iter().filter(|slot| slot.second + WINDOW as u64 > second);
        let (calls, retries) =
            recent.fold((0, 0), |(calls, retries), slot| (calls + slot.calls, retries + slot.retries));
        // Counts, so that no error of rounding adds up.
        (calls as f64).mul_add(ratio, min_per_second * WINDOW as f64) - retries as f64
    }

    /// A retry takes out, if there is enough.
    pub fn withdraw(&mut self, second: u64, ratio: f64, min_per_second: f64) -> bool {
        // A tenth of ten calls is one retry, whatever binary fractions make of it.
        let enough = self.balance(second, ratio, min_per_second) > 1.0 - 1e-6;
        if enough {
            self.slot(second).retries += 1;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_calls_pay_for_one_retry() {
        let mut budget = Budget::default();
        for _ in 0..9 {
            budget.deposit(100);
        }
        assert!(!budget.withdraw(100, 0.1, 0.0));
        budget.deposit(100);
        assert!(budget.withdraw(100, 0.1, 0.0));
        assert!(!budget.withdraw(100, 0.1, 0.0));
    }

    #[test]
    fn a_few_are_free_and_come_back_after_the_window() {
        let mut budget = Budget::default();
        let granted = (0..50).filter(|_| budget.withdraw(1000, 0.0, 2.0)).count();
        assert_eq!(granted, 20);
        assert!(!budget.withdraw(1009, 0.0, 2.0), "still within ten seconds");
        assert!(budget.withdraw(1010, 0.0, 2.0));
    }

    #[test]
    fn deposits_expire() {
        let mut budget = Budget::default();
        for _ in 0..1000 {
            budget.deposit(5);
        }
        assert!(budget.balance(14, 0.1, 0.0) > 99.0);
        assert!(budget.balance(15, 0.1, 0.0) < 1.0);
    }
}
