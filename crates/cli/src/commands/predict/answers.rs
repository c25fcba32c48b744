//! Asking: each image is read once, then cropped for each of its prompts, or seen whole.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sensei_data::crop::{CropGeometry, crop_image, paste_logits_rle};
use sensei_data::crop_rule::CropRule;
use sensei_data::image_file::{ImageLimits, RgbImage, read_image};
use sensei_data::prompt_source::Prompt;
use sensei_data::rle::Rle;
use sensei_eval::mask_score::mask_score;
use sensei_int8::interpreter::Interpreter;
use sensei_samples::whole_images::{Letterbox, letterboxed};
use sensei_student::inference::InferenceStudent;
use sensei_tensor::network::{Inputs, Pass};
use sensei_tensor::prompts::{Decode, Promptable};

use super::asked::{AskedImage, stem};
use super::output;
use super::source::{AskedNetwork, CropNetwork, ImageNetwork, Source};
use super::workers::Workers;
use crate::phases::prompted_masks::Answers as Prompted;
use crate::phases::prompted_scores::{AT_ONCE, first_points, image_tensor};
use crate::predict::{float_logits, integer_logits};
use crate::progress::bar;
use crate::stop;

/// What a network says to a prompt.
pub struct Answer {
    /// In the image.
    pub mask: Rle,
    /// The network's own: [`mask_score`], or the IoU that a network of whole images predicts.
    pub score: f64,
    /// What the network was shown, if it was a crop.
    pub crop: Option<CropGeometry>,
    /// Of the crop, `[grid, grid]`; none once they are written, or where they are not wanted.
    pub logits: Vec<f32>,
    /// Time in the network alone; of a network that sees whole images, the image's share.
    pub in_network: Duration,
}

/// Answers of all images, in the order of images and prompts.
pub struct Answers {
    /// By image.
    pub of_images: Vec<Vec<Answer>>,
    /// Time spent reading and decoding images, of all threads together.
    pub decoding: Duration,
}

/// Asks about every image, and writes masks, overlays and, if they are wanted, logits below `folder`.
///
/// # Errors
/// If an image cannot be read, an answer is not finite, a file cannot be written, or the program was asked to stop.
pub fn answer(source: &Source, images: &[AskedImage], folder: &Path, keep_logits: bool) -> anyhow::Result<Answers> {
    let n_prompts = images.iter().map(|image| image.prompts.len()).sum();
    let n_threads = rayon::current_num_threads();
    let workers = Workers::new(n_threads, n_prompts)?;
    let asking = Asking::new(&source.network);
    let mut answers = Answers { of_images: Vec::with_capacity(images.len()), decoding: Duration::ZERO };
    let bar = bar("predict", n_prompts, "prompts");
    for images in chunks(images, IMAGES_PER_THREAD * n_threads) {
        stop::check_command("predicting")?;
        let read = workers.each(images.len(), |idx| read(&images[idx]))?;
        answers.decoding += read.iter().map(|(_, time)| *time).sum();
        let pixels: Vec<RgbImage> = read.into_iter().map(|(image, _)| image).collect();
        let mut of_images = asking.about(images, &pixels, &workers, keep_logits)?;
        let places = places(of_images.iter().map(Vec::len));
        workers.each(places.len(), |at| {
            let (image, nth) = places[at];
            let (stem, answer) = (stem(&images[image]), &of_images[image][nth]);
            if keep_logits {
                output::write_logits(folder, &stem, nth, &answer.logits)?;
            }
            output::write_mask(folder, &stem, nth, &answer.mask)
        })?;
        workers.each(images.len(), |at| output::write_overlay(folder, &images[at], &pixels[at], &of_images[at]))?;
        of_images.iter_mut().flatten().for_each(|answer| answer.logits = vec![]);
        bar.inc(places.len() as u64);
        answers.of_images.extend(of_images);
    }
    Ok(answers)
}

/// Groups of images that are in memory together.
fn chunks(images: &[AskedImage], most_images: usize) -> impl Iterator<Item = &[AskedImage]> {
    let mut rest = images;
    std::iter::from_fn(move || {
        let mut n_pixels = 0;
        let fits = |image: &&AskedImage| {
            n_pixels += image.size.n_pixels();
            n_pixels <= MOST_PIXELS
        };
        let n = rest.iter().take(most_images).take_while(fits).count().max(1).min(rest.len());
        let (first, others) = rest.split_at(n);
        rest = others;
        (!first.is_empty()).then_some(first)
    })
}

fn read(image: &AskedImage) -> anyhow::Result<(RgbImage, Duration)> {
    let started = Instant::now();
    let decoded = read_image(&image.path, &ImageLimits::default())?.image;
    let (shown, found) = (image.path.display(), decoded.size);
    ensure!(found == image.size, "{shown}: expected {} pixels, as its header says, found {found}", image.size);
    Ok((decoded, started.elapsed()))
}

