//! What a light client receives for a block, and how sure it makes one, by number of samples: a table and a plot.
//!
//! `cargo run -p cascade-da --example sampling_plot -- docs/sampling.svg`

use std::fmt::Write as _;

use cascade_da::{Axis, Square, sampling};
use cascade_primitives::Encode as _;

const SAMPLES: [usize; 9] = [1, 2, 4, 8, 16, 24, 32, 48, 64];
const HEIGHT: f64 = 350.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 50.0;
const PANEL: f64 = 300.0;

/// A body, and what a sample of its square costs and is worth.
struct Body {
    name: &'static str,
    colour: &'static str,
    width: usize,
    /// Bytes of a sample.
    bytes: usize,
    /// 1 - confidence, for each of [`SAMPLES`].
    doubts: Vec<f64>,
}

impl Body {
    fn new(name: &'static str, size: usize, colour: &'static str) -> Self {
        let square = Square::new(&vec![7; size]).expect("it fits");
        let shape = *square.shape();
        let bytes = square.sample(1, 2, Axis::Row).expect("it is inside").to_bytes().len();
        let doubt = |s: &usize| sampling::doubt(shape.shares(), sampling::withheld(&shape), *s);
        Self { name, colour, width: shape.width(), bytes, doubts: SAMPLES.iter().map(doubt).collect() }
    }
}

/// One of the two plots: both axes are logarithmic.
struct Panel {
    left: f64,
    /// Decades of its vertical axis, lowest and highest.
    decades: (i32, i32),
}

impl Panel {
    fn x(&self, samples: usize) -> f64 {
        self.left + (samples as f64).log2() / 6.0 * PANEL
    }

    fn y(&self, value: f64) -> f64 {
        let (low, high) = (f64::from(self.decades.0), f64::from(self.decades.1));
        HEIGHT - BOTTOM - (value.log10() - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
    }

    fn frame(&self, svg: &mut String, title: &str, label: impl Fn(i32) -> String) {
        let (left, right) = (self.left, self.left + PANEL);
        let _ = writeln!(svg, "<text x=\"{left}\" y=\"25\" font-size=\"14\">{title}</text>");
        for decade in self.decades.0..=self.decades.1 {
            let (at, text) = (self.y(10f64.powi(decade)), label(decade));
            let _ = writeln!(
                svg,
                "<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                left - 8.0,
                at + 4.0
            );
        }
        for samples in [1, 2, 4, 8, 16, 32, 64] {
            let (at, low) = (self.x(samples), HEIGHT - BOTTOM);
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{low}\" stroke=\"#eee\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{samples}</text>",
                low + 18.0
            );
        }
        let middle = (left + right) / 2.0;
        let _ = writeln!(svg, "<text x=\"{middle}\" y=\"{HEIGHT}\" dy=\"-6\" text-anchor=\"middle\">samples</text>");
    }

    /// A line; a dashed one lets another of the same values be seen below it.
    fn line(&self, svg: &mut String, colour: &str, dashed: bool, values: &[f64]) {
        let points: Vec<String> =
            SAMPLES.iter().zip(values).map(|(s, v)| format!("{:.1},{:.1}", self.x(*s), self.y(*v))).collect();
        let points = points.join(" ");
        let dashes = if dashed { " stroke-dasharray=\"6 6\"" } else { "" };
        let _ = writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>"
        );
    }
}

fn plot(bodies: &[Body]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 820 {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let received = Panel { left: 60.0, decades: (2, 6) };
    let confidence = Panel { left: 500.0, decades: (0, 10) };
    received.frame(&mut svg, "Received for a block", |decade| match decade {
        0..=2 => format!("{} B", 10_u32.pow(decade as u32)),
        3..=5 => format!("{} kB", 10_u32.pow(decade as u32 - 3)),
        _ => format!("{} MB", 10_u32.pow(decade as u32 - 6)),
    });
    confidence.frame(&mut svg, "Confidence that its data is there", |decade| match decade {
        0 => "0%".to_owned(),
        1 => "90%".to_owned(),
        2 => "99%".to_owned(),
        nines => format!("99.{}%", "9".repeat(nines as usize - 2)),
    });
    for (i, body) in bodies.iter().enumerate() {
        let bytes: Vec<f64> = SAMPLES.iter().map(|s| (s * body.bytes) as f64).collect();
        received.line(&mut svg, body.colour, i == 2, &bytes);
        let sure: Vec<f64> = body.doubts.iter().map(|doubt| 1.0 / doubt).collect();
        confidence.line(&mut svg, body.colour, i == 2, &sure);
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" fill=\"{}\">{}, k = {}</text>",
            received.left + 12.0,
            TOP + 16.0 + 16.0 * i as f64,
            body.colour,
            body.name,
            body.width
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn main() -> std::io::Result<()> {
    let bodies = [
        Body::new("128 KiB", 128 << 10, "#1f77b4"),
        Body::new("2 MiB", 2 << 20, "#d62728"),
        Body::new("8 MiB", 8 << 20, "#2ca02c"),
    ];
    for body in &bodies {
        println!("{}: k = {}, {} bytes a sample", body.name, body.width, body.bytes);
        for (samples, doubt) in SAMPLES.iter().zip(&body.doubts) {
            println!("{samples:>4} samples {:>8} bytes, confidence {:.10}", samples * body.bytes, 1.0 - doubt);
        }
    }
    if let Some(file) = std::env::args().nth(1) {
        std::fs::write(file, plot(&bodies))?;
    }
    Ok(())
}
