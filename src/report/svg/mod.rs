//! A small chart library: inline SVG that scales with its view box and takes every colour from a CSS variable, so that
//! the same drawing works in light and dark themes and on paper.
//!
//! - [`mod@line`]: several lines with bands · [`bars`]: stacked bars over steps, histograms · [`heat`]: heat maps
//!
//! The values of a chart are also in `<title>` elements, which browsers show as tooltips and screen readers read aloud.

pub mod bars;
pub mod heat;
pub mod line;

use std::fmt::Write;

/// The number of runs with different colours; further runs repeat the colours with dashed lines.
pub const RUN_COLOURS: usize = 8;

/// A colour by its meaning; the page defines how it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// Run or cohort i.
    Run(usize),
    /// Distribution i, on a scale from easy to hard.
    Arm(usize),
    /// Part i of a whole.
    Part(usize),
}

impl Colour {
    /// The style attribute that sets `--k`, and the class for the dashes.
    pub fn attributes(self) -> String {
        match self {
            Self::Run(i) if i < RUN_COLOURS => format!(r#"style="--k:var(--run{i})""#),
            Self::Run(i) => format!(r#"class="dashed" style="--k:var(--run{})""#, i % RUN_COLOURS),
            Self::Arm(i) => format!(r#"style="--k:var(--arm{i})""#),
            Self::Part(i) => format!(r#"style="--k:var(--part{i})""#),
        }
    }
}

/// Text for HTML, between tags or in a quoted attribute.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A readable number: three significant digits; k, M and G for large numbers; a true minus sign.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let text = match size {
        _ if !value.is_finite() => "–".into(),
        0.0 => "0".into(),
        1e9.. => trimmed(value / 1e9, 2) + "G",
        1e6.. => trimmed(value / 1e6, 2) + "M",
        1e4.. => trimmed(value / 1e3, 1) + "k",
        100.0.. => trimmed(value, 0),
        1.0.. => trimmed(value, 2),
        1e-3.. => trimmed(value, (2.0 - size.log10().floor()) as usize),
        _ => format!("{value:.1e}"),
    };
    text.replace('-', "−")
}

/// A share in percent.
pub fn percent(share: f64) -> String {
    format!("{} %", trimmed(100.0 * share, usize::from(share.abs() < 0.0995))).replace('-', "−")
}

/// With at most this many decimals, without zeros at the end.
fn trimmed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".into() } else { text.into() }
}

/// Round numbers (1, 2 or 5 times a power of ten) from `low` to `high`, about `count` of them.
pub fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let rough = (high - low) / count.max(1) as f64;
    if !(rough.is_finite() && rough > 0.0) {
        return vec![low];
    }
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough * 0.75);
    let step = step.unwrap_or(10.0 * power);
    let first = (low / step - 1e-9).ceil();
    (0..=2 * count + 2).map(|i| (first + i as f64) * step).take_while(|tick| *tick <= high + 1e-9 * step).collect()
}

/// The labels of ticks, all with the same number of decimals and the same unit.
pub fn tick_labels(ticks: &[f64]) -> Vec<String> {
    let largest = ticks.iter().fold(0.0_f64, |most, tick| most.max(tick.abs()));
    let step = if ticks.len() > 1 { ticks[1] - ticks[0] } else { largest.max(1e-12) };
    let (unit, suffix) = match largest {
        1e9.. => (1e9, "G"),
        1e6.. => (1e6, "M"),
        1e4.. => (1e3, "k"),
        _ => (1.0, ""),
    };
    let one = |tick: &f64| match tick {
        0.0 => "0".to_string(),
        tick if largest < 1e-3 => format!("{tick:.0e}"),
        tick => {
            let decimals = (-(step / unit).log10() - 1e-9).ceil().clamp(0.0, 6.0) as usize;
            format!("{:.decimals$}{suffix}", tick / unit)
        }
    };
    ticks.iter().map(|tick| one(tick).replace('-', "−")).collect()
}

const TOP: f64 = 8.0;
const RIGHT: f64 = 12.0;
const BOTTOM: f64 = 22.0;

/// The size of a chart in units of its view box; a letter of a label is about 6 units wide.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub width: f64,
    pub height: f64,
}

impl Size {
    /// For three or four charts side by side.
    pub const SMALL: Self = Self { width: 300.0, height: 180.0 };
    /// For two charts side by side.
    pub const HALF: Self = Self { width: 600.0, height: 260.0 };
}

/// The position of the axes of a chart, and their ranges.
pub struct Frame {
    size: Size,
    /// Room at the left of the axes, for labels.
    left: f64,
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    /// Axes with these ranges; an empty range is widened.
    pub fn new(size: Size, x: (f64, f64), y: (f64, f64)) -> Self {
        let (x, y) = (widened(x), widened(y));
        let longest = tick_labels(&ticks(y.0, y.1, 4)).iter().map(|label| label.chars().count()).max();
        Self { size, left: 12.0 + 6.2 * longest.unwrap_or(1) as f64, x, y }
    }

