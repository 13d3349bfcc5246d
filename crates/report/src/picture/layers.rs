//! Which blocks a picture shows.

use apt_inference::LayerAnswer;

/// The blocks in which tokens went, and the last one: `most` (at least two) of them at most, the first and the last
/// included, and between them those whose numbers of tokens are most evenly apart.
pub(crate) fn shown(layers: &[LayerAnswer], tokens: usize, most: usize) -> Vec<&LayerAnswer> {
    let mut before = tokens;
    let acting = layers.iter().enumerate().filter(|(index, layer)| {
        let acts = layer.tokens != before;
        before = layer.tokens;
        acts || index + 1 == layers.len()
    });
    let acting: Vec<&LayerAnswer> = acting.map(|(_, layer)| layer).collect();
    if acting.len() <= most {
        return acting;
    }
    let [first, last] = [acting[0], acting[acting.len() - 1]].map(|layer| layer.tokens as f64);
    let mut next = 0;
    let even = (0..most).filter_map(|place| {
        let aim = first + (last - first) * place as f64 / (most - 1) as f64;
        // As many are left over as places come after it.
        let end = acting.len() - (most - 1 - place);
        let start = if place + 1 == most { end - 1 } else { next };
        let off = |&index: &usize| (acting[index].tokens as f64 - aim).abs();
        let nearest = (start..end).min_by(|a, b| off(a).total_cmp(&off(b)))?;
        next = nearest + 1;
        Some(acting[nearest])
    });
    even.collect()
}

/// Which of the model's `blocks` have a panel, and why the others have none; `None` if no block acts.
pub(super) fn which(
    layers: &[LayerAnswer],
    shown: &[&LayerAnswer],
    tokens: usize,
    blocks: usize,
) -> Option<String> {
    let numbers = |layers: &[&LayerAnswer]| -> Vec<usize> {
        layers.iter().map(|layer| layer.layer).collect()
    };
    let with_panel = numbers(shown);
    let acting = numbers(&self::shown(layers, tokens, layers.len().max(2)));
    let no_room = acting.iter().filter(|block| !with_panel.contains(block));
    let no_room: Vec<usize> = no_room.copied().collect();
    let mut text = format!(
        "Panels show block{} (of 0 to {})",
        in_words(&with_panel)?,
        blocks.saturating_sub(1)
    );
    if let Some(no_room) = in_words(&no_room) {
        text += &format!("; no room for block{no_room}");
    }
    if acting.len() < blocks {
        text += "; no token goes in the others";
    }
    Some(text + ".")
}

/// ` 3`, or `s 1, 2 and 5`; `None` of none.
fn in_words(blocks: &[usize]) -> Option<String> {
    let words: Vec<String> = blocks.iter().map(usize::to_string).collect();
    let (last, before) = words.split_last()?;
    Some(if before.is_empty() {
        format!(" {last}")
    } else {
        format!("s {} and {last}", before.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(tokens: &[usize]) -> Vec<LayerAnswer> {
        let layers = tokens.iter().enumerate();
        let layers = layers.map(|(layer, &tokens)| LayerAnswer {
            layer,
            tokens,
            parked: 0,
            restarted: false,
            flops_share: 1.0,
            kept: Vec::new(),
            token: Vec::new(),
        });
        layers.collect()
    }

    fn blocks(tokens: &[usize], most: usize) -> Vec<usize> {
        let layers = layers(tokens);
        let shown = shown(&layers, 100, most);
        shown.into_iter().map(|layer| layer.layer).collect()
    }

    #[test]
    fn blocks_in_which_nothing_went_are_left_out_but_for_the_last() {
        assert_eq!(blocks(&[100, 80, 80, 60, 60], 7), [1, 3, 4]);
        assert_eq!(blocks(&[100, 100], 7), [1]);
        assert!(blocks(&[], 7).is_empty());
    }

    #[test]
    fn the_first_and_the_last_of_many_are_shown_and_others_evenly_by_tokens() {
        let steady: Vec<usize> = (0..11).map(|layer| 95 - 5 * layer).collect();
        assert_eq!(blocks(&steady, 6), [0, 2, 4, 6, 8, 10]);
        // Most go in the first blocks.
        let early = [90, 70, 50, 30, 19, 18, 17, 16, 15, 14];
        assert_eq!(blocks(&early, 5), [0, 1, 2, 3, 9]);
        let late = [99, 98, 97, 96, 95, 94, 93, 20];
        let shown = blocks(&late, 4);
        assert_eq!((shown.len(), shown[0], shown[3]), (4, 0, 7));
    }

    #[test]
    fn a_sentence_names_the_blocks_with_a_panel_and_those_without_room() {
        let said = |tokens: &[usize], most: usize, blocks: usize| {
            let layers = layers(tokens);
            which(&layers, &shown(&layers, 100, most), 100, blocks)
        };
        assert_eq!(
            said(&[100, 80, 80, 60], 7, 6).unwrap(),
            "Panels show blocks 1 and 3 (of 0 to 5); no token goes in the others."
        );
        assert_eq!(
            said(&[90, 70, 50, 30], 3, 4).unwrap(),
            "Panels show blocks 0, 1 and 3 (of 0 to 3); no room for block 2."
        );
        assert_eq!(said(&[], 7, 6), None);
    }
}
