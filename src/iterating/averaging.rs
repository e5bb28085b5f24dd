//! The sum of a sliding window without subtraction: nothing drifts, and after a window of zeros the sum is exactly zero.
//!
//! The window is two heaps. What comes is added to the *back*, whose sum is carried along. What goes is taken from the
//! *front*, where every place knows the sum from there to the front's end. When the front is used up, the back is turned
//! over into it: one addition for each item, every so often. (The queue of two stacks, known from folklore.)

/// The last `window` numbers, and their sum.
pub struct Window {
    length: usize,
    /// The newest numbers, in order.
    back: Vec<f64>,
    back_sum: f64,
    /// Sums from an older number to the end of the front; the last one is next to go.
    front: Vec<f64>,
    /// What the sums are made of, in order.
    older: Vec<f64>,
}

impl Window {
    /// A window of so many numbers, at least one.
    #[must_use]
    pub fn new(window: usize) -> Self {
        Self { length: window, back: Vec::new(), back_sum: 0.0, front: Vec::new(), older: Vec::new() }
    }

    /// Adds a number, lets the oldest go, and gives the sum once the window is full.
    #[inline]
    pub fn push(&mut self, number: f64) -> Option<f64> {
        if self.front.is_empty() && self.back.len() == self.length {
            self.turn_over();
        }
        self.front.pop();
        self.back.push(number);
        self.back_sum += number;
        (self.front.len() + self.back.len() == self.length)
            .then(|| self.front.last().copied().unwrap_or_default() + self.back_sum)
    }

    /// The numbers of the window, from the oldest on.
    #[must_use]
    pub fn numbers(&self) -> Vec<f64> {
        self.older[self.older.len() - self.front.len()..].iter().copied().chain(self.back.iter().copied()).collect()
    }

    #[inline(never)]
    fn turn_over(&mut self) {
        let mut sum = 0.0;
        for number in self.back.iter().rev() {
            sum += number;
            self.front.push(sum);
        }
        self.back_sum = 0.0;
        std::mem::swap(&mut self.back, &mut self.older);
        self.back.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(window: usize, numbers: &[f64]) -> Vec<f64> {
        let mut state = Window::new(window);
        numbers.iter().filter_map(|number| state.push(*number)).collect()
    }

    #[test]
    fn every_full_window_has_its_sum() {
        let numbers: Vec<f64> = (0..100).map(f64::from).collect();
        for window in 1..=100 {
            let expected: Vec<f64> = numbers.windows(window).map(|part| part.iter().sum()).collect();
            assert_eq!(sums(window, &numbers), expected, "{window}");
        }
        assert!(sums(101, &numbers).is_empty());
    }

    #[test]
    fn nothing_is_left_of_what_has_gone() {
        let mut numbers = vec![1e308, 1e-300, 0.1, f64::INFINITY, f64::NAN, 3.3e17];
        numbers.extend([0.0; 10]);
        let after = sums(5, &numbers);
        assert_eq!(after[after.len() - 5..], [0.0; 5]);
    }
}
