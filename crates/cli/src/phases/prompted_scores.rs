//! Scores of a student that answers prompts: floors, teacher and student on the same objects, after the first prompt and after further clicks.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use indicatif::ProgressIterator as _;
use rayon::prelude::*;
use sensei_data::crop::{CropGeometry, crop_image, crop_rle};
use sensei_data::dataset::Dataset;
use sensei_data::geometry::{PointInImage, RectInImage, Size};
use sensei_data::image_file::{ImageFile, ImageLimits};
use sensei_data::prompt_source::Prompt;
use sensei_data::rle::Rle;
use sensei_data::sampling::next_point;
use sensei_eval::bootstrap::BootstrapConfig;
use sensei_eval::choice::Why;
use sensei_eval::click_disc::ClickDisc;
use sensei_eval::evaluate::{Candidate, EvalItem, Predictor, evaluate};
use sensei_eval::floors::{filled_box, inscribed_ellipse};
use sensei_eval::protocol::{MaskChoice, ProtocolRules, Space};
use sensei_eval::report::EvalReport;
use sensei_eval::score::{EvalSample, Prediction};
use sensei_files::whole::write_whole;
use sensei_sam::click_to_box::{ScoredBox, box_at, boxes_of};
use sensei_sam::student::PromptableStudent;
use sensei_samples::batch::push_input;
use sensei_samples::selection::{LeftOut, Subset};
use sensei_samples::whole_images::{ImageFeatures, ImageSource, Letterbox};
use sensei_tensor::network::{Inputs, Network, Pass};
use sensei_tensor::prompts::{Decode, PointLabel, PromptPoint, Promptable};
use sensei_train::images::{PADDING, box_points};

use crate::config::PromptEvalToml;
use crate::phases::kept_rows::KeptRows;
use crate::phases::pictures::{Pictured, chosen, write_pictures};
use crate::phases::prompted_floors::{CLICK_DISC, disc_mask, fitted_click_disc, floor};
use crate::phases::prompted_masks::Answers;
use crate::predict::PredictError;
use crate::progress::{bar, phase, say};
use crate::stop;

