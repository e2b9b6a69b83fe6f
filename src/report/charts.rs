//! Small pictures as SVG: bars, a matrix, histograms. Pure: numbers in, text out.
//!
//! Every value stands in the picture as a number, so that nothing depends on colour, and again in the picture's text
//! alternative. Pictures are drawn 340 units wide, a phone's width, and follow the reader's light or dark scheme.

use std::fmt::Write;

const WIDTH: f64 = 340.0;

/// Where a label may be broken.
pub const SOFT_HYPHEN: char = '\u{ad}';

/// How pictures look, both inside a page and as files of their own.
pub const STYLE: &str = "\
.chart{--ink:#1f2328;--soft:#59636e;--bar:#3f6fa8;--line:#c8ced5}
.chart text{font:11px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:var(--ink)}
.chart .soft{fill:var(--soft)}
.chart .small{font-size:9px}
.chart .head{font-weight:600}
.chart .mid{text-anchor:middle}
.chart .end{text-anchor:end}
.chart .bar{fill:var(--bar)}
.chart .line{stroke:var(--line);stroke-width:1;fill:none}
@media (prefers-color-scheme:dark){.chart{--ink:#e6edf3;--soft:#9aa4af;--bar:#79a8dc;--line:#3d444d}}
@media print{.chart{--ink:#000;--soft:#444;--bar:#3f6fa8;--line:#bbb}}
";

/// A picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Its file's name without `.svg`, and its id in a page.
    pub name: String,
    pub title: String,
    /// What it shows, in words.
    pub description: String,
    height: f64,
    body: String,
}

impl Chart {
    /// The picture as a part of a page that holds [`STYLE`].
    pub fn inline(&self) -> String {
        self.svg("", "")
    }

    /// The picture as a file.
    pub fn file(&self) -> String {
        self.svg(" xmlns=\"http://www.w3.org/2000/svg\"", &format!("<style>{STYLE}</style>")) + "\n"
    }

    fn svg(&self, namespace: &str, style: &str) -> String {
        let Self { name, height, body, .. } = self;
        format!(
            "<svg{namespace} class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
             aria-labelledby=\"{name}-title {name}-words\"><title id=\"{name}-title\">{}</title>\
             <desc id=\"{name}-words\">{}</desc>{style}{body}</svg>",
            escape(&self.title),
            escape(&self.description)
        )
    }
}

/// Bars under a common heading.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Empty: the bars speak for themselves.
    pub label: String,
    pub bars: Vec<Bar>,
}

/// A bar from 0 to `share`.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    pub label: String,
    /// In [0, 1].
    pub share: f64,
    /// What stands beside it.
    pub value: String,
}

/// Horizontal bars. The scale ends at the least of 1, 2, 5, 10, 20, 50 and 100 % that holds them all.
pub fn bars(name: &str, title: &str, groups: &[Group]) -> Chart {
    const LEFT: f64 = 122.0;
    const LENGTH: f64 = 120.0;
    let highest = groups.iter().flat_map(|group| &group.bars).map(|bar| bar.share).fold(0.0, f64::max);
    let scale = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5].into_iter().find(|&scale| highest <= scale).unwrap_or(1.0);
    let (mut body, mut words, mut y) = (String::new(), Vec::new(), 4.0);
    for group in groups {
        if !group.label.is_empty() {
            y += 6.0;
            text(&mut body, 0.0, y + 11.0, "head", &group.label);
            y += 18.0;
        }
        let top = y;
        for Bar { label, share, value } in &group.bars {
            let length = (share / scale).clamp(0.0, 1.0) * LENGTH;
            text(&mut body, LEFT - 8.0, y + 12.0, "end", &shortened(label, 18));
            let _ = write!(
                body,
                "<rect class=\"bar\" x=\"{LEFT}\" y=\"{}\" width=\"{length:.1}\" height=\"12\"/>",
                y + 2.0
            );
            text(&mut body, LEFT + length + 5.0, y + 12.0, "", value);
            y += 18.0;
            let place = if group.label.is_empty() { String::new() } else { format!("{}, ", group.label) };
            words.push(format!("{place}{label}: {value}"));
        }
        let _ = write!(body, "<path class=\"line\" d=\"M{LEFT} {top}V{y}\"/>");
    }
    let _ = write!(body, "<path class=\"line\" d=\"M{LEFT} {y}H{}v-4\"/>", LEFT + LENGTH);
    text(&mut body, LEFT, y + 13.0, "soft small", "0");
    text(&mut body, LEFT + LENGTH, y + 13.0, "soft small mid", &format!("{} %", scale * 100.0));
    chart(name, title, words, y + 18.0, body)
}

