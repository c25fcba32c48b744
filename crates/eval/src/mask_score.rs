//! How sure a student is of its mask: the number by which masks are ranked.

/// The IoU that a student expects of its mask, from its logits: in `[0, 1]`.
///
/// A logit's sigmoid is taken for the probability that its pixel is the object's. The expected intersection is the sum of the
/// probabilities in the mask (logits above 0). The expected union is the number of the mask's pixels and the sum of the probabilities
/// outside of it. Their ratio is the score; that of an empty mask is 0.
///
/// ```
/// use sensei_eval::mask_score::mask_score;
///
/// // 3 of 4 is the sigmoid of ln 3.
/// let unsure = 3f32.ln();
/// assert!((mask_score(&[unsure, unsure, -unsure, -unsure]) - 1.5 / 2.5).abs() < 1e-6);
/// assert_eq!(mask_score(&[-1.0, 0.0]), 0.0);
/// ```
///
/// # Shapes
/// - `logits_in_crop`: on the crop's grid in any order, finite, of any number
///
/// # Panics
/// If a logit is NaN: callers refuse such answers.
pub fn mask_score(logits_in_crop: &[f32]) -> f64 {
    let (mut in_mask, mut outside, mut n_pixels) = (0.0, 0.0, 0u64);
    for &logit in logits_in_crop {
        assert!(!logit.is_nan(), "mask_score: a logit that is no number");
        let probability = 1.0 / (1.0 + (-f64::from(logit)).exp());
        if logit > 0.0 {
            in_mask += probability;
            n_pixels += 1;
        } else {
            outside += probability;
        }
    }
    if n_pixels == 0 { 0.0 } else { in_mask / (n_pixels as f64 + outside) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_the_ratio_of_the_expected_areas() {
        // Logits of probability 4/5, 2/3 and, outside, 1/2 and 1/4, worked out by hand.
        let logits = [4f32.ln(), 2f32.ln(), 0.0, -3f32.ln()];
        let expected = (4.0 / 5.0 + 2.0 / 3.0) / (2.0 + 1.0 / 2.0 + 1.0 / 4.0);
        assert!((mask_score(&logits) - expected).abs() < 1e-6, "{}", mask_score(&logits));
    }

    #[test]
    fn a_sure_mask_has_one_and_an_empty_one_nothing() {
        assert_eq!(mask_score(&[80.0, 90.0, -800.0]), 1.0);
        assert_eq!(mask_score(&[f32::MAX, f32::MIN]), 1.0);
        assert_eq!(mask_score(&[-0.001, 0.0]), 0.0);
        assert_eq!(mask_score(&[]), 0.0);
    }

    #[test]
    #[should_panic(expected = "a logit that is no number")]
    fn a_logit_that_is_no_number_is_a_bug() {
        mask_score(&[1.0, f32::NAN]);
    }
}