/// Scores floors, teacher and student on the validation split and writes `report.json`, `table.txt`, `overlays.png` and `gallery.json` into `out`.
/// What the teacher answers is kept in the folder of all runs for the next student.
///
/// # Errors
/// If the protocol is not one for whole images, a sample cannot be had, or a file cannot be written.
pub fn score_prompted(
    eval: &PromptEvalToml,
    rules: &ProtocolRules,
    (train, val): (&Dataset, &ImageSource),
    student: &PromptableStudent,
    teacher: &dyn Decode,
    [runs, out]: [&Path; 2],
) -> anyhow::Result<EvalReport> {
    ensure!(
        rules.selection.crop.is_none() && rules.space == Space::Image,
        "protocol {}: expected one of whole images, found one with a crop",
        rules.name
    );
    phase("scoring");
    let objects = Objects::new(eval, rules, val)?;
    let subset = match eval.instances {
        Some(count) => Subset::Random { count, seed: SUBSET_SEED }.name(),
        None => rules.selection.subset.name(),
    };
    let protocol = rules.on(&val.dataset, subset);
    let store = val.features.as_ref().context("images of a teacher's store have features")?;
    let kept = KeptRows::new(runs, &protocol, store.manifest().key.digest(), eval.clicks);
    let of_teacher = kept.read(&objects.sizes())?;
    let asked = if of_teacher.is_none() { Some(teacher) } else { None };
    let [found, of_student] = objects.answers(val, eval.clicks, rules.mask_choice, student, asked)?;
    let of_teacher = match of_teacher {
        Some(rows) => rows,
        None => {
            kept.write(&found)?;
            found
        }
    };
    let by_predictor: Vec<(String, Masks)> = of_teacher.into_iter().chain(of_student).collect();
    let of_clicks = fitted_click_disc(rules, train)?.map(|disc| (CLICK_DISC.to_string(), objects.discs(&disc)));
    let mut predictors: Vec<Predictor<'_, (), PredictError>> =
        vec![floor("filled_box", filled_box), floor("inscribed_ellipse", inscribed_ellipse)];
    for (name, masks) in of_clicks.iter().chain(&by_predictor) {
        predictors.push(Predictor {
            name: name.clone(),
            predict: Box::new(|items| {
                Ok(items
                    .iter()
                    .map(|item| Prediction::ImageMask(masks[&item.sample.annotation_id].to_mask()))
                    .collect())
            }),
        });
    }
    let evaluation = evaluate::<_, PredictError>(objects.candidates(val)?, &mut predictors, BATCH)?;
    drop(predictors);
    let bootstrap = BootstrapConfig {
        seed: eval.bootstrap_seed,
        n_resamples: u32::try_from(eval.bootstrap_resamples).context("[eval] bootstrap_resamples")?,
    };
    let mut differences = vec![("inscribed_ellipse".to_string(), row("student", 0))];
    if of_clicks.is_some() {
        differences.push((CLICK_DISC.to_string(), row("student", 0)));
    }
    for clicks in 0..=eval.clicks {
        differences.push((row("teacher", clicks), row("student", clicks)));
    }
    if rules.mask_choice == MaskChoice::HighestScore {
        differences.push((row("student", 0), oracle_row("student")));
    }
    if by_predictor.iter().any(|(name, _)| name == PRIOR) {
        differences.push((row("student", 0), PRIOR.to_string()));
    }
    let differences: Vec<(&str, &str)> = differences.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let report = EvalReport::new(protocol, evaluation, bootstrap, &differences)?;
    std::fs::create_dir_all(out).with_context(|| format!("{}: cannot make the folder", out.display()))?;
    report.write(&out.join("report.json"))?;
    write_whole(&out.join("table.txt"), report.table().as_bytes())?;
    write_pictures(out, &report, &pictured(&objects, val, &by_predictor, &chosen(&report, eval.overlays))?, 1)?;
    say(&report.table());
    Ok(report)
}

/// A row's name: who, and after how many further clicks.
fn row(who: &str, clicks: u8) -> String {
    if clicks == 0 { who.to_string() } else { format!("{who}+{clicks}") }
}

/// The name of the row whose masks are chosen by the truth: no network can choose so.
fn oracle_row(who: &str) -> String {
    format!("{who}_oracle")
}

/// Masks in the image by annotation, of one row.
pub type Masks = BTreeMap<u64, Rle>;

/// The objects that are scored.
struct Objects {
    /// By image.
    by_image: BTreeMap<usize, Vec<Object>>,
    left_out: Vec<LeftOut>,
}

struct Object {
    instance_idx: usize,
    annotation_id: u64,
    prompt: Prompt,
    truth: Rle,
    /// Box of the prompt, or the annotated one where it is a point.
    bbox: [f64; 4],
}

impl Objects {
    fn new(eval: &PromptEvalToml, rules: &ProtocolRules, val: &ImageSource) -> anyhow::Result<Self> {
        let (dataset, mut selection) = (&val.dataset, rules.selection.clone());
        if let Some(count) = eval.instances {
            selection.subset = Subset::Random { count, seed: SUBSET_SEED };
        }
        let (chosen, mut left_out) = selection.select(dataset)?;
        let found: Vec<Result<Object, LeftOut>> = chosen
            .into_par_iter()
            .map(|instance_idx| {
                let instance = &dataset.instances[instance_idx];
                let (annotation_id, truth) = (instance.id, dataset.mask(instance_idx)?);
                Ok(match selection.prompt_of(instance, &truth) {
                    Ok(prompt) => {
                        let bbox = prompt.bbox().unwrap_or(instance.bbox);
                        Ok(Object { instance_idx, annotation_id, prompt, truth, bbox })
                    }
                    Err(error) => {
                        let reason = sensei_data::crop_rule::CropError::from(error).into();
                        Err(LeftOut { annotation_id, reason })
                    }
                })
            })
            .collect::<anyhow::Result<_>>()?;
        let mut by_image: BTreeMap<usize, Vec<Object>> = BTreeMap::new();
        for object in found {
            match object {
                Ok(object) => {
                    by_image.entry(dataset.instances[object.instance_idx].image_idx).or_default().push(object);
                }
                Err(reason) => left_out.push(reason),
            }
        }
        Ok(Self { by_image, left_out })
    }

