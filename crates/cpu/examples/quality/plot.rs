//! Loss against bytes sent, as an SVG that is readable on light and dark pages.

use std::fmt::Write;

use anyhow::Result;

use crate::train::Point;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 72.0;
const TOP: f64 = 44.0;
const RIGHT: f64 = 24.0;
const BOTTOM: f64 = 60.0;
/// Losses above it are of models that have learnt hardly anything; showing them would flatten the rest.
const LOSS_MAX: f64 = 3.0;
const LOSS_STEP: f64 = 0.2;

/// Colours by class, so that they follow the reader's scheme; curves differ by their dashes too.
const STYLE: &str = "\
text { font: 14px system-ui, sans-serif; fill: #1f2328 } .title { font-size: 16px; font-weight: 600 }
.page { fill: #ffffff } .grid { stroke: #d1d9e0 } .axis { stroke: #59636e } .grid, .axis, .curve { fill: none }
.curve { stroke-width: 2.5; stroke-linejoin: round }
.c0 { stroke: #0969da } .c1 { stroke: #bc4c00; stroke-dasharray: 9 4 } .c2 { stroke: #8250df; stroke-dasharray: 2 4 }
.dot { stroke-dasharray: none; stroke-width: 2.5; fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .page, .dot { fill: #0d1117 } .grid { stroke: #3d444d } .axis { stroke: #9198a1 }
  .c0 { stroke: #58a6ff } .c1 { stroke: #f0883e } .c2 { stroke: #bc8cff }
}
";

/// A line of the plot.
pub struct Curve<'a> {
    /// How its peers send.
    pub label: &'a str,
    pub points: Vec<Point>,
}

fn decade(point: &Point) -> f64 {
    (point.bytes.max(1) as f64).log10()
}

/// The least and the largest.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

/// Powers of ten along bytes, linear along the loss.
struct Axes {
    decades: (f64, f64),
    losses: (f64, f64),
}

impl Axes {
    fn around(curves: &[Curve<'_>]) -> Self {
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let decades = bounds(points().map(decade));
        let losses = bounds(points().map(|point| point.loss));
        // Below the last points there is room for their labels.
        let low = ((losses.0 - 0.1) / LOSS_STEP).floor() * LOSS_STEP;
        let high = (losses.1.min(LOSS_MAX) / LOSS_STEP).ceil() * LOSS_STEP;
        Self { decades: (decades.0.floor(), decades.1 + 0.2), losses: (low, high.max(low + LOSS_STEP)) }
    }

    fn x(&self, decade: f64) -> f64 {
        let (low, high) = self.decades;
        LEFT + (decade - low) / (high - low).max(1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, loss: f64) -> f64 {
        let (low, high) = self.losses;
        TOP + (high - loss) / (high - low) * (HEIGHT - TOP - BOTTOM)
    }

    fn draw(&self, svg: &mut String) -> Result<()> {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for decade in self.decades.0 as i32..=self.decades.1 as i32 {
            let x = self.x(f64::from(decade));
            let label = bytes(10_f64.powi(decade));
            writeln!(svg, r#"<path class="grid" d="M{x:.1} {TOP}V{bottom}"/>"#)?;
            writeln!(svg, r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#, bottom + 20.0)?;
        }
        let steps = ((self.losses.1 - self.losses.0) / LOSS_STEP).round() as i32;
        for step in 0..=steps {
            let loss = self.losses.0 + f64::from(step) * LOSS_STEP;
            let y = self.y(loss);
            writeln!(svg, r#"<path class="grid" d="M{LEFT} {y:.1}H{right}"/>"#)?;
            writeln!(svg, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{loss:.1}</text>"#, LEFT - 8.0, y + 5.0)?;
        }
        writeln!(svg, r#"<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>"#)?;
        let (middle, below) = (LEFT.midpoint(right), HEIGHT - 14.0);
        let along = "bytes that a peer has sent since the start (logarithmic)";
        writeln!(svg, r#"<text x="{middle:.1}" y="{below:.1}" text-anchor="middle">{along}</text>"#)?;
        let half = TOP.midpoint(bottom);
        writeln!(
            svg,
            r#"<text transform="translate(20 {half:.1}) rotate(-90)" text-anchor="middle">held-out loss, nats a byte</text>"#
        )?;
        Ok(())
    }

    /// The line with a dot at its end, and under that what it is and what a round of it costs.
    fn trace(&self, svg: &mut String, class: &str, curve: &Curve<'_>) -> Result<()> {
        let Some(last) = curve.points.last() else { return Ok(()) };
        let place = |point: &Point| (self.x(decade(point)), self.y(point.loss));
        let pairs: Vec<String> = curve.points.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let (x, y) = place(last);
        let a_round = bytes(last.bytes as f64 / f64::from(last.round));
        writeln!(svg, r#"<polyline class="curve {class}" clip-path="url(#plot)" points="{}"/>"#, pairs.join(" "))?;
        writeln!(svg, r#"<circle class="dot {class}" cx="{x:.1}" cy="{y:.1}" r="4"/>"#)?;
        let lines = [curve.label, &format!("{a_round} a round")];
        for (line, text) in lines.iter().enumerate() {
            let y = y + 22.0 + 17.0 * line as f64;
            writeln!(svg, r#"<text x="{:.1}" y="{y:.1}" text-anchor="end">{text}</text>"#, x + 8.0)?;
        }
        Ok(())
    }
}

/// With two digits at least, and a unit of thousands.
fn bytes(count: f64) -> String {
    let (unit, count) = match count {
        ..1e3 => ("B", count),
        ..1e6 => ("kB", count / 1e3),
        ..1e9 => ("MB", count / 1e6),
        _ => ("GB", count / 1e9),
    };
    if count < 9.95 && count.fract() > 0.0 { format!("{count:.1} {unit}") } else { format!("{count:.0} {unit}") }
}

pub fn svg(title: &str, curves: &[Curve<'_>]) -> Result<String> {
    let axes = Axes::around(curves);
    let mut svg = String::new();
    writeln!(svg, r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">"#)?;
    writeln!(svg, "<title>{title}</title>\n<style>\n{STYLE}</style>")?;
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    writeln!(svg, r#"<clipPath id="plot"><rect x="{LEFT}" y="{TOP}" width="{width}" height="{height}"/></clipPath>"#)?;
    writeln!(svg, r#"<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>"#)?;
    writeln!(svg, r#"<text class="title" x="{LEFT}" y="26">{title}</text>"#)?;
    axes.draw(&mut svg)?;
    for (index, curve) in curves.iter().enumerate() {
        axes.trace(&mut svg, &format!("c{index}"), curve)?;
    }
    svg += "</svg>\n";
    Ok(svg)
}
