//! Events of training as curves for TensorBoard.

use std::io;
use std::path::PathBuf;

use sensei_report::tensorboard::EventFile;
use sensei_train::event::Event;

/// The curves of a run.
pub struct Curves {
    place: PathBuf,
    /// Made at the start, so that a run that cannot start leaves none.
    file: Option<EventFile>,
}

impl Curves {
    /// Curves that will be written into a folder.
    pub fn at(place: PathBuf) -> Self {
        Self { place, file: None }
    }

    /// Writes what an event adds to them.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn take(&mut self, unix_time: f64, images_per_second: Option<f64>, event: &Event) -> io::Result<()> {
        if let Event::Started { step, .. } = event {
            let mut file = EventFile::create(&self.place, unix_time)?;
            file.start(unix_time, *step + 1)?;
            self.file = Some(file);
        }
        let (step, values) = values(event, images_per_second);
        match &mut self.file {
            Some(file) if !values.is_empty() => file.scalars(unix_time, step, &values),
            _ => Ok(()),
        }
    }
}

/// The step of an event, and the values it adds, by their tags.
fn values(event: &Event, images_per_second: Option<f64>) -> (u64, Vec<(String, f64)>) {
    match event {
        Event::Step { step, loss, terms, learning_rate, gradient_norm, loss_scale, .. } => {
            let mut values = vec![
                ("loss/minimised".to_string(), *loss),
                ("optimizer/learning_rate".into(), *learning_rate),
                ("optimizer/gradient_norm".into(), *gradient_norm),
            ];
            values.extend(terms.iter().map(|(name, value)| (format!("terms/{name}"), *value)));
            values.extend(loss_scale.map(|scale| ("optimizer/loss_scale".into(), scale)));
            values.extend(images_per_second.map(|rate| ("speed/images_per_second".into(), rate)));
            (*step, values)
        }
        Event::Epoch { step, mean_loss, .. } => (*step, vec![("loss/mean_of_epoch".into(), *mean_loss)]),
        Event::Validation { step, mean_iou_in_crop, .. } => {
            (*step, vec![("validation/mean_iou_in_crop".into(), *mean_iou_in_crop)])
        }
        Event::Started { step, .. } | Event::Checkpoint { step, .. } | Event::Ended { step, .. } => (*step, vec![]),
    }
}
