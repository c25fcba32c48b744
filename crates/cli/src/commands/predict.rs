//! `predict`: masks of boxes and points on images, from a trained student.

mod answers;
mod asked;
mod output;
mod source;
mod workers;

use std::time::Instant;

use crate::arguments::PredictArguments;
use crate::progress::{on_one_line, say, warn};
use crate::{stop, usage};

/// Asks, and fills the folder.
///
/// # Errors
/// If the command line asks for nothing or for what the source cannot answer, or a file cannot be read or written. The folder is whole or not
/// there.
pub fn predict(arguments: &PredictArguments) -> anyhow::Result<()> {
    let started = Instant::now();
    output::check_free(&arguments.out)?;
    let source = source::open(arguments)?;
    if arguments.logits && source.crop().is_none() {
        let found = "found one that is shown whole images";
        return Err(usage(anyhow::anyhow!("--logits: expected a network that is shown crops, {found}")));
    }
    let asked = asked::read(arguments, &source)?;
    let (n_images, n_prompts) = (asked.images.len(), asked.n_prompts());
    let crop = source.crop().map_or_else(|| "whole images".to_string(), |crop| crop.name());
    let shown = on_one_line(&arguments.source.display().to_string());
    let name = source.choice.name();
    say(&format!("{shown}: network {name}, {crop}; prompts: {n_prompts}, images: {n_images}"));
    if asked.n_crowd > 0 {
        say(&format!("crowd regions, not asked about: {}", asked.n_crowd));
    }
    let n_beyond = asked.n_beyond_image();
    if n_beyond > 0 {
        warn(&format!("boxes that reach beyond their image, of which the part in it counts: {n_beyond}"));
    }
    let n_lengthened = source.crop().map_or(0, |crop| asked.n_lengthened(crop));
    if n_lengthened > 0 {
        warn(&format!("boxes whose region is lengthened to the student's shortest side: {n_lengthened}"));
    }
    asked.left_out.iter().for_each(|reason| warn(&format!("left out: {}", on_one_line(reason))));
    let times = output::whole_folder(&arguments.out, arguments.logits, |folder| {
        let answers = answers::answer(&source, &asked.images, folder, arguments.logits)?;
        output::write_predictions(folder, &asked, &answers)?;
        let in_network = answers.of_images.iter().flatten().map(|answer| answer.in_network).sum();
        let n_threads = rayon::current_num_threads();
        let times = output::Times { whole: started.elapsed(), in_network, decoding: answers.decoding, n_threads };
        output::write_about(folder, &arguments.source, &source, (&asked, &answers), &times)?;
        stop::check_command("predicting")?;
        Ok(times)
    })?;
    let masks = if n_prompts == 1 { "mask" } else { "masks" };
    say(&format!(
        "{}: {n_prompts} {masks} in masks/, pictures of them in overlays/, scores in predictions.json; a prompt took {:.2} ms in the network {name} and {:.2} ms in all; threads: {}",
        arguments.out.display(),
        times.network_per_prompt(n_prompts),
        times.whole_per_prompt(n_prompts),
        times.n_threads
    ));
    Ok(())
}