/// A network of crops that is ready to run.
enum Ready<'a> {
    Integer(Box<Interpreter<'a>>),
    Float(&'a InferenceStudent),
}

impl<'a> Ready<'a> {
    fn new(network: &'a CropNetwork) -> Self {
        match network {
            CropNetwork::Integer(model) => Self::Integer(Box::new(Interpreter::new(model))),
            CropNetwork::Float(student) => Self::Float(student),
        }
    }

    /// The answer to a prompt: as scores take it, cut, computed and pasted by the same functions.
    fn answer(&self, crop: CropRule, image: &RgbImage, prompt: Prompt) -> anyhow::Result<Answer> {
        let geometry = crop.crop(prompt, image.size)?;
        let pixels = crop_image(image, &geometry);
        let started = Instant::now();
        let logits = match self {
            Self::Integer(interpreter) => integer_logits(interpreter, &pixels)?,
            Self::Float(student) => float_logits(student, &[&pixels]).concat(),
        };
        let in_network = started.elapsed();
        if let Some(found) = logits.iter().find(|logit| !logit.is_finite()) {
            bail!("expected finite logits, found {found}");
        }
        let (mask, score) = (paste_logits_rle(&logits, &geometry, image.size), mask_score(&logits));
        Ok(Answer { mask, score, crop: Some(geometry), logits, in_network })
    }
}

/// A network that is ready to run.
enum Asking<'a> {
    Crop(CropRule, Ready<'a>),
    Image(&'a ImageNetwork),
}

impl<'a> Asking<'a> {
    fn new(network: &'a AskedNetwork) -> Self {
        match network {
            AskedNetwork::Crop { crop, network } => Self::Crop(*crop, Ready::new(network)),
            AskedNetwork::Image(network) => Self::Image(network),
        }
    }

    /// Answers to all prompts of some images.
    fn about(
        &self,
        images: &[AskedImage],
        pixels: &[RgbImage],
        workers: &Workers,
        keep_logits: bool,
    ) -> anyhow::Result<Vec<Vec<Answer>>> {
        let (crop, network) = match self {
            Self::Crop(crop, network) => (*crop, network),
            // The network divides an image's work among all threads itself.
            Self::Image(network) => {
                let about = |(image, pixels): (&AskedImage, &RgbImage)| {
                    stop::check_command("predicting")?;
                    let prompts: Vec<Prompt> = image.prompts.iter().map(|asked| asked.prompt.clone()).collect();
                    in_image(network, pixels, &prompts).with_context(|| image.path.display().to_string())
                };
                return images.iter().zip(pixels).map(about).collect();
            }
        };
        let places = places(images.iter().map(|image| image.prompts.len()));
        let answers = workers.each(places.len(), |at| {
            stop::check_command("predicting")?;
            let (image, nth) = places[at];
            let prompt = images[image].prompts[nth].prompt.clone();
            let named = || format!("{}: prompt {}", images[image].path.display(), nth + 1);
            let answer = network.answer(crop, &pixels[image], prompt).with_context(named)?;
            Ok(if keep_logits { answer } else { Answer { logits: vec![], ..answer } })
        })?;
        let mut of_images: Vec<Vec<Answer>> = images.iter().map(|_| vec![]).collect();
        for ((image, _), answer) in places.into_iter().zip(answers) {
            of_images[image].push(answer);
        }
        Ok(of_images)
    }
}

/// All prompts, each as its image and its place among that image's, given the number of each image's.
fn places(n_prompts: impl Iterator<Item = usize>) -> Vec<(usize, usize)> {
    n_prompts.enumerate().flat_map(|(image, n)| (0..n).map(move |nth| (image, nth))).collect()
}

/// The answers of a network that sees whole images, about one.
fn in_image(network: &ImageNetwork, image: &RgbImage, prompts: &[Prompt]) -> anyhow::Result<Vec<Answer>> {
    let started = Instant::now();
    let found: Vec<(Rle, f32)> = match network {
        ImageNetwork::Teacher { teacher, box_padding_points } => {
            let masks = teacher.masks(&teacher.look(image, &[])?, prompts, *box_padding_points)?;
            masks.into_iter().map(|found| (Rle::from_mask(&found.mask), found.predicted_iou)).collect()
        }
        ImageNetwork::Student { student, side, choice } => {
            let letterbox = Letterbox { image: image.size };
            let images = image_tensor(&letterboxed(&image.pixels, letterbox, *side), *side);
            let embedding = student.encode(Inputs { images, taps: &[] }, Pass::Eval)?.embedding;
            let points = |prompt: &Prompt| first_points(prompt, letterbox, student.prompt_side());
            let prompts: Vec<_> = prompts.iter().map(points).collect();
            let some = prompts.chunks(AT_ONCE);
            some.flat_map(|some| Prompted::of(&**student, &embedding, some, *choice).scored(letterbox)).collect()
        }
    };
    let in_network = started.elapsed().div_f64(prompts.len() as f64);
    let answer =
        |(mask, score): (Rle, f32)| Answer { mask, score: f64::from(score), crop: None, logits: vec![], in_network };
    Ok(found.into_iter().map(answer).collect())
}

/// Images in memory together, for each thread.
const IMAGES_PER_THREAD: usize = 4;

/// Most pixels in memory together, unless one image has more.
const MOST_PIXELS: usize = 128 << 20;