    /// What discs around the prompts' points are.
    fn discs(&self, disc: &ClickDisc) -> Masks {
        let mask = |object: &Object| (object.annotation_id, disc_mask(disc, object.prompt.points(), &object.truth));
        self.all().map(mask).collect()
    }

    fn all(&self) -> impl Iterator<Item = &Object> {
        self.by_image.values().flatten()
    }

    /// Of the images, by annotation.
    fn sizes(&self) -> BTreeMap<u64, Size> {
        self.all().map(|object| (object.annotation_id, object.truth.size())).collect()
    }

    /// As the scorer wants them.
    fn candidates<'a>(&'a self, val: &'a ImageSource) -> anyhow::Result<Vec<Result<Candidate<()>, PredictError>>> {
        let competitors = val.dataset.competitors();
        let item = |object: &Object| {
            let (idx, truth) = (object.instance_idx, object.truth.clone());
            let sample = EvalSample::new(&val.dataset, idx, object.bbox, competitors[idx], truth, None);
            Ok(Candidate::Item(EvalItem { sample, input: () }))
        };
        let left_out = self.left_out.iter().map(|left_out| Ok(Candidate::LeftOut(*left_out)));
        Ok(self.all().map(item).chain(left_out).collect())
    }

    /// What the teacher, if it is asked, and the student answer, by row.
    fn answers(
        &self,
        val: &ImageSource,
        clicks: u8,
        choice: MaskChoice,
        student: &PromptableStudent,
        teacher: Option<&dyn Decode>,
    ) -> anyhow::Result<[Vec<(String, Masks)>; 2]> {
        let rows = |who: &str| Rows::new(who, clicks, choice);
        let (mut of_teacher, mut of_student, mut of_prior) = (rows("teacher"), rows("student"), vec![]);
        let is_by_points = self.all().all(|object| matches!(object.prompt, Prompt::Point(_)));
        let proposer = student.proposer().filter(|_| is_by_points);
        if proposer.is_some() {
            of_prior.push((PRIOR.to_string(), Masks::new()));
        }
        let shown = bar("score", self.by_image.len(), "images");
        for (&image_idx, objects) in self.by_image.iter().progress_with(shown) {
            stop::check("scoring")?;
            let sample = val.image(image_idx)?;
            let stored = sample.features.as_ref().context("images of a teacher's store have features")?;
            if let Some(teacher) = teacher {
                ask(teacher, &embedding_of(stored), sample.letterbox, objects, choice, &mut of_teacher);
            }
            let embedding =
                student.encode(Inputs { images: image_tensor(&sample.pixels, val.side()), taps: &[] }, Pass::Eval)?;
            ask(student, &embedding.embedding, sample.letterbox, objects, choice, &mut of_student);
            if let (Some(proposer), Some((_, masks))) = (proposer, of_prior.first_mut()) {
                let boxes = boxes_of(proposer, &embedding.embedding);
                masks.extend(by_box_and_click(student, &embedding.embedding, sample.letterbox, objects, &boxes)?);
            }
        }
        Ok([of_teacher.into_rows().collect(), of_student.into_rows().chain(of_prior).collect()])
    }
}

/// What one network answers, by row.
struct Rows {
    /// After the first prompt and after each further click.
    by_clicks: Vec<(String, Masks)>,
    /// Where there are several masks to choose from, after the first prompt, the one that is nearest to the truth.
    oracle: Option<(String, Masks)>,
}