    /// The horizontal position of x.
    pub fn px(&self, x: f64) -> f64 {
        self.left + (x - self.x.0) / (self.x.1 - self.x.0) * (self.size.width - self.left - RIGHT)
    }

    /// The vertical position of y.
    pub fn py(&self, y: f64) -> f64 {
        let height = self.size.height - TOP - BOTTOM;
        TOP + (self.y.1 - y) / (self.y.1 - self.y.0) * height
    }

    /// An `<svg>` element around `body`, named `name`, with both axes and their grid behind it. x is a step or another
    /// whole number. The attributes give the ranges of the axes to the script of the page.
    pub fn draw(&self, name: &str, body: &str) -> String {
        let whole = self.x_ticks().into_iter().filter(|(tick, _)| tick.fract() == 0.0);
        self.draw_with(name, body, &whole.collect::<Vec<_>>())
    }

    /// Ticks of x and their labels.
    fn x_ticks(&self) -> Vec<(f64, String)> {
        let ticks = ticks(self.x.0, self.x.1, if self.size.width > 400.0 { 8 } else { 5 });
        let labels = tick_labels(&ticks);
        ticks.into_iter().zip(labels).collect()
    }

    /// Like [`draw`](Self::draw), with these ticks on the x axis.
    fn draw_with(&self, name: &str, body: &str, x_ticks: &[(f64, String)]) -> String {
        let Size { width, height } = self.size;
        let (right, bottom) = (width - RIGHT, height - BOTTOM);
        let name = escape(name);
        let mut out = format!(
            r#"<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}" data-x="{},{},{},{right}" data-y="{},{},{bottom},{TOP}">"#,
            self.x.0,
            self.x.1,
            short(self.left),
            self.y.0,
            self.y.1
        );
        let y_ticks = ticks(self.y.0, self.y.1, if height > 200.0 { 5 } else { 4 });
        for (tick, label) in y_ticks.iter().zip(tick_labels(&y_ticks)) {
            let (y, left) = (short(self.py(*tick)), short(self.left));
            let _ = write!(out, r#"<path class="rule" d="M{left} {y}H{right}"/>"#);
            let _ = write!(
                out,
                r#"<text x="{}" y="{y}" dy=".32em" text-anchor="end">{label}</text>"#,
                short(self.left - 5.0)
            );
        }
        for (tick, label) in x_ticks {
            let x = short(self.px(*tick));
            let _ = write!(
                out,
                r#"<path class="axis" d="M{x} {bottom}v4"/><text x="{x}" y="{}" text-anchor="middle">{label}</text>"#,
                bottom + 15.0
            );
        }
        let _ = write!(out, r#"{body}<path class="axis" d="M{} {bottom}H{right}"/></svg>"#, short(self.left));
        out
    }
}

/// A range too narrow for labels of six digits counts as a single value, which gets a margin on both sides.
fn widened((low, high): (f64, f64)) -> (f64, f64) {
    if high - low > 1e-5 * low.abs().max(high.abs()) {
        return (low, high);
    }
    let margin = if low == 0.0 { 1.0 } else { 0.1 * low.abs() };
    (low - margin, low + margin)
}

/// A length with one decimal: a tenth of a pixel.
pub fn short(length: f64) -> String {
    trimmed(length, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 200.0, 5), [0.0, 50.0, 100.0, 150.0, 200.0]);
        assert_eq!(ticks(-1.93, 0.4, 4), [-1.5, -1.0, -0.5, 0.0]);
        assert_eq!(ticks(3.0, 3.0, 4), [3.0]);
        assert_eq!(tick_labels(&[-0.5, 0.0, 0.5]), ["−0.5", "0", "0.5"]);
        assert_eq!(tick_labels(&[0.0, 500_000.0, 1e6]), ["0", "0.5M", "1.0M"]);
        assert_eq!(tick_labels(&[1e-6, 2e-6]), ["1e−6", "2e−6"]);
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, -1.256, 0.012345, 123.4, 12_345.0, 1_234_567.0, 1e-6, f64::NAN].map(number);
        assert_eq!(shown, ["0", "−1.26", "0.0123", "123", "12.3k", "1.23M", "1.0e−6", "–"]);
        assert_eq!([0.5, 0.031, -0.001].map(percent), ["50 %", "3.1 %", "−0.1 %"]);
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escape("<think>\"a\" & 'b'\0"), "&lt;think&gt;&quot;a&quot; &amp; &#39;b&#39;\u{fffd}");
    }
}
