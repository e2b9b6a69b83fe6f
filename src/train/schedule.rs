//! The learning rate of a step: warm-up, then one of four courses. Pure functions of the step's number.

/// The course of the rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Course {
    Constant,
    /// A straight line down to the floor.
    Linear,
    /// Half a cosine down to the floor.
    Cosine,
    /// Warm-up, stable, decay: constant until the last `decay_steps`, then a straight line down to the floor.
    Wsd {
        decay_steps: u64,
    },
}

/// Warm-up and course.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The highest rate.
    pub peak: f64,
    /// The lowest rate, which a decay approaches at `total_steps`.
    pub floor: f64,
    /// Steps of warm-up: step 0 takes `peak / warmup_steps`, the last of them the whole peak.
    pub warmup_steps: u64,
    /// Steps of the whole run, warm-up included. Beyond them the floor holds.
    pub total_steps: u64,
    pub course: Course,
}

impl Schedule {
    /// The rate of a step, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        // Progress runs from 0 at the first step after warm-up to 1 at `total_steps`.
        let progress = |start: u64| {
            let length = self.total_steps.saturating_sub(start).max(1) as f64;
            (step.saturating_sub(start) as f64 / length).min(1.0)
        };
        let share = match self.course {
            Course::Constant => 1.0,
            Course::Linear => 1.0 - progress(self.warmup_steps),
            Course::Cosine => 0.5 + 0.5 * (std::f64::consts::PI * progress(self.warmup_steps)).cos(),
            Course::Wsd { decay_steps } => {
                1.0 - progress(self.total_steps.saturating_sub(decay_steps).max(self.warmup_steps))
            }
        };
        self.floor + (self.peak - self.floor) * share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(course: Course, expect: &[(u64, f64)]) {
        let schedule = Schedule { peak: 1.0, floor: 0.1, warmup_steps: 4, total_steps: 104, course };
        for (step, rate) in [(0, 0.25), (3, 1.0), (4, 1.0)].iter().chain(expect) {
            assert!((schedule.rate(*step) - rate).abs() < 1e-12, "{course:?} at {step}: {}", schedule.rate(*step));
        }
    }

    #[test]
    fn courses_pass_through_their_points() {
        check(Course::Constant, &[(50, 1.0), (103, 1.0), (1000, 1.0)]);
        check(Course::Linear, &[(54, 0.55), (79, 0.325), (104, 0.1), (1000, 0.1)]);
        check(Course::Cosine, &[(54, 0.55), (29, 0.1 + 0.9 * (0.5 + 0.125f64.sqrt())), (104, 0.1), (1000, 0.1)]);
        check(Course::Wsd { decay_steps: 20 }, &[(84, 1.0), (94, 0.55), (104, 0.1), (1000, 0.1)]);
        check(Course::Wsd { decay_steps: 500 }, &[(54, 0.55), (104, 0.1)]);
    }

    #[test]
    fn no_warm_up_and_no_steps_are_fine() {
        let schedule = Schedule { peak: 2.0, floor: 0.0, warmup_steps: 0, total_steps: 0, course: Course::Cosine };
        assert_eq!((schedule.rate(0), schedule.rate(1)), (2.0, 0.0));
    }
}
