//! The masks that a network answers to prompts, in the image.

use burn::tensor::Tensor;
use rayon::prelude::*;
use sensei_data::crop::{CropGeometry, paste_logits};
use sensei_data::geometry::RectInImage;
use sensei_data::mask::Mask;
use sensei_data::rle::Rle;
use sensei_eval::protocol::MaskChoice;
use sensei_eval::score::Overlap;
use sensei_samples::whole_images::Letterbox;
use sensei_tensor::network::host_values;
use sensei_tensor::prompts::{Decode, MaskTokens, PromptPoint, Prompted};
use sensei_train::images::MASK_GRID;

/// What a network answers to some prompts about one image.
pub struct Answers {
    n_prompts: usize,
    n_masks: usize,
    /// `[prompt, mask, MASK_GRID, MASK_GRID]`.
    logits: Vec<f32>,
    /// `[prompt, mask]`.
    scores: Vec<f32>,
}

impl Answers {
    /// Asks a network: for the first token's mask alone, or for those of all four.
    pub fn of(network: &dyn Decode, embedding: &Tensor<4>, prompts: &[Vec<PromptPoint>], choice: MaskChoice) -> Self {
        let tokens = match choice {
            MaskChoice::Single => MaskTokens::Single,
            MaskChoice::HighestScore => MaskTokens::All,
        };
        let Prompted { masks, scores } = network.decode(embedding.clone(), prompts, tokens);
        let [n_prompts, n_masks, ..] = masks.0.dims();
        let (n_logits, n_scores) = (masks.0.shape().num_elements(), n_prompts * n_masks);
        let (logits, scores) = (host_values(&masks.0.reshape([n_logits])), host_values(&scores.reshape([n_scores])));
        Self { n_prompts, n_masks, logits, scores }
    }

    /// The mask for each prompt: the first token's if it is the only one, or of the three others' the one of the highest score.
    pub fn chosen(&self, letterbox: Letterbox) -> Vec<Rle> {
        self.scored(letterbox).into_iter().map(|(mask, _)| mask).collect()
    }

    /// [`chosen`](Self::chosen), with the IoU that the network predicts of it.
    pub fn scored(&self, letterbox: Letterbox) -> Vec<(Rle, f32)> {
        let chosen = |prompt: usize| {
            let scores = &self.scores[prompt * self.n_masks..][..self.n_masks];
            // Of equal ones the first.
            let best = (1..self.n_masks).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0);
            (self.in_image(prompt, best, letterbox), scores[best])
        };
        (0..self.n_prompts).into_par_iter().map(chosen).collect()
    }

    /// The mask for each prompt, of the three tokens after the first, that has the highest IoU with the truth; of equal ones the first.
    ///
    /// # Panics
    /// If the first token alone was asked for, or there are not as many truths as prompts.
    pub fn best_by_truth(&self, truths: &[&Rle], letterbox: Letterbox) -> Vec<Rle> {
        assert!(self.n_masks > 1, "best by truth: expected several masks to choose from");
        assert_eq!(truths.len(), self.n_prompts, "best by truth: truths and prompts");
        let best = |(prompt, truth): (usize, &&Rle)| {
            let masks = (1..self.n_masks).map(|mask| self.in_image(prompt, mask, letterbox));
            masks
                .reduce(
                    |best, mask| if overlap(&mask, truth).iou() > overlap(&best, truth).iou() { mask } else { best },
                )
                .expect("several masks")
        };
        truths.par_iter().enumerate().map(best).collect()
    }

    /// Logits over the square, in the image.
    fn in_image(&self, prompt: usize, mask: usize, Letterbox { image }: Letterbox) -> Rle {
        let n_cells = MASK_GRID * MASK_GRID;
        let logits = &self.logits[(prompt * self.n_masks + mask) * n_cells..][..n_cells];
        let longest = f64::from(image.width.max(image.height));
        let rect_in_image = RectInImage { x0: 0.0, y0: 0.0, x1: longest, y1: longest };
        let mask: Mask = paste_logits(logits, &CropGeometry { rect_in_image, grid: MASK_GRID as u32 }, image);
        Rle::from_mask(&mask)
    }
}

fn overlap(mask: &Rle, truth: &Rle) -> Overlap {
    Overlap { intersection: mask.intersection_area(truth), truth: truth.area(), prediction: mask.area() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensei_data::geometry::Size;

    /// Masks of the first so many rows, in an image that is as large as the grid.
    fn answers(rows: &[[usize; 4]], scores: &[[f32; 4]]) -> Answers {
        let mask = |&n_rows: &usize| {
            (0..MASK_GRID * MASK_GRID).map(move |at| if at / MASK_GRID < n_rows { 1.0 } else { -1.0 })
        };
        Answers {
            n_prompts: rows.len(),
            n_masks: 4,
            logits: rows.iter().flatten().flat_map(mask).collect(),
            scores: scores.concat(),
        }
    }

    #[test]
    fn a_network_chooses_by_its_scores_and_the_oracle_by_the_truth() {
        let side = MASK_GRID as u32;
        let letterbox = Letterbox { image: Size { width: side, height: side } };
        let n_rows = |masks: Vec<Rle>| masks.iter().map(|mask| mask.area() / u64::from(side)).collect::<Vec<_>>();
        let scores = [[9.0, 0.3, 0.1, 0.3], [9.0, 0.1, 0.2, 0.8], [9.0, 0.1, 0.2, 0.8]];
        let answers = answers(&[[50, 10, 20, 30], [50, 10, 20, 30], [7, 0, 20, 0]], &scores);
        assert_eq!(n_rows(answers.chosen(letterbox)), [10, 30, 0], "the first of equal scores, never the first token");
        let truth = |n_rows: u32| {
            let bits = (0..side * side).map(|at| u8::from(at / side < n_rows)).collect();
            Rle::from_mask(&Mask { size: Size { width: side, height: side }, bits })
        };
        let best = |rows: [u32; 3]| {
            let truths = rows.map(truth);
            n_rows(answers.best_by_truth(&truths.iter().collect::<Vec<_>>(), letterbox))
        };
        assert_eq!(best([19, 50, 19]), [20, 30, 20], "never the first token");
        // Of an empty truth an empty mask is the right one; where all are wrong it is the first.
        assert_eq!(best([20, 1, 0]), [20, 10, 0]);
        assert_eq!(best([14, 0, 19]), [10, 10, 20]);
    }
}
