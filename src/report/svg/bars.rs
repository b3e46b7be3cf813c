//! Bars: parts of a whole over steps, and histograms.

use std::fmt::Write;

use super::{Colour, Frame, Size, escape, number, short};

/// One bar of a stacked chart.
pub struct Stack {
    /// The first and the last step that it covers.
    pub steps: (u64, u64),
    /// One number per part, from bottom to top.
    pub parts: Vec<f64>,
}

/// A part of a whole: its name and its colour.
pub type StackPart = (&'static str, Colour);

impl Stack {
    /// The sum of all parts.
    pub fn height(&self) -> f64 {
        self.parts.iter().sum()
    }
}

/// Bars over steps, each divided into `parts`, on an axis up to `top`. Empty if all bars have height 0.
pub fn stacked(name: &str, size: Size, top: f64, parts: &[StackPart], stacks: &[Stack]) -> String {
    let (Some(first), Some(last)) = (stacks.first(), stacks.last()) else { return String::new() };
    if stacks.iter().all(|stack| stack.height() <= 0.0) {
        return String::new();
    }
    let frame = Frame::new(size, (first.steps.0 as f64 - 0.5, last.steps.1 as f64 + 0.5), (0.0, top));
    let mut body = String::new();
    for (part, (label, colour)) in parts.iter().enumerate() {
        let _ = write!(body, r#"<g class="bars" {}>"#, colour.attributes());
        let shown = stacks.iter().filter(|stack| stack.parts[part] > 0.0);
        shown.for_each(|stack| bar(&mut body, &frame, stack, part, label));
        body += "</g>";
    }
    frame.draw(name, &body)
}

fn bar(out: &mut String, frame: &Frame, stack: &Stack, part: usize, label: &str) {
    let below: f64 = stack.parts[..part].iter().sum();
    let value = stack.parts[part];
    let (left, right) = (frame.px(stack.steps.0 as f64 - 0.5), frame.px(stack.steps.1 as f64 + 0.5));
    let (top, bottom) = (frame.py(below + value), frame.py(below));
    let gap = if right - left > 4.0 { 0.8 } else { 0.0 };
    let _ = write!(
        out,
        r#"<rect x="{}" y="{}" width="{}" height="{}"><title>{}, {label}: {}</title></rect>"#,
        short(left),
        short(top),
        short(right - left - gap),
        short(bottom - top),
        steps(stack.steps),
        number(value)
    );
}

/// "step 3" or "steps 3 to 5".
pub fn steps((first, last): (u64, u64)) -> String {
    if first == last { format!("step {first}") } else { format!("steps {first} to {last}") }
}

/// The number of bins for many distinct values.
const BINS: usize = 24;

/// Up to this many distinct values, each has its own bar.
const SINGLE: usize = 8;

/// The shares of several sets of values in common bins, side by side, in percent. Empty if there are no values.
pub fn histogram(name: &str, size: Size, sets: &[(String, &[f64])]) -> String {
    let mut all: Vec<f64> = sets.iter().flat_map(|(_, values)| values.iter().copied()).collect();
    all.sort_by(f64::total_cmp);
    let (Some(&low), Some(&high)) = (all.first(), all.last()) else { return String::new() };
    all.dedup();
    let single = all.len() <= SINGLE;
    let bins = if single { single_bins(&all) } else { equal_bins(low, high) };
    let shares: Vec<Vec<f64>> = sets.iter().map(|(_, values)| shares(&bins, values)).collect();
    let highest = shares.iter().flatten().fold(0.0_f64, |most, share| most.max(*share));
    // Single values are drawn at equal distances.
    let x = if single { (-0.5, bins.len() as f64 - 0.5) } else { (low, high) };
    let frame = Frame::new(size, x, (0.0, 105.0 * highest));
    let edges = |i: usize| if single { (i as f64 - 0.5, i as f64 + 0.5) } else { (bins[i].from, bins[i].to) };
    let place = |i: usize| (frame.px(edges(i).0), frame.px(edges(i).1));
    let body: String = (0..sets.len()).map(|set| set_bars(&frame, &bins, &place, sets, &shares, set)).collect();
    let ticks = if single {
        bins.iter().enumerate().map(|(i, bin)| (i as f64, bin.label.clone())).collect()
    } else {
        frame.x_ticks()
    };
    frame.draw_with(name, &body, &ticks)
}

struct Bin {
    from: f64,
    to: f64,
    label: String,
}

impl Bin {
    /// Whether the bin contains a value; a bin for a single value tolerates rounding.
    fn holds(&self, value: f64, last: bool) -> bool {
        self.from <= value && (value < self.to || last && value <= self.to)
    }
}

/// A bin around each value, as wide as the smallest distance allows.
fn single_bins(values: &[f64]) -> Vec<Bin> {
    let least = values.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
    let half = if least.is_finite() { least / 2.0 } else { 0.5 };
    values.iter().map(|value| Bin { from: value - half, to: value + half, label: number(*value) }).collect()
}

fn equal_bins(low: f64, high: f64) -> Vec<Bin> {
    let width = (high - low) / BINS as f64;
    let edge = |i: usize| low + i as f64 * width;
    let one =
        |i| Bin { from: edge(i), to: edge(i + 1), label: format!("{} to {}", number(edge(i)), number(edge(i + 1))) };
    (0..BINS).map(one).collect()
}

fn shares(bins: &[Bin], values: &[f64]) -> Vec<f64> {
    let mut counts = vec![0_usize; bins.len()];
    for &value in values {
        let guess = bins.partition_point(|bin| bin.to <= value).min(bins.len() - 1);
        if bins[guess].holds(value, guess + 1 == bins.len()) {
            counts[guess] += 1;
        }
    }
    counts.into_iter().map(|count| count as f64 / values.len().max(1) as f64).collect()
}

fn set_bars(
    frame: &Frame,
    bins: &[Bin],
    place: &dyn Fn(usize) -> (f64, f64),
    sets: &[(String, &[f64])],
    shares: &[Vec<f64>],
    set: usize,
) -> String {
    let label = escape(&sets[set].0);
    let mut out = format!(r#"<g class="bars" {}>"#, Colour::Part(set).attributes());
    for (i, share) in shares[set].iter().enumerate().filter(|(_, share)| **share > 0.0) {
        let (left, right) = place(i);
        let room = 0.86 * (right - left) / sets.len() as f64;
        let top = frame.py(100.0 * share);
        let _ = write!(
            out,
            r#"<rect x="{}" y="{}" width="{}" height="{}"><title>{label}, {}: {} %</title></rect>"#,
            short(left + 0.07 * (right - left) + set as f64 * room),
            short(top),
            short(room),
            short(frame.py(0.0) - top),
            bins[i].label,
            number(100.0 * share)
        );
    }
    out + "</g>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacked_parts_stand_on_each_other() {
        let parts = [("a", Colour::Part(2)), ("b", Colour::Part(0))];
        let stacks = [Stack { steps: (1, 2), parts: vec![1.0, 3.0] }];
        let svg = stacked("n", Size { width: 100.0, height: 130.0 }, 4.0, &parts, &stacks);
        // 100 units of height for 4: a takes 25 at the bottom, b 75 above it.
        assert!(svg.contains(r#"y="83" width="69" height="25"><title>steps 1 to 2, a: 1<"#), "{svg}");
        assert!(svg.contains(r#"y="8" width="69" height="75"><title>steps 1 to 2, b: 3<"#), "{svg}");
        let nothing = [Stack { steps: (1, 1), parts: vec![0.0, 0.0] }];
        assert_eq!(stacked("n", Size::SMALL, 4.0, &parts, &nothing), "");
    }

    #[test]
    fn few_values_have_a_bar_each_and_many_share_bins() {
        let rewards = [3.0, -3.0, -3.0, -0.5];
        let svg = histogram("n", Size::SMALL, &[("early".into(), &rewards)]);
        assert!(svg.contains("early, −3: 50 %") && svg.contains("early, −0.5: 25 %"), "{svg}");
        let lengths: Vec<f64> = (0..240).map(f64::from).collect();
        let svg = histogram("n", Size::SMALL, &[("late".into(), &lengths)]);
        assert_eq!(svg.matches("<rect").count(), BINS);
        assert_eq!(histogram("n", Size::SMALL, &[("none".into(), &[])]), "");
    }
}
