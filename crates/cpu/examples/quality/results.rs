//! Trials that are done, in a file of one JSON object a line, so that an interrupted bench goes on where it was.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::train::{Outcome, Setting};
use crate::trial::Trial;

#[derive(Serialize, Deserialize)]
struct Line {
    /// Digest of everything that trials share: lines of other settings are not read.
    setting: String,
    trial: Trial,
    outcome: Outcome,
}

pub struct Results<'a> {
    setting: &'a Setting,
    id: String,
    done: BTreeMap<String, Outcome>,
    file: File,
}

impl<'a> Results<'a> {
    /// Reads what is done; `id` names the setting.
    pub fn open(path: &Path, setting: &'a Setting, id: String) -> Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let open = OpenOptions::new().create(true).append(true).open(path);
        let file = open.with_context(|| format!("opening {}", path.display()))?;
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let mut done = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line: Line = serde_json::from_str(line)
                .with_context(|| format!("{} line {} is no result: remove it", path.display(), number + 1))?;
            if line.setting == id {
                done.insert(key(&line.trial)?, line.outcome);
            }
        }
        Ok(Self { setting, id, done, file })
    }

    pub fn get(&self, trial: &Trial) -> Result<&Outcome> {
        self.done.get(&key(trial)?).with_context(|| format!("{trial:?} is not done"))
    }

    /// Does those trials that are not done, on all threads of rayon's current pool.
    pub fn run(&mut self, trials: &[Trial]) -> Result<()> {
        let keyed = trials.iter().map(|trial| Ok((key(trial)?, *trial))).collect::<Result<BTreeMap<_, _>>>()?;
        let missing: Vec<Trial> =
            keyed.into_iter().filter(|(key, _)| !self.done.contains_key(key)).map(|(_, trial)| trial).collect();
        let file = Mutex::new(&mut self.file);
        let outcomes = missing.par_iter().map(|trial| -> Result<(String, Outcome)> {
            let started = Instant::now();
            let outcome = self.setting.run(trial)?;
            let seconds = started.elapsed().as_secs_f64();
            eprintln!("{seconds:>7.1} s  {trial:?}: {:?}", outcome.loss);
            let line = Line { setting: self.id.clone(), trial: *trial, outcome };
            let text = serde_json::to_string(&line)? + "\n";
            let mut file = file.lock().map_err(|_| anyhow::anyhow!("another trial failed while it wrote"))?;
            file.write_all(text.as_bytes()).context("writing a result")?;
            Ok((key(trial)?, line.outcome))
        });
        self.done.extend(outcomes.collect::<Result<Vec<_>>>()?);
        Ok(())
    }
}

fn key(trial: &Trial) -> Result<String> {
    Ok(serde_json::to_string(trial)?)
}
