//! What a person or a program sees of each step.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// One line of `--json`.
#[derive(Serialize)]
struct StepLine {
    step: u32,
    loss: f32,
    ms: f64,
}

pub struct Reporter {
    json: bool,
    steps: u32,
    bar: Option<ProgressBar>,
}

impl Reporter {
    /// A bar on a terminal; lines otherwise.
    pub fn new(json: bool, steps: u32) -> Result<Self> {
        let bar = if io::stderr().is_terminal() && !(json && io::stdout().is_terminal()) {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps  {msg}  {elapsed}, {eta} left")?;
            Some(ProgressBar::new(steps.into()).with_style(style))
        } else {
            None
        };
        Ok(Self { json, steps, bar })
    }

    pub fn step(&self, step: u32, loss: f32, took: Duration) -> Result<()> {
        let ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        if self.json {
            let line = serde_json::to_string(&StepLine { step, loss, ms })?;
            writeln!(io::stdout().lock(), "{line}")?;
        }
        if let Some(bar) = &self.bar {
            bar.set_message(format!("loss {loss:.4}  {ms:.0} ms a step"));
            bar.set_position(step.into());
        } else if !self.json && self.is_worth_a_line(step) {
            writeln!(io::stdout().lock(), "step {step}/{}  loss {loss:.4}  {ms:.0} ms", self.steps)?;
        }
        Ok(())
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }

    /// A remark that is no result: never on standard output.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// About twenty lines in a log, whatever the number of steps.
    fn is_worth_a_line(&self, step: u32) -> bool {
        step == 1 || step == self.steps || step.is_multiple_of((self.steps / 20).max(1))
    }
}