/// A cell of a matrix: how dark it is, and up to two lines of text.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// In [0, 1].
    pub share: f64,
    pub text: String,
    pub below: String,
}

/// A square matrix whose rows and columns have the same labels. A column's label is broken at a blank or a soft hyphen.
pub fn matrix(name: &str, title: &str, labels: &[String], cells: &[Vec<Cell>]) -> Chart {
    const LEFT: f64 = 112.0;
    const TOP: f64 = 34.0;
    const ROW: f64 = 36.0;
    let side = (WIDTH - LEFT) / labels.len().max(1) as f64;
    let (mut body, mut words) = (String::new(), Vec::new());
    for (column, label) in labels.iter().enumerate() {
        let middle = LEFT + side * (column as f64 + 0.5);
        let (first, second) = match label.split_once(SOFT_HYPHEN) {
            Some((first, second)) => (format!("{first}-"), second),
            None => label.split_once(' ').map_or((String::new(), label.as_str()), |(a, b)| (a.to_owned(), b)),
        };
        text(&mut body, middle, 14.0, "mid", &shortened(&first, 10));
        text(&mut body, middle, 27.0, "mid", &shortened(second, 10));
    }
    let labels: Vec<String> = labels.iter().map(|label| label.replace(SOFT_HYPHEN, "")).collect();
    for (row, (label, cells)) in labels.iter().zip(cells).enumerate() {
        let y = TOP + ROW * row as f64;
        text(&mut body, LEFT - 8.0, y + 22.0, "end", &shortened(label, 19));
        for (column, (cell, with)) in cells.iter().zip(&labels).enumerate() {
            let x = LEFT + side * column as f64;
            let _ = write!(
                body,
                "<rect class=\"bar\" fill-opacity=\"{:.2}\" x=\"{x:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\"/>",
                0.06 + 0.5 * cell.share.clamp(0.0, 1.0),
                side - 2.0,
                ROW - 2.0
            );
            text(&mut body, x + side / 2.0 - 1.0, y + 15.0, "mid", &cell.text);
            text(&mut body, x + side / 2.0 - 1.0, y + 28.0, "mid small", &cell.below);
            words.push(format!("{label} and {with}: {} ({})", cell.text, cell.below));
        }
    }
    chart(name, title, words, TOP + ROW * labels.len() as f64 + 2.0, body)
}

/// One histogram of several that share their bins and their scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub label: String,
    /// Says what the whole is, on the right of the label.
    pub note: String,
    /// One per bin.
    pub counts: Vec<u64>,
}

/// Histograms below one another. Heights are shares of each series' sum, on one scale; numbers are counts.
pub fn histograms(name: &str, title: &str, axis: &str, bins: &[String], series: &[Series]) -> Chart {
    const HEIGHT: f64 = 44.0;
    let side = WIDTH / bins.len().max(1) as f64;
    let share = |series: &Series, count: u64| count as f64 / series.counts.iter().sum::<u64>().max(1) as f64;
    let highest = series.iter().flat_map(|one| one.counts.iter().map(|&count| share(one, count))).fold(1e-9, f64::max);
    let (mut body, mut words, mut y) = (String::new(), Vec::new(), 0.0);
    for one in series {
        text(&mut body, 0.0, y + 12.0, "head", &shortened(&one.label, 30));
        text(&mut body, WIDTH, y + 12.0, "soft end", &one.note);
        let base = y + 30.0 + HEIGHT;
        for (bin, &count) in one.counts.iter().enumerate() {
            let height = share(one, count) / highest * HEIGHT;
            let x = side * bin as f64;
            let _ = write!(
                body,
                "<rect class=\"bar\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
                x + 1.0,
                base - height,
                side - 2.0
            );
            if count > 0 {
                text(&mut body, x + side / 2.0, base - height - 3.0, "mid small", &compact(count));
            }
        }
        let _ = write!(body, "<path class=\"line\" d=\"M0 {base}H{WIDTH}\"/>");
        let counted = bins.iter().zip(&one.counts).map(|(bin, count)| format!("{bin}: {count}"));
        words.push(format!("{} ({}) by {axis}: {}", one.label, one.note, counted.collect::<Vec<_>>().join(", ")));
        y = base + 8.0;
    }
    for (bin, label) in bins.iter().enumerate() {
        text(&mut body, side * (bin as f64 + 0.5), y + 4.0, "soft small mid", label);
    }
    text(&mut body, WIDTH, y + 18.0, "soft small end", axis);
    chart(name, title, words, y + 22.0, body)
}

