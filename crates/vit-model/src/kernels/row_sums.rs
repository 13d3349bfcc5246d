use crate::Merge;

/// Which rows are summed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RowSums {
    /// Where each result's terms start, and the number of terms as the last entry.
    pub starts: Vec<usize>,
    /// Per term: its row and its weight.
    pub terms: Vec<(usize, f32)>,
    /// Rows that there are to sum.
    pub inputs: usize,
}

impl RowSums {
    /// For each row of the result, its terms.
    pub fn new<T: IntoIterator<Item = (usize, f32)>>(
        inputs: usize,
        results: impl Iterator<Item = T>,
    ) -> Self {
        let (mut starts, mut terms) = (vec![0], Vec::new());
        for result in results {
            terms.extend(result);
            starts.push(terms.len());
        }
        Self {
            starts,
            terms,
            inputs,
        }
    }

    /// Some of the rows.
    pub fn selected(inputs: usize, rows: &[usize]) -> Self {
        Self::new(inputs, rows.iter().map(|&row| [(row, 1.0)]))
    }

    /// The rows `kept`, each with those that go into it.
    pub fn merged(inputs: usize, merge: &Merge, kept: &[usize]) -> Self {
        let mut result_of = vec![None; merge.into.len()];
        for (result, &row) in kept.iter().enumerate() {
            result_of[row] = Some(result);
        }
        let gone = merge.into.iter().enumerate();
        let gone = gone.filter(|&(row, &into)| row != into);
        let gone = gone.filter_map(|(row, &into)| result_of[into].map(|result| (row, result)));
        let mut counts = vec![1; kept.len()];
        gone.clone().for_each(|(_, result)| counts[result] += 1);
        let mut starts = Vec::with_capacity(kept.len() + 1);
        starts.push(0);
        starts.extend(counts.iter().scan(0, |end, count| {
            *end += count;
            Some(*end)
        }));
        // The row itself comes first, then the others in their order.
        let mut terms = vec![(0, 0.0); starts[kept.len()]];
        let mut next = starts.clone();
        let own = kept.iter().enumerate().map(|(result, &row)| (row, result));
        for (row, result) in own.chain(gone) {
            terms[next[result]] = (row, merge.weights[row]);
            next[result] += 1;
        }
        Self {
            starts,
            terms,
            inputs,
        }
    }

    /// Rows of the result.
    pub fn results(&self) -> usize {
        self.starts.len() - 1
    }

    /// The sums that take gradients back: each row's is that of the result that it was in, times its weight.
    pub fn transposed(&self) -> Self {
        let mut of_row = vec![None; self.inputs];
        for result in 0..self.results() {
            for &(row, weight) in &self.terms[self.starts[result]..self.starts[result + 1]] {
                of_row[row] = Some((result, weight));
            }
        }
        Self::new(self.results(), of_row.into_iter())
    }
}
