//! What neighbours say.

use std::collections::BTreeMap;

use crate::Neighbor;

/// How many entries each class has.
pub type ClassCounts = BTreeMap<String, usize>;

/// What a neighbour counts whose class has so many entries.
pub fn evened(count: usize, balance: f32) -> f32 {
    (count.max(1) as f32).powf(-balance)
}

/// The share of each class that some neighbours name, the more the nearer they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vote {
    /// Class and share, the largest share first; shares add up to 1.
    pub shares: Vec<(String, f32)>,
    /// The largest cosine.
    pub nearest: f32,
    /// The mean cosine.
    pub mean: f32,
}

impl Vote {
    /// Of these, each weighed by `exp(cosine / temperature) / entries of its class ^ balance`.
    pub fn of(
        neighbors: &[Neighbor],
        counts: &ClassCounts,
        temperature: f32,
        balance: f32,
    ) -> Self {
        let voices = neighbors.iter().map(|neighbor| {
            let class = neighbor.label.class.as_str();
            let count = counts.get(class).copied().unwrap_or(1);
            (class, neighbor.similarity, evened(count, balance))
        });
        Self::of_voices(voices, temperature)
    }

    /// The same of classes, cosines and further weights.
    pub fn of_voices<'a>(
        voices: impl Iterator<Item = (&'a str, f32, f32)> + Clone,
        temperature: f32,
    ) -> Self {
        let cosines = voices.clone().map(|voice| voice.1);
        let (count, sum) = cosines.clone().fold((0.0, 0.0), |(count, sum), cosine| {
            (count + 1.0, sum + cosine)
        });
        let nearest = cosines.fold(f32::NEG_INFINITY, f32::max);
        if count == 0.0 {
            return Self::default();
        }
        let mut weights: BTreeMap<&str, f32> = BTreeMap::new();
        for (class, cosine, weight) in voices {
            let near = ((cosine - nearest) / temperature).exp();
            *weights.entry(class).or_default() += weight * near;
        }
        let total: f32 = weights.values().sum::<f32>().max(f32::MIN_POSITIVE);
        let shares = weights.into_iter();
        let mut shares: Vec<(String, f32)> = shares
            .map(|(class, weight)| (class.to_string(), weight / total))
            .collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        Self {
            shares,
            nearest,
            mean: sum / count,
        }
    }

    /// The share of a class.
    pub fn share(&self, class: &str) -> f32 {
        let share = self.shares.iter().find(|share| share.0 == class);
        share.map_or(0.0, |share| share.1)
    }

    /// The largest share, and how far the second one is below it.
    pub fn lead(&self) -> [f32; 2] {
        let share = |place: usize| self.shares.get(place).map_or(0.0, |share| share.1);
        [share(0), share(0) - share(1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Label;

    #[test]
    fn near_neighbours_count_more_and_the_temperature_says_how_much_more() {
        let voices = [("cat", 0.9, 1.0), ("dog", 0.8, 1.0), ("dog", 0.8, 1.0)];
        let sharp = Vote::of_voices(voices.into_iter(), 0.02);
        assert_eq!(sharp.shares[0].0, "cat");
        assert!(sharp.lead()[0] > 0.9);
        let soft = Vote::of_voices(voices.into_iter(), 1.0);
        assert_eq!(soft.shares[0].0, "dog");
        assert!((soft.share("cat") + soft.share("dog") - 1.0).abs() < 1e-6);
        assert_eq!(soft.nearest, 0.9);
        assert_eq!(
            Vote::of(&[], &ClassCounts::new(), 0.1, 1.0),
            Vote::default()
        );
    }

    #[test]
    fn a_class_with_few_entries_is_made_up_for() {
        let neighbor = |class: &str| Neighbor {
            label: Label {
                id: String::new(),
                class: class.into(),
                source: String::new(),
            },
            similarity: 0.9,
        };
        let neighbors = ["new", "old", "old", "old"].map(neighbor);
        let counts = [("new".to_string(), 5), ("old".to_string(), 500)].into();
        let first = |balance| {
            Vote::of(&neighbors, &counts, 0.1, balance).shares[0]
                .0
                .clone()
        };
        assert_eq!(first(0.0), "old");
        assert_eq!(first(1.0), "new");
    }
}