/// A line through points.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    pub label: String,
    /// Which of a few hues; curves that belong together share one.
    pub hue: usize,
    pub dashed: bool,
    /// An interval around the curve: x, low, high. Empty without one.
    pub band: Vec<(f64, f64, f64)>,
    /// By ascending x, which is not negative.
    pub points: Vec<(f64, f64)>,
}

/// Curves on one scale, each labelled where it ends with its last value. Points that are no numbers are left out.
pub fn curves(name: &str, title: &str, x_axis: &str, y_axis: &str, curves: &[Curve]) -> Chart {
    const HEIGHT: f64 = 150.0;
    const LEFT: f64 = 34.0;
    let finite = |curve: &Curve| -> Vec<(f64, f64)> {
        curve.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    };
    let bands = |curve: &Curve| -> Vec<(f64, f64, f64)> {
        let whole = |(x, low, high): &(f64, f64, f64)| x.is_finite() && low.is_finite() && high.is_finite();
        curve.band.iter().copied().filter(whole).collect()
    };
    let edges =
        |curve: &Curve| bands(curve).into_iter().flat_map(|(x, low, high)| [(x, low), (x, high)]).collect::<Vec<_>>();
    let all: Vec<(f64, f64)> = curves.iter().flat_map(|curve| [finite(curve), edges(curve)].concat()).collect();
    let widest = all.iter().map(|point| point.0).fold(1e-9, f64::max);
    let (low, high) = all.iter().fold((f64::MAX, f64::MIN), |(low, high), point| (low.min(point.1), high.max(point.1)));
    let (low, high) = if all.is_empty() { (0.0, 1.0) } else { (low, high.max(low + 1e-6)) };
    let x_of = |x: f64| LEFT + x / widest * (WIDTH - LEFT - 4.0);
    let y_of = |y: f64| 16.0 + (high - y) / (high - low) * HEIGHT;
    let (mut body, mut words) = (String::new(), Vec::new());
    text(&mut body, 0.0, 10.0, "soft small", y_axis);
    for value in [high, low] {
        text(&mut body, LEFT - 5.0, y_of(value) + 3.0, "soft small end", &format!("{value:.2}"));
    }
    let base = 16.0 + HEIGHT;
    let _ = write!(body, "<path class=\"line\" d=\"M{LEFT} 16V{base}H{WIDTH}\"/>");
    text(&mut body, LEFT, base + 12.0, "soft small", "0");
    text(&mut body, WIDTH, base + 12.0, "soft small end", &format!("{} {x_axis}", compact(widest as u64)));
    let mut legend = base + 28.0;
    for curve in curves {
        let points = finite(curve);
        let band = bands(curve);
        let hue = HUES[curve.hue % HUES.len()];
        if band.len() > 1 {
            let above = band.iter().map(|&(x, _, high)| format!("{:.1} {:.1}", x_of(x), y_of(high)));
            let below = band.iter().rev().map(|&(x, low, _)| format!("{:.1} {:.1}", x_of(x), y_of(low)));
            let outline = above.chain(below).collect::<Vec<_>>().join("L");
            let _ = write!(body, "<path fill=\"{hue}\" fill-opacity=\"0.15\" d=\"M{outline}Z\"/>");
        }
        let path: Vec<String> = points.iter().map(|&(x, y)| format!("{:.1} {:.1}", x_of(x), y_of(y))).collect();
        // Told apart by hue and by dashes, and named below in the same order as in words.
        let look = format!("stroke=\"{hue}\"{}", if curve.dashed { " stroke-dasharray=\"4 3\"" } else { "" });
        if !path.is_empty() {
            let _ = write!(body, "<path fill=\"none\" stroke-width=\"1.5\" {look} d=\"M{}\"/>", path.join("L"));
        }
        let last = points.last().map_or("–".to_owned(), |point| format!("{:.3}", point.1));
        let first = points.first().map_or("–".to_owned(), |point| format!("{:.3}", point.1));
        let _ = write!(body, "<path fill=\"none\" stroke-width=\"1.5\" {look} d=\"M{LEFT} {:.1}h22\"/>", legend - 4.0);
        text(&mut body, LEFT + 28.0, legend, "", &abridged(&curve.label, 31));
        text(&mut body, WIDTH, legend, "end", &format!("{first} → {last}"));
        let interval = band.last().map_or(String::new(), |(_, low, high)| format!(" ({low:.3} to {high:.3})"));
        words.push(format!("{}: from {first} to {last}{interval}", curve.label));
        legend += 15.0;
    }
    chart(name, title, words, legend, body)
}

/// Hues of curves, of middling lightness: they show on light and on dark paper.
const HUES: [&str; 6] = ["#3f77b5", "#c0632c", "#3d8f5a", "#9a5fb0", "#a88a1f", "#5f7480"];

