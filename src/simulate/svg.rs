//! Waits and replicas over time as an SVG picture.

use std::fmt::Write;

use super::{chart::stretches, report::Report};

/// Told apart by people who see fewer colours, too (Okabe and Ito).
const COLOURS: [&str; 8] = ["#000000", "#0072b2", "#999999", "#d55e00", "#e69f00", "#cc79a7", "#009e73", "#56b4e9"];
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 60.0;

/// Two panels above each other: the longest waits with the objective as a dashed line, and the replicas. What is
/// fixed at the maximum is left out.
pub fn svg(reports: &[Report], title: &str, target_wait_seconds: f64) -> String {
    let reports: Vec<&Report> = reports.iter().filter(|r| r.scaler != "fixed").collect();
    let seconds = reports.iter().map(|r| r.steps.len()).max().unwrap_or(0) as f64;
    let waits: Vec<Vec<f64>> = reports.iter().map(|r| r.waits.clone()).collect();
    let replicas: Vec<Vec<f64>> =
        reports.iter().map(|r| r.steps.iter().map(|s| f64::from(s.replicas)).collect()).collect();
    let mut text = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 960 560\" font-family=\"sans-serif\" \
         font-size=\"12\">\n\
         <rect width=\"960\" height=\"560\" fill=\"#fff\"/>\n",
    );
    // Writing to a string cannot fail.
    let _ = writeln!(text, "<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>", escape(title));
    for (i, report) in reports.iter().enumerate() {
        let x = LEFT + i as f64 * 110.0;
        let colour = COLOURS[i % COLOURS.len()];
        let _ = writeln!(text, "<text x=\"{x}\" y=\"42\" fill=\"{colour}\">{}</text>", escape(&report.scaler));
    }
    panel(&mut text, 72.0, "longest wait, s", &waits, seconds, Some(target_wait_seconds));
    panel(&mut text, 320.0, "replicas", &replicas, seconds, None);
    text + "</svg>\n"
}

fn panel(text: &mut String, top: f64, label: &str, lines: &[Vec<f64>], seconds: f64, mark: Option<f64>) {
    let finite = |v: &&f64| v.is_finite();
    let highest = lines.iter().flatten().filter(finite).copied().fold(mark.unwrap_or(1.0) * 1.2, f64::max);
    let bottom = top + HEIGHT;
    let y = |value: f64| bottom - (value / highest).min(1.0) * HEIGHT;
    let _ = writeln!(
        text,
        "<path d=\"M{LEFT} {top}V{bottom}H{}\" fill=\"none\" stroke=\"#888\"/>\n<text x=\"{LEFT}\" \
         y=\"{}\">{label}</text>",
        LEFT + WIDTH,
        top - 4.0
    );
    for part in [0.0, 0.5, 1.0] {
        let (x, at) = (LEFT + WIDTH * part, seconds * part);
        let _ = writeln!(
            text,
            "<text x=\"{x:.0}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{at:.0} s</text>\n\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{:.1}</text>",
            bottom + 16.0,
            LEFT - 6.0,
            y(highest * part) + 4.0,
            highest * part
        );
    }
    if let Some(mark) = mark {
        let _ = writeln!(
            text,
            "<path d=\"M{LEFT} {0:.1}H{1}\" stroke=\"#888\" stroke-dasharray=\"4 4\"/>",
            y(mark),
            LEFT + WIDTH
        );
    }
    // The first is ours: drawn last, it lies on top.
    for (i, line) in lines.iter().enumerate().rev() {
        let values = stretches(line, 430);
        let step = WIDTH / values.len() as f64;
        let mut path = String::new();
        for (n, value) in values.iter().enumerate() {
            let _ = write!(
                path,
                "{}{:.1} {:.1}",
                if n == 0 { 'M' } else { 'L' },
                LEFT + (n as f64 + 0.5) * step,
                y(*value)
            );
        }
        let (colour, width) = (COLOURS[i % COLOURS.len()], if i == 0 { 2.0 } else { 1.0 });
        let _ = writeln!(text, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>");
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
