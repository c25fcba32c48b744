//! `events.jsonl` read back: the curves of a training, and how far it has come.

use std::fs;
use std::path::Path;

use sensei_files::error::FileError;
use serde::Deserialize;

use crate::error::ReportPageError;

/// What a log tells.
#[derive(Debug, Clone, Default)]
pub struct Training {
    /// Starts and resumes, in their order.
    pub starts: Vec<Start>,
    /// The logged steps, in their order.
    pub steps: Vec<Step>,
    /// Names of the stages, in the order in which they were entered, each with its first logged step.
    pub stages: Vec<(u64, String)>,
    /// Names of the loss terms that [`Step::terms`] have values of.
    pub terms: Vec<String>,
    /// Scores between epochs.
    pub validations: Vec<Validation>,
    /// How the training ended: whether it was asked to stop. `None` while it goes on, or if it was killed.
    pub stopped: Option<bool>,
    /// Step of the last event.
    pub last_step: u64,
    /// Seconds since 1970 of the last event.
    pub last_time: Option<f64>,
    /// Seconds of computation, from each start to the last event before the next.
    pub seconds: f64,
    /// Samples of a second, over the last start.
    pub images_per_second: Option<f64>,
    /// Steps that changed no weight because their 16-bit gradients overflowed.
    pub skipped_steps: u64,
    /// Lines that are no events.
    pub n_broken: usize,
}

/// A start or a resume.
#[derive(Debug, Clone)]
pub struct Start {
    /// First step that ran.
    pub step: u64,
    /// Steps of the whole plan.
    pub total_steps: u64,
    /// Training samples of an epoch.
    pub n_samples: u64,
    /// Devices, as they call themselves.
    pub devices: Vec<String>,
    /// Threads of the CPU.
    pub threads: u64,
}

/// A logged step.
#[derive(Debug, Clone)]
pub struct Step {
    /// Steps taken so far.
    pub step: u64,
    /// The minimised loss, if it is finite.
    pub loss: Option<f64>,
    /// Unweighted terms, by index into [`Training::terms`].
    pub terms: Vec<(usize, f64)>,
    /// Learning rate.
    pub learning_rate: f64,
    /// L2 norm of the gradient before clipping, if it is finite.
    pub gradient_norm: Option<f64>,
}

/// A score between two epochs.
#[derive(Debug, Clone)]
pub struct Validation {
    /// Steps taken so far.
    pub step: u64,
    /// Mean IoU in the crop.
    pub mean_iou_in_crop: f64,
    /// Instances scored.
    pub n_instances: u64,
}

impl Training {
    /// Reads a log. Lines that are no events are counted: a power cut can leave half a line, and the others are worth showing.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, ReportPageError> {
        let bytes = fs::read(path).map_err(FileError::io(path, "read"))?;
        Ok(Self::of(&String::from_utf8_lossy(&bytes)))
    }

    /// What the lines of a log tell.
    pub fn of(log: &str) -> Self {
        let mut training = Self::default();
        let mut started_at = None;
        for line in log.lines() {
            match serde_json::from_str::<Line>(line) {
                Ok(line) => training.take(line, &mut started_at),
                Err(_) => training.n_broken += 1,
            }
        }
        training.seconds += training.last_time.zip(started_at).map_or(0.0, |(last, start)| f64::max(last - start, 0.0));
        training
    }

    /// Steps of the whole plan, if it began.
    pub fn total_steps(&self) -> Option<u64> {
        self.starts.last().map(|start| start.total_steps)
    }

    fn take(&mut self, line: Line, started_at: &mut Option<f64>) {
        let Line { unix_time, images_per_second, step, event } = line;
        match event {
            Kind::Started { total_steps, n_samples, devices, threads } => {
                let before = self.last_time.zip(*started_at);
                self.seconds += before.map_or(0.0, |(last, start)| f64::max(last - start, 0.0));
                *started_at = unix_time;
                self.stopped = None;
                self.starts.push(Start { step, total_steps, n_samples, devices, threads });
            }
            Kind::Step { stage, loss, terms, learning_rate, gradient_norm, skipped_steps } => {
                if self.stages.last().is_none_or(|(_, last)| *last != stage) {
                    self.stages.push((step, stage));
                }
                let mut values = vec![];
                for (name, value) in terms {
                    let known = self.terms.iter().position(|term| *term == name);
                    let idx = known.unwrap_or_else(|| {
                        self.terms.push(name);
                        self.terms.len() - 1
                    });
                    values.extend(value.map(|value| (idx, value)));
                }
                self.skipped_steps = self.skipped_steps.max(skipped_steps.unwrap_or(0));
                self.images_per_second = images_per_second.or(self.images_per_second);
                self.steps.push(Step { step, loss, terms: values, learning_rate, gradient_norm });
            }
            Kind::Validation { mean_iou_in_crop, n_instances } => {
                self.validations.push(Validation { step, mean_iou_in_crop, n_instances });
            }
            Kind::Ended { stopped } => self.stopped = Some(stopped),
            Kind::Other => {}
        }
        self.last_step = step;
        self.last_time = unix_time.or(self.last_time);
    }
}

