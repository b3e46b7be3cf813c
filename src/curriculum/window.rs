//! The mean of the last k values of a stream.
//!
//! Invariant: the mean is a function of the buffer alone. Nothing is ever subtracted, so a rounding error leaves
//! together with the value that caused it, and a saved window continues bit for bit.

use serde::{Deserialize, Serialize};

/// The mean of the last `capacity` values, in amortised O(1) per value and O(1) per mean.
///
/// A ring buffer in two parts: `[..next]` was written since the last wrap, and its sum grows; `[next..]` is older, and
/// the sums of all its tails were computed at that wrap.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(into = "WindowState", try_from = "WindowState")]
pub struct Window {
    capacity: usize,
    values: Vec<f64>,
    next: usize,
    newer: f64,
    older: Vec<f64>,
}

impl Window {
    /// An empty window of `capacity` ≥ 1 values.
    pub fn new(capacity: usize) -> Self {
        assert!(capacity > 0, "this is a bug: a window without room");
        Self { capacity, values: Vec::new(), next: 0, newer: 0.0, older: Vec::new() }
    }

    /// Adds a finite value; a full window drops its oldest one.
    pub fn push(&mut self, value: f64) {
        match self.values.get_mut(self.next) {
            Some(oldest) => *oldest = value,
            None => self.values.push(value),
        }
        self.next += 1;
        self.newer += value;
        if self.next == self.capacity {
            self.next = 0;
            self.newer = 0.0;
            self.older = tail_sums(&self.values);
        }
    }

    /// How many values the window can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many values the window holds.
    pub fn count(&self) -> usize {
        self.values.len()
    }

    /// The mean of the values in the window; 0 if it is empty.
    pub fn mean(&self) -> f64 {
        let older = self.older.get(self.next).copied().unwrap_or(0.0);
        (self.newer + older) / self.values.len().max(1) as f64
    }
}

/// `sums[i]` = Σ `values[i..]`.
fn tail_sums(values: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0; values.len()];
    let mut sum = 0.0;
    for (slot, &value) in sums.iter_mut().zip(values).rev() {
        sum += value;
        *slot = sum;
    }
    sums
}

/// A window as it is saved: the sums are computed again, and JSON text keeps every bit of an f64.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowState {
    capacity: usize,
    next: usize,
    values: Vec<f64>,
}

impl From<Window> for WindowState {
    fn from(window: Window) -> Self {
        Self { capacity: window.capacity, next: window.next, values: window.values }
    }
}

impl TryFrom<WindowState> for Window {
    type Error = String;

    fn try_from(WindowState { capacity, next, values }: WindowState) -> Result<Self, String> {
        let full = values.len() == capacity;
        let fits = if full { next < capacity } else { values.len() < capacity && next == values.len() };
        if !fits || values.iter().any(|value| !value.is_finite()) {
            return Err(format!("not a window: {} values, next {next}, capacity {capacity}", values.len()));
        }
        let older = if full { tail_sums(&values) } else { Vec::new() };
        let newer = values[..next].iter().fold(0.0, |sum, value| sum + value);
        Ok(Self { capacity, values, next, newer, older })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn filled(capacity: usize, values: &[f64]) -> Window {
        let mut window = Window::new(capacity);
        values.iter().for_each(|&value| window.push(value));
        window
    }

    #[test]
    fn a_huge_value_leaves_nothing_behind() {
        assert_eq!(filled(3, &[1e300, 0.1, 0.25, 0.5]).mean(), (0.1 + 0.75) / 3.0);
        assert_eq!(filled(1, &[1e300, 0.5]).mean(), 0.5);
        assert_eq!(Window::new(3).mean(), 0.0);
    }

    #[test]
    fn a_broken_window_is_refused() {
        let parse = |next: usize, values: &[f64]| {
            serde_json::from_value::<Window>(json!({"capacity": 2, "next": next, "values": values}))
        };
        assert!(parse(1, &[1.0]).is_ok() && parse(1, &[1.0, 2.0]).is_ok());
        for (next, values) in [(0, vec![1.0]), (2, vec![1.0, 2.0]), (0, vec![1.0; 3]), (3, vec![1.0; 3])] {
            assert!(parse(next, &values).is_err(), "{next} {values:?}");
        }
        assert!(serde_json::from_value::<Window>(json!({"capacity": 0, "next": 0, "values": []})).is_err());
    }

    proptest! {
        #[test]
        fn mean_is_that_of_the_last_values(
            capacity in 1_usize..20,
            values in prop::collection::vec(0.0_f64..10.0, 1..100),
        ) {
            let window = filled(capacity, &values);
            let last = &values[values.len().saturating_sub(capacity)..];
            let expected = last.iter().sum::<f64>() / last.len() as f64;
            prop_assert!((window.mean() - expected).abs() < 1e-12);
        }

        #[test]
        fn a_saved_window_goes_on_bit_for_bit(
            capacity in 1_usize..20,
            before in prop::collection::vec(-1e30..1e30, 0..60),
            after in prop::collection::vec(-1e30..1e30, 0..60),
        ) {
            let mut window = filled(capacity, &before);
            let mut copy: Window = serde_json::from_str(&serde_json::to_string(&window).unwrap()).unwrap();
            prop_assert_eq!(window.mean().to_bits(), copy.mean().to_bits());
            for value in after {
                window.push(value);
                copy.push(value);
                prop_assert_eq!(window.mean().to_bits(), copy.mean().to_bits());
            }
        }
    }
}
