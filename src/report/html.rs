//! The page around the charts: one file that requests nothing from the network.

use super::svg::{Colour, RUN_COLOURS, escape};

const CSS: &str = include_str!("page.css");
const JS: &str = include_str!("page.js");

/// Colours of the page, for light and dark.
const LIGHT: &str = "--back:#f7f8f9;--card:#fff;--ink:#1b2026;--muted:#59636e;--rule:#e2e6ea;--axis:#9aa4ae;--good:#0a7a53;\
    --bad:#b8430a;--heat:#0b5cad;--ground:#eef1f4";
const DARK: &str = "--back:#0f1216;--card:#171b21;--ink:#e4e8ec;--muted:#98a3af;--rule:#2a313a;--axis:#5f6a76;--good:#3ec492;\
    --bad:#ff9057;--heat:#7cc0ff;--ground:#1e242b";

/// The palette of Okabe and Ito, which people with any colour vision can distinguish; darker on white, lighter on
/// black.
const RUNS_LIGHT: [&str; RUN_COLOURS] =
    ["#0072b2", "#d55e00", "#009e73", "#b65a93", "#c98a00", "#3a9fd6", "#4d5560", "#8f8500"];
const RUNS_DARK: [&str; RUN_COLOURS] =
    ["#4aa8e8", "#f5833b", "#2fc79a", "#df94bf", "#f0b429", "#8fd0f5", "#aab4be", "#e5dc4c"];

/// Parts of a whole.
const PARTS_LIGHT: [&str; 5] = ["#0072b2", "#e69f00", "#009e73", "#9aa4ae", "#cc79a7"];
const PARTS_DARK: [&str; 5] = ["#3d9ad8", "#e9ad2f", "#22b58a", "#6d7884", "#d88fb8"];

/// From easy to hard: dark to light, in the order of viridis, without the ends, which are invisible on black or white.
type Ramp = [[u8; 3]; 6];

const ARMS_LIGHT: Ramp = [[98, 0, 128], [66, 64, 190], [16, 124, 164], [34, 160, 112], [140, 176, 24], [228, 158, 0]];
const ARMS_DARK: Ramp =
    [[190, 110, 225], [118, 128, 245], [56, 168, 214], [52, 198, 146], [168, 212, 60], [255, 214, 64]];

/// A section of the page.
pub struct Section {
    pub id: &'static str,
    pub title: &'static str,
    /// Markup; a section with an empty body is left out.
    pub body: String,
}

/// The whole file. `summary` is markup; `arms` is the number of distributions, each of which gets a colour.
pub fn page(title: &str, summary: &str, arms: usize, sections: &[Section]) -> String {
    let sections: Vec<&Section> = sections.iter().filter(|section| !section.body.is_empty()).collect();
    let links: String =
        sections.iter().map(|section| format!("<a href=\"#{}\">{}</a>", section.id, section.title)).collect();
    let bodies: String = sections
        .iter()
        .map(|section| {
            format!("<section id=\"{}\">\n<h2>{}</h2>\n{}</section>\n", section.id, section.title, section.body)
        })
        .collect();
    let (title, colours) = (escape(title), colours(arms));
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'\">\n<title>{title}</title>\n<style>\n{colours}{CSS}</style>\n</head>\n<body>\n\
         <header>\n<h1>{title}</h1>\n{summary}</header>\n\
         <nav><div>{links}<button id=\"theme\" type=\"button\">Light / dark</button></div></nav>\n<main>\n{bodies}</main>\n\
         <footer>Written by dump-rl {version}. Lines have at most {} points; longer ones are means over neighbouring \
         steps.</footer>\n<script>\n{JS}</script>\n</body>\n</html>\n",
        super::series::MOST_POINTS
    )
}

/// Light by default, dark if the system or the reader chooses it, and light on paper.
fn colours(arms: usize) -> String {
    let light = format!("{LIGHT};{}", palette(&RUNS_LIGHT, &PARTS_LIGHT, &ARMS_LIGHT, arms));
    let dark = format!("{DARK};{}", palette(&RUNS_DARK, &PARTS_DARK, &ARMS_DARK, arms));
    format!(
        ":root{{color-scheme:light;{light}}}\n\
         @media(prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n\
         :root[data-theme=dark]{{color-scheme:dark;{dark}}}\n\
         @media print{{:root:root,:root:root:not([data-theme=light]){{color-scheme:light;{light}}}}}\n"
    )
}

fn palette(runs: &[&str], parts: &[&str], ramp: &Ramp, arms: usize) -> String {
    let runs = runs.iter().enumerate().map(|(i, colour)| format!("--run{i}:{colour};"));
    let parts = parts.iter().enumerate().map(|(i, colour)| format!("--part{i}:{colour};"));
    let arms = (0..arms).map(|i| {
        let [r, g, b] = mixed(ramp, i as f64 / (arms.max(2) - 1) as f64);
        format!("--arm{i}:#{r:02x}{g:02x}{b:02x};")
    });
    runs.chain(parts).chain(arms).collect()
}

/// The colour of a ramp at a position from 0 to 1.
fn mixed(ramp: &Ramp, at: f64) -> [u8; 3] {
    let at = at.clamp(0.0, 1.0) * 5.0;
    let from = (at.floor() as usize).min(4);
    let part = at - from as f64;
    std::array::from_fn(|c| {
        (f64::from(ramp[from][c]) * (1.0 - part) + f64::from(ramp[from + 1][c]) * part).round() as u8
    })
}

/// A figure with a title (text), a caption (markup) and a body (markup); empty if the body is empty.
pub fn figure(title: &str, caption: &str, body: &str) -> String {
    if body.is_empty() {
        return String::new();
    }
    let title = escape(title);
    format!("<figure>\n<figcaption><h3>{title}</h3><p>{caption}</p></figcaption>\n{body}</figure>\n")
}

/// Charts side by side, each with a title; empty ones are left out. `wide`: two per row instead of four.
pub fn grid(wide: bool, panels: impl IntoIterator<Item = (String, String)>) -> String {
    let panels: String = panels
        .into_iter()
        .filter(|(_, chart)| !chart.is_empty())
        .map(|(title, chart)| {
            let title = if title.is_empty() { title } else { format!("<h4>{}</h4>", escape(&title)) };
            format!("<div class=\"panel\">{title}{chart}</div>\n")
        })
        .collect();
    let class = if wide { "grid half" } else { "grid" };
    if panels.is_empty() { panels } else { format!("<div class=\"{class}\">\n{panels}</div>\n") }
}

/// The meaning of the colours.
pub fn legend<'a>(entries: impl IntoIterator<Item = (&'a str, Colour)>) -> String {
    let one = |(label, colour): (&str, Colour)| {
        let kind = if matches!(colour, Colour::Part(_)) { "<span class=\"box\">" } else { "<span>" };
        format!("{kind}<span {}><i></i>{}</span></span>", colour.attributes(), escape(label))
    };
    format!("<div class=\"legend\">{}</div>\n", entries.into_iter().map(one).collect::<String>())
}

/// The scale of a heat map.
pub fn scale(low: &str, high: &str) -> String {
    format!("<div class=\"scale\">{low}<i></i>{high}</div>")
}

/// A table; cells are markup. The first column is text, the others are numbers.
pub fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let head: String = head.iter().map(|cell| format!("<th>{cell}</th>")).collect();
    let row = |cells: &Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let rows: String = rows.iter().map(row).collect();
    format!("<div class=\"scroll\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n")
}