/// A curve of at most so many points, each the mean of as many neighbours, with the smallest and largest of them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Thinned {
    /// The last x of each group.
    pub x: Vec<f64>,
    /// Means.
    pub mean: Vec<f64>,
    /// Smallest values.
    pub low: Vec<f64>,
    /// Largest values.
    pub high: Vec<f64>,
    /// Points of a group; 1 if nothing was left out.
    pub group: usize,
}

/// Thins a curve, honestly: no value vanishes without being between `low` and `high`.
pub(crate) fn thinned(points: &[(f64, f64)], most: usize) -> Thinned {
    let group = points.len().div_ceil(most).max(1);
    let mut thinned = Thinned { x: vec![], mean: vec![], low: vec![], high: vec![], group };
    for chunk in points.chunks(group) {
        let values = || chunk.iter().map(|point| point.1);
        thinned.x.push(chunk[chunk.len() - 1].0);
        thinned.mean.push(values().sum::<f64>() / chunk.len() as f64);
        thinned.low.push(values().fold(f64::INFINITY, f64::min));
        thinned.high.push(values().fold(f64::NEG_INFINITY, f64::max));
    }
    thinned
}

/// Fields that are not of interest here are left unread.
#[derive(Deserialize)]
struct Line {
    unix_time: Option<f64>,
    images_per_second: Option<f64>,
    step: u64,
    #[serde(flatten)]
    event: Kind,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Kind {
    Started {
        total_steps: u64,
        n_samples: u64,
        devices: Vec<String>,
        threads: u64,
    },
    Step {
        stage: String,
        loss: Option<f64>,
        terms: Vec<(String, Option<f64>)>,
        learning_rate: f64,
        gradient_norm: Option<f64>,
        skipped_steps: Option<u64>,
    },
    Validation {
        mean_iou_in_crop: f64,
        n_instances: u64,
    },
    Ended {
        stopped: bool,
    },
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"{"unix_time":100.0,"event":"started","step":0,"total_steps":40,"n_samples":8,"devices":["CPU"],"threads":2}
{"unix_time":101.0,"images_per_second":9.5,"event":"step","step":10,"total_steps":40,"stage":"one","epoch":0,"loss":0.5,"terms":[["dice",0.25]],"learning_rate":0.01,"gradient_norm":null,"n_samples":4,"clamped_predicted_ious":0}
{"unix_time":102.0,"event":"validation","step":10,"epoch":0,"mean_iou_in_crop":0.4,"n_instances":12}
{"unix_time":103.0,"event":"ended","step":10,"stopped":true,"digests":{}}
{"unix_time":1000.0,"event":"started","step":10,"total_steps":40,"n_samples":8,"devices":["CPU"],"threads":1}
{"unix_time":1002.0,"event":"step","step":20,"total_steps":40,"stage":"two","epoch":1,"loss":0.25,"terms":[["bce",1.0],["dice",0.5]],"learning_rate":0.02,"gradient_norm":3.0,"skipped_steps":2,"n_samples":4,"clamped_predicted_ious":0}
{"unix_time":1003.0,"event":"epoch","step":20,"epoch":1,"mean_loss":0.3}
{"unix_time":1004.0,"event":"st"#;

    #[test]
    fn a_log_with_a_stop_a_resume_and_half_a_line() {
        let training = Training::of(LOG);
        assert_eq!(training.n_broken, 1);
        assert_eq!((training.starts.len(), training.total_steps(), training.last_step), (2, Some(40), 20));
        assert_eq!(training.stages, [(10, "one".to_string()), (20, "two".to_string())]);
        assert_eq!(training.terms, ["dice", "bce"]);
        assert_eq!(training.steps[1].terms, [(1, 1.0), (0, 0.5)]);
        assert_eq!((training.steps[0].gradient_norm, training.steps[1].gradient_norm), (None, Some(3.0)));
        assert_eq!((training.stopped, training.skipped_steps), (None, 2), "it goes on, or was killed");
        // Three seconds before the stop, three after the resume, and not the fifteen minutes between them.
        assert_eq!((training.seconds, training.last_time), (6.0, Some(1003.0)));
        assert_eq!(training.images_per_second, Some(9.5));
        assert_eq!(training.validations[0].n_instances, 12);
    }

    #[test]
    fn no_value_vanishes_from_a_thinned_curve() {
        let points: Vec<(f64, f64)> = (1..=7).map(|x| (f64::from(x), f64::from(x * x))).collect();
        let all = thinned(&points, 7);
        assert_eq!((all.group, all.mean.len(), all.low == all.high), (1, 7, true));
        let few = thinned(&points, 3);
        assert_eq!((few.group, few.x.as_slice()), (3, &[3.0, 6.0, 7.0][..]));
        assert_eq!((few.low.as_slice(), few.high.as_slice()), (&[1.0, 16.0, 49.0][..], &[9.0, 36.0, 49.0][..]));
        assert_eq!(few.mean[2], 49.0);
        assert!(thinned(&[], 3).x.is_empty());
    }
}