impl Rows {
    fn new(who: &str, clicks: u8, choice: MaskChoice) -> Self {
        let oracle = (choice == MaskChoice::HighestScore).then(|| (oracle_row(who), Masks::new()));
        Self { by_clicks: (0..=clicks).map(|clicks| (row(who, clicks), Masks::new())).collect(), oracle }
    }

    fn into_rows(self) -> impl Iterator<Item = (String, Masks)> {
        self.by_clicks.into_iter().chain(self.oracle)
    }
}

/// Asks about the objects of an image, and again with a click more for each row after the first.
fn ask(
    network: &dyn Decode,
    embedding: &Tensor<4>,
    letterbox: Letterbox,
    objects: &[Object],
    choice: MaskChoice,
    rows: &mut Rows,
) {
    let side = network.prompt_side();
    let mut prompts: Vec<Vec<PromptPoint>> =
        objects.iter().map(|object| first_points(&object.prompt, letterbox, side)).collect();
    let mut last: Vec<Rle> = vec![];
    for (round, (_, masks)) in (0u8..).zip(&mut rows.by_clicks) {
        for ((object, points), known) in objects.iter().zip(&mut prompts).zip(&last) {
            let click = next_click(object, known, letterbox, side, round);
            // SAM's padding stays behind the points of a prompt without a box.
            let n_behind = usize::from(object.prompt.bbox().is_none());
            points.insert(points.len() - n_behind, click);
        }
        last.clear();
        for (objects, prompts) in objects.chunks(AT_ONCE).zip(prompts.chunks(AT_ONCE)) {
            let answers = Answers::of(network, embedding, prompts, choice);
            last.extend(answers.chosen(letterbox));
            if let (0, Some((_, masks))) = (round, &mut rows.oracle) {
                let truths: Vec<&Rle> = objects.iter().map(|object| &object.truth).collect();
                let best = answers.best_by_truth(&truths, letterbox);
                masks.extend(objects.iter().map(|object| object.annotation_id).zip(best));
            }
        }
        masks.extend(objects.iter().map(|object| object.annotation_id).zip(last.iter().cloned()));
    }
}

/// What a student answers to the box that it takes a click for, and the click.
fn by_box_and_click(
    student: &dyn Decode,
    embedding: &Tensor<4>,
    letterbox: Letterbox,
    objects: &[Object],
    boxes: &[ScoredBox],
) -> anyhow::Result<Masks> {
    let side = student.prompt_side();
    let mut masks = Masks::new();
    for object in objects {
        let Prompt::Point(at) = object.prompt else { continue };
        let [x, y] = letterbox.point(at, side);
        let click = PromptPoint { x, y, label: PointLabel::Foreground };
        let [left, top, width, height] =
            box_at([x, y], boxes).context("a network that proposes boxes has some for every image")?;
        let corner = |x: f64, y: f64, label: PointLabel| PromptPoint { x, y, label };
        let points = vec![
            corner(left, top, PointLabel::UpperLeft),
            corner(left + width, top + height, PointLabel::LowerRight),
            click,
        ];
        let answers = Answers::of(student, embedding, &[points], MaskChoice::Single);
        masks.extend(answers.chosen(letterbox).into_iter().map(|mask| (object.annotation_id, mask)));
    }
    Ok(masks)
}

/// A prompt as the network is given it: at least two points, so that boxes and clicks can be asked together.
pub fn first_points(prompt: &Prompt, letterbox: Letterbox, side: usize) -> Vec<PromptPoint> {
    let click = |at: &PointInImage| {
        let [x, y] = letterbox.point(*at, side);
        PromptPoint { x, y, label: PointLabel::Foreground }
    };
    match prompt {
        Prompt::Box(bbox) => box_points(*bbox, letterbox, side).to_vec(),
        Prompt::Point(_) | Prompt::Points(_) => prompt.points().iter().map(click).chain([PADDING]).collect(),
    }
}

