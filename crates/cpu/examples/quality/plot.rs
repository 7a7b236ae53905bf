//! Loss against bytes sent, as an SVG.

use std::fmt::Write;

use anyhow::Result;

use crate::train::Point;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 20.0;
const RIGHT: f64 = 20.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 4] = ["#0b6e99", "#c2410c", "#4d7c0f", "#6b21a8"];

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
    fn around(curves: &[(&str, Vec<Point>)]) -> Self {
        let points = || curves.iter().flat_map(|(_, points)| points);
        let decades = bounds(points().map(decade));
        let losses = bounds(points().map(|point| point.loss));
        Self {
            decades: (decades.0.floor(), decades.1.ceil()),
            losses: ((losses.0 * 5.0).floor() / 5.0, (losses.1 * 5.0).ceil() / 5.0),
        }
    }

    fn x(&self, decade: f64) -> f64 {
        let (low, high) = self.decades;
        LEFT + (decade - low) / (high - low).max(1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, loss: f64) -> f64 {
        let (low, high) = self.losses;
        TOP + (high - loss) / (high - low).max(0.2) * (HEIGHT - TOP - BOTTOM)
    }

    fn draw(&self, svg: &mut String) -> Result<()> {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for decade in self.decades.0 as i32..=self.decades.1 as i32 {
            let x = self.x(f64::from(decade));
            let label = match decade {
                ..3 => format!("{} B", 10_i32.pow(decade.max(0).unsigned_abs())),
                3..6 => format!("{} kB", 10_i32.pow(decade.abs_diff(3))),
                6..9 => format!("{} MB", 10_i32.pow(decade.abs_diff(6))),
                _ => format!("1e{decade} B"),
            };
            writeln!(svg, r##"<path d="M{x:.1} {TOP}V{bottom}" stroke="#ddd"/>"##)?;
            writeln!(svg, r#"<text x="{x:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#, bottom + 16.0)?;
        }
        let steps = ((self.losses.1 - self.losses.0) / 0.2).round() as i32;
        for step in 0..=steps {
            let loss = self.losses.0 + f64::from(step) * 0.2;
            let y = self.y(loss);
            writeln!(svg, r##"<path d="M{LEFT} {y:.1}H{right}" stroke="#ddd"/>"##)?;
            writeln!(svg, r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{loss:.1}</text>"#, LEFT - 6.0, y + 4.0)?;
        }
        let middle = LEFT.midpoint(right);
        writeln!(svg, r#"<text x="{middle:.1}" y="{:.1}" text-anchor="middle">sent by a peer</text>"#, HEIGHT - 12.0)?;
        writeln!(
            svg,
            r#"<text x="14" y="{:.1}" transform="rotate(-90 14 {0:.1})" text-anchor="middle">held-out loss, nats</text>"#,
            TOP.midpoint(bottom)
        )?;
        Ok(())
    }
}

pub fn svg(curves: &[(&str, Vec<Point>)]) -> Result<String> {
    let axes = Axes::around(curves);
    let mut svg = String::new();
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">"#
    )?;
    writeln!(svg, r##"<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>"##)?;
    axes.draw(&mut svg)?;
    for (index, ((name, points), colour)) in curves.iter().zip(COLOURS).enumerate() {
        let place = |point: &Point| {
            let (x, y) = (axes.x(decade(point)), axes.y(point.loss));
            format!("{x:.1},{y:.1}")
        };
        let line: Vec<String> = points.iter().map(place).collect();
        writeln!(svg, r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#, line.join(" "))?;
        let y = TOP + 18.0 * (index as f64 + 1.0);
        writeln!(
            svg,
            r#"<text x="{:.1}" y="{y:.1}" text-anchor="end" fill="{colour}">{name}</text>"#,
            WIDTH - RIGHT - 8.0
        )?;
    }
    svg += "</svg>\n";
    Ok(svg)
}
