//! How much a policy removes, for people.

use apt_pruning_agent::Selection;

/// How much is removed.
pub fn in_words(selection: &Selection) -> String {
    match selection {
        Selection::All => "nothing removed".into(),
        Selection::Threshold { threshold } => format!("threshold {threshold:.4}"),
        Selection::LeastScores { scores } => {
            let scores: Vec<String> = scores.iter().map(|score| format!("{score:.3}")).collect();
            format!("least scores {}", short(&scores))
        }
        Selection::Kept { kept } | Selection::KeptOfBatch { kept } => patches(kept),
        Selection::Cascade { kept, certainty } => {
            let kept = patches(kept);
            format!(
                "{kept}, and images start over whose answer is less than {certainty:.4} probable"
            )
        }
        Selection::Price { price } => format!("price {price:.4}"),
        Selection::Schedules { .. } => "schedules at random".into(),
        Selection::KeptOfEach { .. } => "another number of patches in each image".into(),
    }
}

fn patches(kept: &[usize]) -> String {
    let kept: Vec<String> = kept.iter().map(usize::to_string).collect();
    format!("patches kept {}", short(&kept))
}

/// Of many, the first and the last.
fn short(numbers: &[String]) -> String {
    match numbers {
        [first, .., last] if numbers.len() > 4 => format!("{first} .. {last}"),
        all => all.join(" / "),
    }
}
