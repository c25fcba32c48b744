//! Learning rate by step.

/// Linear warm-up from 0, then constant or a half cosine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// Steps of the warm-up; step 0 has learning rate 0 if there are any.
    pub warmup_steps: u64,
    /// What follows the warm-up.
    pub decay: Decay,
}

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decay {
    /// Not at all.
    Constant,
    /// Half a cosine down to `final_learning_rate`, reached at the end of the stage.
    Cosine {
        /// Learning rate at the end.
        final_learning_rate: f64,
    },
}

impl Schedule {
    /// Learning rate of step `step` of `total_steps`.
    ///
    /// # Source
    /// The warm-up is PicoSAM2's `LambdaLR(min(1, step / 1000))`, which leaves step 0 without effect.
    pub fn learning_rate(&self, step: u64, total_steps: u64) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * step as f64 / self.warmup_steps as f64;
        }
        match self.decay {
            Decay::Constant => self.learning_rate,
            Decay::Cosine { final_learning_rate } => {
                let span = total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
                let progress = ((step - self.warmup_steps) as f64 / span).min(1.0);
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
                final_learning_rate + (self.learning_rate - final_learning_rate) * cosine
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_starts_at_zero_and_ends_at_the_learning_rate() {
        let schedule = Schedule { learning_rate: 3e-4, warmup_steps: 1000, decay: Decay::Constant };
        assert_eq!(schedule.learning_rate(0, 5000), 0.0);
        assert_eq!(schedule.learning_rate(500, 5000), 1.5e-4);
        assert_eq!(schedule.learning_rate(1000, 5000), 3e-4);
        assert_eq!(schedule.learning_rate(4999, 5000), 3e-4);
    }

    #[test]
    fn cosine_falls_to_the_final_learning_rate() {
        let decay = Decay::Cosine { final_learning_rate: 1e-5 };
        let schedule = Schedule { learning_rate: 1e-3, warmup_steps: 10, decay };
        assert_eq!(schedule.learning_rate(10, 110), 1e-3);
        assert!((schedule.learning_rate(60, 110) - 5.05e-4).abs() < 1e-12);
        assert!((schedule.learning_rate(110, 110) - 1e-5).abs() < 1e-12);
    }

    #[test]
    fn a_stage_shorter_than_its_warm_up_has_a_finite_rate() {
        let decay = Decay::Cosine { final_learning_rate: 0.0 };
        let schedule = Schedule { learning_rate: 1.0, warmup_steps: 10, decay };
        assert_eq!(schedule.learning_rate(5, 8), 0.5);
    }
}
