//! What a policy kept, beside what is known of the patches.

/// Patches of which something is true, and the others: how many are still there, of how many.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    /// `[kept, all]`
    is: [usize; 2],
    is_not: [usize; 2],
}

impl Counted {
    /// Counts an image's patches: which were kept, and of which it is true.
    pub fn add(&mut self, kept: &[bool], truth: Option<&[bool]>) {
        for (&kept, &is) in kept.iter().zip(truth.into_iter().flatten()) {
            let counts = if is { &mut self.is } else { &mut self.is_not };
            counts[0] += usize::from(kept);
            counts[1] += 1;
        }
    }

    /// The share that is still there of those of which it is true, or not.
    pub fn kept_of(&self, is: bool) -> Option<f64> {
        let [kept, all] = if is { self.is } else { self.is_not };
        share(kept, all)
    }

    /// Of what is still there, the share of which it is true.
    pub fn share_of_kept(&self) -> Option<f64> {
        share(self.is[0], self.is[0] + self.is_not[0])
    }

    /// Of what is gone, the share of which it is true.
    pub fn share_of_gone(&self) -> Option<f64> {
        let [is, is_not] = [self.is, self.is_not].map(|[kept, all]| all - kept);
        share(is, is + is_not)
    }
}

/// Is anything known of any image?
pub(super) fn is_known(truth: &[Option<Vec<bool>>]) -> bool {
    truth.iter().any(Option::is_some)
}

fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_and_precision_of_what_is_gone() {
        let mut counted = Counted::default();
        assert_eq!(counted.share_of_gone(), None);
        let kept = [true, false, false, true, true, false];
        counted.add(&kept, Some(&[true, true, true, false, false, false]));
        counted.add(&kept, None);
        assert_eq!(counted.kept_of(true), Some(1.0 / 3.0));
        assert_eq!(counted.kept_of(false), Some(2.0 / 3.0));
        assert_eq!(counted.share_of_kept(), Some(1.0 / 3.0));
        assert_eq!(counted.share_of_gone(), Some(2.0 / 3.0));
    }
}
