//! Heat maps: distributions by steps.

use std::fmt::Write;

use super::bars::steps;
use super::{escape, short, tick_labels, ticks};

/// The height of a row, and the space for the labels of the steps.
const ROW: f64 = 17.0;
const BOTTOM: f64 = 22.0;
/// The length of the longest row label, in letters.
const LONGEST: usize = 20;

/// One column of cells; a value may be missing.
pub struct Column {
    pub steps: (u64, u64),
    pub values: Vec<Option<f64>>,
}

/// The range of all values; none if there are no values.
pub fn range(columns: &[Column]) -> Option<(f64, f64)> {
    let values = columns.iter().flat_map(|column| column.values.iter().flatten());
    values.fold(None, |range, &value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((f64::min(low, value), f64::max(high, value)))
    })
}

/// The contents of a heat map.
pub struct Map<'a> {
    pub name: &'a str,
    /// In units of the view box.
    pub width: f64,
    pub rows: &'a [String],
    pub columns: &'a [Column],
    /// The values with the weakest and the strongest colour.
    pub range: (f64, f64),
    /// Formats a value for the tooltip.
    pub show: fn(f64) -> String,
}

impl Map<'_> {
    /// One cell per row and column; larger values have stronger colours. Empty if there are no columns.
    pub fn draw(&self) -> String {
        if self.columns.is_empty() {
            return String::new();
        }
        let (width, height) = (self.width, ROW * self.rows.len() as f64 + BOTTOM);
        let name = escape(self.name);
        let rows: String = (0..self.rows.len()).map(|index| self.row(index)).collect();
        let axis = self.axis();
        format!(r#"<svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}">{rows}{axis}</svg>"#)
    }

    fn left(&self) -> f64 {
        let longest = self.rows.iter().map(|row| row.chars().count().min(LONGEST)).max().unwrap_or(0);
        10.0 + 6.3 * longest as f64
    }

    /// From half a step before the first step to half a step after the last.
    fn span(&self) -> (f64, f64) {
        let last = self.columns.len() - 1;
        (self.columns[0].steps.0 as f64 - 0.5, self.columns[last].steps.1 as f64 + 0.5)
    }

    fn px(&self, step: f64) -> f64 {
        let (from, to) = self.span();
        self.left() + (step - from) / (to - from) * (self.width - self.left() - 12.0)
    }

    fn row(&self, index: usize) -> String {
        let (y, x) = (ROW * index as f64, short(self.left() - 6.0));
        let (middle, label) = (short(y + ROW / 2.0), label(&self.rows[index]));
        let mut out = format!(r#"<text x="{x}" y="{middle}" dy=".32em" text-anchor="end">{label}</text>"#);
        let (from, to) = self.span();
        let (left, all) = (short(self.px(from)), short(self.px(to) - self.px(from)));
        let _ =
            write!(out, r#"<g class="heat"><path class="ground" d="M{left} {y}h{all}v{h}h-{all}z"/>"#, h = ROW - 1.0);
        for column in self.columns {
            let Some(value) = column.values[index] else { continue };
            let (from, to) = (self.px(column.steps.0 as f64 - 0.5), self.px(column.steps.1 as f64 + 0.5));
            let strength = ((value - self.range.0) / (self.range.1 - self.range.0).max(1e-12)).clamp(0.0, 1.0);
            // The smallest value is still visible, unlike a missing one.
            let opacity = 0.08 + 0.92 * strength;
            let _ = write!(
                out,
                r#"<rect x="{}" y="{y}" width="{}" height="{}" fill-opacity="{opacity:.2}"><title>{}, {}: {}</title></rect>"#,
                short(from),
                short(to - from + 0.15),
                ROW - 1.0,
                escape(&self.rows[index]),
                steps(column.steps),
                (self.show)(value)
            );
        }
        out + "</g>"
    }

    fn axis(&self) -> String {
        let (from, to) = self.span();
        let numbers = ticks(from.max(0.0), to, if self.width > 400.0 { 8 } else { 5 });
        let y = ROW * self.rows.len() as f64;
        let one = |(tick, label): (&f64, String)| {
            let x = short(self.px(*tick));
            format!(
                r#"<path class="axis" d="M{x} {y}v4"/><text x="{x}" y="{}" text-anchor="middle">{label}</text>"#,
                y + 15.0
            )
        };
        numbers.iter().zip(tick_labels(&numbers)).map(one).collect()
    }
}

/// The name of a row; of a long name only the end is kept.
fn label(row: &str) -> String {
    let length = row.chars().count();
    if length <= LONGEST {
        return escape(row);
    }
    let end: String = row.chars().skip(length + 1 - LONGEST).collect();
    format!("…{}", escape(&end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_as_strong_as_its_value() {
        let rows = ["a & b".to_string(), "x".repeat(30)];
        let columns = [
            Column { steps: (1, 2), values: vec![Some(0.25), None] },
            Column { steps: (3, 4), values: vec![Some(0.0), Some(0.5)] },
        ];
        let show = super::super::percent;
        let svg = Map { name: "n", width: 300.0, rows: &rows, columns: &columns, range: (0.0, 0.5), show }.draw();
        assert!(svg.contains(r#"fill-opacity="0.54"><title>a &amp; b, steps 1 to 2: 25 %"#), "{svg}");
        assert!(svg.contains(r#"fill-opacity="1.00""#) && svg.matches("<rect").count() == 3, "{svg}");
        assert!(svg.contains(&format!(">…{}<", "x".repeat(LONGEST - 1))));
        assert_eq!(range(&columns), Some((0.0, 0.5)));
    }
}