fn chart(name: &str, title: &str, words: Vec<String>, height: f64, body: String) -> Chart {
    Chart { name: name.to_owned(), title: title.to_owned(), description: words.join("; "), height, body }
}

fn text(body: &mut String, x: f64, y: f64, class: &str, content: &str) {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let _ = write!(body, "<text{class} x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(content));
}

/// At most `chars` characters.
fn shortened(label: &str, chars: usize) -> String {
    if label.chars().count() <= chars {
        return label.to_owned();
    }
    label.chars().take(chars - 1).collect::<String>() + "…"
}

/// At most `chars` characters, of both ends: what tells curves apart often stands last.
fn abridged(label: &str, chars: usize) -> String {
    let count = label.chars().count();
    if count <= chars {
        return label.to_owned();
    }
    let tail = chars / 3;
    let head = label.chars().take(chars - 1 - tail);
    head.chain(['…']).chain(label.chars().skip(count - tail)).collect()
}

/// A count in five characters: `950`, `1.2k`, `12k`, `3.4M`.
pub fn compact(count: u64) -> String {
    let (value, unit) = match count {
        0..1_000 => return count.to_string(),
        1_000..999_500 => (count as f64 / 1e3, "k"),
        999_500..999_500_000 => (count as f64 / 1e6, "M"),
        _ => (count as f64 / 1e9, "G"),
    };
    // 9.96 thousand is 10k, not 10.0k.
    if value < 9.95 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

/// Text for XML: its own characters escaped, those that it does not allow left out.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {}
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, share: f64) -> Bar {
        Bar { label: label.into(), share, value: format!("{:.0} %", 100.0 * share) }
    }

    #[test]
    fn long_names_keep_both_ends() {
        let check = |label: &str, expect: &str| assert_eq!(abridged(label, 10), expect);
        check("all", "all");
        check("0123456789", "0123456789");
        check("seed · empty, training", "seed ·…ing");
        check("äöü äöü äöü äöü", "äöü äö…äöü");
    }

    #[test]
    fn bars_carry_their_numbers_in_the_picture_and_in_words() {
        let groups = [Group { label: "rich".into(), bars: vec![bar("verification", 0.4), bar("backtracking", 0.1)] }];
        let chart = bars("rates", "How often", &groups);
        assert_eq!(chart.description, "rich, verification: 40 %; rich, backtracking: 10 %");
        let svg = chart.file();
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\""), "{svg}");
        // The scale ends at 50 %: 40 % is four fifths of the length.
        assert!(svg.contains("width=\"96.0\"") && svg.contains(">50 %</text>"), "{svg}");
    }

    #[test]
    fn nothing_to_draw_is_a_picture_too() {
        for chart in [
            bars("a", "t", &[]),
            bars("a", "t", &[Group { label: String::new(), bars: vec![bar("x", 0.0), bar("y", 7.0)] }]),
            curves("e", "t", "tokens", "loss", &[]),
            curves(
                "e",
                "t",
                "tokens",
                "loss",
                &[Curve {
                    label: "a".into(),
                    hue: 0,
                    dashed: true,
                    band: vec![(0.0, f64::NAN, 1.0)],
                    points: vec![(0.0, f64::NAN), (1.0, 2.0)],
                }],
            ),
            matrix("b", "t", &[], &[]),
            histograms("c", "t", "tokens", &[], &[]),
            histograms(
                "d",
                "t",
                "tokens",
                &["1".into()],
                &[Series { label: "a".into(), note: "b".into(), counts: vec![0] }],
            ),
        ] {
            let svg = chart.inline();
            assert!(svg.ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn hostile_labels_are_text() {
        let chart =
            bars("x", "<script>", &[Group { label: "\"&\u{0}\u{1b}".into(), bars: vec![bar("</text><a>", 0.5)] }]);
        let svg = chart.inline();
        assert!(
            svg.contains("&lt;script&gt;") && svg.contains("&lt;/text&gt;&lt;a&gt;") && svg.contains("&quot;&amp;<")
        );
        assert!(!svg.contains("<script") && !svg.contains('\u{1b}') && !svg.contains('\u{0}'));
    }

    #[test]
    fn counts_are_short() {
        let check = |count: u64, expect: &str| assert_eq!(compact(count), expect);
        check(0, "0");
        check(999, "999");
        check(1_000, "1.0k");
        check(9_960, "10k");
        check(999_499, "999k");
        check(999_500, "1.0M");
        check(6_315_233, "6.3M");
        check(12_000_000_000, "12G");
    }
}
