use burn::prelude::*;

use crate::host::read;

/// Whose rows a packed matrix holds: the shape of a batch of sequences of any lengths.
#[derive(Clone, Debug)]
pub(crate) struct Spans {
    /// The first row of each sequence, and the number of rows as the last entry.
    pub starts: Vec<usize>,
    /// Per row, what is added to everyone's attention score for it: minus infinity hides it. At
    /// least one row of each sequence is not hidden; none means zeros.
    pub bias: Option<Vec<f32>>,
}

impl Spans {
    /// So many rows, each sequence with `tokens` of them; `bias`, `[sequences, tokens]`, is added to the scores.
    pub fn uniform(rows: usize, tokens: usize, bias: Option<&Tensor<2>>) -> Self {
        Self {
            starts: (0..=rows / tokens)
                .map(|sequence| sequence * tokens)
                .collect(),
            bias: bias.map(|bias| read(bias.clone())),
        }
    }

    /// First row and length of each sequence.
    pub fn iter(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.starts
            .windows(2)
            .map(|pair| (pair[0], pair[1] - pair[0]))
    }
}
