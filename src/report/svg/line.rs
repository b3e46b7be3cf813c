//! Line charts.

use std::fmt::Write;

use super::super::series::PlotPoint;
use super::{Colour, Frame, Size, escape, number, short};

/// Lines with at most this many points have a mark with a tooltip at each point.
const MARKED: usize = 45;

/// One line of a chart; its points are sorted by x.
pub struct PlotLine {
    pub label: String,
    pub colour: Colour,
    pub points: Vec<PlotPoint>,
}

/// A chart of several lines over a common x axis, named `x`. The y axis covers `range`, or the range of the lines.
/// Empty if no line has points.
pub fn chart(name: &str, x: &str, size: Size, range: Option<(f64, f64)>, lines: &[PlotLine]) -> String {
    let lines: Vec<&PlotLine> = lines.iter().filter(|line| !line.points.is_empty()).collect();
    if lines.is_empty() {
        return String::new();
    }
    let xs = lines.iter().flat_map(|line| &line.points).map(|p| p.x);
    let frame = Frame::new(size, span(xs), range.unwrap_or_else(|| y_range(lines.iter().copied())));
    let bands: String = lines.iter().map(|line| band(&frame, line)).collect();
    let paths: String = lines.iter().map(|line| path(&frame, line, x)).collect();
    frame.draw(name, &(bands + &paths))
}

/// The range of the y axis for these lines: the range of the lines and their bands, plus a margin.
pub fn y_range<'a>(lines: impl IntoIterator<Item = &'a PlotLine>) -> (f64, f64) {
    padded(span(lines.into_iter().flat_map(|line| &line.points).flat_map(|p| [p.low, p.high])))
}

fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

/// Adds a margin above and below. If all values are at least 0 and some are near 0, the range starts at 0.
fn padded((low, high): (f64, f64)) -> (f64, f64) {
    let margin = 0.06 * (high - low);
    let from = if low >= 0.0 && low < 0.3 * high { 0.0 } else { low - margin };
    (from, high + margin)
}

fn band(frame: &Frame, line: &PlotLine) -> String {
    if line.points.iter().all(|p| p.low == p.high) {
        return String::new();
    }
    let upper = line.points.iter().map(|p| (p.x, p.high));
    let lower = line.points.iter().rev().map(|p| (p.x, p.low));
    format!(r#"<path class="band" {} d="{}Z"/>"#, line.colour.attributes(), trace(frame, upper.chain(lower)))
}

fn path(frame: &Frame, line: &PlotLine, x: &str) -> String {
    let label = escape(&line.label);
    let title = |p: &PlotPoint| {
        let band = if p.low == p.high { String::new() } else { format!(" ({} to {})", number(p.low), number(p.high)) };
        format!("<title>{label}, {x} {}: {}{band}</title>", number(p.x), number(p.y))
    };
    let mut out = format!(
        r#"<g {}><path class="line" data-label="{label}" d="{}">{}</path>"#,
        line.colour.attributes(),
        trace(frame, line.points.iter().map(|p| (p.x, p.y))),
        line.points.last().map(title).unwrap_or_default()
    );
    if line.points.len() <= MARKED {
        for p in &line.points {
            let (x, y) = (short(frame.px(p.x)), short(frame.py(p.y)));
            let _ = write!(out, r#"<circle r="2" cx="{x}" cy="{y}">{}</circle>"#, title(p));
        }
    }
    out + "</g>"
}

fn trace(frame: &Frame, points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut out = String::new();
    for (x, y) in points {
        let start = if out.is_empty() { 'M' } else { 'L' };
        let _ = write!(out, "{start}{} {}", short(frame.px(x)), short(frame.py(y)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_runs_from_corner_to_corner() {
        let points = vec![PlotPoint::new(0.0, 0.0), PlotPoint::new(10.0, 1.0)];
        let lines = [PlotLine { label: "a<b".into(), colour: Colour::Run(0), points }];
        let svg = chart("n", "step", Size { width: 100.0, height: 60.0 }, Some((0.0, 1.0)), &lines);
        // Left: the space for labels of three letters ("0.5"); right, bottom and top: the margins.
        assert!(svg.contains(r#"d="M30.6 38L88 8""#), "{svg}");
        assert!(svg.contains("<title>a&lt;b, step 10: 1</title>") && !svg.contains("a<b"), "{svg}");
        assert!(svg.contains(r#"data-x="0,10,30.6,88""#), "{svg}");
        assert_eq!(chart("n", "step", Size::SMALL, None, &[]), "");
    }

    #[test]
    fn a_band_goes_there_and_back() {
        let points = vec![PlotPoint { x: 0.0, y: 0.5, low: 0.0, high: 1.0 }, PlotPoint::new(1.0, 0.5)];
        let lines = [PlotLine { label: String::new(), colour: Colour::Run(9), points }];
        let svg = chart("n", "step", Size { width: 100.0, height: 60.0 }, Some((0.0, 1.0)), &lines);
        assert!(svg.contains(r#"d="M30.6 8L88 23L88 23L30.6 38Z""#), "{svg}");
        assert!(svg.contains(r#"class="dashed" style="--k:var(--run1)""#), "{svg}");
    }
}
