//! Floors of students that answer prompts.

use anyhow::Context;
use rayon::prelude::*;
use sensei_data::dataset::Dataset;
use sensei_data::geometry::PointInImage;
use sensei_data::rle::Rle;
use sensei_eval::click_disc::{ClickDisc, Clicked, fit_click_disc};
use sensei_eval::evaluate::{EvalItem, Predictor};
use sensei_eval::protocol::ProtocolRules;
use sensei_eval::score::{EvalSample, Prediction};
use sensei_samples::selection::{SelectionRules, Subset};

use crate::predict::PredictError;

/// A row of what knows the prompt's box alone, or the annotated one.
pub fn floor<'a>(name: &str, answer: impl Fn(&EvalSample) -> Prediction + 'a) -> Predictor<'a, (), PredictError> {
    let predict = move |items: &[EvalItem<()>]| Ok(items.iter().map(|item| answer(&item.sample)).collect());
    Predictor { name: name.into(), predict: Box::new(predict) }
}

/// The discs around clicks that are the best on the training split, prompted as by the protocol. None where the prompt is a box.
///
/// # Errors
/// If no object of the training split has a prompt.
pub fn fitted_click_disc(rules: &ProtocolRules, train: &Dataset) -> anyhow::Result<Option<ClickDisc>> {
    if rules.selection.prompt.is_box() {
        return Ok(None);
    }
    let selection = SelectionRules { subset: Subset::All, ..rules.selection.clone() };
    let (chosen, _) = selection.select(train)?;
    let clicked = |idx: usize| -> anyhow::Result<Option<Clicked>> {
        let mask = train.mask(idx)?;
        let prompt = selection.prompt_of(&train.instances[idx], &mask).ok();
        Ok(prompt.map(|prompt| Clicked { points: prompt.points().to_vec(), mask }))
    };
    let clicked = chosen.into_par_iter().map(clicked).collect::<anyhow::Result<Vec<Option<Clicked>>>>()?;
    let clicked: Vec<Clicked> = clicked.into_iter().flatten().collect();
    let disc = fit_click_disc(&clicked)
        .with_context(|| format!("{}: discs around clicks", train.annotations_path.display()))?;
    Ok(Some(disc))
}

/// Its mask for some points of an image, whose size a mask of it says.
pub fn disc_mask(disc: &ClickDisc, points: &[PointInImage], like: &Rle) -> Rle {
    Rle::from_mask(&disc.mask(points, like.size()))
}

/// The row of discs around clicks.
pub const CLICK_DISC: &str = "click_disc";