/// A click on a random pixel where a mask is wrong, or one of padding where it is right.
fn next_click(object: &Object, found: &Rle, letterbox: Letterbox, side: usize, round: u8) -> PromptPoint {
    let (truth, found) = (object.truth.to_mask(), found.to_mask());
    let Size { width, .. } = truth.size;
    let wrong: Vec<usize> = (0..truth.bits.len()).filter(|&at| truth.bits[at] != found.bits[at]).collect();
    let n_wrong = u32::try_from(wrong.len()).expect("an image has fewer than 2^32 pixels");
    if n_wrong == 0 {
        return PADDING;
    }
    let at = wrong[next_point(n_wrong, CLICK_SEED, 0, round, object.annotation_id) as usize];
    let centre = PointInImage { x: (at % width as usize) as f64 + 0.5, y: (at / width as usize) as f64 + 0.5 };
    let [x, y] = letterbox.point(centre, side);
    let label = if truth.bits[at] == 1 { PointLabel::Foreground } else { PointLabel::Background };
    PromptPoint { x, y, label }
}

/// The network's input of an image's pixels in its square, `[side, side, 3]`.
pub fn image_tensor(pixels: &[u8], side: u32) -> Tensor<4> {
    let mut input = vec![];
    push_input(pixels, &mut input);
    Tensor::from_data(TensorData::new(input, [1, 3, side as usize, side as usize]), &Device::flex())
}

fn embedding_of(ImageFeatures { shape: [channels, height, width], values }: &ImageFeatures) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values.clone(), [1, *channels, *height, *width]), &Device::flex())
}

/// The objects that are shown: the picture around each, its truth, and what each row answers.
fn pictured(
    objects: &Objects,
    val: &ImageSource,
    rows: &[(String, Masks)],
    chosen: &[(Why, u64)],
) -> anyhow::Result<Vec<Pictured>> {
    let by_id: BTreeMap<u64, &Object> = objects.all().map(|object| (object.annotation_id, object)).collect();
    let mut pictured = Vec::with_capacity(chosen.len());
    for &(why, annotation_id) in chosen {
        let object = by_id.get(&annotation_id).context("a scored object is one of the split")?;
        let image_idx = val.dataset.instances[object.instance_idx].image_idx;
        let limits = ImageLimits::default();
        let image = ImageFile::read(&val.dataset.image_path(image_idx), &limits)?.decode(&limits)?;
        let [x, y, width, height] = object.bbox;
        let side = SURROUNDINGS * width.max(height).max(8.0);
        let (x0, y0) = (x + width / 2.0 - side / 2.0, y + height / 2.0 - side / 2.0);
        let rect_in_image = RectInImage { x0, y0, x1: x0 + side, y1: y0 + side };
        let geometry = CropGeometry { rect_in_image, grid: PANEL_SIDE };
        let answer = |(name, masks): &(String, Masks)| (name.clone(), crop_rle(&masks[&annotation_id], &geometry));
        let (crop, truth) = (crop_image(&image, &geometry), crop_rle(&object.truth, &geometry));
        let (bbox, answers) = (object.bbox, rows.iter().map(answer).collect());
        pictured.push(Pictured { annotation_id, why, crop, geometry, bbox, truth, answers });
    }
    Ok(pictured)
}

/// The row of a student that takes a click for the box that it proposes there.
const PRIOR: &str = "student+prior";

/// Items that are scored together.
const BATCH: usize = 64;

/// Prompts that are decoded together.
pub const AT_ONCE: usize = 16;

/// Seed of a subset that is drawn for scoring.
const SUBSET_SEED: u64 = 0;

/// Seed of the clicks where a mask is wrong.
const CLICK_SEED: u64 = 0;

/// Side of what is shown, in longer sides of the box.
const SURROUNDINGS: f64 = 2.0;

/// Side of a panel, in pixels.
const PANEL_SIDE: u32 = 128;
