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
    /// First row and length of each sequence.
    pub fn iter(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.starts
            .windows(2)
            .map(|pair| (pair[0], pair[1] - pair[0]))
    }
}
