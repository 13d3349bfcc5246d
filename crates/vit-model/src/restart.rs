//! Images that start over: what was removed of them was too much.

use crate::selected_rows::select_rows;
use crate::token_batch::Answered;
use crate::{Heads, RunSettings, TokenBatch, Vit};

/// What all blocks make of the images in these slots of `batch`, where they are not answered already, with nothing removed.
/// `whole` is that batch before its first block.
pub(crate) fn restarted(
    vit: &Vit,
    whole: &TokenBatch,
    batch: &TokenBatch,
    slots: &[usize],
) -> Answered {
    let open = slots
        .iter()
        .filter_map(|&slot| batch.sequences.open_image(slot));
    let images: Vec<usize> = open.collect();
    if images.is_empty() {
        return Answered::by(images, Vec::new());
    }
    // Before anything is removed, each image stands in the slot of its number.
    let (sequences, rows) = whole.sequences.of_slots(&images);
    let tokens = select_rows(whole.tokens.clone(), &rows);
    let again = TokenBatch::packed(tokens, sequences);
    let layers = 0..vit.blocks.len();
    let again = vit.run_blocks(again, layers, RunSettings::DENSE).batch;
    Answered::by(images, again.first_tokens(Heads::of(vit).tokens()))
}
